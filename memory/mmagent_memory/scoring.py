"""Which vectors of a block are nearest to a question: exact, in memory, on one thread."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.blocks import View
from mmagent_memory.dots import dots
from mmagent_memory.embedding import Matrix
from mmagent_memory.rows import IMAGE, TEXT

__all__ = ["nearest", "products", "similarities"]

_BY_NUMPY = 1500
"""Vectors up to which numpy is as fast, and FAISS need not be loaded."""


def similarities(
    blocks: list[View], query: Matrix, kinds: tuple[int, ...] = (TEXT, IMAGE)
) -> tuple[NDArray[np.int64], Matrix]:
    """Return every item with a vector, [n], and its cosine to a question, [n].

    Of an item's vectors the best counts.

    Args:
        blocks: As from `Reader.vectors`.
        query: A unit vector, [dims].
        kinds: Which vectors count.
    """
    numbers, scores = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    for items, of_kind, matrix, _ in blocks:
        similar = products(matrix, query)
        keep = items != 0
        if len(kinds) == 1:
            keep &= of_kind == kinds[0]
        if not keep.all():
            items, similar = items[keep], similar[keep]
        if len(items):
            # The vectors of one item follow each other.
            starts = np.flatnonzero(np.diff(items, prepend=-1))
            numbers.append(items[starts])
            scores.append(np.maximum.reduceat(similar, starts))
    return np.concatenate(numbers), np.concatenate(scores)


def products(matrix: Matrix, query: Matrix, rows: int | None = None) -> Matrix:
    """Return the inner product of each row with a vector, [n]; always on one thread.

    Args:
        matrix: [n, dims].
        query: [dims].
        rows: How many rows there are where these are a part of them: the last bits of a product
            must not depend on what it is compared with.
    """
    if (len(matrix) if rows is None else rows) < _BY_NUMPY:
        return dots(matrix, query)
    import faiss

    found: Matrix = np.empty(len(matrix), dtype=np.float32)
    faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
        faiss.swig_ptr(found),
        faiss.swig_ptr(np.ascontiguousarray(query)),
        faiss.swig_ptr(matrix),
        matrix.shape[1],
        len(matrix),
    )
    return found


def nearest(
    blocks: list[View],
    query: Matrix,
    *,
    limit: int,
    allowed: Collection[int] | None = None,
    expired: NDArray[np.int64] | None = None,
) -> dict[int, float]:
    """Return the nearest items by cosine, best first, exactly.

    Args:
        blocks: As from `Reader.vectors`.
        query: A unit vector, [dims].
        limit: Most items.
        allowed: Items that may be found; None for all.
        expired: Items that may not.
    """
    if limit <= 0:
        return {}
    if allowed is None and len(blocks) == 1 and (expired is None or not len(expired)):
        quick = _nearest_of_block(blocks[0], query, limit)
        if quick is not None:
            return quick
    numbers, scores = similarities(blocks, query)
    keep = np.ones(len(numbers), dtype=bool)
    if allowed is not None:
        keep &= np.isin(numbers, np.fromiter(allowed, dtype=np.int64))
    if expired is not None and len(expired):
        keep &= ~np.isin(numbers, expired)
    numbers, scores = numbers[keep], scores[keep]
    if len(numbers) > 4 * limit:
        # Everything that ties with the last one stays, so that ties fall by number below.
        least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        top = scores >= least
        numbers, scores = numbers[top], scores[top]
    order = np.lexsort((numbers, -scores))[:limit]
    return {int(numbers[place]): float(scores[place]) for place in order}


def _nearest_of_block(block: View, query: Matrix, limit: int) -> dict[int, float] | None:
    """Return the nearest items of one block; None if that takes a closer look."""
    items, _, matrix, coarse = block
    # Some more, since an item may have several vectors, or be gone.
    some = 2 * limit + 16
    near = coarse.nearest(matrix, query, limit, 2 * some) if coarse is not None else None
    if near is not None:
        places, above = near
        scores = products(matrix[places], query, len(matrix))
        found = _first(items[places], scores, limit)
        if len(found) == limit and min(found.values()) > above:
            return found
    scores = products(matrix, query)
    if len(scores) <= some:
        return _first(items, scores, limit)
    places = np.argpartition(scores, len(scores) - some)[len(scores) - some :]
    found = _first(items[places], scores[places], limit)
    # Else there are too few, or what was cut off may tie with the last.
    return found if len(found) == limit and min(found.values()) > scores[places[0]] else None


def _first(items: NDArray[np.int64], scores: Matrix, limit: int) -> dict[int, float]:
    """Return the first items, best first; ties fall by number."""
    found: dict[int, float] = {}
    for score, item in sorted(zip((-scores).tolist(), items.tolist(), strict=True)):
        if item and item not in found:
            found[item] = -score
            if len(found) == limit:
                break
    return found
