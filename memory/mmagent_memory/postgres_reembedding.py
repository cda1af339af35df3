"""Embedding a whole memory in PostgreSQL anew, when its embedder has changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.postgres_text import value_of
from mmagent_memory.postgres_vectors import to_text
from mmagent_memory.rows import Picture, Put

if TYPE_CHECKING:
    from mmagent_memory.postgres import PostgresMemoryStore

__all__ = ["reembed"]

_BATCH = 256


def reembed(store: PostgresMemoryStore) -> int:
    """Replace every vector; return how many items have one now.

    One transaction: whoever looks meanwhile waits or sees the old vectors; a failure leaves them.
    """
    if not store.vectorizer.enabled:
        raise MemoryUsageError("The store was opened without an embedder; give it one.")
    count = 0
    with store.writing() as db:
        fingerprint, dims = store.vectorizer.adopt()
        db.execute("LOCK TABLE store, store_vectors IN EXCLUSIVE MODE")
        db.execute("DELETE FROM store_vectors")
        db.execute(f"ALTER TABLE store_vectors ALTER COLUMN embedding TYPE vector({int(dims)})")
        for name, value in (("embedder", fingerprint), ("dims", str(dims))):
            db.execute("UPDATE store_meta SET value = %s WHERE name = %s", (value, name))
        numbers = [row["seq"] for row in db.execute("SELECT seq FROM store ORDER BY seq")]
        for start in range(0, len(numbers), _BATCH):
            count += _reembed(store, db, numbers[start : start + _BATCH])
    return count


def _reembed(store: PostgresMemoryStore, db: Any, numbers: list[int]) -> int:
    rows = db.execute(
        "SELECT prefix, key, value::text AS value, fields FROM store WHERE seq = ANY(%s)",
        (numbers,),
    ).fetchall()
    puts = []
    for row in rows:
        pictures = db.execute(
            "SELECT hash, mime, width, height, data FROM store_item_images "
            "JOIN store_images USING (prefix, hash) WHERE prefix = %s AND key = %s",
            (row["prefix"], row["key"]),
        ).fetchall()
        index = None if row["fields"] is None else json.loads(row["fields"])
        shown = tuple(
            Picture(p["hash"], p["mime"], p["width"], p["height"], p["data"]) for p in pictures
        )
        puts.append(Put(("x",), row["key"], value_of(row["value"]), index, pictures=shown))
    vectors = store.vectorizer.vectors_of(puts)
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO store_vectors (prefix, key, field_name, embedding, kind) "
            "VALUES (%s, %s, %s, %s::vector, %s)",
            [
                (row["prefix"], row["key"], name, to_text(vector), kind)
                for row, mine in zip(rows, vectors, strict=True)
                for name, kind, vector in mine
            ],
        )
    return sum(bool(mine) for mine in vectors)
