"""Erasing from PostgreSQL: rows go at once; their bytes, when the tables are written anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmagent_memory.errors import MemoryStoreError
from mmagent_memory.postgres_reader import scope
from mmagent_memory.records import EraseReceipt

if TYPE_CHECKING:
    from mmagent_memory.postgres import PostgresMemoryStore

__all__ = ["erase", "rewrite", "size_of"]

_PATIENCE = "5s"
_TABLES = ("store", "store_vectors", "store_images", "store_item_images")
_LOG = (
    "The server's write-ahead log, its replicas and its backups keep the old bytes until they are "
    "recycled; how long that takes is set there."
)


def erase(store: PostgresMemoryStore, prefix: Sequence[str]) -> EraseReceipt:
    """Remove everything in a namespace and below, and rewrite the tables without it."""
    with store.exclusive() as db:
        before = size_of(db)
    with store.writing() as db:
        condition, parameters = scope(prefix)
        pictures = db.execute(
            f"SELECT count(DISTINCT hash) AS n FROM store_images WHERE "  # noqa: S608
            f"{condition.replace('store.prefix', 'prefix')}",
            parameters,
        ).fetchone()["n"]
        memories = db.execute(
            f"DELETE FROM store WHERE {condition}",  # noqa: S608
            parameters,
        ).rowcount
        db.execute(
            f"DELETE FROM store_images WHERE {condition.replace('store.prefix', 'prefix')}",  # noqa: S608
            parameters,
        )
    notes = rewrite(store)
    with store.exclusive() as db:
        after = size_of(db)
    return EraseReceipt(
        memories=memories,
        images=pictures,
        files=_TABLES,
        bytes_freed=max(0, before - after),
        complete=False,
        notes=(*notes, _LOG),
    )


def rewrite(store: PostgresMemoryStore) -> list[str]:
    """Write the tables anew without what was deleted; return what could not be done."""
    if not store.rewrite_on_erase:
        return [
            "The tables keep the deleted bytes until they are rewritten: run VACUUM FULL or "
            "pg_repack on them at a quiet hour."
        ]
    notes = []
    with store.exclusive() as db:
        db.execute(f"SET lock_timeout = '{_PATIENCE}'")
        try:
            for table in _existing(db):
                try:
                    with store.translated():
                        db.execute(f"VACUUM FULL {table}")
                except MemoryStoreError as error:
                    notes.append(f"The table {table} still holds the old bytes: {error}")
        finally:
            db.execute("RESET lock_timeout")
    return notes


def _existing(db: Any) -> list[str]:
    rows = db.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() "
        "AND tablename = ANY(%s)",
        (list(_TABLES),),
    ).fetchall()
    return [row["tablename"] for row in rows]


def size_of(db: Any) -> int:
    """Return how many bytes the tables take."""
    size: int = db.execute(
        "SELECT COALESCE(sum(pg_total_relation_size(quote_ident(schemaname) || '.' || "
        "quote_ident(tablename))), 0)::bigint AS n FROM pg_tables "
        "WHERE schemaname = current_schema() AND tablename = ANY(%s)",
        (list(_TABLES),),
    ).fetchone()["n"]
    return size
