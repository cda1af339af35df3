"""The tables of a memory in PostgreSQL: LangGraph's own, and what is added to them.

    store              LangGraph's items; added: `seq` (rises with every write), `fields` (what is
                       embedded), `words` (a tsvector) and `word_count`; the time to live may be a
                       fraction of a minute
    store_vectors      LangGraph's vectors (pgvector); added: `kind` (of a text, of a picture)
    store_images       pictures of a namespace by the SHA-256 of their bytes
    store_item_images  which item shows which picture
    store_meta         the embedder's fingerprint and dimension, and the version of all this

Every table is keyed by the namespace first, so that each can be partitioned by user.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mmagent_memory.errors import NewerStoreError, StoreBusyError

__all__ = ["ensure_schema", "make_schema", "meta"]

VERSION = 1
_LOCK = 0x6D6D656D
_PATIENCE_S = 60
_WORDS = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_ts_dict WHERE dictname = 'mmagent_stem'
            AND dictnamespace = current_schema()::regnamespace) THEN
        CREATE TEXT SEARCH DICTIONARY mmagent_stem (TEMPLATE = snowball, LANGUAGE = porter);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_ts_config WHERE cfgname = 'mmagent'
            AND cfgnamespace = current_schema()::regnamespace) THEN
        CREATE TEXT SEARCH CONFIGURATION mmagent (PARSER = default);
        ALTER TEXT SEARCH CONFIGURATION mmagent ADD MAPPING FOR asciiword, word, numword,
            asciihword, hword, numhword, hword_asciipart, hword_part, hword_numpart,
            int, uint, float, sfloat, version, email, url, url_path, host, file
            WITH mmagent_stem;
    END IF;
END $$
"""
_ADDED = (
    _WORDS,
    "CREATE SEQUENCE IF NOT EXISTS store_seq",
    "ALTER TABLE store ADD COLUMN IF NOT EXISTS seq BIGINT NOT NULL DEFAULT nextval('store_seq')",
    "ALTER TABLE store ADD COLUMN IF NOT EXISTS fields TEXT",
    "ALTER TABLE store ADD COLUMN IF NOT EXISTS words TSVECTOR",
    "ALTER TABLE store ADD COLUMN IF NOT EXISTS word_count INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE store ALTER COLUMN ttl_minutes TYPE DOUBLE PRECISION",
    "CREATE INDEX IF NOT EXISTS store_words_idx ON store USING gin (words)",
    "CREATE INDEX IF NOT EXISTS store_seq_idx ON store (seq)",
    """CREATE TABLE IF NOT EXISTS store_images (
        prefix TEXT NOT NULL, hash BYTEA NOT NULL, mime TEXT NOT NULL,
        width INTEGER, height INTEGER, data BYTEA NOT NULL, PRIMARY KEY (prefix, hash))""",
    """CREATE TABLE IF NOT EXISTS store_item_images (
        prefix TEXT NOT NULL, key TEXT NOT NULL, hash BYTEA NOT NULL,
        PRIMARY KEY (prefix, key, hash),
        FOREIGN KEY (prefix, key) REFERENCES store (prefix, key) ON DELETE CASCADE,
        FOREIGN KEY (prefix, hash) REFERENCES store_images (prefix, hash))""",
    "CREATE INDEX IF NOT EXISTS store_item_images_idx ON store_item_images (prefix, hash)",
)
_ADDED_WITH_VECTORS = (
    "ALTER TABLE store_vectors ADD COLUMN IF NOT EXISTS kind SMALLINT NOT NULL DEFAULT 0",
)


def meta(db: Any) -> dict[str, str]:
    """Return what a database says of its memory; nothing where there is none."""
    there = db.execute(
        "SELECT to_regclass(quote_ident(current_schema()) || '.store_meta') AS there"
    ).fetchone()["there"]
    if there is None:
        return {}
    rows = db.execute("SELECT name, value FROM store_meta").fetchall()
    return {row["name"]: row["value"] for row in rows}


def ensure_schema(
    db: Any,
    where: str,
    *,
    own: Callable[[], None],
    identity: Callable[[], tuple[str, int] | None],
) -> dict[str, str]:
    """Make what is missing of the tables; return what the database says of its memory.

    Args:
        db: A connection in autocommit mode.
        where: The database for messages.
        own: Makes LangGraph's tables, as its `setup` does; asked only if they are to be made.
        identity: Returns the embedder's fingerprint and dimension; None without an embedder.

    Raises:
        NewerStoreError: A newer version of this package made them.
    """
    found = meta(db)
    version = int(found.get("version", 0))
    if version > VERSION:
        raise NewerStoreError(
            f"The memory in {where} was made by a newer version of mmagent (format {version}, this "
            f"one reads up to {VERSION}); upgrade with: pip install --upgrade mmagent"
        )
    embedder = None
    if version < VERSION or "vectors" not in found:
        embedder = identity()
    if version == VERSION and ("vectors" in found or embedder is None):
        return found
    _lock(db, where)
    try:
        if embedder:
            db.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        own()
        added = (*_ADDED, *(_ADDED_WITH_VECTORS if embedder else ()))
        for statement in added:
            db.execute(statement)
        db.execute(
            "CREATE TABLE IF NOT EXISTS store_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
        )
        said = {"version": str(VERSION)}
        if embedder:
            said |= {"vectors": "1", "embedder": embedder[0], "dims": str(embedder[1])}
        for name, value in said.items():
            db.execute(
                "INSERT INTO store_meta VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, value)
            )
    finally:
        db.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
    return meta(db)


def make_schema(db: Any, name: str) -> None:
    """Make a schema, by its quoted name; another process may be making it at this moment."""
    from psycopg.errors import DuplicateSchema, UniqueViolation

    # IF NOT EXISTS looks before it makes: of two at once one fails on the catalogue's own index.
    with suppress(DuplicateSchema, UniqueViolation):
        db.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")


def _lock(db: Any, where: str) -> None:
    # Asking again and again, since one that waits in a statement holds up CREATE INDEX
    # CONCURRENTLY, for which LangGraph's setup waits in turn.
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        if db.execute("SELECT pg_try_advisory_lock(%s) AS got", (_LOCK,)).fetchone()["got"]:
            return
        if time.monotonic() > deadline:
            raise StoreBusyError(
                f"Another program has been setting up {where} for a minute; try again."
            )
        time.sleep(0.05)
