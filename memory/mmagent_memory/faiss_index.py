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

import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.dots import dots
from mmagent_memory.embedding import Matrix
from mmagent_memory.moments import Moment, moment_of
from mmagent_memory.rows import unpack_many
from mmagent_memory.snapshots import SNAPSHOT, read_snapshot, write_snapshot

__all__ = ["SNAPSHOT", "FaissIndex", "Wanted"]

_BATCH = 2048
_TURN = 20261122
"""Seed of the random turn, which must be the same in every process."""
_TRAIN = 10_000
"""Vectors whose mean is taken for the centre."""
_QUERY_BITS = 8
_WORTH_SAVING = 5000
"""Vectors that must have changed before a snapshot is written again."""
_FIRST_READ = 64
_MOST_READ = 2048
"""Most items that are read for one search, unless a filter needs more."""
_SURE = 200_000
"""Vectors up to which every one is compared where estimates do not settle a search."""
_GIVE_UP = 100
"""Searches that compare every vector after one that estimates did not settle."""
_SPREADS = 2.0
"""How many standard errors of the estimates a vector that is not read may be off."""


@dataclass(frozen=True)
class Wanted:
    """What may be found.

    Attributes:
        now: Items that expire up to then may not.
        namespaces: The numbers of the namespaces; None for all.
        fits: Tells by the JSON of its value whether an item may be found; None for all.
    """

    now: int
    namespaces: set[int] | None = None
    fits: Callable[[str], bool] | None = None


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
        self._first_read = _FIRST_READ
        self._unsure = 0

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

    def ready(self, db: sqlite3.Connection, moment: Moment, dims: int, most: int) -> bool:
        """Whether it can be searched, at most so many changes behind; loads the snapshot."""
        self.load(db, dims)
        with self._lock:
            codes = self._codes
            if codes is None or codes.index.d != dims:
                self._codes = None
                return False
            return moment.newest - codes.seen <= most

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
            # What was enough lately is likely enough: to widen is to scan once more.
            width = max(self._first_read, 4 * limit)
            widened = False
            found: dict[int, float] = {}
            while total:
                width = min(width, total)
                guesses, places = _search(codes.index, query, width)
                near = items[places]
                found, told = _exact(db, query, near, wanted)
                if width == total or self._settled(found, told, near, guesses, limit):
                    break
                if width >= most:
                    if not restricted and total <= _SURE:
                        self._unsure = _GIVE_UP
                    if len(found) < limit or total <= _SURE:
                        return None
                    break
                width *= 4
                widened = True
            self._first_read = max(_FIRST_READ, width if widened else self._first_read * 15 // 16)
            self._first_read = min(self._first_read, _MOST_READ)
            if len(found) < limit:
                return None  # Its scan may leave out a few when nearly all are asked for.
            best = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
            return dict(best[:limit])

    @staticmethod
    def _settled(
        found: dict[int, float],
        told: dict[int, float],
        near: NDArray[np.int64],
        guesses: Matrix,
        limit: int,
    ) -> bool:
        """Whether what was not read cannot be nearer than what was found."""
        if len(found) < limit:
            return False
        least = sorted(found.values(), reverse=True)[limit - 1]
        there = [told.get(item, math.nan) for item in near.tolist()]
        errors = np.asarray(there, dtype=np.float32) - guesses
        errors = errors[~np.isnan(errors)]
        # Those that were read were guessed too near, being the nearest by the guess; the others
        # were not.
        farthest = float(guesses[-1] + max(errors.mean(), 0.0) + _SPREADS * errors.std())
        return farthest < least

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
                codes = None if self.stale(moment) else self._codes
            fresh = codes is None
            if codes is None:
                codes = _empty(_sample(db, dims), moment.scrubs)
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


def _empty(sample: Matrix, scrubs: int) -> _Codes:
    import faiss

    dims = sample.shape[1]
    turn = faiss.RandomRotationMatrix(dims, dims)
    turn.init(_TURN)
    codes: Any = faiss.IndexRaBitQFastScan(dims, faiss.METRIC_INNER_PRODUCT)
    codes.qb = _QUERY_BITS
    index = faiss.IndexPreTransform(turn, codes)
    with _one_thread():
        index.train(sample)
    return _Codes(index, np.zeros(0, dtype=np.int64), scrubs)


def _sample(db: sqlite3.Connection, dims: int) -> Matrix:
    newest = db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()[0]
    step = max(1, newest // _TRAIN)
    rows = db.execute(
        "SELECT id, kinds, vectors FROM items WHERE id % ? = 0 AND kinds != x'' LIMIT ?",
        (step, _TRAIN),
    ).fetchall()
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
        with _one_thread():
            codes.index.add(np.ascontiguousarray(matrix))
        codes.items = np.concatenate([codes.items, items])
    before, codes.seen = codes.seen, rows[-1][0] if len(rows) == most else newest
    codes.gone += db.execute(
        "SELECT count(*) FROM tombstones WHERE seq > ? AND seq <= ? AND item <= ?",
        (before, codes.seen, before),
    ).fetchone()[0]
    return len(rows) == most


def _search(index: Any, query: Matrix, width: int) -> tuple[Matrix, NDArray[np.int64]]:
    with _one_thread():
        scores, places = index.search(query[None, :], width)
    known = places[0] >= 0
    return scores[0][known], places[0][known]


def _exact(
    db: sqlite3.Connection, query: Matrix, near: NDArray[np.int64], wanted: Wanted
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the cosines of those items that may be found, and of all that are there."""
    restricted = wanted.namespaces is not None or wanted.fits is not None
    statement = _READ_ALL if restricted else _READ
    told: dict[int, float] = {}
    found: dict[int, float] = {} if restricted else told
    numbers = list(dict.fromkeys(near.tolist()))
    for start in range(0, len(numbers), _PLACES):
        part = numbers[start : start + _PLACES]
        rows = db.execute(statement, (*part, *[-1] * (_PLACES - len(part)), wanted.now)).fetchall()
        items, _, matrix = unpack_many(rows, len(query))
        if not len(items):
            continue
        scores = dots(matrix, query)
        if len(items) != len(rows):
            starts = np.flatnonzero(np.diff(items, prepend=-1))
            items, scores = items[starts], np.maximum.reduceat(scores, starts)
        told.update(zip(items.tolist(), scores.tolist(), strict=True))
        if not restricted:
            continue
        for number, _, _, namespace, value in rows:
            if number not in told:
                continue
            if wanted.namespaces is not None and namespace not in wanted.namespaces:
                continue
            if wanted.fits is None or wanted.fits(value):
                found[number] = told[number]
    return found, told


_PLACES = 64
_READ = (
    "SELECT id, kinds, vectors FROM items "  # noqa: S608
    f"WHERE id IN ({', '.join('?' * _PLACES)}) AND (expires IS NULL OR expires > ?)"
)
_READ_ALL = _READ.replace("vectors FROM", "vectors, ns, value FROM")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep FAISS to one thread: its pool makes small searches many times slower on busy cores."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
