"""The yardsticks: raw FAISS, and the plain pair of SQLite and a flat FAISS index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stores.data import DIMS, USERS, Data

__all__ = ["Pair", "RawFaiss"]


class RawFaiss:
    """A flat index in memory, one thread; a user's slice by an id selector made beforehand."""

    durable = False
    reopens = False

    def __init__(self, folder: Path, data: Data) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._faiss = faiss
        self._data = data
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(DIMS))
        self._parameters: dict[str, Any] = {}

    def load(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), 50_000):
            part = np.asarray(numbers[start : start + 50_000], dtype=np.int64)
            self._index.add_with_ids(np.ascontiguousarray(self._data.vectors[part]), part)
        for user in range(USERS):
            # The index's own selector works on places, which IDMap translates.
            ids = np.arange(user, self._index.ntotal, USERS, dtype=np.int64)
            selector = self._faiss.IDSelectorBatch(ids)
            self._parameters[f"user{user}"] = self._faiss.SearchParameters(sel=selector)

    def add(self, number: int) -> None:
        vector = self._data.vectors[number : number + 1]
        self._index.add_with_ids(np.ascontiguousarray(vector), np.array([number]))

    def update(self, number: int, source: int) -> None:
        self.delete(number)
        vector = self._data.vectors[source : source + 1]
        self._index.add_with_ids(np.ascontiguousarray(vector), np.array([number]))

    def delete(self, number: int) -> None:
        self._index.remove_ids(np.array([number], dtype=np.int64))

    def search(self, question: int, user: str | None) -> list[int]:
        query = self._data.questions[question : question + 1]
        _, found = self._index.search(query, 10, params=self._parameters.get(user or ""))
        numbers: list[int] = found[0].tolist()
        return numbers

    def close(self) -> None:
        pass


class Pair:
    """What one writes in an afternoon: a row with the vector as a blob, and a flat index.

    Its single add is also the bare commit that ours is measured against: SQLite in WAL mode,
    synchronous=FULL, one transaction a row.
    """

    durable = True
    reopens = True

    def __init__(self, folder: Path, data: Data) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        folder.mkdir(parents=True, exist_ok=True)
        self._data = data
        self._db = sqlite3.connect(folder / "pair.sqlite3", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS items "
            "(id INTEGER PRIMARY KEY, user TEXT, key TEXT, value TEXT, vector BLOB)"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS by_user ON items (user)")
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(DIMS))
        self._faiss = faiss
        self._rebuild()

    def load(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), 10_000):
            part = numbers[start : start + 10_000]
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO items VALUES (?,?,?,?,?)", map(self._row, part))
            self._db.execute("COMMIT")
            ids = np.asarray(part, dtype=np.int64)
            self._index.add_with_ids(np.ascontiguousarray(self._data.vectors[ids]), ids)

    def add(self, number: int) -> None:
        self._db.execute("INSERT INTO items VALUES (?,?,?,?,?)", self._row(number))
        vector = np.ascontiguousarray(self._data.vectors[number : number + 1])
        self._index.add_with_ids(vector, np.array([number]))

    def commit_only(self, number: int) -> None:
        """Write the row alone: the bare commit."""
        self._db.execute("INSERT INTO items VALUES (?,?,?,?,?)", self._row(number))

    def update(self, number: int, source: int) -> None:
        row = self._row(source)
        self._db.execute(
            "UPDATE items SET value = ?, vector = ? WHERE id = ?", (row[3], row[4], number)
        )
        self._index.remove_ids(np.array([number], dtype=np.int64))
        vector = np.ascontiguousarray(self._data.vectors[source : source + 1])
        self._index.add_with_ids(vector, np.array([number]))

    def delete(self, number: int) -> None:
        self._db.execute("DELETE FROM items WHERE id = ?", (number,))
        self._index.remove_ids(np.array([number], dtype=np.int64))

    def search(self, question: int, user: str | None) -> list[int]:
        parameters = None
        if user:
            rows = self._db.execute("SELECT id FROM items WHERE user = ?", (user,)).fetchall()
            ids = np.fromiter((number for (number,) in rows), dtype=np.int64, count=len(rows))
            selector = self._faiss.IDSelectorBatch(ids)
            parameters = self._faiss.SearchParameters(sel=selector)
        query = self._data.questions[question : question + 1]
        _, found = self._index.search(query, 10, params=parameters)
        numbers = [number for number in found[0].tolist() if number >= 0]
        for number in numbers:
            self._db.execute("SELECT value FROM items WHERE id = ?", (number,)).fetchone()
        return numbers

    def close(self) -> None:
        self._db.close()

    def _row(self, number: int) -> tuple[int, str, str, str, bytes]:
        data = self._data
        value = json.dumps({"text": data.text(number)})
        return number, data.user(number), str(number), value, data.vectors[number].tobytes()

    def _rebuild(self) -> None:
        cursor = self._db.execute("SELECT id, vector FROM items")
        while rows := cursor.fetchmany(10_000):
            ids = np.array([number for number, _ in rows], dtype=np.int64)
            vectors = np.frombuffer(b"".join(v for _, v in rows), dtype=np.float32)
            self._index.add_with_ids(vectors.reshape(-1, DIMS), ids)
