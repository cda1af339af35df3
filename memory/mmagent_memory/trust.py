"""How far likeness of vectors can be trusted, told from the memories themselves.

Turns that follow each other in a conversation are about the same thing more often than turns taken
anywhere. An embedder that is good on these memories makes such pairs more alike than others; for a
useless one they are like any pair. The difference, in standard deviations of any pairs (the
sensitivity index d' of signal detection), is high for good vectors and zero for noise, and needs
no labels. With weak vectors a fusion is worse than words alone unless they are weighed by this.

Cosines also spread differently: those of few dimensions widely, those of large models narrowly.
Their weight is so that one standard deviation counts the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["trust"]

_USUAL = 2.0
"""d' of all-MiniLM-L6-v2 on public dialogues; also what is assumed before there is evidence."""
_DOUBT = 10
"""Pairs of evidence that weigh as much as the assumption."""
_SPREAD = 0.12
"""Standard deviation of its cosines there."""
_LEAST_SPREAD = 0.05
_MOST = 3.0


def trust(
    vectors: Sequence[NDArray[np.float32] | None],
    pairs: Sequence[tuple[int, int]],
    meaning: Sequence[float | None],
    words: Sequence[float | None],
) -> float:
    """Return a factor for the weight of likeness: 0 for noise, 1 for vectors of usual worth.

    Args:
        vectors: Of each candidate, if known.
        pairs: Places of candidates that follow each other in a conversation.
        meaning: Cosine of each candidate to the question.
        words: How well each fits by words; the evidence where vectors are not known.
    """
    cosines = np.array([value for value in meaning if value is not None], dtype=np.float64)
    if len(cosines) < 3:
        return 1.0
    spread = max(float(cosines.std()), _LEAST_SPREAD)
    sense = _of_pairs(vectors, pairs)
    if sense is None:
        sense = _of_words(meaning, words, float(cosines.mean()), float(cosines.std()))
    return float(min((max(sense, 0.0) / _USUAL) ** 2 * _SPREAD / spread, _MOST))


def _of_pairs(
    vectors: Sequence[NDArray[np.float32] | None], pairs: Sequence[tuple[int, int]]
) -> float | None:
    """Return d' of turns that follow each other; None where no vectors are known."""
    known = {place: vector for place, vector in enumerate(vectors) if vector is not None}
    if len(known) < 3:
        return None
    number = {place: row for row, place in enumerate(known)}
    # Double precision once, and not in each product.
    matrix = np.concatenate(list(known.values()), dtype=np.float64).reshape(len(known), -1)
    # Every pair would cost the square; some evenly spread distances tell the same.
    steps = sorted({max(1, len(known) * part // 11) for part in range(1, 6)})
    anywhere = np.concatenate([_cosines(matrix[:-step], matrix[step:]) for step in steps])
    near = [(number[a], number[b]) for a, b in pairs if a in number and b in number]
    if not near:
        return _USUAL
    later, before = (list(column) for column in zip(*near, strict=True))
    following = _cosines(matrix[later], matrix[before])
    found = (following.mean() - anywhere.mean()) / max(float(anywhere.std()), 1e-6)
    return float((len(near) * found + _DOUBT * _USUAL) / (len(near) + _DOUBT))


def _cosines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    cosines: NDArray[np.float64] = np.einsum("ij,ij->i", one, other)
    return cosines


def _of_words(
    meaning: Sequence[float | None], words: Sequence[float | None], mean: float, deviation: float
) -> float:
    """Return how much more alike the question is what words find too, made comparable to d'.

    One question says little, so that half of it is the assumption.
    """
    both = [
        (word, like)
        for word, like in zip(words, meaning, strict=True)
        if word is not None and word > 0 and like is not None
    ]
    if not both or deviation <= 0:
        return _USUAL
    weights = np.square([word for word, _ in both])
    found = float(np.average([like for _, like in both], weights=weights) - mean) / deviation
    return (found / 0.75 + _USUAL) / 2
