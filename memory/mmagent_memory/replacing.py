"""Putting a new database in the place of an old one, so that a kill leaves one of the two.

The new file first gets a name of its own beside the old one: from then on it is the store. What
is left, removing the old log and the renaming, is done by whoever comes next if it was cut off.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmagent_memory.errors import StoreBusyError

__all__ = ["alone", "finish", "put_in_place"]

_READY = ".repaired"
# Where SQLite locks a database file: https://www.sqlite.org/src/file/src/os.h
_PENDING = 0x40000000
_SHARED_FIRST, _SHARED_SIZE = _PENDING + 2, 510


def put_in_place(new: Path, old: Path, backup: Path | None) -> None:
    """Make a database file the store, and keep the old one under another name.

    Args:
        new: The new database, closed.
        old: The file that it replaces, which no program has open; it may be gone.
        backup: Where the old one is kept, with its log.
    """
    if backup is not None:
        for suffix in ("", "-wal"):
            _keep(old.with_name(old.name + suffix), backup.with_name(backup.name + suffix))
    new.replace(old.with_name(old.name + _READY))
    _sync(old.parent)
    _finish(old)


def finish(database: Path, patience: float = 10.0) -> None:
    """Finish what a killed `put_in_place` has left; most often there is nothing to do.

    Raises:
        StoreBusyError: Some program has the old database open.
    """
    ready = database.with_name(database.name + _READY)
    if not ready.exists():
        return
    # Whoever else is opening the store may be quicker.
    with alone(database, patience, unless=lambda: not ready.exists()):
        if ready.exists():
            _finish(database)


@contextmanager
def alone(
    database: Path, patience: float = 1.0, *, unless: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Hold every other connection off a database.

    Args:
        database: The file; one that is not there is nobody's.
        patience: Seconds to wait for others to close it.
        unless: What makes waiting pointless; then this goes on without the lock.

    Raises:
        StoreBusyError: Some program has it open, perhaps this one.
    """
    if not database.exists():
        yield
        return
    file = os.open(database, os.O_RDWR | os.O_CLOEXEC)
    deadline = time.monotonic() + patience
    while not _locked(file):
        if unless and unless():
            break
        if time.monotonic() > deadline:
            # The file stays open: closing it would take this process's own locks away.
            raise StoreBusyError(
                f"The memory in {database} is open in another program; close it and try again."
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    # Linux's struct flock: type, whence, start, length, pid.
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        return False
    return True


def _finish(old: Path) -> None:
    new = old.with_name(old.name + _READY)
    # The log belongs to the old database; beside the new one it would be read as its own.
    for suffix in ("-wal", "-shm"):
        old.with_name(old.name + suffix).unlink(missing_ok=True)
    _sync(old.parent)
    if new.exists():
        new.replace(old)
        _sync(old.parent)


def _keep(file: Path, backup: Path) -> None:
    if not file.exists():
        return
    try:
        os.link(file, backup)
    except OSError:
        shutil.copyfile(file, backup)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
