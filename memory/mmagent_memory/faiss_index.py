"""One FAISS index over all vectors of a store, for searches wider than a block can serve.

It is a cache: brought up to date by the change sequence before every use, and made anew from
the rows whenever it does not fit them. A snapshot on disk saves making it anew at the next
start; it is written beside and put in place by a rename, and believed only if its checksum,
its store, its embedder and a sample of its rows agree with the database. No pickle: FAISS's own
bytes behind a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.embedding import Matrix
from mmagent_memory.rows import MAX_VECTORS, unpack_vectors

__all__ = ["SNAPSHOT", "FaissIndex"]

SNAPSHOT = "vectors.faiss"
_MAGIC = b"mmagent-vectors-1\n"
_BATCH = 4096
_SAMPLE = 16
_WORTH_SAVING = 5000
"""Vectors that must have changed before a snapshot is written again."""


class FaissIndex:
    """The vectors of every namespace, exactly searched, numbered `item * MAX_VECTORS + place`.

    Args:
        folder: Where the snapshot lies.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / SNAPSHOT
        self._lock = threading.RLock()
        self._index: Any = None
        self._seen = 0
        self._changed = 0

    def search(
        self,
        db: sqlite3.Connection,
        query: Matrix,
        limit: int,
        *,
        allowed: Collection[int] | None,
        without: Collection[int] = (),
    ) -> dict[int, float]:
        """Return the nearest items by cosine, best first; of an item's vectors the best counts.

        Args:
            db: A reading connection; the index is first brought to what it sees.
            query: A unit vector, [dims].
            limit: Most items.
            allowed: Items that may be found; None for all.
            without: Items that may not.
        """
        import faiss

        with self._lock:
            self._catch_up(db, len(query))
            total = self._index.ntotal
            wanted = min(total, limit + len(without))
            parameters = None
            if allowed is not None:
                items = np.fromiter(allowed, dtype=np.int64)
                selector = faiss.IDSelectorBatch(self._numbers_of(items))
                parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            while wanted:
                scores, numbers = self._index.search(query[None, :], wanted, params=parameters)
                best: dict[int, float] = {}
                for number, score in zip(numbers[0].tolist(), scores[0].tolist(), strict=True):
                    item = number // MAX_VECTORS
                    if number >= 0 and item not in without and item not in best:
                        best[item] = float(score)
                exhausted = wanted >= total or bool((numbers[0] < 0).any())
                if len(best) >= limit or exhausted:
                    return dict(list(best.items())[:limit])
                wanted = min(total, wanted * 4)  # Items with several vectors took their places.
            return {}

    def save(self, db: sqlite3.Connection) -> None:
        """Write a snapshot if enough has changed; a failure costs only time at the next start."""
        import faiss

        with self._lock, suppress(OSError):
            if self._index is None or self._changed < _WORTH_SAVING:
                return
            payload = faiss.serialize_index(self._index).tobytes()
            header = json.dumps(
                {
                    **_identity(db),
                    "seen": self._seen,
                    "sample": self._sample(db),
                    "sha256": hashlib.sha256(payload).hexdigest(),
                }
            )
            self._file.parent.mkdir(exist_ok=True)
            temporary = self._file.with_name(f"{SNAPSHOT}.{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                file.write(_MAGIC + header.encode("ascii") + b"\n" + payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
            self._changed = 0

    def clear(self) -> None:
        """Forget everything; the snapshot is somebody else's to remove."""
        with self._lock:
            self._index, self._seen, self._changed = None, 0, 0

    def _catch_up(self, db: sqlite3.Connection, dims: int) -> None:
        import faiss

        if self._index is None or self._index.d != dims:
            self._load(db, dims)
        if self._index is None:
            self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dims))
            self._seen, self._changed = 0, 0
        removed = db.execute(
            "SELECT seq, item FROM tombstones WHERE seq > ? ORDER BY seq", (self._seen,)
        ).fetchall()
        gone = np.array([item for _, item in removed if item <= self._seen], dtype=np.int64)
        if len(gone):
            self._changed += int(self._index.remove_ids(self._numbers_of(gone)))
        rows = db.execute(
            "SELECT id, kinds, vectors FROM items WHERE id > ? ORDER BY id", (self._seen,)
        )
        newest = max([self._seen, *(seq for seq, _ in removed)])
        while batch := rows.fetchmany(_BATCH):
            newest = max(newest, batch[-1][0])
            whole = [row for row in batch if row[1]]
            if whole:
                matrix = np.concatenate([unpack_vectors(n, k, v, dims) for n, k, v in whole])
                numbers = np.concatenate(
                    [row[0] * MAX_VECTORS + np.arange(len(row[1])) for row in whole]
                ).astype(np.int64)
                self._index.add_with_ids(matrix, numbers)
                self._changed += len(numbers)
        self._seen = newest

    def _numbers_of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers in the index of all vectors of items."""
        import faiss

        known: NDArray[np.int64] = faiss.vector_to_array(self._index.id_map)
        return known[np.isin(known // MAX_VECTORS, items)]

    def _load(self, db: sqlite3.Connection, dims: int) -> None:
        import faiss

        self.clear()
        try:
            data = self._file.read_bytes()
            if not data.startswith(_MAGIC):
                return
            end = data.index(b"\n", len(_MAGIC))
            header = json.loads(data[len(_MAGIC) : end])
            payload = data[end + 1 :]
            if hashlib.sha256(payload).hexdigest() != header["sha256"]:
                return
            if any(header[name] != value for name, value in _identity(db).items()):
                return
            if not _belongs(db, header["seen"], header["sample"]):
                return
            index = faiss.deserialize_index(np.frombuffer(payload, dtype=np.uint8))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            # Whatever is wrong with a cache, the rows are the truth.
            return
        if index.d == dims:
            self._index, self._seen = index, header["seen"]

    def _sample(self, db: sqlite3.Connection) -> list[list[int]]:
        """Return some items with their checksums, spread over the ids."""
        step = max(1, self._seen // _SAMPLE)
        found = []
        for start in range(1, self._seen + 1, step):
            row = db.execute(
                "SELECT id, crc FROM items WHERE id >= ? AND id <= ? LIMIT 1", (start, self._seen)
            ).fetchone()
            if row:
                found.append(list(row))
        return found


def _identity(db: sqlite3.Connection) -> dict[str, Any]:
    wanted = ("store", "embedder", "dims")
    return dict(db.execute("SELECT name, value FROM meta WHERE name IN (?, ?, ?)", wanted))


def _belongs(db: sqlite3.Connection, seen: int, sample: list[list[int]]) -> bool:
    """Whether a snapshot was made of this database's past, not of a copy that went on."""
    newest = db.execute(
        "SELECT max(coalesce((SELECT max(id) FROM items), 0), "
        "coalesce((SELECT max(seq) FROM tombstones), 0))"
    ).fetchone()[0]
    if seen > newest:
        return False
    for number, crc in sample:
        row = db.execute("SELECT crc FROM items WHERE id = ?", (number,)).fetchone()
        if row is None:
            gone = "SELECT 1 FROM tombstones WHERE item = ? AND seq > ? LIMIT 1"
            if db.execute(gone, (number, seen)).fetchone() is None:
                return False
        elif row[0] != crc:
            return False
    return True
