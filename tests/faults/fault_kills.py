"""`kill -9` at random moments and at every step: writers, and what they do when they are killed."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_book import EMBEDDER, Book, check, open_store, text_of
from fault_forks import Tell, ask, die_at_step, start
from format_1 import add_item, make_store

from mmagent_memory import LongTermMemory
from mmagent_memory import faiss_index as faiss_index_module
from mmagent_memory import indexer as indexer_module
from mmagent_memory import loading as loading_module
from mmagent_memory import writer as writer_module
from mmagent_memory.checking import repair
from mmagent_memory.database import DATABASE, MARKER
from mmagent_memory.errors import MissingStoreError
from mmagent_memory.rows import Picture, Put

__all__ = ["KILLS", "Killing", "Round"]

Work = Callable[[Path, Tell, random.Random], None]
LIFE = 8
"""Rounds that one store goes through."""


@dataclass
class Round:
    """One round of a fault: what came of it.

    Attributes:
        outcome: "whole", "repaired" (nothing is lost after `repair`), "named" (the loss is), or
            "bad".
        acknowledged: Operations acknowledged in it.
        words: What is bad, or what was named.
        saved: Share of the items that are there in the end.
        seconds: How long it took.
    """

    outcome: str
    acknowledged: int = 0
    words: list[str] = field(default_factory=list)
    saved: float = 1.0
    seconds: float = 0.0


class Killing:
    """Rounds of killing one kind of work; the store lives on from round to round.

    Args:
        name: Of the work.
        work: Done in a child until it is killed.
        prepare: Fills a new store, before the first round of its life.
        steps: About how many steps the work takes for a few operations.
        writers: How many children do the work at once; all are killed.
        life: Rounds that one store goes through.
        mend: Done to the store before it is checked, after work that hurts it on purpose.
        traces: Whether nothing may be left on disk of what is gone.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        *,
        prepare: Callable[[Path, Tell], None] | None = None,
        steps: int = 120,
        writers: int = 1,
        life: int = LIFE,
        mend: Callable[[Path], Any] = lambda folder: None,
        traces: bool = False,
    ) -> None:
        self.name, self.work, self.prepare = name, work, prepare
        self.steps, self.writers, self.life = steps, writers, life
        self.mend, self.traces = mend, traces
        self._book = Book()
        self._number = 0

    def round(self, place: Path, seed: int) -> Round:
        """Kill once, and check everything."""
        chance = random.Random(f"{self.name} {seed}")
        began = time.monotonic()
        folder = place / self.name.replace(" ", "-")
        if self._number % self.life == 0:
            shutil.rmtree(folder, ignore_errors=True)
            self._book = Book()
            if self.prepare:
                prepare = self.prepare
                self._book.read(start(lambda tell: prepare(folder, tell)).end().told)
        self._number += 1
        before = self._book.acknowledged
        wrong = self._kill(folder, chance)
        if not (folder / "memory.sqlite3").exists() and self._book.acknowledged == 0:
            return Round("whole", seconds=time.monotonic() - began)  # Killed before it was made.

        def checked() -> dict[str, Any]:
            self.mend(folder)
            return check(folder, self._book, seed, traces=self.traces)

        answer, failure = ask(checked)
        if failure:
            wrong.append(failure)
        else:
            wrong += answer["wrong"]
            self._book.settle(answer["found"])
        if wrong:
            self._number = 0  # A fresh store, so that one fault is not counted again.
        return Round(
            "bad" if wrong else "whole",
            self._book.acknowledged - before,
            wrong,
            seconds=time.monotonic() - began,
        )

    def _kill(self, folder: Path, chance: random.Random) -> list[str]:
        at_step = chance.randrange(1, self.steps) if chance.random() < 0.5 else 0
        after = chance.random() < 0.5
        children = []
        for number in range(self.writers):
            dice = random.Random(chance.random())

            def work(tell: Tell, number: int = number, dice: random.Random = dice) -> None:
                if at_step and number == 0:
                    die_at_step(at_step, after=after)
                self.work(folder, tell, dice)

            children.append(start(work))
        if not at_step:
            children[0].wait_for(chance.randrange(1, 24))
            time.sleep(chance.random() * chance.choice((0.0005, 0.005, 0.03)))
        ended = []
        for number, child in enumerate(children):
            # At a chosen step it dies by itself; work that ends before is fine too.
            if not at_step or number:
                child.kill()
            ended.append(child.end())
        wrong = []
        for one in ended:
            self._book.read(one.told)
            for told in one.told:
                if "error" in told:
                    wrong.append(f"{told['error']}: {told['words']}")
            if one.hung:
                wrong.append("hung")
        return wrong


def _put(store: Any, tell: Tell, label: str, name: str, version: int | None) -> None:
    full = f"{label}/{name}"
    tell({"begin": {full: version}})
    if version is None:
        store.delete((label,), name)
    else:
        store.put((label,), name, {"version": version, "text": text_of(full, version)})
    tell({"done": {full: version}})


def _turns(limit: int, label: str, tell: Tell, store: Any, chance: random.Random) -> Iterator[int]:
    """Put, update and delete, one at a time."""
    for number in range(limit):
        name = f"{chance.randrange(40)}"
        version = chance.randrange(1000) if chance.random() < 0.8 else None
        _put(store, tell, label, name, version)
        yield number


def _write(folder: Path, tell: Tell, chance: random.Random) -> None:
    label = f"w{chance.randrange(10**6)}"
    with open_store(folder) as store:
        for _ in _turns(60, label, tell, store, chance):
            pass


def _remember(folder: Path, tell: Tell, chance: random.Random) -> None:
    label = f"p{chance.randrange(10**6)}"
    with open_store(folder) as store:
        for number in range(30):
            full = f"{label}/{number}"
            data = random.Random(full).randbytes(chance.choice((500, 20_000)))
            tell({"begin": {full: 1}})
            store.write([_with_picture(label, str(number), data)])
            tell({"done": {full: 1}})
            if number % 4 == 3:
                _put(store, tell, label, str(number - 2), None)


def _with_picture(label: str, name: str, data: bytes) -> Put:
    import hashlib

    picture = Picture(hashlib.sha256(data).digest(), "image/png", 1, 1, data)
    value = {"version": 1, "text": text_of(f"{label}/{name}", 1)}
    return Put((label,), name, value, index=["text"], pictures=(picture,))


def _bulk(folder: Path, tell: Tell, chance: random.Random) -> None:
    label = f"b{chance.randrange(10**6)}"
    with open_store(folder) as store:
        for number in range(6):
            names = [f"{label}/{number}-{one}" for one in range(chance.choice((20, 90)))]
            tell({"begin": dict.fromkeys(names, 2)})
            store.write(
                [
                    Put((label,), name.split("/")[1], {"version": 2, "text": text_of(name, 2)})
                    for name in names
                ]
            )
            tell({"done": dict.fromkeys(names, 2)})


def _load(folder: Path, tell: Tell, chance: random.Random) -> None:
    """A load in batches: each is there when it is heard of, and what follows behind may be cut."""
    loading_module.BULK = 30
    writer_module._WORDS_FAR_BEHIND = 40  # type: ignore[attr-defined]
    indexer_module._REST = 0.001  # type: ignore[attr-defined]
    label = f"l{chance.randrange(10**6)}"
    with open_store(folder) as store:
        for number in range(4):
            names = [f"{label}/{number}-{one}" for one in range(chance.choice((20, 100)))]
            items = [
                ((label,), n.split("/")[1], {"version": 2, "text": text_of(n, 2)}) for n in names
            ]
            told = [0]

            def heard(done: int, names: list[str] = names, told: list[int] = told) -> None:
                tell({"done": dict.fromkeys(names[told[0] : done], 2)})
                told[0] = done

            for begun in range(0, len(names), loading_module.BULK):
                tell({"begin": dict.fromkeys(names[begun : begun + loading_module.BULK], 2)})
            store.bulk(items, progress=heard)
            _put(store, tell, label, f"{number}-after", 3)


def _fill(folder: Path, tell: Tell) -> None:
    with open_store(folder) as store:
        names = [f"{label}/{one}" for label in ("keep", "memory") for one in range(40)]
        tell({"begin": dict.fromkeys(names, 1)})
        store.write(
            [Put((name.split("/")[0],), name.split("/")[1], _value(name)) for name in names]
        )
        tell({"done": dict.fromkeys(names, 1)})


def _value(name: str) -> dict[str, Any]:
    return {"version": 1, "text": text_of(name, 1)}


def _erase(folder: Path, tell: Tell, chance: random.Random) -> None:
    """Users come and are erased again; other users' items stay."""
    with open_store(folder) as store:
        for number in range(20):
            user = f"u{chance.randrange(10**6)}"
            names = [f"memory/{user}/~/{one}" for one in range(8)]
            puts = [Put(tuple(n.split("/")[:-1]), n.split("/")[-1], _value(n)) for n in names]
            tell({"begin": dict.fromkeys(names, 1)})
            store.write(puts)
            tell({"done": dict.fromkeys(names, 1)})
            memory = LongTermMemory(store, user=user)
            if number % 2:
                tell({"begin": dict.fromkeys(names, None)})
                memory.erase()
                tell({"done": dict.fromkeys(names, None)})
            else:
                tell({"begin": {names[0]: None}})
                memory.forget("0")
                tell({"done": {names[0]: None}})


def _repair(folder: Path, tell: Tell, chance: random.Random) -> None:
    repair(folder)  # What the kill before left hurt.
    for number in range(5):
        with open_store(folder) as store:
            _put(store, tell, "keep", f"{number}", chance.randrange(1000))
        # Full text that has lost its way: nothing is missing, and there is something to repair.
        with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
            db.execute("DELETE FROM full_text_docsize")
        repair(folder)
        tell({})


def _snapshot(folder: Path, tell: Tell, chance: random.Random) -> None:
    faiss_index_module._WORTH_SAVING = 1  # type: ignore[attr-defined]
    for _ in range(10):
        with open_store(folder) as store:
            store.exact_limit = 0
            for _ in _turns(6, "keep", tell, store, chance):
                store.search((), query="kettle garden", limit=3)
                store.wait_for_index()


def _reembed(folder: Path, tell: Tell, chance: random.Random) -> None:
    with open_store(folder) as store:
        for number in range(10):
            _put(store, tell, "keep", f"{number}", chance.randrange(1000))
            store.reembed()
            tell({})


def _open(folder: Path, tell: Tell, chance: random.Random) -> None:
    """Making a store: the first opening, and the first write."""
    for number in itertools.count():
        with suppress(MissingStoreError), open_store(folder, create=number >= 0) as store:
            _put(store, tell, "keep", f"{number}", 1)
        if number > 12:
            return


def _fill_old(folder: Path, tell: Tell) -> None:
    """Make a store as the first version of the package made it."""
    folder.mkdir(parents=True)
    names = [f"keep/{one}" for one in range(120)]
    made = make_store(
        folder / DATABASE, fingerprint=EMBEDDER.fingerprint, dims=EMBEDDER.dims, namespace=b"keep."
    )
    with closing(made) as db:
        db.execute("BEGIN")
        for number, name in enumerate(names, start=1):
            key, text = name.split("/")[1].encode(), text_of(name, 1)
            value = json.dumps({"version": 1, "text": text})
            vector = EMBEDDER.embed_documents([text])[0]
            add_item(db, number, key, value, (text, "", "", ""), vector)
        db.execute("COMMIT")
    (folder / MARKER).write_text("A memory store of mmagent lives in this folder.\n")
    tell({"begin": dict.fromkeys(names, 1)})
    tell({"done": dict.fromkeys(names, 1)})


def _upgrade(folder: Path, tell: Tell, chance: random.Random) -> None:
    with open_store(folder) as store:
        tell({})
        for number in range(10):
            _put(store, tell, "keep", f"{number}", chance.randrange(1000))


KILLS = (
    Killing("write one at a time", _write),
    Killing("write and delete pictures", _remember),
    Killing("write many at once", _bulk, steps=500, life=2),
    Killing("bulk load", _load, steps=300, life=2),
    Killing("make a store", _open, steps=60, life=1),
    Killing("erase and forget", _erase, prepare=_fill, steps=200, traces=True),
    Killing("save the index", _snapshot, prepare=_fill, steps=250),
    Killing("embed anew", _reembed, prepare=_fill, steps=700),
    Killing("repair", _repair, prepare=_fill, steps=700, mend=repair),
    Killing("upgrade an older store", _upgrade, prepare=_fill_old, steps=60, life=1),
    Killing("two writers", _write, writers=2),
    Killing("four writers", _write, writers=4, life=4),
)
