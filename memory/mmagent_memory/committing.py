"""Group commit: writers that come together share one transaction and one wait for the disk.

Whoever gets the database's lock first writes for all who are waiting for it. Each is told of its
own success or error only; where one cannot be written, each is tried by itself.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence

from mmagent_memory.database import Database
from mmagent_memory.writer import NamespaceNumbers, PreparedPut, Writer

__all__ = ["Committer"]


class _Work:
    __slots__ = ("done", "error", "puts")

    def __init__(self, puts: Sequence[PreparedPut]) -> None:
        self.puts = puts
        self.done = False
        self.error: Exception | None = None


class Committer:
    """Writes prepared puts, those of several threads in one transaction.

    Args:
        database: Where to.
        check: Called in each transaction first; an error it raises refuses the writes.
    """

    def __init__(self, database: Database, check: Callable[[sqlite3.Connection], None]) -> None:
        self._database = database
        self._check = check
        self._process, self._newest = os.getpid(), 0
        self._namespaces = NamespaceNumbers()
        self._queue: list[_Work] = []
        self._mutex = threading.Lock()

    def write(self, puts: Sequence[PreparedPut]) -> int:
        """Write and remove items, all or none; on disk when this returns.

        Returns:
            The change sequence after it.
        """
        if os.getpid() != self._process:
            self._begin()
        work = _Work(puts)
        with self._mutex:
            self._queue.append(work)
        try:
            # Those who come while another commits wait here together.
            with self._database.held():
                if not work.done:
                    self._commit(self._take(work))
        except BaseException:
            # Interrupted: nobody else is to do it later.
            with self._mutex:
                self._queue = [other for other in self._queue if other is not work]
            raise
        if work.error is not None:
            raise work.error
        return self._newest

    def _begin(self) -> None:
        # After a fork the queue and its lock are the parent's threads'.
        self._process = os.getpid()
        self._namespaces, self._queue, self._mutex = NamespaceNumbers(), [], threading.Lock()

    def _take(self, mine: _Work) -> list[_Work]:
        with self._mutex:
            works, self._queue = self._queue, []
        # Somebody who was interrupted may have taken it along.
        return works if mine in works else [*works, mine]

    def _commit(self, works: list[_Work]) -> None:
        try:
            self._write(works)
        except Exception as error:
            if len(works) == 1:
                works[0].error, works[0].done = error, True
                return
            for work in works:
                self._commit([work])
        except BaseException:
            # Interrupted: the others' work is theirs to do again.
            with self._mutex:
                self._queue = works + self._queue
            raise
        for work in works:
            work.done = True

    def _write(self, works: list[_Work]) -> None:
        with self._database.writing() as db:
            self._check(db)
            writer = Writer(db, self._namespaces)
            for work in works:
                writer.apply(work.puts)
            writer.finish()
        writer.committed()
        self._newest = writer.newest
