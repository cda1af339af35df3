"""Bringing a store of an earlier version to this one: in place, in one transaction.

A kill on the way leaves the store as it was. What was damaged before stays marked as damaged: it
gets a checksum that it does not match.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any

from mmagent_memory.checksums import ITEM_COLUMNS, item_checksum

__all__ = ["statements", "upgrade"]


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script; `executescript` would commit what is open."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def upgrade(db: sqlite3.Connection, *, items: str, full_text: str, version: int) -> None:
    """Bring a store of version 1 to version 2.

    Args:
        db: A connection in autocommit mode.
        items: The statements that make the table of items and its indices.
        full_text: The statements that make full text.
        version: What the store is then.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been first.
        if db.execute("PRAGMA user_version").fetchone()[0] == 1:
            _to_version_2(db, items, full_text)
            db.execute(f"PRAGMA user_version = {version}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    finally:
        db.create_function("item_crc", -1, None)


def _to_version_2(db: sqlite3.Connection, items: str, full_text: str) -> None:
    db.create_function("item_crc", 18, _crc_of_old, deterministic=True)
    db.execute("DROP TABLE full_text")
    for index in (
        "items_by_key",
        "items_by_namespace",
        "items_by_expiry",
        "tombstones_by_namespace",
    ):
        db.execute(f"DROP INDEX IF EXISTS {index}")
    db.execute("ALTER TABLE items RENAME TO items_of_version_1")
    for statement in statements(items):
        db.execute(statement)
    columns = [f"old.{name}" for name in ITEM_COLUMNS]
    columns[ITEM_COLUMNS.index("crc")] = f"item_crc(path, {', '.join(columns)})"
    db.execute(
        f"INSERT INTO items SELECT {', '.join(columns)} FROM (SELECT *, "  # noqa: S608
        "(SELECT count(*) FROM item_images WHERE item = items_of_version_1.id) AS images "
        "FROM items_of_version_1) AS old "
        "LEFT JOIN namespaces ON namespaces.id = old.ns ORDER BY old.id"
    )
    db.execute("DROP TABLE items_of_version_1")
    db.execute("INSERT OR REPLACE INTO meta SELECT 'words', coalesce(max(id), 0) FROM items")
    for statement in statements(full_text):
        db.execute(statement)
    db.execute("INSERT INTO full_text (full_text) VALUES ('rebuild')")


def _crc_of_old(path: bytes | None, *columns: Any) -> int:
    """Return the checksum of version 2 for a row; a wrong one if the old one was wrong."""
    _, _, key, value, fields, *_ = columns
    crc, words = columns[10], columns[11:15]
    right = item_checksum(path or b"", columns)
    old = zlib.crc32(key) if isinstance(key, bytes) else 0
    for part in (value, fields, *words):
        old = zlib.crc32(b"\x00" if part is None else str(part).encode("utf-8", "replace"), old)
    if right is None:
        return -1
    return right if old == crc and path is not None else right ^ 1
