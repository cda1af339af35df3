"""Every file of a store damaged in every way: what is read is right, or the damage is named."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fault_book import EMBEDDER, open_store, text_of
from fault_forks import Tell, ask, start
from fault_kills import Round

from mmagent_memory import LongTermMemory
from mmagent_memory import faiss_index as faiss_index_module
from mmagent_memory.checking import repair, verify
from mmagent_memory.database import DATABASE
from mmagent_memory.errors import MemoryStoreError, MissingStoreError
from mmagent_memory.rows import Put

__all__ = ["DAMAGES", "Damaging"]

Spoil = Callable[[bytearray, random.Random], bytes | None]
"""From the bytes of a file to what is left of it; None deletes it."""
_PAGE = 4096
_PICTURE = random.Random(5).randbytes(30_000)


def _picture(number: int) -> bytes:
    import io

    from PIL import Image

    image = Image.frombytes("RGB", (40, 40), random.Random(number).randbytes(4800))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Truth:
    """What a store holds: the items, the memories with pictures, and what must not come back."""

    items: dict[str, int] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)


def _build(folder: Path, tell: Tell, *, crash: bool) -> None:
    """Fill a store with a bit of everything; `crash` leaves its log and its index unfinished."""
    faiss_index_module._WORTH_SAVING = 1  # type: ignore[attr-defined]
    truth = Truth()

    def put(store: Any, label: str, key: str, version: int) -> None:
        name = f"{label}/{key}"
        store.put((label,), key, {"version": version, "text": text_of(name, version)})
        truth.items[name] = version

    with open_store(folder) as store:
        names = [("one" if n % 3 else "two", f"{n}") for n in range(90)]
        store.write(
            [
                Put((label,), key, {"version": 1, "text": text_of(f"{label}/{key}", 1)})
                for label, key in names
            ]
        )
        truth.items |= {f"{label}/{key}": 1 for label, key in names}
        for number in range(0, 90, 9):
            store.delete(("two",), f"{number}")
            truth.items.pop(f"two/{number}", None)
            truth.gone.append(f"two/{number}")
        store.put(("one",), "short", {"version": 1, "text": text_of("one/short", 1)}, ttl=1e-9)
        truth.gone.append("one/short")
        store.exact_limit = 0
        store.search((), query="kettle")
        store.wait_for_index()
    store = open_store(folder)
    memory = LongTermMemory(store, user="sam")
    for number in range(3):
        memory.remember(f"the picture {number}", [_picture(number)], id=f"p{number}")
        truth.pictures[f"p{number}"] = number
    for number in range(1, 30, 4):
        put(store, "one" if number % 3 else "two", f"{number}", 2)
    store.delete(("one",), "2")
    truth.items.pop("one/2")
    truth.gone.append("one/2")
    if not crash:
        store.close()
    tell(truth.__dict__)
    os._exit(0)


def look(folder: Path, truth: Truth) -> dict[str, Any]:
    """Read everything in every way; return what was right, what was wrong, what was named."""
    got: set[str] = set()
    seen: dict[str, list[str]] = {"wrong": [], "named": [], "stale": []}
    try:
        store = open_store(folder)
    except MemoryStoreError as error:
        return {"got": [], "wrong": [], "stale": [], "named": [f"{type(error).__name__}: {error}"]}

    def named(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except MemoryStoreError as error:
            seen["named"].append(f"{type(error).__name__}: {error}")
            return None

    def hold(name: str, value: dict[str, Any]) -> None:
        if "version" not in value:
            return
        if value["text"] != text_of(name, value["version"]):
            seen["wrong"].append(f"{name} is wrong: {str(value)[:80]}")
        elif value["version"] != truth.items.get(name):
            # Right once: so it is where the newest changes are lost for good.
            seen["stale"].append(name)

    for name in [*truth.items, *truth.gone]:
        label, key = name.split("/")
        item = named(lambda label=label, key=key: store.get((label,), key))
        if item is not None:
            hold(name, item.value)
            if name not in seen["stale"]:
                got.add(name)
    for item in named(lambda: store.search((), limit=10_000)) or ():
        hold("/".join([*item.namespace, item.key]), item.value)
    _search(store, truth, named, seen["wrong"], seen["stale"], whole=got >= set(truth.items))
    memory = LongTermMemory(store, user="sam")
    for name, number in truth.pictures.items():
        hit = named(lambda name=name: memory.get(name))
        if hit is None:
            continue
        if hit.text != f"the picture {number}":
            seen["wrong"].append(f"{name} says {hit.text[:80]}")
        try:
            data = named(hit.images[0].data)
        except LookupError as error:
            seen["named"].append(f"LookupError: {error}")
            continue
        if data is not None and data != _picture(number):
            seen["wrong"].append(f"{name} shows garbage")
        elif data is not None:
            got.add(name)
    for other in ("kim", "sa", "samuel"):
        if named(LongTermMemory(store, user=other).list):
            seen["wrong"].append(f"{other} has another user's memories")
    if named(lambda: store.put(("new",), "k", {"n": 1})) is None and not seen["named"]:
        new = named(lambda: store.get(("new",), "k"))
        if new is None or new.value != {"n": 1}:
            seen["wrong"].append("what is written now cannot be read")
    with suppress(MemoryStoreError):
        store.delete(("new",), "k")
    named(store.close)
    return {"got": sorted(got), **seen}


def _search(
    store: Any, truth: Truth, named: Any, wrong: list[str], stale: list[str], *, whole: bool
) -> None:
    names = list(truth.items)
    matrix = np.asarray(
        EMBEDDER.embed_documents([text_of(name, truth.items[name]) for name in names])
    )
    for query in ("kettle garden violin", text_of("one/4", 1)):
        scores = dict(zip(names, matrix @ np.asarray(EMBEDDER.embed_query(query)), strict=True))
        for prefix in (("one",), ("two",)):
            for limit in (10**9, 0):
                store.exact_limit = limit
                if not limit:
                    named(lambda query=query: store.search((), query=query, limit=1))
                    store.wait_for_index()
                hits = named(
                    lambda query=query, prefix=prefix: store.search(prefix, query=query, limit=5)
                )
                if hits is None:
                    continue
                mine = {"/".join([*h.namespace, h.key]): h.score for h in hits}
                for name, score in mine.items():
                    if (
                        score is not None
                        and name not in stale
                        and abs(score - scores.get(name, 9)) > 2e-3
                    ):
                        wrong.append(f"{name} is found with the score {score}")
                best = sorted(
                    (s for n, s in scores.items() if n.startswith(prefix[0])), reverse=True
                )
                found = sorted((s or 0.0 for s in mine.values()), reverse=True)
                near = sum(score > best[4] - 2e-3 for score in found)
                if whole and near < (5 if limit else 3):
                    wrong.append(f"a search in {prefix[0]} (exact limit {limit}) is not exact")


class Damaging:
    """Rounds of one kind of damage to one file of a copy of a store.

    Args:
        name: Of the file and the damage.
        file: Relative to the store.
        spoil: What is done to it.
        crash: Whether the store was left by a crash, with a log beside it.
    """

    def __init__(self, name: str, file: str, spoil: Spoil, *, crash: bool = False) -> None:
        self.name, self.file, self.spoil, self.crash = name, file, spoil, crash

    def round(self, place: Path, seed: int) -> Round:
        """Damage a copy, look at it, verify, repair, and look again."""
        began = time.monotonic()
        chance = random.Random(f"{self.name} {seed}")
        base, truth = _base(place, crash=self.crash)
        folder = place / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        file = folder / self.file
        left = self.spoil(bytearray(file.read_bytes()), chance)
        if self.name == _FOREIGN:
            left = (_base(place, crash=not self.crash)[0] / self.file).read_bytes()
        if left is None:
            file.unlink()
        else:
            file.write_bytes(left)
        spoilt = place / "spoilt"
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(folder, spoilt)
        result = _judge(folder, spoilt, truth)
        result.seconds = time.monotonic() - began
        return result


def _judge(folder: Path, spoilt: Path, truth: Truth) -> Round:
    """Look at a damaged store, and at another copy of it that is verified and repaired."""
    every = {*truth.items, *truth.pictures}
    bad: list[str] = []
    seen, failure = ask(lambda: look(folder, truth))
    if failure:
        bad.append(f"reading: {failure}")
        seen = {"got": [], "wrong": [], "stale": [], "named": ["?"]}
    bad += seen["wrong"]
    bad += [f"{name} is as it was before" for name in seen["stale"]]
    report, failure = ask(lambda: _report(verify, spoilt))
    if failure:
        bad.append(f"verify: {failure}")
        report = {"problems": ["?"]}
    problems = report["problems"]
    missing = every - set(seen["got"])
    if missing and not seen["named"] and not problems:
        bad.append(f"{len(missing)} items are missing without a word")
    if not missing and not seen["named"]:
        return Round("bad" if bad else "whole", words=bad or problems)
    mended, failure = ask(lambda: _report(repair, spoilt))
    if failure:
        bad.append(f"repair: {failure}")
        return Round("bad", words=bad)
    again, failure = ask(lambda: _again(spoilt, truth, mended))
    if failure:
        bad.append(f"after repair: {failure}")
        return Round("bad", words=bad)
    bad += [f"after repair: {words}" for words in again["wrong"]]
    if again["stale"] and not mended.get("missing_changes"):
        bad.append(f"after repair {len(again['stale'])} items are as before without a word")
    lost = every - set(again["got"])
    words = [*mended["problems"], *again["named"]]
    if lost and not words:
        bad.append(f"after repair {len(lost)} items are missing without a word")
    if again["named"] and not mended.get("refused"):
        bad += [f"after repair: {one}" for one in again["named"] if "LookupError" not in one]
    saved = 1 - len(lost) / len(every)
    outcome = "bad" if bad else "named" if lost else "repaired"
    return Round(outcome, words=bad or words, saved=saved)


def _report(action: Callable[[Path], Any], folder: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = action(folder).as_dict()
    except MemoryStoreError as error:
        return {"problems": [f"{type(error).__name__}: {error}"], "refused": True}
    return report


def _again(folder: Path, truth: Truth, report: dict[str, Any]) -> dict[str, Any]:
    if report.get("vectors"):
        with suppress(MemoryStoreError), open_store(folder) as store:
            store.reembed()
    if report.get("refused"):
        with suppress(MissingStoreError):
            return look(folder, truth)
    return look(folder, truth)


_BASES: dict[tuple[Path, bool], tuple[Path, Truth]] = {}


def _base(place: Path, *, crash: bool) -> tuple[Path, Truth]:
    if (place, crash) not in _BASES:
        folder = place / ("crashed" if crash else "closed")
        ended = start(lambda tell: _build(folder, tell, crash=crash)).end()
        if ended.status:
            raise RuntimeError(f"The store could not be built: {ended.told}")
        _BASES[place, crash] = folder, Truth(**ended.told[-1])
    return _BASES[place, crash]


def _bit(data: bytearray, chance: random.Random) -> bytes:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _bits(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(12):
        _bit(data, chance)
    return bytes(data)


def _garbled(data: bytearray, chance: random.Random) -> bytes:
    start_at = chance.randrange(len(data))
    end = min(len(data), start_at + chance.choice((20, 600, 6000)))
    data[start_at:end] = chance.randbytes(end - start_at)
    return bytes(data)


def _page_zeroed(data: bytearray, chance: random.Random) -> bytes:
    page = chance.randrange(max(1, len(data) // _PAGE))
    size = len(data[page * _PAGE : (page + 1) * _PAGE])
    data[page * _PAGE : page * _PAGE + size] = bytes(size)
    return bytes(data)


def _header(data: bytearray, chance: random.Random) -> bytes:
    data[chance.randrange(100)] ^= 1 << chance.randrange(8)
    return bytes(data)


def _header_gone(data: bytearray, chance: random.Random) -> bytes:
    data[:100] = chance.randbytes(100)
    return bytes(data)


def _cut(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(1, len(data))])


def _as_it_is(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data)


def _emptied(data: bytearray, chance: random.Random) -> bytes:
    return b""


def _deleted(data: bytearray, chance: random.Random) -> None:
    return None


def _torn(data: bytearray, chance: random.Random) -> bytes:
    """The end of a write that was cut off, with garbage behind."""
    return bytes(data[: -chance.randrange(1, 4000)]) + chance.randbytes(chance.randrange(3000))


_FOREIGN = "index: another store's"
SNAPSHOT = "index/vectors.faiss"
_LOG = f"{DATABASE}-wal"
_SHARED = f"{DATABASE}-shm"
DAMAGES = (
    Damaging("database: one bit", DATABASE, _bit),
    Damaging("database: one bit, log beside", DATABASE, _bit, crash=True),
    Damaging("database: twelve bits", DATABASE, _bits),
    Damaging("database: garbled", DATABASE, _garbled),
    Damaging("database: a page of zeros", DATABASE, _page_zeroed),
    Damaging("database: a bit of the header", DATABASE, _header),
    Damaging("database: the header garbled", DATABASE, _header_gone),
    Damaging("database: cut off", DATABASE, _cut),
    Damaging("database: emptied", DATABASE, _emptied),
    Damaging("database: deleted", DATABASE, _deleted),
    Damaging("log: one bit", _LOG, _bit, crash=True),
    Damaging("log: garbled", _LOG, _garbled, crash=True),
    Damaging("log: cut off", _LOG, _cut, crash=True),
    Damaging("log: torn at its end", _LOG, _torn, crash=True),
    Damaging("log: a bit of the header", _LOG, lambda d, c: _header_of(d, c, 32), crash=True),
    Damaging("log: emptied", _LOG, _emptied, crash=True),
    Damaging("log: deleted", _LOG, _deleted, crash=True),
    Damaging("shared memory: garbled", _SHARED, _garbled, crash=True),
    Damaging("shared memory: one bit", _SHARED, _bit, crash=True),
    Damaging("shared memory: deleted", _SHARED, _deleted, crash=True),
    Damaging("marker: deleted", "store.txt", _deleted),
    Damaging("marker: garbled", "store.txt", _garbled),
    Damaging("index: one bit", SNAPSHOT, _bit),
    Damaging("index: garbled", SNAPSHOT, _garbled),
    Damaging("index: cut off", SNAPSHOT, _cut),
    Damaging("index: deleted", SNAPSHOT, _deleted),
    Damaging("index: emptied", SNAPSHOT, _emptied),
    Damaging("index: older than the database", SNAPSHOT, _as_it_is, crash=True),
    Damaging(_FOREIGN, SNAPSHOT, _as_it_is),
)


def _header_of(data: bytearray, chance: random.Random, size: int) -> bytes:
    data[chance.randrange(size)] ^= 1 << chance.randrange(8)
    return bytes(data)
