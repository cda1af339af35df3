"""Rows that an index takes for near, read in its order until no other can be nearer."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.dots import dots
from mmagent_memory.embedding import Matrix
from mmagent_memory.rows import unpack_many

__all__ = ["FIRST_READ", "PLACES", "READ", "Wanted", "read_nearest"]

FIRST_READ = 64
"""Fewest items that are read at first; then half as many again, until the rest cannot be nearer."""
_SPREADS = 2.5
"""How many standard errors of the estimates a vector that is not read may be off."""
PLACES = 64
"""Numbers of items of one statement."""
READ = (
    "SELECT id, kinds, vectors FROM items "  # noqa: S608
    f"WHERE id IN ({', '.join('?' * PLACES)}) AND (expires IS NULL OR expires > ?)"
)
"""The vectors of items that have not expired."""
_READ_ALL = READ.replace("vectors FROM", "vectors, ns, value FROM")


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


def read_nearest(
    db: sqlite3.Connection,
    query: Matrix,
    near: NDArray[np.int64],
    guesses: Matrix,
    limit: int,
    first: int,
    wanted: Wanted,
) -> tuple[dict[int, float], int]:
    """Read what is likely nearest, until the rest cannot be nearer.

    Returns:
        The cosines of what may be found, and how many were read if that is enough, else 0.
    """
    found: dict[int, float] = {}
    told: dict[int, float] = {}
    upto = 0
    while upto < len(near):
        start, upto = upto, min(len(near), max(first, upto * 3 // 2))
        _exact(db, query, near[start:upto], wanted, found, told)
        if _settled(found, told, near[:upto], guesses[:upto], limit):
            return found, upto
    return found, 0


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


def _exact(
    db: sqlite3.Connection,
    query: Matrix,
    near: NDArray[np.int64],
    wanted: Wanted,
    found: dict[int, float],
    told: dict[int, float],
) -> None:
    """Add the cosines of those items that may be found, and of all that are there.

    Args:
        db: A reading connection.
        query: A unit vector.
        near: The items.
        wanted: What may be found.
        found: Items that may be found, with their cosines.
        told: All that are there.
    """
    restricted = wanted.namespaces is not None or wanted.fits is not None
    statement = _READ_ALL if restricted else READ
    numbers = [number for number in dict.fromkeys(near.tolist()) if number not in told]
    for start in range(0, len(numbers), PLACES):
        part = numbers[start : start + PLACES]
        rows = db.execute(statement, (*part, *[-1] * (PLACES - len(part)), wanted.now)).fetchall()
        items, _, matrix = unpack_many(rows, len(query))
        if not len(items):
            continue
        scores = dots(matrix, query)
        if len(items) != len(rows):
            starts = np.flatnonzero(np.diff(items, prepend=-1))
            items, scores = items[starts], np.maximum.reduceat(scores, starts)
        new = dict(zip(items.tolist(), scores.tolist(), strict=True))
        told.update(new)
        if not restricted:
            found.update(new)
            continue
        for number, _, _, namespace, value in rows:
            if number not in new:
                continue
            if wanted.namespaces is not None and namespace not in wanted.namespaces:
                continue
            if wanted.fits is None or wanted.fits(value):
                found[number] = new[number]
