"""What is made behind the writes, in one thread: full text, then the index, at low priority."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmagent_memory.database import Database
from mmagent_memory.errors import MemoryStoreError
from mmagent_memory.faiss_index import FaissIndex
from mmagent_memory.words import index_words

__all__ = ["Indexer"]

_DUE = 10_000
"""Changes after which the index is brought up without anybody searching."""
_PATIENCE = 10.0
"""Seconds that closing waits for what is being made."""
_WORDS = 4096
"""Changes that full text takes in at once; a writer waits so long for them."""
_REST = 0.3
"""Seconds after a bulk load in which another may follow; both would be slower side by side."""


class Indexer:
    """Keeps full text and the index of one store about up to date.

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
        self._hurry = threading.Event()
        self._loads = 0
        self._rest_until = 0.0
        self._index_due = False
        self._dims: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Begin nothing while a bulk load goes on, nor right after it."""
        with self._lock:
            self._loads += 1
        try:
            yield
        finally:
            with self._lock:
                self._loads -= 1
                self._rest_until = time.monotonic() + _REST

    def notice(self, newest: int) -> None:
        """Start if the store has changed much since the index was made."""
        if newest - self._index.seen > _DUE:
            self.start(None)

    def start(self, dims: int | None) -> None:
        """Bring up the index; `dims` is the length of the vectors if known."""
        with self._lock:
            self._index_due = True
            self._dims = dims or self._dims
        self.follow_up()

    def follow_up(self) -> None:
        """Do what is due behind the writes, unless that is being done."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stop.clear()
            self._hurry.clear()
            self._thread = threading.Thread(
                target=self._run, name="mmagent-memory-index", daemon=True
            )
            self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is not at work."""
        self._hurry.set()
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def finish(self) -> None:
        """Wait a while for work in progress, then leave off."""
        self.wait(_PATIENCE)
        self._stop.set()
        self.wait()

    def _run(self) -> None:
        while self._loads or time.monotonic() < self._rest_until:
            if self._hurry.wait(_REST / 3):
                break
        # A damaged row or a closed store: whoever searches is told.
        with suppress(MemoryStoreError, sqlite3.Error):
            self._take_words()
            self._database.fold()
        with suppress(OSError, AttributeError):
            # Answers come first. On Linux a priority is a thread's own. Not so for the words:
            # who writes meanwhile would wait for a thread that is not let run.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while self._may_go_on():
            with suppress(MemoryStoreError, sqlite3.Error):
                self._bring_up()

    def _may_go_on(self) -> bool:
        """Whether the index is to be brought up; if not, the thread counts as ended."""
        with self._lock:
            due, self._index_due = self._index_due and not self._stop.is_set(), False
            if not due:
                self._thread = None
            return due

    def _take_words(self) -> None:
        more = True
        while more and not self._stop.is_set():
            with self._database.writing(durable=False) as db:
                more = index_words(db, _WORDS)

    def _bring_up(self) -> None:
        with self._database.reading() as db:
            found = db.execute("SELECT value FROM meta WHERE name = 'dims'").fetchone()
            dims = self._dims or (int(found[0]) if found else 0)
            if not dims:
                return
            # A snapshot of an earlier process is the better start.
            self._index.load(db, dims)
        for _ in self._index.build(self._database.reading, dims):
            if self._stop.is_set():
                return
        with self._database.reading() as db:
            self._index.save(db)
