"""Memories in a `PostgresMemoryStore`: a memory in one transaction, hybrid search in the server."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from mmagent_memory.backends import Candidate, Question
from mmagent_memory.direct import DirectBackend, Namespace, stored_of
from mmagent_memory.embedding import Matrix
from mmagent_memory.enrichment import COLUMN_WEIGHTS
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.postgres import PostgresMemoryStore
from mmagent_memory.postgres_erasing import erase
from mmagent_memory.postgres_reader import PostgresReader
from mmagent_memory.postgres_text import path_text
from mmagent_memory.ranking import Signals
from mmagent_memory.records import EraseReceipt
from mmagent_memory.rows import IMAGE, TEXT, Vectors
from mmagent_memory.text import question_words

__all__ = ["PostgresBackend"]


class PostgresBackend(DirectBackend):
    """Keeps memories in a `PostgresMemoryStore`."""

    _store: PostgresMemoryStore

    def __init__(self, store: PostgresMemoryStore) -> None:
        self._store = store

    def _reading(self) -> AbstractContextManager[PostgresReader]:
        return self._store.reading()

    def _vectors_of(self, reader: PostgresReader, number: int) -> Vectors | None:
        return reader.vectors_of(number)

    def _erase(self, prefix: Namespace) -> EraseReceipt:
        return erase(self._store, prefix)

    def _candidates(self, prefix: Namespace, question: Question, limit: int) -> list[Candidate]:
        queries = self._queries(question)
        parts = [(self._store.vectorizer.query(p), TEXT) for p in question.parts] if queries else []
        said = " ".join([question.text, *question.captions])
        with self._reading() as reader:
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
                stored_of(row),
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
