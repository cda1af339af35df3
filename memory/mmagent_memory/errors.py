"""Every error that the memory raises on purpose.

    MemoryStoreError                   something went wrong; the message says what and what to do
    ├── MemoryUsageError               a call that cannot work (also a ValueError)
    │   └── MissingStoreError          there is no store in that folder, and none was to be made
    ├── EmbedderError
    │   ├── NoEmbedderError            no embedder was given and none is installed
    │   ├── EmbedderChangedError       the store's vectors are another embedder's
    │   └── EmbeddingError             the embedder failed or returned what is no vector
    ├── NewerStoreError                the store was written by a newer version
    ├── ReadOnlyStoreError             the folder cannot be written
    ├── CorruptStoreError              a file of the store is damaged
    ├── StoreBusyError                 another process held the store for too long
    └── StoreFullError                 the disk is full, or failed to take a write

Exceptions of SQLite are translated into these at one boundary, `database.translated`.
"""

from __future__ import annotations

__all__ = [
    "CorruptStoreError",
    "EmbedderChangedError",
    "EmbedderError",
    "EmbeddingError",
    "MemoryStoreError",
    "MemoryUsageError",
    "MissingStoreError",
    "NewerStoreError",
    "NoEmbedderError",
    "ReadOnlyStoreError",
    "StoreBusyError",
    "StoreFullError",
]


class MemoryStoreError(Exception):
    """Base of all errors that the memory raises on purpose."""


class MemoryUsageError(MemoryStoreError, ValueError):
    """What the caller passed cannot work."""


class MissingStoreError(MemoryUsageError):
    """There is no store in that folder, and none was to be made."""


class EmbedderError(MemoryStoreError):
    """Something is wrong with the embedder."""


class NoEmbedderError(EmbedderError):
    """No embedder was given and none is installed."""


class EmbedderChangedError(EmbedderError):
    """The store's vectors were made by another embedder."""


class EmbeddingError(EmbedderError):
    """The embedder failed or returned what is no vector; nothing was written."""


class NewerStoreError(MemoryStoreError):
    """The store was written by a newer version of this package."""


class ReadOnlyStoreError(MemoryStoreError):
    """The folder or a file in it cannot be written."""


class CorruptStoreError(MemoryStoreError):
    """A file of the store is damaged."""


class StoreBusyError(MemoryStoreError):
    """Another process held the store for longer than the time-out."""


class StoreFullError(MemoryStoreError):
    """The disk is full or failed to take a write; the memory was not stored."""
