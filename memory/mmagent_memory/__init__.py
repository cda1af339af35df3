"""Long-term memory for agents: texts and pictures, durable, found by words and by meaning.

Everything public is imported from here; each name loads its module on first use, so that
`import mmagent_memory` loads neither faiss nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmagent_memory.background import BackgroundDeriver
    from mmagent_memory.deriving import DeriveReport
    from mmagent_memory.embedding import ImageEmbedder
    from mmagent_memory.hash_embedder import HashEmbedder
    from mmagent_memory.memory import LongTermMemory, list_users
    from mmagent_memory.records import EraseReceipt, MemoryHit, StoredImage
    from mmagent_memory.store import FaissStore

_HOME_OF = {
    "BackgroundDeriver": "mmagent_memory.background",
    "DeriveReport": "mmagent_memory.deriving",
    "EraseReceipt": "mmagent_memory.records",
    "FaissStore": "mmagent_memory.store",
    "HashEmbedder": "mmagent_memory.hash_embedder",
    "ImageEmbedder": "mmagent_memory.embedding",
    "LongTermMemory": "mmagent_memory.memory",
    "MemoryHit": "mmagent_memory.records",
    "StoredImage": "mmagent_memory.records",
    "list_users": "mmagent_memory.memory",
}

__all__ = [
    "BackgroundDeriver",
    "DeriveReport",
    "EraseReceipt",
    "FaissStore",
    "HashEmbedder",
    "ImageEmbedder",
    "LongTermMemory",
    "MemoryHit",
    "StoredImage",
    "list_users",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
