"""Memories in a `PostgresMemoryStore`: a memory in one transaction, hybrid search in the server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from mmagent_memory.backends import Candidate, NewMemory, Question, Steps
from mmagent_memory.embedding import Matrix
from mmagent_memory.enrichment import COLUMN_WEIGHTS, full_text_of, indexed_fields, previous_of
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.names import ROOT
from mmagent_memory.postgres import PostgresMemoryStore
from mmagent_memory.postgres_erasing import erase
from mmagent_memory.postgres_text import path_text
from mmagent_memory.ranking import Signals
from mmagent_memory.records import EraseReceipt, Stored
from mmagent_memory.rows import IMAGE, TEXT, Put, Row, Vectors
from mmagent_memory.text import question_words

__all__ = ["PostgresBackend"]

Result = TypeVar("Result")
Namespace = tuple[str, ...]
_LOOK_BACK = 32
"""How many of the latest memories are looked through for the previous turn of a conversation."""


class PostgresBackend:
    """Keeps memories in a `PostgresMemoryStore`."""

    def __init__(self, store: PostgresMemoryStore) -> None:
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
        """Forget a memory."""
        return _do(lambda: self._remove(stored))

    def change(
        self, namespace: Namespace, memories: Sequence[NewMemory], removed: Sequence[str] = ()
    ) -> Steps[None]:
        """Write memories over those of their keys and remove keys, in one transaction."""
        return _do(lambda: self._change(namespace, memories, removed))

    def erase(self, prefix: Namespace) -> Steps[EraseReceipt]:
        """Forget everything below a prefix and rewrite the tables without it."""
        return _do(lambda: erase(self._store, prefix))

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
        with self._store.reading() as reader:
            latest = [_stored(row) for row in reader.latest(namespace, _LOOK_BACK)]
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
        with self._store.reading() as reader:
            row = reader.find(prefix, key)
        return _stored(row) if row else None

    def _everything(self, prefix: Namespace) -> list[Stored]:
        with self._store.reading() as reader:
            return [_stored(row) for row in reader.page(prefix, None, 2**62, 0)]

    def _count(self, prefix: Namespace) -> int:
        with self._store.reading() as reader:
            return reader.count(prefix)

    def _remove(self, stored: Stored) -> None:
        with self._store.reading() as reader:
            after = [
                (row, reader.vectors_of(row.id))
                for row in reader.page(stored.namespace, {"previous": stored.key}, 2**62, 0)
            ]
        puts = [Put(stored.namespace, stored.key, None)]
        puts += [_without_previous(row, vectors) for row, vectors in after]
        self._store.write(puts)

    def _change(
        self, namespace: Namespace, memories: Sequence[NewMemory], removed: Sequence[str]
    ) -> None:
        puts = [Put(namespace, key, None) for key in removed]
        for memory in memories:
            value = {**memory.value, "previous": None}
            puts.append(
                Put(
                    namespace=namespace,
                    key=memory.key,
                    value=value,
                    index=indexed_fields(value),
                    texts=full_text_of(value, None),
                    pictures=(),
                )
            )
        if puts:
            self._store.write(puts)

    def _candidates(self, prefix: Namespace, question: Question, limit: int) -> list[Candidate]:
        queries = self._queries(question)
        parts = [(self._store.vectorizer.query(p), TEXT) for p in question.parts] if queries else []
        said = " ".join([question.text, *question.captions])
        with self._store.reading() as reader:
            words, *part_words = [
                reader.by_words(prefix, question_words(text), limit, weights=COLUMN_WEIGHTS)
                for text in (said, *question.parts)
            ]
            found = {number for each in (words, *part_words) for number in each}
            for query, kind in (*queries, *parts):
                if kind == TEXT:
                    found |= reader.nearest(prefix, query, (TEXT,), limit)
            for query, _ in queries:
                found |= reader.nearest(prefix, query, (IMAGE,), limit)
            rows = reader.rows(sorted(found))
            block = reader.block(list(rows)) if queries else None
        alike = _Alike(block)
        meaning = alike.to([query for query, kind in queries if kind == TEXT], TEXT)
        picture = alike.to([query for query, _ in queries], IMAGE)
        part_meaning = [alike.to([query], TEXT) for query, _ in parts]
        plain = Signals()
        return [
            Candidate(
                _stored(row),
                replace(
                    plain,
                    words=words.get(number),
                    meaning=meaning.get(number),
                    picture=picture.get(number),
                    parts=tuple(
                        (by_words.get(number), by_meaning.get(number))
                        for by_words, by_meaning in zip_longest(
                            part_words, part_meaning, fillvalue=_NOTHING
                        )
                    ),
                    vector=alike.first.get(number),
                ),
            )
            for number, row in sorted(rows.items())
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
        with self._store.exclusive() as db:
            row = db.execute(
                "SELECT data FROM store_images WHERE prefix = %s AND hash = %s",
                (path_text(namespace), bytes.fromhex(image_id)),
            ).fetchone()
        if row and hashlib.sha256(row["data"]).hexdigest() != image_id:
            raise CorruptStoreError(
                f"The picture {image_id[:8]} is damaged in the database; restore it from a backup."
            )
        return bytes(row["data"]) if row else None


_NOTHING: dict[int, float] = {}


class _Alike:
    """Cosines of what was found, from its vectors."""

    def __init__(self, block: tuple[np.ndarray, np.ndarray, Matrix] | None) -> None:
        self._block = block
        self.first: dict[int, Matrix] = {}
        if block is not None:
            for place, number in enumerate(block[0]):
                self.first.setdefault(int(number), block[2][place])

    def to(self, queries: Sequence[Matrix], kind: int) -> dict[int, float]:
        """Return the best cosine of each item to any of the questions, by vectors of one kind."""
        if self._block is None or not queries or not len(self._block[0]):
            return {}
        items, kinds, matrix = self._block
        of_kind = kinds == kind
        cosines = (matrix[of_kind] @ np.stack(list(queries)).T).max(axis=1, initial=-2.0)
        best: dict[int, float] = {}
        for number, cosine in zip(items[of_kind].tolist(), cosines.tolist(), strict=True):
            best[number] = max(cosine, best.get(number, -2.0))
        return best


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
