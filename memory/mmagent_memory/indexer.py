"""Making the index in the background: one thread, of low priority, while there is work."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress

from mmagent_memory.database import Database
from mmagent_memory.errors import MemoryStoreError
from mmagent_memory.faiss_index import FaissIndex

__all__ = ["Indexer"]

_DUE = 10_000
"""Changes after which the index is brought up without anybody searching."""
_PATIENCE = 10.0
"""Seconds that closing waits for an index that is being made."""


class Indexer:
    """Keeps the index of one store about up to date.

    Args:
        database: The store.
        index: Its index.
    """

    def __init__(self, database: Database, index: FaissIndex) -> None:
        self._database = database
        self._index = index
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def notice(self, newest: int) -> None:
        """Start if the store has changed much since the index was made."""
        if newest - self._index.seen > _DUE:
            self.start(None)

    def start(self, dims: int | None) -> None:
        """Start, unless it is at work; `dims` is the length of the vectors if known."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, args=(dims,), name="mmagent-memory-index", daemon=True
            )
            self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is not at work."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def finish(self) -> None:
        """Wait a while for work in progress, then leave off."""
        self.wait(_PATIENCE)
        self._stop.set()
        self.wait()

    def _run(self, dims: int | None) -> None:
        with suppress(OSError, AttributeError):
            # Answers come first. On Linux a priority is a thread's own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        # A damaged row or a closed store: whoever searches is told.
        with suppress(MemoryStoreError, sqlite3.Error):
            with self._database.reading() as db:
                found = db.execute("SELECT value FROM meta WHERE name = 'dims'").fetchone()
                dims = dims or (int(found[0]) if found else 0)
                if not dims:
                    return
                # A snapshot of an earlier process is the better start.
                self._index.load(db, dims)
            for _ in self._index.build(self._database.reading, dims):
                if self._stop.is_set():
                    return
            with self._database.reading() as db:
                self._index.save(db)
