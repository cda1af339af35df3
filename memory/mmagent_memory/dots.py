"""Inner products on one thread: what a search of some hundred vectors needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dots"]

_VECDOT: Any = getattr(np, "vecdot", None)
"""Row by row; numpy before version 2 has none."""


def dots(matrix: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the inner product of each row with a vector, [n].

    `matrix @ vector` asks a thread pool from a hundred rows on. That is no faster where memory is
    the limit, and beside other work each search waits for its slowest thread. A row's product
    does not depend on the other rows here.
    """
    found: NDArray[np.float32] = (
        np.einsum("ij,j->i", matrix, vector) if _VECDOT is None else _VECDOT(matrix, vector)
    )
    return found
