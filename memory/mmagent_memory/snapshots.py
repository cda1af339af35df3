"""Snapshots of the index on disk: written whole or not at all, believed only if they fit.

A snapshot is a line of JSON, its SHA-256 over everything else, FAISS's own bytes, and the items
of the vectors. It is believed only if its checksum, its store, its embedder and a sample of its
items agree with the database. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SNAPSHOT", "read_snapshot", "write_snapshot"]

SNAPSHOT = "vectors.faiss"
_MAGIC = b"mmagent-vectors-2\n"
_SAMPLE = 16
_DIGEST = 64


def write_snapshot(
    file: Path, db: sqlite3.Connection, payload: bytes, items: NDArray[np.int64], seen: int
) -> bool:
    """Write a snapshot beside, bring it to the disk and put it in place; return whether it is.

    Args:
        file: Where it belongs.
        db: A reading connection.
        payload: The index as FAISS writes it.
        items: The item of each of its vectors.
        seen: The change sequence up to which it is complete.
    """
    header = json.dumps(
        {**_identity(db), "seen": seen, "sample": _sample(db, items), "payload": len(payload)}
    )
    numbers = items.astype("<i8", copy=False).tobytes()
    digest = _digest(header.encode("ascii"), payload, numbers)
    temporary = file.with_name(f"{SNAPSHOT}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as opened:
            opened.write(_MAGIC + digest + header.encode("ascii") + b"\n")
            opened.write(payload)
            opened.write(numbers)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True


def read_snapshot(
    file: Path, db: sqlite3.Connection
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int] | None:
    """Return the index as FAISS wrote it, the items and what it has seen; None if it does not fit.

    Args:
        file: Where it lies.
        db: A reading connection.
    """
    try:
        data = memoryview(file.read_bytes())
        start = len(_MAGIC) + _DIGEST
        if bytes(data[: len(_MAGIC)]) != _MAGIC:
            return None
        end = bytes(data[start : start + 65_536]).index(b"\n") + start
        header = json.loads(bytes(data[start:end]))
        middle = end + 1 + header["payload"]
        payload, numbers = data[end + 1 : middle], data[middle:]
        if _digest(data[start:end], payload, numbers) != bytes(data[len(_MAGIC) : start]):
            return None
        if any(header[name] != value for name, value in _identity(db).items()):
            return None
        if not _belongs(db, header["seen"], header["sample"]):
            return None
        items = np.frombuffer(numbers, dtype="<i8").astype(np.int64)
        return np.frombuffer(payload, dtype=np.uint8), items, int(header["seen"])
    except (OSError, ValueError, KeyError, TypeError):
        # Whatever is wrong with a cache, the rows are the truth.
        return None


def _digest(*parts: Any) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest().encode("ascii")


def _identity(db: sqlite3.Connection) -> dict[str, Any]:
    wanted = ("store", "embedder", "dims", "scrubs")
    return dict(db.execute("SELECT name, value FROM meta WHERE name IN (?, ?, ?, ?)", wanted))


def _sample(db: sqlite3.Connection, items: NDArray[np.int64]) -> list[list[Any]]:
    """Return some items with the checksums of their vectors, spread over all."""
    found = []
    for place in range(0, len(items), max(1, len(items) // _SAMPLE)):
        number = int(items[place])
        seal = _seal(db, number)
        if seal is not None:
            found.append([number, seal])
    return found


def _seal(db: sqlite3.Connection, number: int) -> str | None:
    row = db.execute("SELECT hex(substr(vectors, -4)) FROM items WHERE id = ?", (number,))
    found = row.fetchone()
    return str(found[0]) if found else None


def _belongs(db: sqlite3.Connection, seen: int, sample: list[list[Any]]) -> bool:
    """Whether a snapshot was made of this database's past, not of a copy that went on."""
    newest = db.execute(
        "SELECT max(coalesce((SELECT max(id) FROM items), 0), "
        "coalesce((SELECT max(seq) FROM tombstones), 0))"
    ).fetchone()[0]
    if seen > newest:
        return False
    for number, seal in sample:
        now = _seal(db, number)
        if now is None:
            gone = "SELECT 1 FROM tombstones WHERE item = ? AND seq > ? LIMIT 1"
            if db.execute(gone, (number, seen)).fetchone() is None:
                return False
        elif now != seal:
            return False
    return True
