"""Memories in a `FaissStore`: everything of a memory in one transaction, hybrid search in place."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.backends import Candidate, Question
from mmagent_memory.blocks import View
from mmagent_memory.direct import DirectBackend, Namespace, stored_of
from mmagent_memory.embedding import Matrix
from mmagent_memory.enrichment import COLUMN_WEIGHTS
from mmagent_memory.erasing import erase, owe, scrub
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.ranking import Signals
from mmagent_memory.records import EraseReceipt
from mmagent_memory.rows import IMAGE, TEXT, Vectors, path_of
from mmagent_memory.search import Reader, similarities
from mmagent_memory.store import FaissStore
from mmagent_memory.text import question_words

__all__ = ["NativeBackend"]


class NativeBackend(DirectBackend):
    """Keeps memories in a `FaissStore`; what is forgotten leaves no trace on disk."""

    _store: FaissStore

    def __init__(self, store: FaissStore) -> None:
        self._store = store

    @contextmanager
    def _reading(self) -> Iterator[Reader]:
        with self._store.database.reading() as db:
            yield self._store.reader(db)

    def _vectors_of(self, reader: Reader, number: int) -> Vectors | None:
        return reader.vectors_of(number, self._store.vectorizer.dims(reader.db))

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        owe(self._store.database, thorough=False)
        yield
        scrub(self._store.database, thorough=False)

    def _erase(self, prefix: Namespace) -> EraseReceipt:
        receipt = erase(self._store.database, prefix)
        self._store.blocks.clear()
        self._store.index.clear()
        return receipt

    def _candidates(self, prefix: Namespace, question: Question, limit: int) -> list[Candidate]:
        queries = self._queries(question)
        vectorizer = self._store.vectorizer
        part_queries = [vectorizer.query(p) for p in question.parts] if queries else []
        with self._reading() as reader:
            said = " ".join([question.text, *question.captions])
            words = reader.by_words(prefix, question_words(said), limit, weights=COLUMN_WEIGHTS)
            part_words = [
                reader.by_words(prefix, question_words(p), limit, weights=COLUMN_WEIGHTS)
                for p in question.parts
            ]
            blocks = reader.vectors(prefix, vectorizer.dims(reader.db)) if queries else []
            meaning = _Similar(blocks, [query for query, kind in queries if kind == TEXT], (TEXT,))
            picture = _Similar(blocks, [query for query, _ in queries], (IMAGE,))
            part_meaning = [_Similar(blocks, [query], (TEXT,)) for query in part_queries]
            found = [*words, *meaning.best(limit), *picture.best(limit)]
            for by_words, alike in zip_longest(part_words, part_meaning):
                found += [*by_words, *(alike.best(limit) if alike else ())]
            found = list(dict.fromkeys(found))
            rows = reader.shared_rows(found)
            vectors = _first_vectors(blocks, set(rows))
        found = [number for number in found if number in rows]
        by_meaning, by_picture = meaning.of(found), picture.of(found)
        parts = [
            (by_words, alike.of(found) if alike else {})
            for by_words, alike in zip_longest(part_words, part_meaning)
        ]
        return [
            Candidate(
                stored_of(rows[number]),
                Signals(
                    words=words.get(number),
                    meaning=by_meaning.get(number),
                    picture=by_picture.get(number),
                    parts=tuple((said.get(number), like.get(number)) for said, like in parts),
                    vector=vectors.get(number),
                ),
            )
            for number in found
        ]

    def _picture(self, namespace: Namespace, image_id: str) -> bytes | None:
        with self._store.database.reading() as db:
            # Only through a memory of that namespace: a hash is no key to others' pictures.
            row = db.execute(
                "SELECT data FROM images WHERE hash = ?1 AND EXISTS ("
                "SELECT 1 FROM item_images JOIN items ON items.id = item_images.item "
                "JOIN namespaces ON namespaces.id = items.ns "
                "WHERE item_images.hash = ?1 AND namespaces.path = ?2)",
                (bytes.fromhex(image_id), path_of(namespace)),
            ).fetchone()
        if row and hashlib.sha256(row[0]).hexdigest() != image_id:
            raise CorruptStoreError(
                f"The picture {image_id[:8]} is damaged on disk; `python -m mmagent_memory verify "
                "FOLDER` lists what is hurt, and `repair` saves what is whole."
            )
        return row[0] if row else None


class _Similar:
    """Cosines of every item to the nearest of several questions."""

    def __init__(
        self,
        blocks: list[View],
        queries: list[Matrix],
        kinds: tuple[int, ...],
    ) -> None:
        self._items: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._scores: Matrix = np.zeros(0, dtype=np.float32)
        for query in queries:
            items, scores = similarities(blocks, query, kinds)
            same = len(self._items) == len(items)
            self._items = items
            self._scores = np.maximum(self._scores, scores) if same and len(items) else scores
        order = np.argsort(self._items, kind="stable")
        self._items, self._scores = self._items[order], self._scores[order]

    def best(self, limit: int) -> list[int]:
        """Return the most similar items, best first."""
        order = np.argsort(-self._scores, kind="stable")[:limit]
        best: list[int] = self._items[order].tolist()
        return best

    def of(self, numbers: list[int]) -> dict[int, float]:
        """Return the cosines of items; those that have no such vector are left out."""
        if not len(self._items):
            return {}
        wanted = np.array(numbers, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._items, wanted), len(self._items) - 1)
        there = self._items[places] == wanted
        scores = self._scores[places[there]]
        return dict(zip(wanted[there].tolist(), scores.tolist(), strict=True))


def _first_vectors(blocks: list[View], wanted: Collection[int]) -> dict[int, Matrix]:
    """Return the first vector of each item wanted."""
    numbers = np.fromiter(wanted, dtype=np.int64)
    found: dict[int, Matrix] = {}
    for items, _, matrix, _ in blocks:
        places = np.flatnonzero(np.isin(items, numbers))
        for place, item in zip(places.tolist(), items[places].tolist(), strict=True):
            found.setdefault(item, matrix[place])
    return found
