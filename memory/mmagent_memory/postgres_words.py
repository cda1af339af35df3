"""Searching a memory in PostgreSQL that has no embedder: by words alone."""

from __future__ import annotations

from langgraph.store.base import SearchOp

from mmagent_memory.filters import matches
from mmagent_memory.postgres_reader import PostgresReader
from mmagent_memory.rows import Row
from mmagent_memory.text import question_words

__all__ = ["search_by_words"]


def search_by_words(reader: PostgresReader, op: SearchOp) -> list[tuple[Row, float | None]]:
    """Return the items that full text finds and a filter lets through, cut to a page."""
    end = op.offset + op.limit
    most = end if not op.filter else 2**31
    ranked = reader.by_words(
        op.namespace_prefix, question_words(op.query or ""), most, weights=(1.0, 1.0, 1.0, 1.0)
    )
    rows = reader.rows(list(ranked))
    found: list[tuple[Row, float | None]] = [
        (rows[number], score)
        for number, score in ranked.items()
        if number in rows and matches(rows[number].value, op.filter)
    ]
    return found[op.offset : end]
