"""What every store is given: the same texts, vectors, users and questions, from one seed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIMS", "SPARE", "USERS", "Data", "make"]

DIMS = 384
USERS = 100
SPARE = 2_000
"""Vectors beyond the size of the store, for the single adds and updates."""
QUESTIONS = 200
_CENTRES = 2_000
_NUMBER = re.compile(r'(?:^|")([mq])(\d+)\b')  # Some stores embed a value's JSON.
_SYLLABLES = ("ba", "co", "di", "fu", "ga", "he", "ji", "ko", "lu", "ma", "ne", "po", "qui", "so")


class Data:
    """One data set on disk; vectors are mapped, not loaded.

    Attributes:
        size: Items to load.
        vectors: [size + SPARE, DIMS] unit vectors: clusters, as texts of like topics make them.
        questions: [QUESTIONS, DIMS] unit vectors from the same clusters.
        askers: [QUESTIONS] whose items each question is about.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self.vectors: NDArray[np.float32] = np.load(folder / "vectors.npy", mmap_mode="r")
        self.questions: NDArray[np.float32] = np.load(folder / "questions.npy")
        self.askers: NDArray[np.int64] = np.load(folder / "askers.npy")
        self.words: list[str] = np.load(folder / "words.npy").tolist()
        self._places: NDArray[np.uint16] = np.load(folder / "places.npy", mmap_mode="r")
        self._texts: dict[int, str] = {}

    def text(self, number: int) -> str:
        """Return the text of an item: its number, then 16 words of a Zipf-like vocabulary."""
        known = self._texts.get(number)
        if known is not None:
            return known
        return f"m{number} " + " ".join([self.words[place] for place in self._places[number]])

    def make_texts(self) -> None:
        """Make every text now, so that no store is measured by what it costs to make them."""
        self._texts = {number: self.text(number) for number in range(len(self.vectors))}

    def user(self, number: int) -> str:
        """Return whose item it is."""
        return f"user{number % USERS}"

    def vector_of(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a text or a question: what an embedder would, at no cost."""
        found = _NUMBER.search(text)
        if found is None:
            return self.questions[0]  # A store that tries out how long vectors are.
        kind, number = found[1], int(found[2])
        return self.questions[number] if kind == "q" else self.vectors[number]

    def nearest(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the true ten nearest of each question: among its user's items, and of all."""
        scores = np.empty((QUESTIONS, self.size), dtype=np.float32)
        for start in range(0, self.size, 50_000):
            end = min(self.size, start + 50_000)
            scores[:, start:end] = self.questions @ self.vectors[start:end].T
        wide = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        mine = np.empty((QUESTIONS, 10), dtype=np.int64)
        for place, asker in enumerate(self.askers):
            items = np.arange(asker, self.size, USERS)
            best = items[np.argsort(-scores[place, items], kind="stable")[:10]]
            mine[place] = np.pad(best, (0, 10 - len(best)), constant_values=-1)
        return mine, wide


def make(folder: Path, size: int, seed: int = 20261122) -> Data:
    """Write a data set, unless it is there already, and open it."""
    done = folder / f"made-{size}-{seed}"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((_CENTRES, DIMS), dtype=np.float32)
        shape = (size + SPARE, DIMS)
        vectors = np.lib.format.open_memmap(
            folder / "vectors.npy", mode="w+", dtype=np.float32, shape=shape
        )
        for start in range(0, len(vectors), 50_000):
            count = min(50_000, len(vectors) - start)
            vectors[start : start + count] = _around(centres, rng, count)
        vectors.flush()
        np.save(folder / "questions.npy", _around(centres, rng, QUESTIONS))
        np.save(folder / "askers.npy", rng.integers(0, USERS, QUESTIONS))
        words = {"".join(rng.choice(_SYLLABLES, rng.integers(1, 5))) for _ in range(20_000)}
        np.save(folder / "words.npy", np.array(sorted(words)))
        places = rng.zipf(1.3, (size + SPARE, 16)) % len(words)
        np.save(folder / "places.npy", places.astype(np.uint16))
        done.touch()
    return Data(folder, size)


def _around(
    centres: NDArray[np.float32], rng: np.random.Generator, count: int
) -> NDArray[np.float32]:
    """Return unit vectors near centres, cosine about 0.6 to their own: as sentences of a topic."""
    noise = rng.standard_normal((count, DIMS), dtype=np.float32)
    found = centres[rng.integers(0, len(centres), count)] + 1.3 * noise
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found
