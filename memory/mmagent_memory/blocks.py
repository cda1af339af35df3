"""Vectors in memory, one contiguous block a scope: what exact search runs over.

A scope is the namespaces below a prefix: a user's memories, or everything in a small store. Its
block is a cache. It is filled from the rows when first needed, and brought up to date by the
change sequence whenever the database has changed, so that it also shows what other processes
wrote. Nothing is ever read from it that the database does not say.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.coarse import Coarse
from mmagent_memory.embedding import Matrix
from mmagent_memory.kept import KeptRows
from mmagent_memory.moments import Moment
from mmagent_memory.rows import unpack_many

__all__ = ["Block", "BlockCache", "View"]


class View(NamedTuple):
    """What is in use of a block.

    Attributes:
        items: [n]; 0 where one was removed.
        kinds: [n].
        matrix: [n, dims].
        coarse: The same vectors as bytes.
    """

    items: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    matrix: Matrix
    coarse: Coarse | None = None


_BATCH = 4096
_MANY_PATHS = 100_000
_COARSE_BUDGET = 512 << 20
"""Bytes of all blocks up to which they are kept as bytes too, which takes a quarter more."""
_FEW = 1000
"""Changes that are read in one go for every namespace, rather than for each of a scope's."""


@dataclass
class Block:
    """The vectors of one scope.

    Attributes:
        count: How many of the rows of the arrays are in use.
        dead: How many of those belong to items that are gone.
        seen: The change sequence up to which it is complete.
        version: The count of comings and goings of namespaces that `namespaces` is of.
        namespaces: The numbers of the scope's namespaces.
        items: [room] the item of each vector; 0 where it was removed.
        kinds: [room] TEXT or IMAGE.
        matrix: [room, dims] unit vectors.
        coarse: The same as bytes, once that is worth it.
    """

    items: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    matrix: Matrix
    count: int = 0
    dead: int = 0
    seen: int = 0
    version: int = -1
    namespaces: set[int] = field(default_factory=set)
    coarse: Coarse = field(default_factory=Coarse)

    @classmethod
    def empty(cls, dims: int) -> Block:
        """Return a block without vectors."""
        return cls(
            items=np.zeros(0, dtype=np.int64),
            kinds=np.zeros(0, dtype=np.uint8),
            matrix=np.zeros((0, dims), dtype=np.float32),
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the block holds in memory."""
        arrays = self.items.nbytes + self.kinds.nbytes + self.matrix.nbytes
        return arrays + self.coarse.nbytes

    def view(self) -> View:
        """Return what is in use; later changes do not show in it."""
        end = self.count
        return View(self.items[:end], self.kinds[:end], self.matrix[:end], self.coarse)

    def append(self, items: NDArray[np.int64], kinds: NDArray[np.uint8], matrix: Matrix) -> None:
        """Add vectors, [n, dims]."""
        end = self.count + len(items)
        if end > len(self.items):
            self._make_room(end)
        self.items[self.count : end] = items
        self.kinds[self.count : end] = kinds
        self.matrix[self.count : end] = matrix
        self.count = end

    def remove(self, items: Sequence[int]) -> None:
        """Forget the vectors of items; the block is packed anew when many are gone."""
        gone = np.isin(self.items[: self.count], np.asarray(items, dtype=np.int64))
        found = int(gone.sum())
        if not found:
            return
        self.dead += found
        # New arrays: a search in another thread may be reading the old ones.
        self.items = self.items.copy()
        self.items[: self.count][gone] = 0
        if self.dead * 8 > self.count:
            keep = self.items[: self.count] != 0
            self.items = self.items[: self.count][keep]
            self.kinds = self.kinds[: self.count][keep]
            self.matrix = self.matrix[: self.count][keep]
            self.count, self.dead = len(self.items), 0
            self.coarse = Coarse()

    def _make_room(self, needed: int) -> None:
        # Exactly at first: a block that is only read should hold no more than it must.
        room = needed if not self.count else max(needed, self.count + self.count // 8 + 16)
        for name in ("items", "kinds", "matrix"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), dtype=old.dtype)
            new[: self.count] = old[: self.count]
            setattr(self, name, new)


class BlockCache:
    """Blocks of the scopes used last, within a budget of bytes.

    Args:
        budget: Bytes; None for two gigabytes, or a quarter of the machine's memory if that is
            less.

    Attributes:
        rows: The rows that were read last.
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is None:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            budget = min(2 << 30, memory // 4)
        self.budget = budget
        self.rows = KeptRows()
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        self._lock = threading.RLock()
        self._paths: tuple[int, dict[int, bytes]] = (-1, {})
        self._sizes: dict[bytes, tuple[int, int]] = {}
        self._process = os.getpid()

    def get(
        self, db: sqlite3.Connection, moment: Moment, low: bytes, high: bytes, dims: int
    ) -> View:
        """Return the vectors of a scope as a connection sees them.

        Args:
            db: A reading connection.
            moment: What it sees.
            low: The path of the scope's prefix; empty for everything.
            high: The first path behind the scope.
            dims: Length of the vectors.
        """
        self._after_fork()
        with self._lock:
            block = self._blocks.pop(low, None)
            if block is None or block.matrix.shape[1] != dims:
                block = Block.empty(dims)
            # One that has seen more than this connection serves too: what it should not show is
            # not among the rows.
            ahead = block.seen > moment.newest
            changed = block.seen < moment.newest or block.version != moment.namespaces
            if changed and not ahead:
                _catch_up(db, moment, block, low, high)
            self._blocks[low] = block
            if changed:
                self._evict()
            return block.view()

    def holds_at_most(
        self, db: sqlite3.Connection, moment: Moment, low: bytes, high: bytes, limit: int
    ) -> bool:
        """Whether a scope has no more items than a limit, or not many more.

        Counting takes time by the size of the scope, so that it is done when the store has
        changed by a tenth.
        """
        if moment.newest <= limit:
            return True
        count, when = self._sizes.get(low, (0, -1))
        since = moment.newest - when
        if when < 0 or since < 0 or since * 10 > count + 1000:
            scope = "WHERE ns IN (SELECT id FROM namespaces WHERE path >= ? AND path < ?)"
            count = db.execute(
                f"SELECT count(*) FROM items {scope if low else ''}",  # noqa: S608
                (low, high) if low else (),
            ).fetchone()[0]
            self._sizes[low] = (count, moment.newest)
        return count <= limit

    def path(self, db: sqlite3.Connection, moment: Moment, namespace: int) -> bytes:
        """Return the path of a namespace; empty if it is not there."""
        version, paths = self._paths
        if version != moment.namespaces or len(paths) > _MANY_PATHS:
            paths = {}
            self._paths = (moment.namespaces, paths)
        if namespace not in paths:
            found = db.execute("SELECT path FROM namespaces WHERE id = ?", (namespace,)).fetchone()
            if found is None:
                return b""
            paths[namespace] = found[0]
        return paths[namespace]

    def drop(self, low: bytes) -> None:
        """Forget a scope's block."""
        with self._lock:
            self._blocks.pop(low, None)

    def clear(self) -> None:
        """Forget everything."""
        self._after_fork()
        with self._lock:
            self._blocks.clear()
            self._sizes.clear()
            self.rows.clear()

    def _after_fork(self) -> None:
        # Another thread may have been amid a change, and its lock is nobody's here.
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._blocks, self._sizes, self._lock = OrderedDict(), {}, threading.RLock()

    def _evict(self) -> None:
        total = sum(block.nbytes for block in self._blocks.values())
        for block in self._blocks.values():
            block.coarse.allowed = total <= _COARSE_BUDGET
        while total > self.budget and len(self._blocks) > 1:
            _, old = self._blocks.popitem(last=False)
            total -= old.nbytes


def _catch_up(
    db: sqlite3.Connection, moment: Moment, block: Block, low: bytes, high: bytes
) -> None:
    new: set[int] = set()
    if low and block.version != moment.namespaces:
        wanted = db.execute("SELECT id FROM namespaces WHERE path >= ? AND path < ?", (low, high))
        every = {number for (number,) in wanted}
        new, block.namespaces = every - block.namespaces, every
        block.version = moment.namespaces
    if block.seen:
        removed = db.execute("SELECT item FROM tombstones WHERE seq > ?", (block.seen,)).fetchall()
        gone = [item for (item,) in removed if item <= block.seen]
        if gone:
            block.remove(gone)
    if not low or (not new and block.seen and moment.newest - block.seen <= _FEW):
        rows = db.execute(
            "SELECT id, kinds, vectors, ns FROM items WHERE id > ? ORDER BY id", (block.seen,)
        )
        _take(block, rows, block.namespaces if low else None)
    else:
        for namespace in sorted(block.namespaces):
            rows = db.execute(
                "SELECT id, kinds, vectors, ns FROM items WHERE ns = ? AND id > ? ORDER BY id",
                (namespace, 0 if namespace in new else block.seen),
            )
            _take(block, rows, None)
    block.version = moment.namespaces
    block.seen = moment.newest


def _take(block: Block, rows: sqlite3.Cursor, namespaces: set[int] | None) -> None:
    parts = []
    while batch := rows.fetchmany(_BATCH):
        if namespaces is not None:
            batch = [row for row in batch if row[3] in namespaces]
        part = unpack_many(batch, block.matrix.shape[1])
        if len(part[0]):
            parts.append(part)
    if parts:
        block.append(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
