"""The vectors of a block once more, as bytes: a quarter to read where reading is what takes time.

Products of bytes are off by no more than the lengths of what rounding took from the vectors and
from the question (Cauchy and Schwarz). So the best by bytes, multiplied again as they are, are
the nearest for certain as soon as the last that is wanted is better than anything left out can
be. Where that cannot be told, every vector is compared as it is.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.embedding import Matrix
from mmagent_memory.threads import one_thread

__all__ = ["Coarse"]

_FROM = 4096
"""Vectors from which this is quicker than to multiply them as they are."""
_ASKED = 2
"""Searches before the bytes are made: who asks once should not wait for that."""
_BATCH = 256
"""Rows that are rounded at a time, so that it takes little memory."""
_MIDDLE = 128
_LARGEST = 127
_SLACK = 1e-5
"""More than what float32 may be off in a product of unit vectors."""


class Coarse:
    """Bytes that follow the matrix of one block, whose rows are only ever added to.

    Attributes:
        allowed: Whether there is memory for them.
    """

    def __init__(self) -> None:
        self.allowed = True
        self._lock = threading.Lock()
        self._asked = 0
        self._index: Any = None
        self._scale = 0.0
        self._off = 0.0
        self._longest = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that it holds in memory."""
        index = self._index
        return index.ntotal * index.d if index is not None else 0

    def nearest(
        self, matrix: Matrix, query: Matrix, wanted: int, width: int
    ) -> tuple[NDArray[np.int64], float] | None:
        """Return about the nearest rows, and a product that no other row is above.

        None where comparing every row is no slower.

        Args:
            matrix: [n, dims] what is in use of the block's.
            query: [dims].
            wanted: How many rows are wanted in the end.
            width: Most rows that are given for them.
        """
        if len(matrix) < max(_FROM, 4 * width):
            return None
        with self._lock:
            self._asked += 1
            if self._asked <= _ASKED or not (self.allowed or self._index is not None):
                return None
            self._follow(matrix)
            largest = max(float(query.max()), -float(query.min()))
            if not largest or not self._scale:
                return None
            scale = _LARGEST / largest
            rounded: Matrix = np.rint(query * np.float32(scale))
            with one_thread():
                products, places = self._index.search(rounded[None, :], width + 1)
            products, places = products[0], places[0]
            per = scale * self._scale
            left = query * np.float32(scale) - rounded
            length, lost = (math.sqrt(float(np.dot(part, part))) for part in (rounded, left))
            off = (lost * self._longest + length * self._off) / scale
        # What is so far below the last one wanted is below it in truth too.
        least = float(products[wanted - 1]) - 2 * off * per
        upto = min(width, int(np.searchsorted(-products, -least, side="right")))
        # Another thread's view of the block may be of more rows than this one.
        near = places[:upto]
        return near[near < len(matrix)], float(products[upto]) / per + off + _SLACK

    def _follow(self, matrix: Matrix) -> None:
        known = self._index.ntotal if self._index is not None else 0
        if known >= len(matrix):
            return
        largest = max(float(np.abs(part).max()) for part in _parts(matrix[known:]))
        if self._index is None or largest * self._scale > _LARGEST + 0.4:
            self._begin(matrix.shape[1], max(largest, _LARGEST / self._scale if known else 0.0))
            known = 0
        if not self._scale:
            return  # Nothing but zeros.
        codes = np.empty((len(matrix) - known, matrix.shape[1]), dtype=np.uint8)
        for place, part in enumerate(_parts(matrix[known:])):
            rounded: Matrix = np.rint(part * np.float32(self._scale))
            left = part - rounded / np.float32(self._scale)
            self._off = max(self._off, math.sqrt(float(_squares(left).max())))
            self._longest = max(self._longest, math.sqrt(float(_squares(part).max())))
            codes[place * _BATCH : (place + 1) * _BATCH] = rounded + _MIDDLE
        self._index.add_sa_codes(codes)

    def _begin(self, dims: int, largest: float) -> None:
        import faiss

        kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
        self._index = faiss.IndexScalarQuantizer(dims, kind, faiss.METRIC_INNER_PRODUCT)
        self._scale = _LARGEST / largest if largest else 0.0
        self._off = self._longest = 0.0


def _parts(matrix: Matrix) -> list[Matrix]:
    return [matrix[start : start + _BATCH] for start in range(0, len(matrix), _BATCH)]


def _squares(matrix: Matrix) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64)
    return found
