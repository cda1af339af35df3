"""Memories in a store of ours: what both kinds of it are alike in.

A subclass says how its store is read, what forgetting needs besides the write, and how memories
are found; the rest is here once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np

from mmagent_memory.backends import Candidate, NewMemory, Question, Steps
from mmagent_memory.embedding import Matrix
from mmagent_memory.enrichment import full_text_of, indexed_fields, previous_of
from mmagent_memory.names import ROOT
from mmagent_memory.records import EraseReceipt, Stored
from mmagent_memory.rows import IMAGE, TEXT, FullText, Put, Row, Vectors

__all__ = ["DirectBackend", "Namespace", "stored_of"]

Result = TypeVar("Result")
Namespace = tuple[str, ...]
_LOOK_BACK = 32
"""How many of the latest memories are looked through for the previous turn of a conversation."""


class MemoryReader(Protocol):
    """What is read of a store, all at one moment."""

    def find(self, prefix: Namespace, key: str) -> Row | None:
        """Return the item of a key in any namespace below a prefix."""

    def latest(self, namespace: Namespace, count: int) -> list[Row]:
        """Return the items of one namespace that were written last, the newest first."""

    def count(self, prefix: Namespace) -> int:
        """Return how many items there are below a prefix."""

    def page(
        self, prefix: Namespace, conditions: dict[str, Any] | None, limit: int, offset: int
    ) -> list[Row]:
        """Return items that fulfil a filter, oldest first, cut to a page."""


class DirectBackend(ABC):
    """Keeps memories in a store that takes `Put`s: everything of a memory in one transaction."""

    _store: Any

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
        """Forget a memory, as thoroughly as the store can."""
        return _do(lambda: self._remove(stored))

    def change(
        self, namespace: Namespace, memories: Sequence[NewMemory], removed: Sequence[str] = ()
    ) -> Steps[None]:
        """Write memories over those of their keys and remove keys, in one transaction."""
        return _do(lambda: self._change(namespace, memories, removed))

    def amend(self, stored: Stored, changes: Mapping[str, Any]) -> Steps[None]:
        """Change fields of a memory that it is not found by; everything else stays."""
        return _do(lambda: self._amend(stored, changes))

    def erase(self, prefix: Namespace) -> Steps[EraseReceipt]:
        """Forget everything below a prefix, as thoroughly as the store can."""
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

    @abstractmethod
    def _reading(self) -> AbstractContextManager[MemoryReader]:
        """Give a reader whose reads all see the same moment."""

    @abstractmethod
    def _vectors_of(self, reader: Any, number: int) -> Vectors | None:
        """Return the vectors of one item."""

    @abstractmethod
    def _erase(self, prefix: Namespace) -> EraseReceipt: ...

    @abstractmethod
    def _candidates(self, prefix: Namespace, question: Question, limit: int) -> list[Candidate]: ...

    @abstractmethod
    def _picture(self, namespace: Namespace, image_id: str) -> bytes | None: ...

    def _forgetting(self) -> AbstractContextManager[Any]:
        """Surround a write that removes memories with what their traces need."""
        return nullcontext()

    def _add(self, namespace: Namespace, memories: Sequence[NewMemory]) -> None:
        with self._reading() as reader:
            rows = reader.latest(namespace, _LOOK_BACK)
        # Written last is also what was rated last; what was said last was made last.
        rows.sort(key=lambda row: row.created, reverse=True)
        latest = [stored_of(row) for row in rows]
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
        with self._reading() as reader:
            row = reader.find(prefix, key)
        return stored_of(row) if row else None

    def _everything(self, prefix: Namespace) -> list[Stored]:
        with self._reading() as reader:
            return [stored_of(row) for row in reader.page(prefix, None, 2**62, 0)]

    def _count(self, prefix: Namespace) -> int:
        with self._reading() as reader:
            return reader.count(prefix)

    def _remove(self, stored: Stored) -> None:
        with self._reading() as reader:
            after = [
                (row, self._vectors_of(reader, row.id))
                for row in reader.page(stored.namespace, {"previous": stored.key}, 2**62, 0)
            ]
        puts = [Put(stored.namespace, stored.key, None)]
        puts += [_without_previous(row, vectors) for row, vectors in after]
        with self._forgetting():
            self._store.write(puts)

    def _amend(self, stored: Stored, changes: Mapping[str, Any]) -> None:
        with self._reading() as reader:
            row = reader.find(stored.namespace, stored.key)
            if row is None:
                return
            before = row.value.get("previous")
            turn_before = reader.find(stored.namespace, before) if before else None
            vectors = self._vectors_of(reader, row.id)
        value = {**row.value, **changes}
        texts = full_text_of(value, turn_before.value if turn_before else None)
        self._store.write([_as_it_is(row, value, texts, vectors)])

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
            with self._forgetting() if removed else nullcontext():
                self._store.write(puts)

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


def stored_of(row: Row) -> Stored:
    """Return a row as a memory."""
    return Stored(row.namespace, row.key, row.value, row.id)


def _without_previous(row: Row, vectors: Vectors | None) -> Put:
    """Return a memory as it is, but found no longer by the words of the one before it."""
    value = {**row.value, "previous": None}
    return _as_it_is(row, value, full_text_of(value, None), vectors)


def _as_it_is(row: Row, value: Mapping[str, Any], texts: FullText, vectors: Vectors | None) -> Put:
    """Return a memory with the vectors that it has, which the change does not touch."""
    return Put(
        namespace=row.namespace,
        key=row.key,
        value=value,
        index=indexed_fields(value),
        texts=texts,
        vectors=vectors or Vectors(b"", np.zeros((0, 0), dtype=np.float32)),
    )


def _do(action: Callable[[], Result]) -> Steps[Result]:
    result: Result = yield action
    return result
