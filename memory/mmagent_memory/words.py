"""Taking the words of items into full text: later than the items, and many at once."""

from __future__ import annotations

import sqlite3

__all__ = ["index_words", "words_behind", "words_upto"]


def words_upto(db: sqlite3.Connection) -> int:
    """Return the number of the last item whose words are in full text."""
    found = db.execute("SELECT value FROM meta WHERE name = 'words'").fetchone()
    return int(found[0]) if found else 0


def index_words(db: sqlite3.Connection) -> int:
    """Take in the words of all items that full text does not have yet; return the last's number.

    Args:
        db: The writing connection, in a transaction.
    """
    seen = words_upto(db)
    newest: int = db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()[0]
    if newest > seen:
        db.execute(
            "INSERT INTO full_text (rowid, body, about, caption, context) "
            "SELECT id, body, about, caption, context FROM items "
            "WHERE id > ? AND body IS NOT NULL ORDER BY id",
            (seen,),
        )
        db.execute("UPDATE meta SET value = ? WHERE name = 'words'", (newest,))
    return max(newest, seen)


def words_behind(db: sqlite3.Connection) -> bool:
    """Whether items are stored whose words full text does not have yet."""
    behind: int = db.execute(
        "SELECT coalesce((SELECT max(id) FROM items), 0) > "
        "(SELECT value FROM meta WHERE name = 'words')"
    ).fetchone()[0]
    return bool(behind)
