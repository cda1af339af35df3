"""Memories in any LangGraph store: the same promises, as far as that store can keep them.

Words are searched in an SQLite table in memory, made from the user's memories for each question;
meaning by the store's own index, if it has one. Pictures are items of their own, in base64. How
durable it is, and whether erasing leaves traces, is the store's to say.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp

from mmagent_memory.backends import Candidate, NewMemory, Question, Steps
from mmagent_memory.enrichment import COLUMN_WEIGHTS, full_text_of, indexed_fields, previous_of
from mmagent_memory.names import ROOT
from mmagent_memory.ranking import Signals
from mmagent_memory.records import EraseReceipt, Stored, image_entries
from mmagent_memory.text import full_text_query, question_words

__all__ = ["GenericBackend"]

Namespace = tuple[str, ...]
_PICTURES = "memory-pictures"
_PAGE = 1000


class GenericBackend:
    """Keeps memories in any `BaseStore`."""

    def add(self, namespace: Namespace, memories: Sequence[NewMemory]) -> Steps[None]:
        """Keep memories; one whose key exists is left as it is."""
        known = yield [GetOp(namespace, memory.key) for memory in memories]
        latest = (yield from self.everything(namespace))[::-1]
        order = latest[0].order if latest else 0
        operations: list[Any] = []
        for memory, before in zip(memories, known, strict=True):
            if before is not None:
                continue
            order += 1
            previous = previous_of(memory.value.get("thread"), latest)
            value = {
                **memory.value,
                "previous": previous.key if previous else None,
                "order": order,
            }
            fields = indexed_fields(value)
            for given in memory.pictures:
                if given.picture is not None:
                    data = base64.b64encode(given.picture.data).decode("ascii")
                    place = _pictures_of(namespace)
                    operations.append(PutOp(place, given.id, {"data": data}, index=False))
            operations.append(PutOp(namespace, memory.key, value, index=fields or False))
            latest.insert(0, Stored(namespace, memory.key, value, order))
        if operations:
            yield operations

    def get(self, prefix: Namespace, key: str) -> Steps[Stored | None]:
        """Return the memory of a key in any namespace below a prefix."""
        for namespace in (yield from self._namespaces(prefix)):
            (item,) = yield [GetOp(namespace, key)]
            if item is not None:
                return _stored(item)
        return None

    def everything(self, prefix: Namespace) -> Steps[list[Stored]]:
        """Return all memories below a prefix, as they were written."""
        found: dict[tuple[Namespace, str], Stored] = {}
        offset = 0
        while True:
            (page,) = yield [SearchOp(prefix, limit=_PAGE, offset=offset)]
            found |= {(item.namespace, item.key): _stored(item) for item in page}
            if len(page) < _PAGE:
                return sorted(found.values(), key=lambda stored: stored.order)
            offset += _PAGE

    def count(self, prefix: Namespace) -> Steps[int]:
        """Return how many memories there are below a prefix."""
        return len((yield from self.everything(prefix)))

    def remove(self, stored: Stored) -> Steps[None]:
        """Forget a memory, its pictures, and what the next one says of it."""
        every = yield from self.everything(stored.namespace)
        others = [other for other in every if other.key != stored.key]
        kept = {entry["id"] for other in others for entry in image_entries(other.value)}
        operations: list[Any] = [PutOp(stored.namespace, stored.key, None)]
        for entry in image_entries(stored.value):
            if entry["id"] not in kept:
                operations.append(PutOp(_pictures_of(stored.namespace), entry["id"], None))
        for other in others:
            if other.value.get("previous") == stored.key:
                value = {**other.value, "previous": None}
                fields = indexed_fields(value)
                operations.append(PutOp(other.namespace, other.key, value, index=fields or False))
        yield operations

    def change(
        self, namespace: Namespace, memories: Sequence[NewMemory], removed: Sequence[str] = ()
    ) -> Steps[None]:
        """Write memories over those of their keys and remove keys, in one batch."""
        latest = (yield from self.everything(namespace))[-1:]
        order = latest[0].order if latest else 0
        operations: list[Any] = [PutOp(namespace, key, None) for key in removed]
        for number, memory in enumerate(memories, start=order + 1):
            value = {**memory.value, "previous": None, "order": number}
            fields = indexed_fields(value)
            operations.append(PutOp(namespace, memory.key, value, index=fields or False))
        if operations:
            yield operations

    def amend(self, stored: Stored, changes: Mapping[str, Any]) -> Steps[None]:
        """Change fields of a memory that it is not found by; everything else stays."""
        value = {**stored.value, **changes}
        fields = indexed_fields(value)
        yield [PutOp(stored.namespace, stored.key, value, index=fields or False)]

    def erase(self, prefix: Namespace) -> Steps[EraseReceipt]:
        """Forget everything below a prefix."""
        every = yield from self.everything(prefix)
        pictures = {
            (_pictures_of(stored.namespace), entry["id"])
            for stored in every
            for entry in image_entries(stored.value)
            if entry.get("stored", True)
        }
        operations: list[Any] = [PutOp(stored.namespace, stored.key, None) for stored in every]
        operations += [PutOp(namespace, key, None) for namespace, key in sorted(pictures)]
        if operations:
            yield operations
        return EraseReceipt(
            memories=len(every),
            images=len(pictures),
            complete=False,
            notes=("This store does not say whether deleted bytes leave its disk.",),
        )

    def candidates(
        self, prefix: Namespace, question: Question, limit: int
    ) -> Steps[list[Candidate]]:
        """Return what may answer a question: by words, and by the store's own index."""
        every = yield from self.everything(prefix)
        said = " ".join([question.text, *question.captions])
        asked = [text for text in (said, *question.parts) if text.strip()]
        words = [_by_words(every, question_words(text), limit) for text in asked]
        operations: list[Any] = [SearchOp(prefix, query=text, limit=limit) for text in asked]
        answers = (yield operations) if operations else []
        meaning = [
            {(item.namespace, item.key): item.score for item in near if item.score is not None}
            for near in answers
        ]
        found = []
        for place, stored in enumerate(every):
            name = (stored.namespace, stored.key)
            known = [(w.get(place), m.get(name)) for w, m in zip(words, meaning, strict=True)]
            if any(word is not None or like is not None for word, like in known):
                whole, *parts = known
                signals = Signals(words=whole[0], meaning=whole[1], parts=tuple(parts))
                found.append(Candidate(stored, signals))
        return found

    def picture(self, namespace: Namespace, image_id: str) -> Steps[bytes | None]:
        """Return a picture's bytes."""
        (item,) = yield [GetOp(_pictures_of(namespace), image_id)]
        return None if item is None else base64.b64decode(item.value["data"])

    def users(self) -> Steps[list[Namespace]]:
        """Return the namespaces that hold memories."""
        return (yield from self._namespaces((ROOT,)))

    def _namespaces(self, prefix: Namespace) -> Steps[list[Namespace]]:
        condition = MatchCondition("prefix", prefix)
        (found,) = yield [ListNamespacesOp((condition,), limit=2**31 - 1)]
        return [tuple(namespace) for namespace in found]


def _pictures_of(namespace: Namespace) -> Namespace:
    return (_PICTURES, *namespace[1:])


def _stored(item: Any) -> Stored:
    order = item.value.get("order") or 0
    return Stored(tuple(item.namespace), item.key, item.value, order)


def _by_words(every: Sequence[Stored], words: list[str], limit: int) -> dict[int, float]:
    """Return the places of memories that hold any of the words, with their BM25."""
    if not words or not every:
        return {}
    by_key = {(stored.namespace, stored.key): stored for stored in every}
    db = sqlite3.connect(":memory:")
    try:
        db.execute(
            "CREATE VIRTUAL TABLE full_text USING fts5(body, about, caption, context, "
            "tokenize='porter unicode61 remove_diacritics 2')"
        )
        for place, stored in enumerate(every):
            before = by_key.get((stored.namespace, stored.value.get("previous") or ""))
            columns = full_text_of(stored.value, before.value if before else None).columns()
            db.execute(
                "INSERT INTO full_text (rowid, body, about, caption, context) "
                "VALUES (?, ?, ?, ?, ?)",
                (place, *columns),
            )
        rows = db.execute(
            "SELECT rowid, -bm25(full_text, ?, ?, ?, ?) AS score FROM full_text "
            "WHERE full_text MATCH ? ORDER BY score DESC, rowid LIMIT ?",
            (*COLUMN_WEIGHTS, full_text_query(words), limit),
        ).fetchall()
    finally:
        db.close()
    return dict(rows)
