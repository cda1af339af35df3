"""SQLite's errors in our words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mmagent_memory.errors import (
    CorruptStoreError,
    MemoryStoreError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFullError,
)

__all__ = ["damaged", "in_our_words"]

_DAMAGED = (
    "is damaged; `python -m mmagent_memory verify FOLDER` names what is hurt, and `repair` "
    "instead of `verify` saves what is whole"
)
_CODES: dict[str, tuple[type[MemoryStoreError], str]] = {
    "SQLITE_READONLY": (
        ReadOnlyStoreError,
        "cannot be written; make the folder writable (chmod u+w), or copy the store elsewhere",
    ),
    "SQLITE_CANTOPEN": (
        ReadOnlyStoreError,
        "cannot be opened; make the folder readable and writable, or choose another one",
    ),
    "SQLITE_PERM": (ReadOnlyStoreError, "may not be opened; change its permissions"),
    "SQLITE_FULL": (StoreFullError, "cannot grow, the disk is full; make room and try again"),
    "SQLITE_IOERR": (
        StoreFullError,
        "could not be read or written by the system; check the disk and its free space",
    ),
    "SQLITE_BUSY": (
        StoreBusyError,
        "was held by another process for too long; try again, or close the other program",
    ),
    "SQLITE_LOCKED": (StoreBusyError, "is locked by another connection; try again"),
    "SQLITE_CORRUPT": (
        CorruptStoreError,
        _DAMAGED,
    ),
    "SQLITE_NOTADB": (
        CorruptStoreError,
        "is no database any more; `python -m mmagent_memory repair FOLDER` saves what is whole, "
        "or put back a copy from a backup",
    ),
}


def damaged(error: Exception, file: Path) -> CorruptStoreError:
    """Return the error of a database that is no more what was written."""
    return CorruptStoreError(f"The memory in {file} {_DAMAGED} ({error}).")


def in_our_words(error: sqlite3.Error, file: Path) -> MemoryStoreError:
    """Return what an error of SQLite means for a store, and what to do about it."""
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, (kind, words) in _CODES.items():
        if name.startswith(prefix):
            return kind(f"The memory in {file} {words} ({error}).")
    if isinstance(error, sqlite3.OperationalError) and "no such table" in str(error):
        return CorruptStoreError(f"The memory in {file} lacks a table ({error}).")
    if isinstance(error, sqlite3.OperationalError) and "decode to UTF-8" in str(error):
        return CorruptStoreError(
            f"A text in {file} is damaged; `python -m mmagent_memory verify FOLDER` names "
            f"what is hurt, and `repair` saves what is whole ({error})."
        )
    return MemoryStoreError(f"The memory in {file} could not be used: {error}.")
