"""The tables of a store, its version, and the checks made when one is opened.

    namespaces   one row a namespace; its path is its labels, each followed by "."
    items        one row a memory or item; never changed in place: an update is a new row
                 (only `expires` moves, when an item that was read lives on)
    full_text    FTS5 over the text columns of `items`, which it reads but does not copy
    leaving      the words of items that are gone but still in full text
    searchable   what full text holds: the items up to the number that `meta` has under "words",
                 and those in `leaving`
    tombstones   which rows went, when; together with the ids of `items` the change sequence
    images       pictures by the SHA-256 of their bytes
    item_images  which item shows which picture
    meta         the store's id, the embedder's fingerprint and dimension; under "namespaces"
                 and "scrubs" how often a namespace came or went and something was erased for good

**The change sequence.** Ids of items and of tombstones come from one counter that only rises.
Who has seen everything up to n is brought up to date by the items and tombstones above n.

**Full text lags behind.** A write stores the words of an item with it; the index over them takes
them in later, many at once (`words`), which costs a tenth of taking them in one by one. What is
removed meanwhile leaves its words in `leaving` until they are taken out there too.

**Versions.** 1: the checksum covered key, value and words, and full text was written with each
item. 2: it covers the whole item. A store of version 1 is brought to 2 when it is opened, in one
transaction.
"""

from __future__ import annotations

import sqlite3

from mmagent_memory.errors import CorruptStoreError, NewerStoreError
from mmagent_memory.migration import statements, upgrade
from mmagent_memory.words import TOKENIZER

__all__ = ["APPLICATION_ID", "PAGE_SIZE", "VERSION", "create_or_check"]

VERSION = 2
LIKELY_VERSION = 100
"""Above this it is no newer version but a flipped bit."""
APPLICATION_ID = 0x6D6D656D  # "mmem"
PAGE_SIZE = 2048
"""Bytes of a page: an item with 384 numbers fits one, and a commit writes about five of them."""

_ITEMS = """
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    ns INTEGER NOT NULL REFERENCES namespaces (id),
    key BLOB NOT NULL,
    value TEXT NOT NULL,
    fields TEXT,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    ttl INTEGER,
    expires INTEGER,
    images INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    body TEXT, about TEXT, caption TEXT, context TEXT,
    kinds BLOB NOT NULL,
    vectors BLOB NOT NULL
);
CREATE UNIQUE INDEX items_by_key ON items (ns, key);
CREATE INDEX items_by_namespace ON items (ns);
CREATE INDEX items_by_expiry ON items (expires) WHERE expires IS NOT NULL;
"""
_CACHES = """
CREATE TABLE leaving (
    id INTEGER PRIMARY KEY, body TEXT, about TEXT, caption TEXT, context TEXT
);
CREATE TRIGGER namespace_made AFTER INSERT ON namespaces BEGIN
    UPDATE meta SET value = value + 1 WHERE name = 'namespaces';
END;
CREATE TRIGGER namespace_gone AFTER DELETE ON namespaces BEGIN
    UPDATE meta SET value = value + 1 WHERE name = 'namespaces';
END;
INSERT INTO meta VALUES ('namespaces', 0), ('scrubs', 0);
"""
_FULL_TEXT = f"""
CREATE VIEW searchable AS SELECT id, body, about, caption, context FROM items
    WHERE body IS NOT NULL AND id <= (SELECT value FROM meta WHERE name = 'words')
    UNION ALL SELECT id, body, about, caption, context FROM leaving;
CREATE VIRTUAL TABLE full_text USING fts5(
    body, about, caption, context,
    content='searchable', content_rowid='id', tokenize='{TOKENIZER}'
);
INSERT INTO full_text (full_text, rank) VALUES ('pgsz', 2000);
"""  # noqa: S608
_TABLES = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE namespaces (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
{_ITEMS}
{_CACHES}
CREATE TABLE tombstones (seq INTEGER PRIMARY KEY, item INTEGER NOT NULL, ns INTEGER NOT NULL);
CREATE TABLE images (
    hash BLOB PRIMARY KEY, mime TEXT NOT NULL, width INTEGER, height INTEGER, data BLOB NOT NULL
);
CREATE TABLE item_images (
    item INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (item, hash)
) WITHOUT ROWID;
CREATE INDEX item_images_by_hash ON item_images (hash);
{_FULL_TEXT}
"""


def create_or_check(db: sqlite3.Connection, where: str, *, may_create: bool) -> None:
    """Make the tables of a new store, or check that an existing one can be used.

    Args:
        db: A connection in autocommit mode.
        where: The file's name for messages.
        may_create: Whether an empty database is a new store; otherwise it has lost its tables.

    Raises:
        NewerStoreError: A newer version wrote it.
        CorruptStoreError: It is another program's database or has lost its tables.
    """
    db.execute("BEGIN")  # All of it at one moment: another process may be making the store.
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        application = db.execute("PRAGMA application_id").fetchone()[0]
        empty = not _has_tables(db)
    finally:
        db.execute("ROLLBACK")
    if version == 0 and application == 0 and empty:
        if not may_create:
            raise CorruptStoreError(
                f"{where} is empty, though a store was made there; put back a copy of it from a "
                "backup, or delete the folder to begin anew."
            )
        _create(db)
        return
    if application != APPLICATION_ID:
        raise CorruptStoreError(
            f"{where} is a database of another program, or damaged; choose another folder, or "
            "put back a copy from a backup."
        )
    if version > LIKELY_VERSION:
        raise CorruptStoreError(
            f"The header of {where} is damaged; `python -m mmagent_memory repair FOLDER` saves "
            "what is whole."
        )
    if version > VERSION:
        raise NewerStoreError(
            f"{where} was written by a newer version of mmagent (format {version}, this one reads "
            f"up to {VERSION}); upgrade with: pip install --upgrade mmagent"
        )
    if version < VERSION:
        upgrade(db, items=_ITEMS + _CACHES, full_text=_FULL_TEXT, version=VERSION)


def _has_tables(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been first.
        if not _has_tables(db):
            for statement in statements(_TABLES):
                db.execute(statement)
            db.execute(
                "INSERT INTO meta VALUES ('store', lower(hex(randomblob(16)))), ('words', 0)"
            )
            # Part of the transaction, so that a kill leaves either an empty file or a store.
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
