"""What can be wrong with a database besides its rows: header, pages, indices, links, full text."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from mmagent_memory.salvage import UNREADABLE
from mmagent_memory.schema import APPLICATION_ID

__all__ = ["full_text_problems", "header_problems", "link_problems", "sqlite_problems"]

_HEADER = "The header of the database is damaged."
_NOT_WRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_FULL")


def header_problems(db: sqlite3.Connection) -> list[str]:
    """Look at what SQLite does not check: whose database it is."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    return [] if application == APPLICATION_ID else [_HEADER]


def sqlite_problems(db: sqlite3.Connection) -> list[str]:
    """Return what SQLite itself finds wrong with its pages, tables and indices."""
    try:
        lines = [line for (line,) in db.execute("PRAGMA integrity_check(20)")]
    except UNREADABLE as error:
        return [f"SQLite: {error}"]
    return [f"SQLite: {line}" for line in lines if line != "ok"]


def link_problems(db: sqlite3.Connection) -> list[str]:
    """Hold the pictures to the items that show them."""
    problems = []
    for condition, words in (
        ("hash NOT IN (SELECT hash FROM images)", "pictures are named but not there"),
        ("item NOT IN (SELECT id FROM items)", "pictures are shown by no item"),
    ):
        with suppress(*UNREADABLE):
            count = db.execute(
                f"SELECT count(*) FROM item_images WHERE {condition}"  # noqa: S608
            ).fetchone()[0]
            if count:
                problems.append(f"{count} {words}.")
    with suppress(*UNREADABLE):
        count = db.execute(
            "SELECT count(*) FROM items WHERE images != "
            "(SELECT count(*) FROM item_images WHERE item = items.id)"
        ).fetchone()[0]
        if count:
            problems.append(f"{count} items show more or fewer pictures than they had.")
    return problems


def full_text_problems(db: sqlite3.Connection) -> list[str]:
    """Hold full text to the items; FTS5 wants a connection that could write for that."""
    file = db.execute("PRAGMA database_list").fetchone()[2]
    with closing(sqlite3.connect(file, isolation_level=None)) as writing:
        try:
            writing.execute("BEGIN IMMEDIATE")
            writing.execute("INSERT INTO full_text (full_text, rank) VALUES ('integrity-check', 1)")
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorname or "").startswith(_NOT_WRITABLE):
                # SQLite also takes a database for read-only because of what its header says.
                writable = all(os.access(path, os.W_OK) for path in (file, Path(file).parent))
                return [_HEADER] if "readonly" in str(error) and writable else []
            return [f"Full text: {error}"]
        except UNREADABLE as error:
            return [f"Full text: {error}; `repair` makes it anew."]
        finally:
            with suppress(*UNREADABLE):
                writing.execute("ROLLBACK")
    return []
