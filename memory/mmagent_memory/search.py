"""Reading items: by key, by filter, by words and by meaning; and listing namespaces."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from langgraph.store.base import ListNamespacesOp, MatchCondition
from numpy.typing import NDArray

from mmagent_memory.blocks import BlockCache, View
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.filters import matches
from mmagent_memory.kept import KeptRow
from mmagent_memory.moments import moment_of
from mmagent_memory.rows import (
    Row,
    Vectors,
    bytes_of,
    labels_of,
    path_of,
    unpack_vectors,
)
from mmagent_memory.scoring import nearest, similarities
from mmagent_memory.text import full_text_query
from mmagent_memory.words import pending_words, words_behind

__all__ = ["Reader", "Scope", "nearest", "similarities"]

_ALIVE = "(items.expires IS NULL OR items.expires > :now)"
_JOINED = "items JOIN namespaces ON namespaces.id = items.ns"


@dataclass(frozen=True)
class Scope:
    """A namespace prefix as SQL: `condition` on `items.ns` and its parameters."""

    condition: str
    parameters: dict[str, Any]
    low: bytes = b""
    high: bytes = b""

    @classmethod
    def of(cls, prefix: Sequence[str]) -> Scope:
        """Return the scope of all namespaces that begin with these labels."""
        return _scope_of(tuple(prefix))

    @classmethod
    def _of(cls, prefix: tuple[str, ...]) -> Scope:
        if not prefix:
            return cls("1", {})
        path = path_of(prefix)
        # "/" follows ".", so this is every path that begins with the whole labels.
        return cls(
            "items.ns IN (SELECT id FROM namespaces WHERE path >= :low AND path < :high)",
            {"low": path, "high": path[:-1] + b"/"},
            path,
            path[:-1] + b"/",
        )


@lru_cache(maxsize=4096)
def _scope_of(prefix: tuple[str, ...]) -> Scope:
    return Scope._of(prefix)


class Reader:
    """Reads from one connection, at one moment."""

    def __init__(
        self,
        db: sqlite3.Connection,
        now: int,
        blocks: BlockCache,
        settle: Callable[[], None] | None = None,
    ) -> None:
        """Read from a connection as of `now`; `settle` takes all words into full text."""
        self.db = db
        self.now = now
        self.blocks = blocks
        self.moment = moment_of(db)
        self._settle = settle

    def get(self, namespace: Sequence[str], key: str) -> Row | None:
        """Return the item of a key, if there is one."""
        columns = self.db.execute(
            f"SELECT {Row.COLUMNS} FROM {_JOINED} WHERE namespaces.path = :path "  # noqa: S608
            f"AND items.key = :key AND {_ALIVE}",
            {"path": path_of(namespace), "key": bytes_of(key), "now": self.now},
        ).fetchone()
        return Row.from_columns(columns) if columns else None

    def find(self, prefix: Sequence[str], key: str) -> Row | None:
        """Return the item of a key in any namespace below a prefix."""
        scope = Scope.of(prefix)
        columns = self.db.execute(
            f"SELECT {Row.COLUMNS} FROM {_JOINED} "  # noqa: S608
            f"WHERE {scope.condition} AND items.key = :key AND {_ALIVE} LIMIT 1",
            {**scope.parameters, "key": bytes_of(key), "now": self.now},
        ).fetchone()
        return Row.from_columns(columns) if columns else None

    def count(self, prefix: Sequence[str]) -> int:
        """Return how many items there are below a prefix."""
        scope = Scope.of(prefix)
        number: int = self.db.execute(
            f"SELECT count(*) FROM items WHERE {scope.condition} AND {_ALIVE}",  # noqa: S608
            {**scope.parameters, "now": self.now},
        ).fetchone()[0]
        return number

    def numbers(self, prefix: Sequence[str]) -> set[int]:
        """Return the numbers of all items below a prefix."""
        scope = Scope.of(prefix)
        return {
            number
            for (number,) in self.db.execute(
                f"SELECT items.id FROM items WHERE {scope.condition} AND {_ALIVE}",  # noqa: S608
                {**scope.parameters, "now": self.now},
            )
        }

    def vectors_of(self, number: int, dims: int) -> Vectors | None:
        """Return the vectors of one item."""
        kinds, blob = self.db.execute(
            "SELECT kinds, vectors FROM items WHERE id = ?", (number,)
        ).fetchone()
        return Vectors(kinds, unpack_vectors(number, kinds, blob, dims)) if kinds else None

    def rows(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Return items by their numbers; those that are gone are left out."""
        return {number: kept.fresh() for number, kept in self._kept(numbers).items()}

    def shared_rows(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Return items as `rows` does, for callers that change nothing of what they hold."""
        return {number: kept.row for number, kept in self._kept(numbers).items()}

    def _kept(self, numbers: Sequence[int]) -> dict[int, KeptRow]:
        return self.blocks.rows.get(
            self.db,
            self.moment,
            self.now,
            numbers,
            lambda namespace: self.blocks.path(self.db, self.moment, namespace),
        )

    def page(
        self,
        prefix: Sequence[str],
        conditions: dict[str, Any] | None,
        limit: int,
        offset: int,
        *,
        without: Collection[int] = (),
    ) -> list[Row]:
        """Return items that fulfil a filter, oldest first, cut to a page."""
        if limit <= 0:
            return []
        scope = Scope.of(prefix)
        parameters = {**scope.parameters, "now": self.now}
        cut = ""
        if not conditions and not without:
            cut = " LIMIT :limit OFFSET :offset"
            parameters |= {"limit": limit, "offset": offset}
            offset = 0
        found: list[Row] = []
        for columns in self.db.execute(
            f"SELECT {Row.COLUMNS} FROM {_JOINED} "  # noqa: S608
            f"WHERE {scope.condition} AND {_ALIVE} ORDER BY items.id{cut}",
            parameters,
        ):
            row = Row.from_columns(columns)
            if row.id in without or not matches(row.value, conditions):
                continue
            if offset:
                offset -= 1
                continue
            found.append(row)
            if len(found) == limit:
                break
        return found

    def latest(self, namespace: Sequence[str], count: int) -> list[Row]:
        """Return the items of one namespace that were written last, the newest first."""
        return [
            Row.from_columns(columns)
            for columns in self.db.execute(
                f"SELECT {Row.COLUMNS} FROM {_JOINED} "  # noqa: S608
                "WHERE items.ns = (SELECT id FROM namespaces WHERE path = :path) "
                f"AND {_ALIVE} ORDER BY items.id DESC LIMIT :count",
                {"path": path_of(namespace), "now": self.now, "count": count},
            )
        ]

    def allowed(self, prefix: Sequence[str], conditions: dict[str, Any] | None) -> set[int] | None:
        """Return the items that a filter lets through; None for all."""
        if not conditions:
            return None
        scope = Scope.of(prefix)
        return {
            number
            for number, value in self.db.execute(
                f"SELECT items.id, items.value FROM items WHERE {scope.condition} "  # noqa: S608
                f"AND {_ALIVE}",
                {**scope.parameters, "now": self.now},
            )
            if matches(json.loads(value), conditions)
        }

    def expired(self) -> NDArray[np.int64]:
        """Return the items that have expired but are still stored."""
        if self.moment.expiry is None or self.moment.expiry > self.now:
            return np.zeros(0, dtype=np.int64)
        rows = self.db.execute("SELECT id FROM items WHERE expires <= ?", (self.now,)).fetchall()
        return np.array([number for (number,) in rows], dtype=np.int64)

    def is_small(self, prefix: Sequence[str], limit: int) -> bool:
        """Whether a scope has about as few items as a limit."""
        scope = Scope.of(prefix)
        return self.blocks.holds_at_most(self.db, self.moment, scope.low, scope.high, limit)

    def namespace_numbers(self, prefix: Sequence[str]) -> set[int]:
        """Return the numbers of the namespaces below a prefix."""
        scope = Scope.of(prefix)
        condition = scope.condition.replace("items.ns", "id")
        rows = self.db.execute(
            f"SELECT id FROM namespaces WHERE {condition}",  # noqa: S608
            scope.parameters,
        )
        return {number for (number,) in rows}

    def vectors(self, prefix: Sequence[str], dims: int) -> list[View]:
        """Return the vectors in a scope as blocks of (items [n], kinds [n], matrix [n, dims]).

        Item 0 is one that was removed.
        """
        scope = Scope.of(prefix)
        view = self.blocks.get(self.db, self.moment, scope.low, scope.high, dims)
        return [view] if len(view[0]) else []

    def by_words(
        self,
        prefix: Sequence[str],
        words: list[str],
        limit: int,
        *,
        weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
        allowed: Collection[int] | None = None,
    ) -> dict[int, float]:
        """Return the items that full text finds, best first, with their BM25 (more is better)."""
        if not words or limit <= 0:
            return {}
        behind = words_behind(self.db)
        if behind and self._settle:
            self._settle()
            # From here on this reads as of now.
            self.db.execute("COMMIT")
            self.db.execute("BEGIN")
            self.moment = moment_of(self.db)
            behind = words_behind(self.db)
        most = limit if allowed is None else -1
        rows = self._match("full_text", prefix, words, most, weights)
        if behind:
            with pending_words(self.db) as pending:
                rows += self._match(pending, prefix, words, most, weights)
            rows.sort(key=lambda row: (-row[1], row[0]))
        found = ((n, score) for n, score in rows if allowed is None or n in allowed)
        return dict(islice(found, limit))

    def _match(
        self,
        table: str,
        prefix: Sequence[str],
        words: list[str],
        limit: int,
        weights: tuple[float, float, float, float],
    ) -> list[tuple[int, float]]:
        scope = Scope.of(prefix)
        rows: list[tuple[int, float]] = self.db.execute(
            # CROSS JOIN keeps the order: first the words, then whose they are.
            f"SELECT items.id, -bm25({table}, :w0, :w1, :w2, :w3) AS score "  # noqa: S608
            f"FROM {table} CROSS JOIN items ON items.id = {table}.rowid "
            f"WHERE {table} MATCH :query AND {scope.condition} AND {_ALIVE} "
            "ORDER BY score DESC, items.id LIMIT :limit",
            {
                **scope.parameters,
                **{f"w{number}": weight for number, weight in enumerate(weights)},
                "query": full_text_query(words),
                "now": self.now,
                "limit": limit,
            },
        ).fetchall()
        return rows

    def namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        """Return the namespaces that hold something, sorted and cut to a page."""
        conditions = op.match_conditions or ()
        tests = [_condition(condition) for condition in conditions]
        rows = self.db.execute(
            "SELECT path FROM namespaces WHERE EXISTS "  # noqa: S608
            f"(SELECT 1 FROM items WHERE items.ns = namespaces.id AND {_ALIVE})",
            {"now": self.now},
        )
        every = [labels_of(path) for (path,) in rows]
        found = {labels[: op.max_depth] for labels in every if all(test(labels) for test in tests)}
        return sorted(found)[op.offset : op.offset + op.limit]


def _condition(condition: MatchCondition) -> Callable[[tuple[str, ...]], bool]:
    wanted = tuple(condition.path)
    if condition.match_type == "prefix":
        return lambda labels: _same(labels[: len(wanted)], wanted)
    if condition.match_type == "suffix":
        return lambda labels: _same(labels[max(0, len(labels) - len(wanted)) :], wanted)
    raise MemoryUsageError(
        f"There is no match type {condition.match_type!r}; use prefix or suffix."
    )


def _same(labels: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return len(labels) == len(wanted) and all(
        pattern in ("*", label) for label, pattern in zip(labels, wanted, strict=True)
    )
