"""PostgreSQL's errors in our words, at one boundary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg

from mmagent_memory.errors import (
    CorruptStoreError,
    MemoryStoreError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFullError,
)

__all__ = ["translated"]

_WORDS: tuple[tuple[type[psycopg.Error], type[MemoryStoreError], str], ...] = (
    (pg.DiskFull, StoreFullError, "cannot grow, the server's disk is full; make room there"),
    (pg.ReadOnlySqlTransaction, ReadOnlyStoreError, "is a read-only replica; use the primary"),
    (
        pg.InsufficientPrivilege,
        ReadOnlyStoreError,
        "may not be changed by this user; have an administrator grant it (and, for a new "
        "memory, run CREATE EXTENSION vector)",
    ),
    (
        pg.FeatureNotSupported,
        MemoryStoreError,
        "lacks something; the extension pgvector has to be installed on the server, and the table "
        "`store` must not be partitioned",
    ),
    (
        pg.UndefinedFile,
        MemoryStoreError,
        "lacks the extension pgvector; have it installed on the server",
    ),
    (pg.DeadlockDetected, StoreBusyError, "was held by another program; try again"),
    (pg.LockNotAvailable, StoreBusyError, "was held by another program for too long; try again"),
    (pg.SerializationFailure, StoreBusyError, "was changed meanwhile; try again"),
    (pg.QueryCanceled, StoreBusyError, "took too long; try again or raise statement_timeout"),
    (pg.DataCorrupted, CorruptStoreError, "is damaged; restore it from a backup"),
    (pg.IndexCorrupted, CorruptStoreError, "has a damaged index; run REINDEX on its tables"),
    (
        psycopg.OperationalError,
        MemoryStoreError,
        "cannot be reached; check the address, the password and that the server runs",
    ),
)


@contextmanager
def translated(where: str, timeouts: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors of PostgreSQL into ours.

    Args:
        where: The database for messages.
        timeouts: What the connection pool raises when none is free.
    """
    try:
        yield
    except timeouts as error:
        raise StoreBusyError(
            f"No connection to the memory in {where} became free; try again, or open the store "
            "with a larger pool_size."
        ) from error
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        for kind, ours, words in _WORDS:
            if isinstance(error, kind):
                raise ours(f"The memory in {where} {words} ({reason}).") from error
        raise MemoryStoreError(f"The memory in {where} could not be used: {reason}.") from error
