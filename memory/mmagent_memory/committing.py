"""Group commit: writers that come together share one transaction and one wait for the disk.

One of those who wait writes for all of them, then hands over to the first who came meanwhile.
Each is told of its own success or error only; where one cannot be written, each is tried by
itself. A writer that is alone waits for nobody.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from mmagent_memory.database import Database
from mmagent_memory.rows import BulkRows
from mmagent_memory.writer import Known, PreparedPut, Writer

__all__ = ["Committer"]

_LONGEST_WAIT = 0.001
"""Seconds that a writer waits at most for those it shared the last transaction with."""


class _Work:
    __slots__ = ("applied", "done", "error", "puts", "turn")

    def __init__(
        self, puts: Sequence[PreparedPut] | BulkRows, applied: Callable[[], None] | None
    ) -> None:
        self.puts = puts
        self.applied = applied
        self.done = False
        self.error: Exception | None = None
        self.turn: threading.Event | None = None
        """For one that waits: set when it is done, or when its thread is to write for all."""


class Committer:
    """Writes prepared puts, those of several threads in one transaction.

    Args:
        database: Where to.
        check: Called in a transaction before anything is written, unless nobody else has written
            since the last one; an error it raises refuses the writes.
    """

    def __init__(self, database: Database, check: Callable[[sqlite3.Connection], None]) -> None:
        self._database = database
        self._check = check
        self._newest = 0
        self._words_due = False
        self._process = os.getpid()
        self._known = Known()
        self._queue: list[_Work] = []
        self._changed = threading.Condition()
        self._led = False
        self._last_size, self._last_took = 1, 0.0

    @property
    def words_due(self) -> bool:
        """Whether many words waited for full text after the last transaction."""
        return self._words_due

    def write(
        self,
        puts: Sequence[PreparedPut] | BulkRows,
        applied: Callable[[], None] | None = None,
    ) -> int:
        """Write and remove items, all or none; on disk when this returns.

        Args:
            puts: The items.
            applied: Called when only the commit is left to do.

        Returns:
            The change sequence after it.
        """
        if os.getpid() != self._process:
            # The queue and its lock are those of the parent's threads.
            self.__init__(self._database, self._check)  # type: ignore[misc]
        work = _Work(puts, applied)
        with self._changed:
            leads, self._led = not self._led, True
            if not leads:
                work.turn = threading.Event()
            self._queue.append(work)
            self._changed.notify_all()
        try:
            if work.turn is not None:
                work.turn.wait()
                leads = not work.done
            if leads:
                with self._database.held():
                    self._commit(self._gather(), work)
        except BaseException:
            # Interrupted, or the store is closed: nobody else is to do it later.
            with self._changed:
                self._queue = [other for other in self._queue if other is not work]
                turn = work.turn is not None and work.turn.is_set()
                leads = leads or (turn and not work.done)
            raise
        finally:
            if leads:
                self._hand_over()
        if work.error is not None:
            raise work.error
        return self._newest

    def _gather(self) -> list[_Work]:
        """Take what waits to be written; give those who wrote last time a moment to come."""
        with self._changed:
            if self._last_size > 1:
                until = time.monotonic() + min(_LONGEST_WAIT, self._last_took / 2)
                while len(self._queue) < self._last_size:
                    left = until - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        break
            works, self._queue = self._queue, []
        self._last_size = len(works)
        return works

    def _hand_over(self) -> None:
        with self._changed:
            self._led = bool(self._queue)
            if self._queue and self._queue[0].turn is not None:
                self._queue[0].turn.set()

    def _commit(self, works: list[_Work], mine: _Work) -> None:
        start = time.monotonic()
        try:
            self._write(works)
            for work in works:
                work.done = True
        except Exception as error:
            if len(works) == 1:
                works[0].error, works[0].done = error, True
            else:
                for work in works:
                    self._commit([work], mine)
        except BaseException:
            # Interrupted: the others' work is theirs to do again.
            with self._changed:
                self._queue = [work for work in works if work is not mine] + self._queue
            raise
        self._last_took = time.monotonic() - start
        for work in works:
            if work is not mine and work.turn is not None:
                work.turn.set()

    def _write(self, works: list[_Work]) -> None:
        with self._database.writing() as db:
            writer = Writer(db, self._known)
            if not writer.unchanged:
                self._check(db)
            for work in works:
                writer.apply(work.puts)
            writer.finish()
            db.newest = writer.newest
            for work in works:
                if work.applied:
                    work.applied()
        writer.committed()
        self._newest, self._words_due = writer.newest, writer.words_due
