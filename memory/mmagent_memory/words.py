"""Taking the words of items into full text: later than the items, and many at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

TOKENIZER = "porter unicode61 remove_diacritics 2"
_EMPTY = 1000
_COLUMNS = "body, about, caption, context"

__all__ = ["TOKENIZER", "index_words", "pending_words", "words_behind", "words_upto"]


def words_upto(db: sqlite3.Connection) -> int:
    """Return the number of the last item whose words are in full text."""
    found = db.execute("SELECT value FROM meta WHERE name = 'words'").fetchone()
    return int(found[0]) if found else 0


def index_words(db: sqlite3.Connection, most: int | None = None) -> bool:
    """Bring full text up to the items: take in what is new, take out what is gone.

    Args:
        db: The writing connection, in a transaction.
        most: Changes to take in; None for all.

    Returns:
        Whether there is more to take in.
    """
    seen, newest = words_upto(db), _newest(db)
    upto = newest if most is None else min(newest, seen + most)
    if upto > seen:
        db.execute(
            f"INSERT INTO full_text (rowid, {_COLUMNS}) SELECT id, {_COLUMNS} FROM items "  # noqa: S608
            "WHERE id > ? AND id <= ? AND body IS NOT NULL ORDER BY id",
            (seen, upto),
        )
        db.execute("UPDATE meta SET value = ? WHERE name = 'words'", (upto,))
    if db.execute("SELECT 1 FROM leaving LIMIT 1").fetchone():
        db.execute(
            f"INSERT INTO full_text (full_text, rowid, {_COLUMNS}) "  # noqa: S608
            f"SELECT 'delete', id, {_COLUMNS} FROM leaving"
        )
        db.execute("DELETE FROM leaving")
    return newest > upto


def _newest(db: sqlite3.Connection) -> int:
    items, removed = db.execute(
        "SELECT (SELECT max(id) FROM items), (SELECT max(seq) FROM tombstones)"
    ).fetchone()
    return max(items or 0, removed or 0)


@contextmanager
def pending_words(db: sqlite3.Connection) -> Iterator[str]:
    """Give the name of a table of the words that full text does not have yet.

    It is this connection's own, for a search while another process holds the store for long.
    How rare a word is cannot be told from so few items, so that empty ones stand beside them.

    Args:
        db: A reading connection, in a transaction.
    """
    db.execute(
        f"CREATE VIRTUAL TABLE temp.pending_text USING fts5({_COLUMNS}, "
        f"content='', tokenize='{TOKENIZER}')"
    )
    try:
        db.execute(
            f"INSERT INTO pending_text (rowid, {_COLUMNS}) SELECT id, {_COLUMNS} FROM items "  # noqa: S608
            "WHERE id > ? AND body IS NOT NULL",
            (words_upto(db),),
        )
        db.executemany(
            "INSERT INTO pending_text (rowid, body) VALUES (?, 'x')",
            [(-number,) for number in range(1, _EMPTY)],
        )
        yield "pending_text"
    finally:
        db.execute("DROP TABLE temp.pending_text")


def words_behind(db: sqlite3.Connection) -> bool:
    """Whether items are stored whose words full text does not have yet."""
    behind: int = db.execute(
        "SELECT coalesce((SELECT max(id) FROM items), 0) > "
        "(SELECT value FROM meta WHERE name = 'words')"
    ).fetchone()[0]
    return bool(behind)
