"""The newest change that was acknowledged, kept beside the database.

SQLite reads its write-ahead log up to the first frame that is damaged, and a log that is gone
was never there: later changes vanish without a word. This file says how far the store had come,
so that such a loss is noticed. It is written after each commit, without waiting for the disk:
what it says was acknowledged, but after a power cut it may say less than what was.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from contextlib import suppress
from pathlib import Path

__all__ = ["HIGH_WATER", "HighWater", "newest_change"]

HIGH_WATER = "newest.bin"
_FORM = struct.Struct("<16sQ")


def newest_change(db: sqlite3.Connection) -> int:
    """Return the number of the newest change that a connection sees."""
    newest: int = db.execute(
        "SELECT max(coalesce((SELECT max(id) FROM items), 0), "
        "coalesce((SELECT max(seq) FROM tombstones), 0))"
    ).fetchone()[0]
    return newest


class HighWater:
    """The file of one store; it is written by its owner and read when a store is opened."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / HIGH_WATER
        self._file: int | None = None
        self._store = b""

    def note(self, db: sqlite3.Connection, newest: int) -> None:
        """Say that a change was acknowledged. A failure costs only this warning."""
        with suppress(OSError, ValueError, TypeError):
            if self._file is None:
                self._store = _store_of(db)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            data = _FORM.pack(self._store, newest)
            os.pwrite(self._file, data + zlib.crc32(data).to_bytes(4, "little"), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def missing(self, db: sqlite3.Connection) -> int:
        """Return how many acknowledged changes a database lacks; 0 if none are known to."""
        try:
            data = self._path.read_bytes()
            store, seen = _FORM.unpack(data[:-4])
            whole = zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
            if not whole or store != _store_of(db):
                return 0  # Garbled, or of the database that was here before.
        except (OSError, struct.error, ValueError, TypeError):
            return 0
        return max(0, int(seen) - newest_change(db))


def _store_of(db: sqlite3.Connection) -> bytes:
    found = db.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()
    return bytes.fromhex(found[0]) if found else b""
