"""LangGraph's own stores: InMemoryStore and SqliteStore (sqlite-vec)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langgraph.store.base import PutOp

from stores.base import Embeddings
from stores.data import DIMS, Data

__all__ = ["InMemory", "Sqlite"]


class InMemory:
    """A dictionary and NumPy."""

    durable = False
    reopens = False
    _store: Any

    def __init__(self, folder: Path, data: Data) -> None:
        from langgraph.store.memory import InMemoryStore

        self._data = data
        self._store = InMemoryStore(
            index={"dims": DIMS, "embed": Embeddings(data), "fields": ["text"]}  # type: ignore[typeddict-item]
        )

    def load(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), 5_000):
            self._store.batch([self._put(number) for number in numbers[start : start + 5_000]])

    def add(self, number: int) -> None:
        self._store.batch([self._put(number)])

    def update(self, number: int, source: int) -> None:
        value = {"text": self._data.text(source)}
        self._store.put((self._data.user(number),), str(number), value)

    def delete(self, number: int) -> None:
        self._store.delete((self._data.user(number),), str(number))

    def search(self, question: int, user: str | None) -> list[int]:
        prefix = (user,) if user else ()
        return [int(hit.key) for hit in self._store.search(prefix, query=f"q{question}", limit=10)]

    def close(self) -> None:
        pass

    def _put(self, number: int) -> PutOp:
        value = {"text": self._data.text(number)}
        return PutOp((self._data.user(number),), str(number), value)


class Sqlite(InMemory):
    """SQLite with sqlite-vec; where Python's sqlite3 cannot load extensions, over pysqlite3."""

    durable = True
    reopens = True

    def __init__(self, folder: Path, data: Data) -> None:
        import sqlite3

        if not hasattr(sqlite3.Connection, "enable_load_extension"):
            import pysqlite3

            sys.modules["sqlite3"] = pysqlite3
            sqlite3 = pysqlite3
        from langgraph.store.sqlite import SqliteStore

        folder.mkdir(parents=True, exist_ok=True)
        self._data = data
        self._db = sqlite3.connect(
            folder / "store.sqlite3", check_same_thread=False, isolation_level=None
        )
        self._store = SqliteStore(
            self._db,
            index={"dims": DIMS, "embed": Embeddings(data), "fields": ["text"]},  # type: ignore[typeddict-item]
        )
        self._store.setup()

    def close(self) -> None:
        self._store.stop_ttl_sweeper()
        self._db.close()
