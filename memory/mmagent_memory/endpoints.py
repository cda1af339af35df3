"""Stores as places to copy from and to: every item whole, with its words, vectors and pictures.

    FolderEndpoint     a `FaissStore`
    PostgresEndpoint   a `PostgresMemoryStore`

Vectors are copied as they are, so that no model is needed to move a memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from langgraph.store.base import BaseStore

from mmagent_memory.errors import EmbeddingError, MemoryUsageError
from mmagent_memory.rows import FullText, Picture, Put, Row, Vectors, now_us

if TYPE_CHECKING:
    from mmagent_memory.postgres import PostgresMemoryStore
    from mmagent_memory.store import FaissStore

__all__ = ["CopiedEmbedder", "Endpoint", "FolderEndpoint", "PostgresEndpoint", "Totals", "endpoint"]

_NO_VECTORS = Vectors(b"", np.zeros((0, 0), dtype=np.float32))
Name = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class Totals:
    """How much a store holds."""

    items: int = 0
    vectors: int = 0
    pictures: int = 0


@dataclass(frozen=True)
class CopiedEmbedder:
    """Stands for the embedder of vectors that are copied, which is not needed to copy them."""

    fingerprint: str
    dims: int
    _nothing: tuple[()] = field(default=(), repr=False)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """There is no model here.

        Raises:
            EmbeddingError: Always.
        """
        raise EmbeddingError(f"{self.fingerprint} is not loaded while a memory is copied.")

    def embed_query(self, text: str) -> list[float]:
        """Return a vector of the right length, which is all that opening a store asks for."""
        return [0.0] * self.dims


class Endpoint(Protocol):
    """What copying asks of a store."""

    def identity(self) -> tuple[str, int] | None:
        """Return the fingerprint and dimension of the embedder; None while there are no vectors."""
        ...

    def totals(self) -> Totals:
        """Return how much there is, expired items left out."""
        ...

    def batches(self, size: int) -> Iterator[list[Put]]:
        """Yield every item, whole, in the order in which they were written."""
        ...

    def values(self, names: Sequence[Name]) -> dict[Name, dict[str, Any]]:
        """Return the values of items that are there."""
        ...

    def vectors(self, numbers: Sequence[int]) -> dict[int, Vectors]:
        """Return the vectors of items by their numbers."""
        ...

    def write(self, puts: Sequence[Put]) -> None:
        """Write items in one transaction; those that are there already are left as they are."""
        ...


def endpoint(store: BaseStore) -> Endpoint:
    """Return a store as a place to copy from and to.

    Raises:
        MemoryUsageError: It is neither a folder's nor PostgreSQL's.
    """
    from mmagent_memory.store import FaissStore

    if isinstance(store, FaissStore):
        return FolderEndpoint(store)
    if hasattr(store, "memory_backend"):
        return PostgresEndpoint(store)
    raise MemoryUsageError(
        f"A {type(store).__name__} cannot be copied whole; use export_jsonl and import_jsonl."
    )


class FolderEndpoint:
    """A `FaissStore`."""

    def __init__(self, store: FaissStore) -> None:
        self.store = store

    def identity(self) -> tuple[str, int] | None:
        """Return the fingerprint and dimension of the embedder; None while there are no vectors."""
        with self.store.database.reading() as db:
            said = dict(
                db.execute("SELECT name, value FROM meta WHERE name IN ('embedder', 'dims')")
            )
        return (str(said["embedder"]), int(said["dims"])) if len(said) == 2 else None

    def totals(self) -> Totals:
        """Return how much there is, expired items left out."""
        with self.store.database.reading() as db:
            row = db.execute(
                "SELECT count(*), coalesce(sum(length(kinds)), 0), "
                "(SELECT count(*) FROM item_images JOIN items ON items.id = item "
                "WHERE expires IS NULL OR expires > ?1) "
                "FROM items WHERE expires IS NULL OR expires > ?1",
                (now_us(),),
            ).fetchone()
        return Totals(*row)

    def batches(self, size: int) -> Iterator[list[Put]]:
        """Yield every item, whole, in the order in which they were written."""
        after = 0
        while True:
            with self.store.database.reading() as db:
                rows = db.execute(
                    "SELECT id, fields, created, ttl, expires, body, about, caption, context "
                    "FROM items WHERE id > ? AND (expires IS NULL OR expires > ?) "
                    "ORDER BY id LIMIT ?",
                    (after, now_us(), size),
                ).fetchall()
                if not rows:
                    return
                after = rows[-1][0]
                items = self.store.reader(db).rows([row[0] for row in rows])
                vectors = self._vectors(db, list(items))
                puts = [
                    self._put(db, items[row[0]], row, vectors.get(row[0]))
                    for row in rows
                    if row[0] in items
                ]
            yield puts

    def values(self, names: Sequence[Name]) -> dict[Name, dict[str, Any]]:
        """Return the values of items that are there."""
        found = {}
        with self.store.database.reading() as db:
            reader = self.store.reader(db)
            for namespace, key in names:
                row = reader.get(namespace, key)
                if row is not None:
                    found[namespace, key] = row.value
        return found

    def vectors(self, numbers: Sequence[int]) -> dict[int, Vectors]:
        """Return the vectors of items by their numbers."""
        with self.store.database.reading() as db:
            return self._vectors(db, numbers)

    def write(self, puts: Sequence[Put]) -> None:
        """Write items in one transaction; those that are there already are left as they are."""
        if self.store.vectorizer.enabled:
            self.store.vectorizer.query("dimension")  # A new store learns whose vectors it holds.
        self.store.write(puts)

    def _vectors(self, db: Any, numbers: Sequence[int]) -> dict[int, Vectors]:
        dims = self.store.vectorizer.dims(db)
        reader = self.store.reader(db)
        found = {number: reader.vectors_of(number, dims) for number in numbers}
        return {number: vectors for number, vectors in found.items() if vectors is not None}

    def _put(self, db: Any, row: Row, columns: Sequence[Any], vectors: Vectors | None) -> Put:
        _, fields, created, ttl, expires, *words = columns
        pictures = db.execute(
            "SELECT images.hash, mime, width, height, data FROM item_images "
            "JOIN images USING (hash) WHERE item = ?",
            (row.id,),
        )
        return Put(
            namespace=row.namespace,
            key=row.key,
            value=row.value,
            index=None if fields is None else json.loads(fields),
            ttl=None if ttl is None else max(0.0, (expires - now_us()) / 60e6),
            texts=FullText(*(word or "" for word in words)),
            pictures=tuple(Picture(*picture) for picture in pictures),
            keep_existing=True,
            vectors=vectors or _NO_VECTORS,
            created_us=created,
        )


class PostgresEndpoint:
    """A `PostgresMemoryStore`."""

    def __init__(self, store: PostgresMemoryStore | Any) -> None:
        self.store = store

    def identity(self) -> tuple[str, int] | None:
        """Return the fingerprint and dimension of the embedder; None while there are no vectors."""
        vectorizer = self.store.vectorizer
        return (vectorizer.fingerprint, vectorizer.size) if vectorizer.fingerprint else None

    def totals(self) -> Totals:
        """Return how much there is, expired items left out."""
        alive = "(expires_at IS NULL OR expires_at > now())"
        with self.store.exclusive() as db:

            def count(table: str) -> int:
                n: int = db.execute(
                    f"SELECT count(*) AS n FROM {table} WHERE {alive}"  # noqa: S608
                ).fetchone()["n"]
                return n

            vectors = self.store.vectorizer.size > 0
            return Totals(
                items=count("store"),
                vectors=count("store_vectors JOIN store USING (prefix, key)") if vectors else 0,
                pictures=count("store_item_images JOIN store USING (prefix, key)"),
            )

    def batches(self, size: int) -> Iterator[list[Put]]:
        """Yield every item, whole, in the order in which they were written."""
        after = 0
        while True:
            with self.store.reading() as reader:
                rows = reader.db.execute(
                    "SELECT seq, prefix, key, fields, created_at, ttl_minutes, "
                    "extract(epoch FROM expires_at - now())::float8 / 60 AS left_minutes "
                    "FROM store WHERE seq > %s AND (expires_at IS NULL OR expires_at > now()) "
                    "ORDER BY seq LIMIT %s",
                    (after, size),
                ).fetchall()
                if not rows:
                    return
                after = rows[-1]["seq"]
                items = reader.rows([row["seq"] for row in rows])
                vectors = self._vectors(reader, list(items))
                puts = [
                    self._put(reader, items[row["seq"]], row, vectors.get(row["seq"]))
                    for row in rows
                    if row["seq"] in items
                ]
            yield puts

    def values(self, names: Sequence[Name]) -> dict[Name, dict[str, Any]]:
        """Return the values of items that are there."""
        from langgraph.store.base import GetOp

        with self.store.reading() as reader:
            rows = reader.get([GetOp(namespace, key) for namespace, key in names])
        return {(row.namespace, row.key): row.value for row in rows if row is not None}

    def vectors(self, numbers: Sequence[int]) -> dict[int, Vectors]:
        """Return the vectors of items by their numbers."""
        with self.store.reading() as reader:
            return self._vectors(reader, numbers)

    def write(self, puts: Sequence[Put]) -> None:
        """Write items in one transaction; those that are there already are left as they are."""
        self.store.write(puts)

    def _vectors(self, reader: Any, numbers: Sequence[int]) -> dict[int, Vectors]:
        if not self.store.vectorizer.size:
            return {}
        items, kinds, matrix = reader.block(numbers)
        found = {}
        for number in np.unique(items):
            mine = items == number
            found[int(number)] = Vectors(kinds[mine].tobytes(), matrix[mine])
        return found

    def _put(self, reader: Any, row: Row, columns: Any, vectors: Vectors | None) -> Put:
        pictures = reader.db.execute(
            "SELECT hash, mime, width, height, data FROM store_item_images "
            "JOIN store_images USING (prefix, hash) WHERE prefix = %s AND key = %s",
            (columns["prefix"], columns["key"]),
        ).fetchall()
        fields = columns["fields"]
        return Put(
            namespace=row.namespace,
            key=row.key,
            value=row.value,
            index=None if fields is None else json.loads(fields),
            ttl=None if columns["ttl_minutes"] is None else columns["left_minutes"],
            texts=_words_of(reader, row),
            pictures=tuple(
                Picture(p["hash"], p["mime"], p["width"], p["height"], bytes(p["data"]))
                for p in pictures
            ),
            keep_existing=True,
            vectors=vectors or _NO_VECTORS,
            created_us=int(row.created.timestamp() * 1e6),
        )


def _words_of(reader: Any, row: Row) -> FullText | None:
    """Return the words of a memory, which PostgreSQL keeps only as stems; None for other items."""
    from langgraph.store.base import GetOp

    from mmagent_memory.enrichment import full_text_of
    from mmagent_memory.names import ROOT

    if row.namespace[0] != ROOT or len(row.namespace) < 3:
        return None
    previous = row.value.get("previous")
    before = reader.get([GetOp(row.namespace, previous)])[0] if previous else None
    return full_text_of(row.value, before.value if before else None)
