"""Ranking what was found: signals become one score with named parts. Pure: no store, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranked", "Signals", "Weights", "rank"]


@dataclass(frozen=True)
class Signals:
    """What is known of one candidate; None where a signal does not exist.

    Attributes:
        words: BM25 of full text; more is better.
        meaning: Cosine of the question to the nearest text of the memory.
        picture: Cosine of the question, or of its picture, to the nearest picture.
        age_days: How long ago it was, at the time of the question.
        importance: 0–1.
        vector: A unit vector for telling near-duplicates apart.
    """

    words: float | None = None
    meaning: float | None = None
    picture: float | None = None
    age_days: float | None = None
    importance: float | None = None
    vector: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Weights:
    """How much each signal counts; recency and importance only decide between near equals."""

    words: float = 1.0
    meaning: float = 1.0
    picture: float = 0.5
    recency: float = 0.02
    half_life_days: float = 30.0
    importance: float = 0.05
    diversity: float = 0.05


@dataclass(frozen=True)
class Ranked:
    """A candidate's place in the list given, its score, and why: `parts` add up to `score`."""

    place: int
    score: float
    parts: dict[str, float]
    raw: dict[str, float]

    def explain(self) -> dict[str, Any]:
        """Return the score's parts for JSON."""
        return {"parts": self.parts, "raw": self.raw}


def rank(candidates: Sequence[Signals], k: int, weights: Weights) -> list[Ranked]:
    """Return the best k candidates, best first.

    Words count as parts of the best match, likeness as it is: a question that nothing is like
    is answered by its words.
    """
    if not candidates or k <= 0:
        return []
    columns = {
        "words": weights.words * _of_best([c.words for c in candidates]),
        "meaning": weights.meaning * _positive([c.meaning for c in candidates]),
        "picture": weights.picture * _positive([c.picture for c in candidates]),
        "recency": weights.recency
        * np.array(
            [
                0.0
                if c.age_days is None
                else 0.5 ** (max(0.0, c.age_days) / weights.half_life_days)
                for c in candidates
            ]
        ),
        "importance": weights.importance * np.array([c.importance or 0.0 for c in candidates]),
    }
    base = np.sum(list(columns.values()), axis=0)
    chosen: list[Ranked] = []
    for place, penalty in _diverse(candidates, base, k, weights.diversity):
        parts = {name: float(column[place]) for name, column in columns.items() if column[place]}
        if penalty:
            parts["repetition"] = -penalty
        signals = candidates[place]
        raw = {
            name: float(value)
            for name in ("words", "meaning", "picture", "age_days", "importance")
            if (value := getattr(signals, name)) is not None
        }
        chosen.append(Ranked(place, float(sum(parts.values())), parts, raw))
    return chosen


def _of_best(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return values as parts of the best one; 0 where there is none."""
    numbers = np.array([value or 0.0 for value in values])
    best = float(numbers.max())
    return numbers / best if best > 0 else np.zeros(len(values))


def _positive(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return cosines as they are, so that a weak likeness stays weak; 0 where there is none."""
    return np.array([max(0.0, value or 0.0) for value in values])


def _diverse(
    candidates: Sequence[Signals], base: NDArray[np.float64], k: int, weight: float
) -> list[tuple[int, float]]:
    """Return (place, penalty) one by one: what repeats something chosen already falls back."""
    penalty = np.zeros(len(candidates))
    left = np.ones(len(candidates), dtype=bool)
    chosen: list[tuple[int, float]] = []
    vectors = [candidate.vector for candidate in candidates]
    some = next((vector for vector in vectors if vector is not None), None)
    matrix = None
    if some is not None and weight:
        zero = np.zeros_like(some)
        matrix = np.stack([zero if vector is None else vector for vector in vectors])
    for _ in range(min(k, len(candidates))):
        place = int(np.argmax(np.where(left, base - penalty, -np.inf)))
        chosen.append((place, float(penalty[place])))
        left[place] = False
        if matrix is not None:
            penalty = np.maximum(penalty, weight * np.clip(matrix @ matrix[place], 0.0, 1.0))
    return chosen
