"""Vectors in memory, one contiguous block a namespace: what exact search runs over.

A block is a cache. It is filled from the rows of its namespace when first needed, and brought
up to date by the change sequence before every use, so that it also shows what other processes
wrote. Nothing is ever read from it that the database does not say.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.embedding import Matrix
from mmagent_memory.rows import unpack_vectors

__all__ = ["Block", "BlockCache"]

_FIRST_ROOM = 16


@dataclass
class Block:
    """The vectors of one namespace.

    Attributes:
        count: How many of the rows of the arrays are in use.
        seen: The change sequence up to which it is complete.
        items: [room] the item of each vector; 0 where it was removed.
        kinds: [room] TEXT or IMAGE.
        matrix: [room, dims] unit vectors.
    """

    count: int
    seen: int
    items: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    matrix: Matrix

    @classmethod
    def empty(cls, dims: int) -> Block:
        """Return a block without vectors."""
        return cls(
            count=0,
            seen=0,
            items=np.zeros(_FIRST_ROOM, dtype=np.int64),
            kinds=np.zeros(_FIRST_ROOM, dtype=np.uint8),
            matrix=np.zeros((_FIRST_ROOM, dims), dtype=np.float32),
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the block holds in memory."""
        return self.items.nbytes + self.kinds.nbytes + self.matrix.nbytes

    def append(self, item: int, kinds: bytes, vectors: Matrix) -> None:
        """Add the vectors of one item, [n, dims]."""
        end = self.count + len(kinds)
        if end > len(self.items):
            self._make_room(end)
        self.items[self.count : end] = item
        self.kinds[self.count : end] = np.frombuffer(kinds, dtype=np.uint8)
        self.matrix[self.count : end] = vectors
        self.count = end

    def remove(self, items: list[int]) -> None:
        """Forget the vectors of items; the block is packed anew."""
        keep = ~np.isin(self.items[: self.count], np.asarray(items, dtype=np.int64))
        if keep.all():
            return
        # New arrays: a search in another thread may be reading the old ones.
        self.items = self.items[: self.count][keep]
        self.kinds = self.kinds[: self.count][keep]
        self.matrix = self.matrix[: self.count][keep]
        self.count = len(self.items)

    def _make_room(self, needed: int) -> None:
        room = max(needed, _FIRST_ROOM, len(self.items) + len(self.items) // 2)
        for name in ("items", "kinds", "matrix"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), dtype=old.dtype)
            new[: self.count] = old[: self.count]
            setattr(self, name, new)


class BlockCache:
    """Blocks of the namespaces used last, within a budget of bytes."""

    def __init__(self, budget: int = 1 << 30) -> None:
        self.budget = budget
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, db: sqlite3.Connection, namespace: int, dims: int) -> Block:
        """Return a copy-safe view of a namespace's block as the connection sees it now."""
        with self._lock:
            block = self._blocks.pop(namespace, None)
            if block is None or block.matrix.shape[1] != dims:
                block = Block.empty(dims)
            _catch_up(db, namespace, block, dims)
            self._blocks[namespace] = block
            self._evict()
            return Block(block.count, block.seen, block.items, block.kinds, block.matrix)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()

    def _evict(self) -> None:
        total = sum(block.nbytes for block in self._blocks.values())
        while total > self.budget and len(self._blocks) > 1:
            _, old = self._blocks.popitem(last=False)
            total -= old.nbytes


def _catch_up(db: sqlite3.Connection, namespace: int, block: Block, dims: int) -> None:
    seen = block.seen
    if seen:
        removed = db.execute(
            "SELECT seq, item FROM tombstones WHERE ns = ? AND seq > ?", (namespace, seen)
        ).fetchall()
        gone = [item for _, item in removed if item <= seen]
        if gone:
            block.remove(gone)
        block.seen = max([seen, *(seq for seq, _ in removed)])
    rows = db.execute(
        "SELECT id, kinds, vectors FROM items WHERE ns = ? AND id > ? ORDER BY id",
        (namespace, seen),
    )
    for number, kinds, blob in rows:
        if kinds:
            block.append(number, kinds, unpack_vectors(number, kinds, blob, dims))
        block.seen = max(block.seen, number)
