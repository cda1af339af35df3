"""A FAISS index over all vectors of a large store, for searches wider than a block can serve.

Each vector is kept as its signs after a random turn, with two numbers that correct for what is
lost (RaBitQ, Gao and Long 2024: 1 bit a dimension); all of them are scanned, a block of 32 at a
time. What comes out best is read from the rows and scored exactly. As many are read as it takes
until the rest cannot be nearer, judged by how far the estimates were off.

It is a cache: caught up by the change sequence, and made anew from the rows whenever it does not
fit them. What is found is what the rows say at that moment: an item that is gone, expired or
elsewhere is never found, since its row is not. The index is made in the background, and a
snapshot on disk saves making it anew (`snapshots`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.embedding import Matrix
from mmagent_memory.moments import Moment, moment_of
from mmagent_memory.nearest_rows import FIRST_READ, PLACES, READ, Wanted, read_nearest
from mmagent_memory.rows import unpack_many
from mmagent_memory.snapshots import SNAPSHOT, read_snapshot, write_snapshot
from mmagent_memory.threads import one_thread

__all__ = ["SNAPSHOT", "FaissIndex"]

_BATCH = 2048
_TURN = 20261122
"""Seed of the random turn, which must be the same in every process."""
_TRAIN = 10_000
"""Vectors whose mean is taken for the centre."""
_QUERY_BITS = 8
_WORTH_SAVING = 5000
"""Vectors that must have changed before a snapshot is written again."""
_WIDTH = 128
"""Fewest items of one scan."""
_MOST_READ = 2048
"""Most items that are read for one search, unless a filter needs more."""
_SURE = 200_000
"""Vectors up to which every one is compared where estimates do not settle a search."""
_GIVE_UP = 100
"""Searches that compare every vector after one that estimates did not settle."""


@dataclass
class _Codes:
    """The index proper.

    Attributes:
        items: [n] the items of the vectors in it, in order.
        scrubs: How often things had been erased for good when it was begun.
        seen: The change sequence up to which it is complete.
        gone: How many of its items are gone, about.
    """

    index: Any
    items: NDArray[np.int64]
    scrubs: int
    seen: int = 0
    gone: int = 0


class FaissIndex:
    """The codes of the vectors of every namespace.

    Args:
        folder: Where the snapshot lies.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / SNAPSHOT
        self._lock = threading.RLock()
        self._codes: _Codes | None = None
        self._saved = 0
        self._tried = False
        self._width = _WIDTH
        self._unsure = 0
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(reference()))

    @property
    def seen(self) -> int:
        """The change sequence up to which it is complete; 0 while there is none."""
        codes = self._codes
        return codes.seen if codes else 0

    @property
    def size(self) -> int:
        """About how many vectors can be found by it."""
        codes = self._codes
        return len(codes.items) - codes.gone if codes else 0

    def stale(self, moment: Moment) -> bool:
        """Whether it should be made anew: a quarter is gone, or something was erased for good."""
        codes = self._codes
        return codes is not None and (
            codes.gone * 4 > len(codes.items) or codes.scrubs != moment.scrubs
        )

    def prepare(self, db: sqlite3.Connection, moment: Moment, dims: int) -> None:
        """See that there is something to search: the snapshot, or else nothing taken in yet."""
        self.load(db, dims)
        with self._lock:
            codes = self._codes
            # One that does not know its items was interrupted as it took some in.
            whole = codes is not None and codes.index.ntotal == len(codes.items)
            if codes is None or codes.index.d != dims or not whole:
                self._codes = _empty(_sample(db, dims), moment.scrubs)

    def load(self, db: sqlite3.Connection, dims: int) -> None:
        """Load the snapshot, if there is no index yet and it fits."""
        with self._lock:
            if self._codes is None and not self._tried:
                self._tried = True
                self._load(db, dims)

    def search(
        self, db: sqlite3.Connection, query: Matrix, limit: int, wanted: Wanted
    ) -> dict[int, float] | None:
        """Return the nearest items by cosine, best first; of an item's vectors the best counts.

        None if too few of the nearest may be found; then another way is quicker.

        Args:
            db: A reading connection; what it sees is found.
            query: A unit vector, [dims].
            limit: Most items.
            wanted: What may be found.
        """
        with self._lock:
            codes = self._codes
            assert codes is not None
            self._extend(db, codes)
            if self._unsure:
                self._unsure -= 1
                return None
            total, items = len(codes.items), codes.items
            restricted = wanted.namespaces is not None or wanted.fits is not None
            most = _MOST_READ * (4 if restricted else 1)
            # To widen is to scan once more, so that it begins with what was enough lately.
            width = max(self._width, 4 * limit)
            first = max(FIRST_READ, 2 * limit, self._width // 4)
            found: dict[int, float] = {}
            enough = 0
            while total:
                width = min(width, total)
                guesses, places = _search(codes.index, query, width)
                near = items[places]
                found, enough = read_nearest(db, query, near, guesses, limit, first, wanted)
                if width == total or enough:
                    break
                if width >= most:
                    if not restricted and total <= _SURE:
                        self._unsure = _GIVE_UP
                    if len(found) < limit or total <= _SURE:
                        return None
                    break
                width *= 4
            self._width = max(_WIDTH, 2 * (enough or width), self._width * 15 // 16)
            self._width = min(self._width, _MOST_READ)
            if len(found) < limit:
                return None  # Its scan may leave out a few when nearly all are asked for.
            best = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
            return dict(best[:limit])

    def build(
        self, read: Callable[[], AbstractContextManager[sqlite3.Connection]], dims: int
    ) -> Iterator[int]:
        """Bring the index up to the rows in short steps; made anew if it is stale.

        Args:
            read: Returns a context with a reading connection.
            dims: Length of the vectors.

        Yields:
            How far it has come, after each step.
        """
        with read() as db:
            moment = moment_of(db)
            with self._lock:
                # At once for all: whoever searches meanwhile takes in the rest of it.
                self.prepare(db, moment, dims)
                fresh = self.stale(moment)
                codes = _empty(_sample(db, dims), moment.scrubs) if fresh else self._codes
                assert codes is not None
        more = True
        try:
            while more:
                with read() as db, nullcontext() if fresh else self._lock:
                    more = _take(db, codes, _BATCH)
                yield codes.seen
        finally:
            # What there is serves, also when it was left off half way.
            with self._lock:
                if fresh and (self._codes is None or self._codes.seen <= codes.seen):
                    self._codes = codes

    def save(self, db: sqlite3.Connection) -> None:
        """Write a snapshot if enough has changed; a failure costs only time at the next start."""
        import faiss

        with self._lock:
            codes = self._codes
            if codes is None or abs(codes.seen - self._saved) < _WORTH_SAVING:
                return
            if codes.scrubs != moment_of(db).scrubs:
                return  # It still knows what is to be gone from the disk.
            payload = faiss.serialize_index(codes.index).tobytes()
            if write_snapshot(self._file, db, payload, codes.items, codes.seen):
                self._saved = codes.seen

    def clear(self) -> None:
        """Forget everything; the snapshot is somebody else's to remove."""
        with self._lock:
            self._codes, self._saved, self._tried = None, 0, True

    def after_fork(self) -> None:
        """Begin anew in a child: another thread may have been amid a change, with the lock."""
        self._lock = threading.RLock()
        self._codes, self._saved, self._tried = None, 0, False

    def _extend(self, db: sqlite3.Connection, codes: _Codes) -> None:
        while _take(db, codes, _BATCH):
            pass

    def _load(self, db: sqlite3.Connection, dims: int) -> None:
        import faiss

        found = read_snapshot(self._file, db)
        if found is None:
            return
        payload, items, seen = found
        try:
            index = faiss.deserialize_index(payload)
            inner: Any = faiss.downcast_index(index).index  # type: ignore[attr-defined]
            inner = faiss.downcast_index(inner)
        except (RuntimeError, AttributeError):
            # Whatever is wrong with a cache, the rows are the truth.
            return
        if index.d == dims and index.ntotal == len(items):
            inner.qb = _QUERY_BITS
            self._codes = _Codes(index, items, moment_of(db).scrubs, seen)
            self._saved = seen


def _forked(index: FaissIndex | None) -> None:
    if index is not None:
        index.after_fork()


def _empty(sample: Matrix, scrubs: int) -> _Codes:
    import faiss

    dims = sample.shape[1]
    with one_thread():  # Also for a child of a fork, in which FAISS's other threads are missing.
        turn = faiss.RandomRotationMatrix(dims, dims)
        turn.init(_TURN)
        codes: Any = faiss.IndexRaBitQFastScan(dims, faiss.METRIC_INNER_PRODUCT)
        codes.qb = _QUERY_BITS
        index = faiss.IndexPreTransform(turn, codes)
        index.train(sample)
    return _Codes(index, np.zeros(0, dtype=np.int64), scrubs)


def _sample(db: sqlite3.Connection, dims: int) -> Matrix:
    first, last = db.execute(
        "SELECT (SELECT coalesce(min(id), 0) FROM items), (SELECT coalesce(max(id), 0) FROM items)"
    ).fetchone()
    numbers = range(first, last + 1, max(1, (last - first) // _TRAIN))[:_TRAIN]
    rows: list[Any] = []
    # One by one: to look through the table is to read all of it.
    for start in range(0, len(numbers), PLACES):
        part = numbers[start : start + PLACES]
        rows += db.execute(READ, (*part, *[-1] * (PLACES - len(part)), 0))
    matrix = unpack_many(rows, dims)[2]
    return np.ascontiguousarray(matrix) if len(matrix) else np.eye(dims, dtype=np.float32)


def _take(db: sqlite3.Connection, codes: _Codes, most: int) -> bool:
    """Take in up to `most` items; return whether there may be more."""
    dims = codes.index.d
    newest = moment_of(db).newest
    if newest <= codes.seen:
        return False
    rows = db.execute(
        "SELECT id, kinds, vectors FROM items WHERE id > ? ORDER BY id LIMIT ?", (codes.seen, most)
    ).fetchall()
    items, _, matrix = unpack_many(rows, dims)
    if len(items):
        with one_thread():
            codes.index.add(np.ascontiguousarray(matrix))
        codes.items = np.concatenate([codes.items, items])
    before, codes.seen = codes.seen, rows[-1][0] if len(rows) == most else newest
    codes.gone += db.execute(
        "SELECT count(*) FROM tombstones WHERE seq > ? AND seq <= ? AND item <= ?",
        (before, codes.seen, before),
    ).fetchone()[0]
    return len(rows) == most


def _search(index: Any, query: Matrix, width: int) -> tuple[Matrix, NDArray[np.int64]]:
    with one_thread():
        scores, places = index.search(query[None, :], width)
    known = places[0] >= 0
    return scores[0][known], places[0][known]
