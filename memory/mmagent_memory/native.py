"""Memories in a `FaissStore`: everything of a memory in one transaction, hybrid search in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.backends import Candidate, NewMemory, Question, Steps
from mmagent_memory.embedding import Matrix
from mmagent_memory.enrichment import COLUMN_WEIGHTS, full_text_of, indexed_fields, previous_of
from mmagent_memory.erasing import erase, owe, scrub
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.names import ROOT
from mmagent_memory.ranking import Signals
from mmagent_memory.records import EraseReceipt, Stored
from mmagent_memory.rows import IMAGE, TEXT, Put, Row, Vectors, path_of
from mmagent_memory.search import Reader, similarities
from mmagent_memory.store import FaissStore
from mmagent_memory.text import question_words

__all__ = ["NativeBackend"]

Result = TypeVar("Result")
Namespace = tuple[str, ...]
_LOOK_BACK = 32
"""How many of the latest memories are looked through for the previous turn of a conversation."""


class NativeBackend:
    """Keeps memories in a `FaissStore`."""

    def __init__(self, store: FaissStore) -> None:
        self._store = store

    def add(self, namespace: Namespace, memories: Sequence[NewMemory]) -> Steps[None]:
        """Keep memories; one whose key exists is left as it is."""
        return _do(lambda: self._add(namespace, memories))

    def get(self, prefix: Namespace, key: str) -> Steps[Stored | None]:
        """Return the memory of a key in any namespace below a prefix."""
        return _do(lambda: self._get(prefix, key))

    def everything(self, prefix: Namespace) -> Steps[list[Stored]]:
        """Return all memories below a prefix, as they were written."""
        return _do(lambda: self._everything(prefix))

    def count(self, prefix: Namespace) -> Steps[int]:
        """Return how many memories there are below a prefix."""
        return _do(lambda: self._count(prefix))

    def remove(self, stored: Stored) -> Steps[None]:
        """Forget a memory and every trace of it."""
        return _do(lambda: self._remove(stored))

    def change(
        self, namespace: Namespace, memories: Sequence[NewMemory], removed: Sequence[str] = ()
    ) -> Steps[None]:
        """Write memories over those of their keys and remove keys, in one transaction."""
        return _do(lambda: self._change(namespace, memories, removed))

    def erase(self, prefix: Namespace) -> Steps[EraseReceipt]:
        """Forget everything below a prefix and every trace of it."""
        return _do(lambda: self._erase(prefix))

    def candidates(
        self, prefix: Namespace, question: Question, limit: int
    ) -> Steps[list[Candidate]]:
        """Return what may answer a question; `limit` for each way of finding."""
        return _do(lambda: self._candidates(prefix, question, limit))

    def picture(self, namespace: Namespace, image_id: str) -> Steps[bytes | None]:
        """Return a picture's bytes."""
        return _do(lambda: self._picture(namespace, image_id))

    def users(self) -> Steps[list[Namespace]]:
        """Return the namespaces that hold memories."""
        return _do(lambda: list(self._store.list_namespaces(prefix=(ROOT,), limit=2**31)))

    def _add(self, namespace: Namespace, memories: Sequence[NewMemory]) -> None:
        with self._store.database.reading() as db:
            latest = [_stored(row) for row in self._reader(db).latest(namespace, _LOOK_BACK)]
        puts = []
        for memory in memories:
            before = previous_of(memory.value.get("thread"), latest)
            value = {**memory.value, "previous": before.key if before else None}
            puts.append(
                Put(
                    namespace=namespace,
                    key=memory.key,
                    value=value,
                    index=indexed_fields(value),
                    texts=full_text_of(value, before.value if before else None),
                    pictures=tuple(p.picture for p in memory.pictures if p.picture),
                    keep_existing=True,
                    vectors=memory.vectors,
                )
            )
            latest.insert(0, Stored(namespace, memory.key, value))
        self._store.write(puts)

    def _get(self, prefix: Namespace, key: str) -> Stored | None:
        with self._store.database.reading() as db:
            row = self._reader(db).find(prefix, key)
        return _stored(row) if row else None

    def _everything(self, prefix: Namespace) -> list[Stored]:
        with self._store.database.reading() as db:
            return [_stored(row) for row in self._reader(db).page(prefix, None, 2**62, 0)]

    def _count(self, prefix: Namespace) -> int:
        with self._store.database.reading() as db:
            return self._reader(db).count(prefix)

    def _remove(self, stored: Stored) -> None:
        with self._store.database.reading() as db:
            reader = self._reader(db)
            after = [
                (row, reader.vectors_of(row.id, self._store.vectorizer.dims(db)))
                for row in reader.page(stored.namespace, {"previous": stored.key}, 2**62, 0)
            ]
        puts = [Put(stored.namespace, stored.key, None)]
        puts += [_without_previous(row, vectors) for row, vectors in after]
        owe(self._store.database, thorough=False)
        self._store.write(puts)
        scrub(self._store.database, thorough=False)

    def _change(
        self, namespace: Namespace, memories: Sequence[NewMemory], removed: Sequence[str]
    ) -> None:
        puts = [Put(namespace, key, None) for key in removed]
        puts += [
            Put(
                namespace=namespace,
                key=memory.key,
                value={**memory.value, "previous": None},
                index=indexed_fields(memory.value),
                texts=full_text_of(memory.value, None),
                pictures=(),
            )
            for memory in memories
        ]
        if puts:
            self._store.write(puts)
        if removed:
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
        with self._store.database.reading() as db:
            reader = self._reader(db)
            said = " ".join([question.text, *question.captions])
            words = reader.by_words(prefix, question_words(said), limit, weights=COLUMN_WEIGHTS)
            part_words = [
                reader.by_words(prefix, question_words(p), limit, weights=COLUMN_WEIGHTS)
                for p in question.parts
            ]
            blocks = reader.vectors(prefix, vectorizer.dims(db)) if queries else []
            meaning = _Similar(blocks, [query for query, kind in queries if kind == TEXT], (TEXT,))
            picture = _Similar(blocks, [query for query, _ in queries], (IMAGE,))
            part_meaning = [_Similar(blocks, [query], (TEXT,)) for query in part_queries]
            found = [*words, *meaning.best(limit), *picture.best(limit)]
            for by_words, alike in zip_longest(part_words, part_meaning):
                found += [*by_words, *(alike.best(limit) if alike else ())]
            found = list(dict.fromkeys(found))
            rows = reader.rows(found)
            vectors = _first_vectors(blocks, set(rows))
            return [
                Candidate(
                    _stored(rows[number]),
                    Signals(
                        words=words.get(number),
                        meaning=meaning.of(number),
                        picture=picture.of(number),
                        parts=tuple(
                            (by_words.get(number), alike.of(number) if alike else None)
                            for by_words, alike in zip_longest(part_words, part_meaning)
                        ),
                        vector=vectors.get(number),
                    ),
                )
                for number in found
                if number in rows
            ]

    def _queries(self, question: Question) -> list[tuple[Matrix, int]]:
        """Return the vectors to search with, each with the kind of what it was made from."""
        vectorizer = self._store.vectorizer
        if not vectorizer.enabled:
            return []
        texts = [text for text in (question.text, *question.captions) if text.strip()]
        queries = [(vectorizer.query(text), TEXT) for text in texts]
        shown = [given.picture.data for given in question.pictures if given.picture]
        if shown and vectorizer.takes_images:
            queries += [(vector, IMAGE) for vector in vectorizer.images(shown)]
        return queries

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

    def _reader(self, db: Any) -> Reader:
        return self._store.reader(db)


class _Similar:
    """Cosines of every item to the nearest of several questions."""

    def __init__(
        self,
        blocks: list[tuple[Any, Any, Matrix]],
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
        return [int(number) for number in self._items[order]]

    def of(self, number: int) -> float | None:
        """Return the cosine of one item; None if it has no such vector."""
        place = int(np.searchsorted(self._items, number))
        if place < len(self._items) and self._items[place] == number:
            return float(self._scores[place])
        return None


def _first_vectors(
    blocks: list[tuple[Any, Any, Matrix]], wanted: Collection[int]
) -> dict[int, Matrix]:
    """Return the first vector of each item wanted."""
    numbers = np.fromiter(wanted, dtype=np.int64)
    found: dict[int, Matrix] = {}
    for items, _, matrix in blocks:
        for place in np.flatnonzero(np.isin(items, numbers)):
            found.setdefault(int(items[place]), matrix[place])
    return found


def _stored(row: Row) -> Stored:
    return Stored(row.namespace, row.key, row.value, row.id)


def _without_previous(row: Row, vectors: Vectors | None) -> Put:
    """Return a memory as it is, but found no longer by the words of the one before it."""
    value = {**row.value, "previous": None}
    return Put(
        namespace=row.namespace,
        key=row.key,
        value=value,
        index=indexed_fields(value),
        texts=full_text_of(value, None),
        vectors=vectors or Vectors(b"", np.zeros((0, 0), dtype=np.float32)),
    )


def _do(action: Callable[[], Result]) -> Steps[Result]:
    result: Result = yield action
    return result
