"""Reading a memory in PostgreSQL: by key, by filter, by words and by meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from langgraph.store.base import GetOp, ListNamespacesOp, SearchOp
from numpy.typing import NDArray

from mmagent_memory.embedding import Matrix
from mmagent_memory.filters import matches
from mmagent_memory.namespaces import labels_match
from mmagent_memory.postgres_text import (
    Match,
    bm25,
    decode,
    encode,
    is_prefix,
    like,
    path_text,
    value_of,
    words_of,
)
from mmagent_memory.postgres_vectors import from_binary, to_text
from mmagent_memory.rows import Row, Vectors

__all__ = ["ALIVE", "PostgresReader", "scope"]

ALIVE = "(store.expires_at IS NULL OR store.expires_at > now())"
_ITEM = (
    "store.seq, store.prefix, store.key, store.value::text AS value, store.created_at, "
    "store.updated_at, store.ttl_minutes"
)
# Vectors that LangGraph's own store has written need not be of length 1, and zero has no cosine.
_COSINE = "COALESCE(NULLIF(1 - (embedding <=> %s::vector), 'NaN'), 0)"
_STEM = re.compile(r"'((?:[^']|'')*)'")
_MOST = 20_000
"""Most matches of full text that are ranked by BM25; of more, those that PostgreSQL likes best."""
_PAGE = 500


def scope(prefix: Sequence[str], column: str = "store.prefix") -> tuple[str, list[Any]]:
    """Return the condition for namespaces that begin with whole labels, and its parameters."""
    if not prefix:
        return "TRUE", []
    path = path_text(prefix)
    return f"({column} = %s OR {column} LIKE %s)", [path, f"{like(path)}.%"]


class PostgresReader:
    """Reads from one connection, at one moment."""

    def __init__(self, db: Any) -> None:
        self.db = db

    def get(self, ops: Sequence[GetOp]) -> list[Row | None]:
        """Return the items of keys."""
        rows = self.db.execute(
            f"SELECT wanted.place, {_ITEM} FROM store JOIN "  # noqa: S608
            "unnest(%s::text[], %s::text[]) WITH ORDINALITY AS wanted (prefix, key, place) "
            f"ON store.prefix = wanted.prefix AND store.key = wanted.key WHERE {ALIVE}",
            ([path_text(op.namespace) for op in ops], [encode(op.key) for op in ops]),
        ).fetchall()
        found: list[Row | None] = [None] * len(ops)
        for row in rows:
            found[row["place"] - 1] = row_of(row)
        return found

    def find(self, prefix: Sequence[str], key: str) -> Row | None:
        """Return the item of a key in any namespace below a prefix."""
        condition, parameters = scope(prefix)
        row = self.db.execute(
            f"SELECT {_ITEM} FROM store "  # noqa: S608
            f"WHERE {condition} AND store.key = %s AND {ALIVE} LIMIT 1",
            [*parameters, encode(key)],
        ).fetchone()
        return row_of(row) if row else None

    def count(self, prefix: Sequence[str]) -> int:
        """Return how many items there are below a prefix."""
        condition, parameters = scope(prefix)
        number: int = self.db.execute(
            f"SELECT count(*) AS n FROM store WHERE {condition} AND {ALIVE}",  # noqa: S608
            parameters,
        ).fetchone()["n"]
        return number

    def rows(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Return items by their numbers; those that are gone are left out."""
        rows = self.db.execute(
            f"SELECT {_ITEM} FROM store WHERE store.seq = ANY(%s) AND {ALIVE}",  # noqa: S608
            (list(numbers),),
        ).fetchall()
        return {row["seq"]: row_of(row) for row in rows}

    def page(
        self, prefix: Sequence[str], conditions: dict[str, Any] | None, limit: int, offset: int
    ) -> list[Row]:
        """Return items that fulfil a filter, oldest first, cut to a page."""
        return [row for row, _ in self.search(SearchOp(tuple(prefix), conditions, limit, offset))]

    def latest(self, namespace: Sequence[str], count: int) -> list[Row]:
        """Return the items of one namespace that were written last, the newest first."""
        rows = self.db.execute(
            f"SELECT {_ITEM} FROM store WHERE store.prefix = %s AND {ALIVE} "  # noqa: S608
            "ORDER BY store.seq DESC LIMIT %s",
            (path_text(namespace), count),
        ).fetchall()
        return [row_of(row) for row in rows]

    def search(self, op: SearchOp, query: Matrix | None = None) -> list[tuple[Row, float | None]]:
        """Return items that fulfil a filter, the nearest to a question first, cut to a page.

        What has no vector comes after all that has one.
        """
        if op.limit <= 0:
            return []
        condition, parameters = scope(op.namespace_prefix)
        wanted, more = _prefilter(op.filter)
        select = f"SELECT {_ITEM}, NULL::float8 AS score FROM store "  # noqa: S608
        order = "ORDER BY store.seq"
        if query is not None:
            on_vectors, also = scope(op.namespace_prefix, "prefix")
            select = (
                f"SELECT {_ITEM}, best.score FROM store LEFT JOIN ("  # noqa: S608
                f"SELECT prefix, key, max({_COSINE}) AS score FROM store_vectors "
                f"WHERE {on_vectors} GROUP BY prefix, key) AS best "
                "ON best.prefix = store.prefix AND best.key = store.key "
            )
            parameters = [to_text(query), *also, *parameters]
            order = "ORDER BY best.score DESC NULLS LAST, store.seq"
        statement = f"{select}WHERE {condition} AND {ALIVE} AND {wanted} {order}"
        parameters = [*parameters, *more]
        if not op.filter:
            statement += " LIMIT %s OFFSET %s"
            rows = self.db.execute(statement, [*parameters, min(op.limit, 2**62), op.offset])
            return [(row_of(row), row["score"]) for row in rows]
        found = []
        skip = op.offset
        for row in self._stream(statement, parameters):
            item = row_of(row)
            if not matches(item.value, op.filter):
                continue
            if skip:
                skip -= 1
                continue
            found.append((item, row["score"]))
            if len(found) == op.limit:
                break
        return found

    def namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        """Return the namespaces that hold something, sorted and cut to a page."""
        rows = self.db.execute(
            f"SELECT DISTINCT prefix FROM store WHERE {ALIVE}"  # noqa: S608
        ).fetchall()
        every = [labels_of(row["prefix"]) for row in rows]
        conditions = op.match_conditions or ()
        found = {
            labels[: op.max_depth]
            for labels in every
            if all(labels_match(labels, condition) for condition in conditions)
        }
        return sorted(found)[op.offset : op.offset + op.limit]

    def by_words(
        self, prefix: Sequence[str], words: list[str], limit: int, *, weights: Sequence[float]
    ) -> dict[int, float]:
        """Return the items that full text finds, best first, with their BM25."""
        asked = [(self._stems(word), is_prefix(word)) for word in words]
        asked = [(stems, begins) for stems, begins in asked if stems]
        if not asked or limit <= 0:
            return {}
        condition, parameters = scope(prefix)
        about = self.db.execute(
            "SELECT count(*) AS count, COALESCE(avg(word_count), 0)::float8 AS mean "  # noqa: S608
            f"FROM store WHERE {condition} AND {ALIVE} AND words IS NOT NULL",
            parameters,
        ).fetchone()
        query = " | ".join(_query(stems, begins) for stems, begins in asked)
        plain = [stem for stems, begins in asked if not begins for stem in stems]
        begins = [f"{like(stems[0])}%" for stems, begins in asked if begins]
        best = ""
        if about["count"] > _MOST:
            best = f"ORDER BY ts_rank(store.words, asked.query) DESC LIMIT {_MOST}"
        rows = self.db.execute(
            "SELECT store.seq, store.word_count, ("  # noqa: S608
            "SELECT jsonb_object_agg(w.lexeme, array_to_string(w.weights, '')) "
            "FROM unnest(store.words) AS w WHERE w.lexeme = ANY(%s) OR w.lexeme LIKE ANY(%s)"
            ") AS hits FROM store, (SELECT %s::tsquery AS query) AS asked "
            f"WHERE {condition} AND {ALIVE} AND store.words @@ asked.query {best}",
            [plain, begins, query, *parameters],
        ).fetchall()
        scores = bm25(
            [Match(row["seq"], row["word_count"], row["hits"] or {}) for row in rows],
            asked,
            count=about["count"],
            mean_length=about["mean"],
            weights=weights,
        )
        return dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:limit])

    def nearest(
        self, prefix: Sequence[str], query: Matrix, kinds: Sequence[int], limit: int
    ) -> set[int]:
        """Return the items whose vectors of these kinds are nearest to a question."""
        condition, parameters = scope(prefix)
        on_vectors, also = scope(prefix, "prefix")
        rows = self.db.execute(
            "SELECT store.seq FROM store JOIN ("  # noqa: S608
            f"SELECT prefix, key, max({_COSINE}) AS score FROM store_vectors "
            f"WHERE {on_vectors} AND kind = ANY(%s) GROUP BY prefix, key) AS best "
            "ON best.prefix = store.prefix AND best.key = store.key "
            f"WHERE {condition} AND {ALIVE} ORDER BY best.score DESC, store.seq LIMIT %s",
            [to_text(query), *also, list(kinds), *parameters, limit],
        ).fetchall()
        return {row["seq"] for row in rows}

    def block(self, numbers: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.uint8], Matrix]:
        """Return the vectors of items: items [n], rising; kinds [n]; numbers [n, dims]."""
        rows = self.db.execute(
            "SELECT store.seq, kind, vector_send(embedding) AS vector FROM store_vectors "
            "JOIN store USING (prefix, key) WHERE store.seq = ANY(%s) "
            "ORDER BY store.seq, kind, field_name",
            (list(numbers),),
        ).fetchall()
        if not rows:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing.astype(np.uint8), np.zeros((0, 0), dtype=np.float32)
        return (
            np.array([row["seq"] for row in rows], dtype=np.int64),
            np.array([row["kind"] for row in rows], dtype=np.uint8),
            np.stack([from_binary(row["vector"]) for row in rows]),
        )

    def vectors_of(self, number: int) -> Vectors | None:
        """Return the vectors of one item."""
        _, kinds, matrix = self.block([number])
        return Vectors(kinds.tobytes(), matrix) if len(kinds) else None

    def _stems(self, word: str) -> tuple[str, ...]:
        return _stems(word, lambda: self._ask_stems(word))

    def _ask_stems(self, word: str) -> tuple[str, ...]:
        text = self.db.execute(
            "SELECT phraseto_tsquery('mmagent', %s)::text AS query", (" ".join(words_of(word)),)
        ).fetchone()["query"]
        return tuple(stem.replace("''", "'") for stem in _STEM.findall(text))

    def _stream(self, statement: str, parameters: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
        with self.db.cursor(name="mmagent_search") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(statement, parameters)
            yield from cursor


_KNOWN: dict[str, tuple[str, ...]] = {}


def _stems(word: str, ask: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Return the stems of a word, which are the same in every database."""
    if word not in _KNOWN:
        if len(_KNOWN) > 10_000:
            _KNOWN.clear()
        _KNOWN[word] = ask()
    return _KNOWN[word]


def row_of(row: Mapping[str, Any]) -> Row:
    """Return an item as read."""
    return Row(
        id=row["seq"],
        namespace=labels_of(row["prefix"]),
        key=decode(row["key"]),
        value=value_of(row["value"]),
        created=row["created_at"],
        updated=row["updated_at"],
        has_ttl=row["ttl_minutes"] is not None,
    )


@lru_cache(maxsize=1024)
def labels_of(prefix: str) -> tuple[str, ...]:
    """Return the labels of a stored namespace."""
    return tuple(decode(label) for label in prefix.split("."))


def _query(stems: Sequence[str], begins: bool) -> str:
    """Return a word as a tsquery; stems are quoted, so that none is an operator."""
    quoted = ["'" + stem.replace("\\", "\\\\").replace("'", "''") + "'" for stem in stems]
    if begins:
        return f"{quoted[0]}:*"
    return quoted[0] if len(quoted) == 1 else f"({' <-> '.join(quoted)})"


def _prefilter(conditions: Mapping[str, Any] | None) -> tuple[str, list[Any]]:
    """Return what of a filter PostgreSQL can tell; what it lets through is looked at again."""
    clauses, parameters = ["TRUE"], list[Any]()
    for key, wanted in (conditions or {}).items():
        if isinstance(wanted, Mapping) and set(wanted) == {"$eq"}:
            wanted = wanted["$eq"]
        if isinstance(wanted, str):
            clauses.append("store.value -> %s = to_jsonb(%s::text)")
            parameters += [encode(key), encode(wanted)]
    return " AND ".join(clauses), parameters
