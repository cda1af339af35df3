"""A memory store as the first version of the package made it: what an upgrade starts from."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import numpy as np

__all__ = ["add_item", "make_store"]

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE namespaces (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
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
    crc INTEGER NOT NULL,
    kinds BLOB NOT NULL,
    vectors BLOB NOT NULL,
    body TEXT, about TEXT, caption TEXT, context TEXT
);
CREATE UNIQUE INDEX items_by_key ON items (ns, key);
CREATE INDEX items_by_namespace ON items (ns);
CREATE INDEX items_by_expiry ON items (expires) WHERE expires IS NOT NULL;
CREATE TABLE tombstones (seq INTEGER PRIMARY KEY, item INTEGER NOT NULL, ns INTEGER NOT NULL);
CREATE INDEX tombstones_by_namespace ON tombstones (ns);
CREATE TABLE images (
    hash BLOB PRIMARY KEY, mime TEXT NOT NULL, width INTEGER, height INTEGER, data BLOB NOT NULL
);
CREATE TABLE item_images (
    item INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (item, hash)
) WITHOUT ROWID;
CREATE INDEX item_images_by_hash ON item_images (hash);
CREATE VIRTUAL TABLE full_text USING fts5(
    body, about, caption, context,
    content='items', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
);
PRAGMA application_id = 1835885933;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""
Words = tuple[str, str, str, str] | tuple[None, None, None, None]


def make_store(path: Path, *, fingerprint: str, dims: int, namespace: bytes) -> sqlite3.Connection:
    """Make a database with one namespace, whose number is 1; return a connection to it."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(_TABLES)
    for name, value in (("store", "ab" * 16), ("embedder", fingerprint), ("dims", dims)):
        db.execute("INSERT INTO meta VALUES (?, ?)", (name, value))
    db.execute("INSERT INTO namespaces VALUES (1, ?)", (namespace,))
    return db


def add_item(
    db: sqlite3.Connection,
    number: int,
    key: bytes,
    value: str,
    words: Words,
    vector: list[float],
    *,
    at: int = 1,
    ttl: int | None = None,
    expires: int | None = None,
) -> None:
    """Put an item with the vector of its text into namespace 1; times are in microseconds."""
    crc = zlib.crc32(key)
    for part in (value, None, *words):
        crc = zlib.crc32(b"\0" if part is None else part.encode("utf-8", "replace"), crc)
    unit = np.asarray(vector, dtype="<f4")
    data, kinds = (unit / np.linalg.norm(unit)).tobytes(), b"\0"
    vectors = data + zlib.crc32(kinds + data).to_bytes(4, "little")
    db.execute(
        "INSERT INTO items VALUES (?, 1, ?, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (number, key, value, at, at, ttl, expires, crc, kinds, vectors, *words),
    )
    if words[0]:
        db.execute(
            "INSERT INTO full_text (rowid, body, about, caption, context) VALUES (?, ?, ?, ?, ?)",
            (number, *words),
        )
