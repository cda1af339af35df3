"""Ranking what was found: signals become one score with named parts. Pure: no store, no I/O.

The score of a memory is the sum of how well it fits by itself (words, meaning, pictures, who said
it, when), how well its conversation fits (the best of the same thread and day), how well its
neighbours in that conversation fit, and small amounts for recency and importance that decide
between near equals. Then what repeats a better memory falls back (maximal marginal relevance,
Carbonell and Goldstein 1998).

Likeness of vectors counts as far as the vectors are worth: see `trust`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.dots import dots
from mmagent_memory.trust import trust

__all__ = ["Ranked", "Signals", "Wanted", "Weights", "rank"]

Column = NDArray[np.float64]


@dataclass(slots=True)  # Not frozen, which makes them three times as slow to make.
class Signals:
    """What is known of one candidate; None where a signal does not exist.

    Attributes:
        words: BM25 of full text; more is better.
        meaning: Cosine of the question to the nearest text of the memory.
        picture: Cosine of the question, or of its picture, to the nearest picture.
        parts: For each part of the question, BM25 and cosine.
        on_date: Whether it is of a time that the question names.
        shows: Whether a picture was shown with it.
        told: Whether who said it is the one whose words are asked for.
        only_asks: Whether it tells nothing and only asks.
        ended: Whether it is a fact that holds no more.
        age_days: How long ago it was, at the time of the question.
        importance: 0–1.
        name: What tells it from all others.
        previous: The name of what was said before it.
        group: Its conversation: the same thread on the same day.
        order: Rises with every memory written.
        vector: A unit vector for telling near-duplicates apart.
    """

    words: float | None = None
    meaning: float | None = None
    picture: float | None = None
    parts: tuple[tuple[float | None, float | None], ...] = ()
    on_date: bool = False
    shows: bool = False
    told: bool = False
    only_asks: bool = False
    ended: bool = False
    age_days: float | None = None
    importance: float | None = None
    name: Hashable = None
    previous: Hashable = None
    group: Hashable = None
    order: int = 0
    vector: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Wanted:
    """What a question asks for beyond its words.

    Attributes:
        picture: Something that was shown.
        latest: How it is now, or how it ended.
        first: How it was at first.
        when: A time, or an order in time.
    """

    picture: bool = False
    latest: bool = False
    first: bool = False
    when: bool = False


@dataclass(frozen=True)
class Weights:
    """How much each signal counts. Chosen once, by cross-validation over public dialogues.

    `told` counts by itself and as a share of how well a memory fits, `only_asks` and
    `ended` as such shares; the others are amounts.
    """

    words: float = 1.0
    meaning: float = 2.0
    picture: float = 0.5
    parts: float = 0.6
    date: float = 0.5
    shows: float = 0.2
    told: float = 0.2
    only_asks: float = 0.5
    ended: float = 0.5
    sequence: float = 0.5
    opening: float = 0.4
    conversation: float = 1.0
    neighbours: float = 0.2
    recency: float = 0.02
    half_life_days: float = 30.0
    importance: float = 0.05
    diversity: float = 0.02


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


def rank(
    candidates: Sequence[Signals], k: int, weights: Weights, wanted: Wanted | None = None
) -> list[Ranked]:
    """Return the best k candidates, best first.

    Words count as parts of the best match, likeness as it is: a question that nothing is like
    is answered by its words.
    """
    if not candidates or k <= 0:
        return []
    wanted = wanted or Wanted()
    pairs = _pairs(candidates)
    worth = trust(
        [c.vector for c in candidates],
        pairs,
        [c.meaning for c in candidates],
        [c.words for c in candidates],
    )
    counted = replace(weights, meaning=weights.meaning * worth)
    columns = {
        "words": counted.words * _of_best([c.words for c in candidates]),
        "meaning": counted.meaning * _positive([c.meaning for c in candidates]),
        "picture": counted.picture * _positive([c.picture for c in candidates]),
        "parts": counted.parts * _best_part(candidates, counted),
        "date": counted.date * _numbers([c.on_date for c in candidates]),
        "shows": counted.shows * wanted.picture * _numbers([c.shows for c in candidates]),
    }
    fits = np.sum(list(columns.values()), axis=0)
    columns["speaker"] = counted.told * _numbers([c.told for c in candidates]) * (1.0 + fits)
    columns["question"] = -counted.only_asks * _numbers([c.only_asks for c in candidates]) * fits
    columns["ended"] = -counted.ended * _numbers([c.ended for c in candidates]) * fits
    alone = np.sum(list(columns.values()), axis=0)
    of_group = _of_group(candidates, alone)
    columns["conversation"] = counted.conversation * of_group
    columns["neighbours"] = counted.neighbours * _of_neighbours(
        pairs, alone + columns["conversation"]
    )
    columns |= _of_place(candidates, of_group, counted, wanted)
    ages = [np.inf if c.age_days is None else max(0.0, c.age_days) for c in candidates]
    columns["recency"] = weights.recency * 0.5 ** (np.array(ages) / weights.half_life_days)
    columns["importance"] = weights.importance * _numbers([c.importance for c in candidates])
    total = np.sum(list(columns.values()), axis=0)
    chosen: list[Ranked] = []
    for place, penalty in _diverse(candidates, total, k, weights.diversity):
        parts = {name: float(column[place]) for name, column in columns.items() if column[place]}
        if penalty:
            parts["repetition"] = -penalty
        signals = candidates[place]
        raw = {"trust": worth} if signals.meaning is not None else {}
        raw |= {
            name: float(value)
            for name in ("words", "meaning", "picture", "age_days", "importance")
            if (value := getattr(signals, name)) is not None
        }
        chosen.append(Ranked(place, float(sum(parts.values())), parts, raw))
    return chosen


def _numbers(values: Sequence[float | None]) -> Column:
    return np.array([float(value or 0.0) for value in values])


def _of_best(values: Sequence[float | None]) -> Column:
    """Return values as parts of the best one; 0 where there is none."""
    numbers = _numbers(values)
    best = float(numbers.max())
    return numbers / best if best > 0 else np.zeros(len(values))


def _positive(values: Sequence[float | None]) -> Column:
    """Return cosines as they are, so that a weak likeness stays weak; 0 where there is none."""
    return np.maximum(_numbers(values), 0.0)


def _best_part(candidates: Sequence[Signals], weights: Weights) -> Column:
    """Return how well each fits the part of the question that it fits best."""
    best = np.zeros(len(candidates))
    for number in range(max(len(c.parts) for c in candidates)):
        words = _of_best([c.parts[number][0] for c in candidates])
        meaning = _positive([c.parts[number][1] for c in candidates])
        best = np.maximum(best, weights.words * words + weights.meaning * meaning)
    return best


def _of_group(candidates: Sequence[Signals], scores: Column) -> Column:
    """Return for each the mean of the best three of its conversation."""
    places: dict[Hashable, list[int]] = {}
    for place, candidate in enumerate(candidates):
        places.setdefault(candidate.group, []).append(place)
    if len(places) < 2:
        return np.zeros(len(candidates))  # One conversation: nothing to tell apart.
    found = np.zeros(len(candidates))
    for members in places.values():
        found[members] = np.sort(scores[members])[-3:].mean()
    return found


def _of_neighbours(pairs: Sequence[tuple[int, int]], scores: Column) -> Column:
    """Return for each the better of the turns before and after it in the same conversation."""
    found = np.zeros(len(scores))
    for place, before in pairs:
        found[place] = max(found[place], scores[before])
        found[before] = max(found[before], scores[place])
    return found


def _pairs(candidates: Sequence[Signals]) -> list[tuple[int, int]]:
    """Return the places of turns of one conversation that follow each other, the later first."""
    place_of = {c.name: place for place, c in enumerate(candidates) if c.name is not None}
    found = []
    for place, candidate in enumerate(candidates):
        before = place_of.get(candidate.previous) if candidate.previous is not None else None
        if before is not None and candidates[before].group == candidate.group:
            found.append((place, before))
    return found


def _of_place(
    candidates: Sequence[Signals], of_group: Column, weights: Weights, wanted: Wanted
) -> dict[str, Column]:
    """Return what the place within a conversation that fits is worth.

    How something ended stands late in it, how it began early; what a conversation is about, and
    so when something happened, its first turn tells.
    """
    best = float(of_group.max())
    if best <= 0:
        return {}
    found = {}
    fit = of_group / best
    sense = wanted.latest - wanted.first
    if sense:
        places: dict[Hashable, list[int]] = {}
        for place, candidate in enumerate(candidates):
            places.setdefault(candidate.group, []).append(place)
        late = np.full(len(candidates), 0.5)
        for members in places.values():
            members.sort(key=lambda place: candidates[place].order)
            if len(members) > 1:
                late[members] = np.linspace(0.0, 1.0, len(members))
        found["sequence"] = weights.sequence * sense * (late - 0.5) * fit
    if wanted.when:
        opens = _numbers([c.name is not None and c.previous is None for c in candidates])
        found["opening"] = weights.opening * opens * fit
    return found


def _diverse(
    candidates: Sequence[Signals], scores: Column, k: int, weight: float
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
        every = [zero if vector is None else vector for vector in vectors]
        matrix = np.concatenate(every).reshape(len(every), -1)
    for _ in range(min(k, len(candidates))):
        place = int(np.argmax(np.where(left, scores - penalty, -np.inf)))
        chosen.append((place, float(penalty[place])))
        left[place] = False
        if matrix is not None:
            penalty = np.maximum(penalty, weight * np.clip(dots(matrix, matrix[place]), 0.0, 1.0))
    return chosen
