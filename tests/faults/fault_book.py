"""What a store must hold after a fault, and whether it does.

A writer says what it is about to do before each operation, and that it is done after it was
acknowledged. What was done must be there; what was under way when the fault came may be there
or not, but a batch only as a whole.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory.checking import verify

__all__ = ["DIMS", "Book", "check", "contents", "open_store", "search_faults", "text_of"]

DIMS = 32


class _Words:
    """Embeds texts and no pictures, so that an item has the one vector of its text."""

    fingerprint, dims = f"words:{DIMS}", DIMS

    def __init__(self) -> None:
        self._plain = HashEmbedder(dims=DIMS)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._plain.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._plain.embed_query(text)


EMBEDDER = _Words()
_WORDS = ("kettle", "garden", "violin", "harbour", "lantern", "meadow", "thunder", "pepper")


def text_of(name: str, version: int) -> str:
    """Return the text of an item, which follows from its name and version."""
    chance = random.Random(f"{name} {version}")
    words = " ".join(chance.choices(_WORDS, k=chance.choice((4, 8, 40))))
    return f"{name} v{version} {words}"


def open_store(folder: Path, **about: Any) -> FaissStore:
    """Open the store of a campaign."""
    return FaissStore(folder, EMBEDDER, fields=("text",), **about)


@dataclass
class Book:
    """What may and must be in a store: for each name the versions allowed; None is "nothing".

    Attributes:
        allowed: By namespace label and name.
        batches: Names that were under way together.
        acknowledged: How many operations were acknowledged.
    """

    allowed: dict[str, list[int | None]] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    acknowledged: int = 0

    def read(self, told: list[Any]) -> None:
        """Take down what a writer told: {"begin"|"done": {name: version or None}}."""
        self.batches = []
        for one in told:
            for name, version in one.get("begin", {}).items():
                self.allowed.setdefault(name, [None])
                if version not in self.allowed[name]:
                    self.allowed[name].append(version)
            if len(one.get("begin", {})) > 1:
                self.batches.append(list(one["begin"]))
            for name, version in one.get("done", {}).items():
                self.allowed[name] = [version]
            if "done" in one:
                self.acknowledged += 1
                self.batches = [b for b in self.batches if b != list(one["done"])]

    def settle(self, found: dict[str, int]) -> None:
        """From now on what was found is what must be."""
        self.batches = []
        for name in list(self.allowed):
            self.allowed[name] = [found.get(name)]

    def faults(self, found: dict[str, int]) -> list[str]:
        """Return what is missing or too much in what was found."""
        wrong = []
        for name, version in found.items():
            if version not in self.allowed.get(name, ()):
                wrong.append(f"{name} v{version} is there, allowed: {self.allowed.get(name)}")
        for name, versions in self.allowed.items():
            if name not in found and None not in versions:
                wrong.append(f"{name} v{versions} was acknowledged and is gone")
        for batch in self.batches:
            new = [self.allowed[name][-1] for name in batch]
            done = [found.get(name) == version for name, version in zip(batch, new, strict=True)]
            if any(done) and not all(done):
                wrong.append(f"{sum(done)} of the {len(done)} of one batch were done")
        return wrong


def contents(store: FaissStore) -> dict[str, int]:
    """Return the versions of all items by their names, each held to its text.

    Raises:
        AssertionError: A text is not what was stored.
    """
    found = {}
    for item in store.search((), limit=1_000_000):
        name = f"{'/'.join(item.namespace)}/{item.key}"
        version = item.value.get("version")
        if version is None:
            continue
        assert item.value["text"] == text_of(name, version), f"garbage in {name}"
        found[name] = version
    return found


def search_faults(store: FaissStore, found: dict[str, int], chance: random.Random) -> list[str]:
    """Return where a search differs from brute force over what is there, in both ways it goes."""
    if not found:
        return []
    wrong = []
    names = list(found)
    texts = [text_of(name, found[name]) for name in names]
    matrix = np.asarray(EMBEDDER.embed_documents(texts))
    for _ in range(2):
        name = chance.choice(names)
        query = text_of(name, found[name])
        scores = matrix @ np.asarray(EMBEDDER.embed_query(query))
        for limit in (10**9, 0):
            if store.exact_limit != limit:
                store.exact_limit = limit
                store.search((), query=query, limit=1)
                store.wait_for_index()
            hits = store.search((), query=query, limit=10)
            mine = {f"{'/'.join(h.namespace)}/{h.key}": h.score or 0.0 for h in hits}
            best = np.sort(scores)[::-1][: len(mine)]
            # The index may miss one that is nearly as near; the exact way may not.
            near = sum(score > best[-1] - 2e-3 for score in mine.values()) if mine else 0
            if len(mine) != min(10, len(names)):
                wrong.append(f"{len(mine)} hits of {min(10, len(names))}")
            elif near < len(mine) - (0 if limit else 2):
                wrong.append(f"only {near} of 10 are the nearest (exact limit {limit})")
            elif any(abs(mine[n] - scores[names.index(n)]) > 2e-3 for n in mine if n in found):
                wrong.append("a hit has another's score")
    return wrong


def check(folder: Path, book: Book, seed: int, *, traces: bool = False) -> dict[str, Any]:
    """Return what a store holds and every fault of it.

    Args:
        folder: The store.
        book: What it must hold.
        seed: Of what is looked at more closely.
        traces: Whether nothing may be left on disk of what is gone.
    """
    chance = random.Random(seed)
    report = verify(folder)
    wrong = list(report.problems)
    with open_store(folder) as store:
        found = contents(store)
        wrong += book.faults(found)
        for name in chance.sample(sorted(found), min(5, len(found))):
            *labels, key = name.split("/")
            item = store.get(tuple(labels), key)
            if item is None or item.value["version"] != found[name]:
                wrong.append(f"{name} is listed but not found by its key")
        wrong += search_faults(store, found, chance)
        wrong += _picture_faults(store)
        with store.database.writing() as db:
            db.execute("INSERT INTO full_text (full_text, rank) VALUES ('integrity-check', 1)")
    if traces:
        data = b"\0".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        for name in set(book.allowed) - set(found):
            if f"{name} v1 ".encode() in data:
                wrong.append(f"{name} is erased and still on disk")
    return {"found": found, "wrong": wrong}


def _picture_faults(store: FaissStore) -> list[str]:
    with store.database.reading() as db:
        wrong = [
            "a picture does not match its hash"
            for digest, data in db.execute("SELECT hash, data FROM images")
            if hashlib.sha256(data).digest() != digest
        ]
        for table, what in (
            ("item_images WHERE item NOT IN (SELECT id FROM items)", "link without an item"),
            ("item_images WHERE hash NOT IN (SELECT hash FROM images)", "link without a picture"),
            ("images WHERE hash NOT IN (SELECT hash FROM item_images)", "picture without a link"),
        ):
            if db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
                wrong.append(what)
    return wrong
