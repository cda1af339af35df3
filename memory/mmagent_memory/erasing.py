"""Erasing so that nothing is left on disk: rows, words, vectors, pictures, the log, snapshots.

What is removed is gone with its transaction; overwriting what that left behind comes after it.
The store notes beforehand that this is owed, so that a kill or a busy store only puts it off:
the next to open the store, or to erase, pays.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmagent_memory.database import BUSY_MS, DATABASE, Database
from mmagent_memory.errors import StoreBusyError, StoreFullError
from mmagent_memory.records import EraseReceipt
from mmagent_memory.search import Scope
from mmagent_memory.words import index_words
from mmagent_memory.writer import Writer

__all__ = ["BACKUP", "INDEX_FOLDER", "STAGE", "erase", "owe", "pay", "remove_leftovers", "scrub"]

_PATIENCE_MS = 2000
_OWED = "scrub"
"""Where `meta` notes that traces are left: 1 if the whole database must be written anew."""
INDEX_FOLDER = "index"
"""Snapshots of vector indexes; each can be made anew."""
STAGE = ".repair-"
"""How the folders begin in which `repair` works."""
BACKUP = ".damaged-"
"""What stands between the database's name and the time in the name of a damaged one."""


def owe(database: Database, *, thorough: bool) -> None:
    """Note that traces will be left which `scrub` must remove; call it before removing."""
    with database.writing() as db:
        _note(db, thorough=thorough)


def pay(database: Database) -> None:
    """Remove the traces that an interrupted or hindered erasure left; most often there are none."""
    with database.reading() as db:
        owed = db.execute("SELECT value FROM meta WHERE name = ?", (_OWED,)).fetchone()
    if owed:
        # Whoever is in the way now, or is doing the same: it stays noted until it is done.
        with suppress(StoreBusyError, StoreFullError):
            scrub(database, thorough=bool(owed[0]))


def erase(database: Database, prefix: Sequence[str]) -> EraseReceipt:
    """Remove everything in a namespace and below, and every trace of it on disk."""
    before = _size(database.folder)
    scope = Scope.of(prefix)
    with database.writing() as db:
        _note(db, thorough=True)
        writer = Writer(db)
        pictures = _count(db, "images")
        found = db.execute(
            f"SELECT id, ns FROM items WHERE {scope.condition}",  # noqa: S608
            scope.parameters,
        ).fetchall()
        for number, namespace in found:
            writer.remove(number, namespace)
        # The names of users are traces too.
        condition = scope.condition.replace("items.ns", "id")
        db.execute(f"DELETE FROM namespaces WHERE {condition}", scope.parameters)  # noqa: S608
        pictures -= _count(db, "images")
    try:
        files, notes = scrub(database, thorough=True)
    except StoreFullError as error:
        files, notes = [], [f"{error} What is gone is overwritten when the store is next opened."]
    return EraseReceipt(
        memories=len(found),
        images=pictures,
        files=tuple(files),
        bytes_freed=max(0, before - _size(database.folder)),
        complete=not notes,
        notes=tuple(notes),
    )


def scrub(database: Database, *, thorough: bool) -> tuple[list[str], list[str]]:
    """Overwrite what deleted rows left behind; return the files touched and what could not be.

    Deleted cells are zeroed as they go (`secure_delete`). Three places keep copies: the full
    text index, until its parts are merged; snapshots of vectors; and the write-ahead log.

    Args:
        database: The store.
        thorough: Also write the whole database anew, as after erasing a user.
    """
    notes: list[str] = []
    files = [database.file.name, f"{database.file.name}-wal"]
    with database.writing() as db:
        index_words(db)  # The words of what is gone wait to be taken out.
        # An index in another process's memory knows by this that it must not be saved.
        db.execute("UPDATE meta SET value = value + 1 WHERE name = 'scrubs'")
    for path in sorted((database.folder / INDEX_FOLDER).glob("*")):
        path.unlink(missing_ok=True)
        files.append(f"{INDEX_FOLDER}/{path.name}")
    files += remove_leftovers(database.folder, backups=True)
    with database.exclusive() as db:
        database.drop_readers()
        db.execute("INSERT INTO full_text (full_text) VALUES ('optimize')")
        if thorough:
            db.execute("VACUUM")
        # A reader elsewhere may hold the log for long; it is named rather than waited for.
        db.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
        try:
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    if not busy:
        with database.writing() as db:
            db.execute("DELETE FROM meta WHERE name = ?", (_OWED,))
    else:
        notes.append(
            "Another process is reading the store, so that its write-ahead log still holds the "
            "old bytes; close that program. What is left goes when the store is next opened."
        )
    return files, notes


def _note(db: sqlite3.Connection, *, thorough: bool) -> None:
    db.execute(
        "INSERT INTO meta VALUES (?1, ?2) "
        "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        (_OWED, int(thorough)),
    )


def remove_leftovers(folder: Path, *, backups: bool) -> list[str]:
    """Remove what a killed repair left, and damaged databases that one kept; return the names."""
    patterns = [f"{STAGE}*"] + ([f"{DATABASE}{BACKUP}*"] if backups else [])
    removed = []
    for path in sorted(found for pattern in patterns for found in folder.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path.name)
    return removed


def _count(db: sqlite3.Connection, table: str) -> int:
    count: int = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
    return count


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
