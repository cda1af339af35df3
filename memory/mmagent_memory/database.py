"""The SQLite file of a store: connections, transactions, and SQLite's errors in our words."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from mmagent_memory.errors import (
    CorruptStoreError,
    MemoryStoreError,
    MissingStoreError,
    ReadOnlyStoreError,
    StoreBusyError,
)
from mmagent_memory.highwater import HIGH_WATER, HighWater, newest_change
from mmagent_memory.moments import Moment
from mmagent_memory.replacing import finish
from mmagent_memory.schema import PAGE_SIZE, create_or_check
from mmagent_memory.sqlite_errors import damaged, in_our_words

__all__ = ["BUSY_MS", "DATABASE", "MARKER", "Database"]

DATABASE = "memory.sqlite3"
MARKER = "store.txt"
"""Says that a store was made here, so that a vanished database is noticed, not made anew."""
_MARK = "A memory store of mmagent lives in this folder; its data is in memory.sqlite3.\n"
_CACHE_KB = 8192
_LOAD_CACHE_KB = 65_536
"""What a bulk load writes in one transaction should fit, so that each page is written once."""
_LOG_PAGES = 4096
_LOAD_LOG_PAGES = 131_072
"""Of a bulk load: its log is folded when it is done, which would take half of its time."""
BUSY_MS = 30_000
"""How long another process may hold the store before that is an error."""


class Connection(sqlite3.Connection):
    """A connection that remembers when it last looked.

    Attributes:
        moment: What it saw then; see `moments`.
        newest: The change sequence after what was written in this transaction, if that is known.
    """

    moment: Moment | None = None
    newest: int | None = None


class Database:
    """Connections to one store, shared by threads and safe over a fork.

    One connection writes, under a lock; the others read side by side, each a snapshot.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        """Open the store in a folder, or make one.

        Raises:
            MissingStoreError: There is none, and `create` is off.
            MemoryStoreError: It cannot be used; see `mmagent_memory.errors`.
        """
        self.folder = folder
        self.file = folder / DATABASE
        self._lock = threading.RLock()
        self._pool = threading.Lock()
        self._writer: Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._high_water = HighWater(folder)
        self._loads = 0
        self._unfolded = False
        self._folding = threading.Lock()
        marker = folder / MARKER
        with self.translated():
            if not create and not self.file.exists() and not marker.exists():
                raise MissingStoreError(f"There is no memory in {folder}; check the folder's name.")
            folder.mkdir(parents=True, exist_ok=True)
            finish(self.file)
            self._check_log()
            made = marker.exists() or (folder / HIGH_WATER).exists()
            db = self._connect()
            try:
                create_or_check(db, str(self.file), may_create=not made)
                self._check_newest(db)
                self._turn_on_log(db)
                # Opening must fail at once where writing would: an empty write takes the lock.
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
            except BaseException:
                db.close()
                raise
            if not marker.exists():
                _write_durably(marker, _MARK)
            self._writer = db
        _after_fork_forget(self)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose reads all see the same moment."""
        with self.translated():
            # Not the writers' lock: who reads does not wait for a commit.
            with self._pool:
                self._check()
                db = self._idle.pop() if self._idle else None
            db = db or self._connect()
            try:
                db.execute("BEGIN")
                yield db
            finally:
                self._give_back(db)

    @contextmanager
    def writing(self, *, durable: bool = True, patience_ms: int = BUSY_MS) -> Iterator[Connection]:
        """Give the writing connection in a transaction: committed on leaving, or undone.

        Args:
            durable: Whether it must be on disk before this returns. What can be made anew need
                not be; it gets there with the next transaction that must.
            patience_ms: How long to wait for other writers.

        Raises:
            StoreBusyError: Another writer held the store for longer.
        """
        hurried = patience_ms < BUSY_MS
        with self.translated(), self._locked(patience_ms / 1000 if hurried else -1):
            db = self.writer()
            if hurried:
                db.execute(f"PRAGMA busy_timeout = {patience_ms}")
            if not durable:
                db.execute("PRAGMA synchronous = NORMAL")
            try:
                db.execute("BEGIN IMMEDIATE")
                db.newest = None
                yield db
                newest = db.newest or newest_change(db) if durable else 0
                db.execute("COMMIT")
            except BaseException:
                # A failed COMMIT may have ended the transaction by itself.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    db.execute("PRAGMA synchronous = FULL")
                if hurried:
                    db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            if durable:
                self._high_water.note(db, newest)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Write much: more in memory at once, and more in the log, until `fold` is called."""
        with self.translated(), self._lock:
            self._loads += 1
            self._unfolded = True
            self._suit(self.writer())
        try:
            yield
        finally:
            with suppress(sqlite3.Error), self._lock:
                self._loads -= 1
                if self._writer is not None:
                    self._suit(self._writer)

    def fold(self) -> None:
        """Fold the log that a load left into the database; who writes or reads does not wait."""
        if not self._unfolded:
            return
        with self.translated(), self._folding:
            self._check()
            with closing(self._connect()) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        with self.translated(), self._lock:
            self._unfolded = self._loads > 0
            self._suit(self.writer())

    def _suit(self, db: sqlite3.Connection) -> None:
        """Set how much a connection keeps in memory, and how long it lets the log grow."""
        db.execute(f"PRAGMA cache_size = -{_LOAD_CACHE_KB if self._loads else _CACHE_KB}")
        pages = _LOAD_LOG_PAGES if self._unfolded else _LOG_PAGES
        # The log is folded into the database every so many pages, and kept no larger after.
        db.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        db.execute(f"PRAGMA journal_size_limit = {pages * PAGE_SIZE}")
        if not self._loads:
            db.execute("PRAGMA shrink_memory")

    @contextmanager
    def _locked(self, seconds: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=seconds):
            raise StoreBusyError(
                f"The memory in {self.file} is being written by another thread; try again."
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold off the other threads that would write."""
        with self._lock:
            self._check()
            yield

    @contextmanager
    def exclusive(self) -> Iterator[sqlite3.Connection]:
        """Give the writing connection outside of a transaction, other threads held off."""
        with self.translated(), self._lock:
            yield self.writer()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def writer(self) -> Connection:
        """Return the writing connection; hold the lock while using it."""
        self._check()
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    def drop_readers(self) -> None:
        """Close connections that nobody is using, so that none keeps old pages alive."""
        with self._folding:
            pass
        with self._pool:
            while self._idle:
                self._idle.pop().close()

    def close(self) -> None:
        """Close every connection; the log is folded into the database."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.drop_readers()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._high_water.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's and the system's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise in_our_words(error, self.file) from error
        except UnicodeDecodeError as error:
            # Python cannot read every message of SQLite about a broken database.
            raise damaged(error, self.file) from error
        except OSError as error:
            if isinstance(error, MemoryStoreError):
                raise
            raise ReadOnlyStoreError(
                f"The memory folder {self.folder} cannot be used ({error.strerror or error}); "
                "choose a folder that you can write."
            ) from error

    def _connect(self) -> Connection:
        db = sqlite3.connect(
            self.file,
            timeout=BUSY_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
        try:
            db.execute(f"PRAGMA page_size = {PAGE_SIZE}")  # Of a new file only.
            db.execute("PRAGMA synchronous = FULL")
            self._suit(db)
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA trusted_schema = OFF")
            # Memory that is read but cannot be trusted to be whole must not be mapped.
            db.execute("PRAGMA mmap_size = 0")
        except BaseException:
            db.close()
            raise
        return db

    def _give_back(self, db: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        with self._pool:
            if not self._closed and len(self._idle) < 8:
                self._idle.append(db)
            else:
                db.close()

    def _turn_on_log(self, db: sqlite3.Connection) -> None:
        deadline = time.monotonic() + BUSY_MS / 1000
        while True:
            try:
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                # SQLite does not wait for this lock by itself: others may be opening too.
                busy = (error.sqlite_errorname or "").startswith("SQLITE_BUSY")
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise ReadOnlyStoreError(
                f"{self.folder} is on a file system without shared memory files, which the store "
                "needs; choose a local folder."
            )

    def _check_log(self) -> None:
        """Refuse a store whose log is damaged, before SQLite cuts it off at the damage."""
        if not self.file.with_name(f"{self.file.name}-wal").exists() or not self.file.exists():
            return
        # A connection that only reads leaves the log as it is when it is closed, for `repair`.
        address = f"file:{quote(str(self.file.absolute()))}?mode=ro"
        with (
            suppress(sqlite3.Error, UnicodeDecodeError),
            closing(sqlite3.connect(address, uri=True, timeout=BUSY_MS / 1000)) as db,
        ):
            self._check_newest(db)

    def _check_newest(self, db: sqlite3.Connection) -> None:
        missing = self._high_water.missing(db)
        if missing:
            raise CorruptStoreError(
                f"The memory in {self.file} lacks its last {missing} changes: its write-ahead log "
                "is damaged or gone, or an older copy of the database was put here. Put the file "
                f"{self.file.name}-wal back, or run `python -m mmagent_memory repair FOLDER`, "
                "which saves what is whole and goes on from there."
            )

    def _check(self) -> None:
        if self._closed:
            raise MemoryStoreError("The store is closed; open it again with FaissStore(path).")

    def _forget_connections(self) -> None:
        # After a fork the parent's connections are not ours to use nor to close: SQLite's locks
        # belong to the process that took them. They are kept so that nothing closes them.
        self._inherited = (self._writer, self._idle)
        self._writer, self._idle = None, []
        self._loads, self._unfolded, self._folding = 0, False, threading.Lock()
        self._lock = threading.RLock()
        self._pool = threading.Lock()


def _after_fork_forget(database: Database) -> None:
    reference = weakref.ref(database)

    def forget() -> None:
        alive = reference()
        if alive is not None:
            alive._forget_connections()

    os.register_at_fork(after_in_child=forget)


def _write_durably(path: Path, text: str) -> None:
    # A name of its own: several processes may be making the same store.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
