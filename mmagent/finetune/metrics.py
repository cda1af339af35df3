"""How good answers are: shares, overlaps, and how sure one can be of them.

chrF is the mean over n-gram orders of the F-score (beta 2) of character n-grams without white
space; ROUGE-L the F-score of the longest common subsequence of words. Both are a few lines; the
packages that compute them bring dozens of megabytes along.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Estimate", "chrf", "exact_match", "mean", "rouge_l", "share", "token_f1"]

_WORD = re.compile(r"\w+|[^\w\s]")
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af])")


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval.

    Attributes:
        value: The mean.
        low: Lower end of the interval.
        high: Upper end.
        count: Of how many.
    """

    value: float
    low: float
    high: float
    count: int

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


def share(hits: int, count: int) -> Estimate:
    """A share with Wilson's interval."""
    if not count:
        return Estimate(math.nan, 0.0, 1.0, 0)
    z, p = 1.959964, hits / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), count)


def mean(values: Sequence[float], weights: Sequence[float] | None = None) -> Estimate:
    """A (weighted) mean with a bootstrap interval, the same for the same values."""
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0)
    weights = weights or [1.0] * len(values)

    def weighted(places: Sequence[int]) -> float:
        total = sum(weights[i] for i in places)
        return sum(values[i] * weights[i] for i in places) / total if total else math.nan

    draw = random.Random(0)
    every = range(len(values))
    found = sorted(weighted(draw.choices(every, k=len(values))) for _ in range(400))
    return Estimate(weighted(every), found[9], found[389], len(values))


def words(text: str) -> list[str]:
    """Words in lower case; Chinese and Japanese by characters."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_CJK.sub(r" \1 ", text))


def _plain(text: str) -> list[str]:
    return [word for word in words(text) if re.match(r"\w", word)]


def exact_match(answer: str, reference: str) -> bool:
    """Whether the words are the same, whatever the case and the punctuation."""
    return _plain(answer) == _plain(reference)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words that both have."""
    said, wanted = _plain(answer), _plain(reference)
    if not said or not wanted:
        return float(said == wanted)
    both = sum((Counter(said) & Counter(wanted)).values())
    return 2 * both / (len(said) + len(wanted))


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words."""
    said, wanted = _plain(answer), _plain(reference)
    if not said or not wanted:
        return float(said == wanted)
    row = [0] * (len(wanted) + 1)
    for word in said:
        before = 0
        for place, other in enumerate(wanted, start=1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return 2 * row[-1] / (len(said) + len(wanted))


def chrf(answer: str, reference: str, order: int = 6, beta: float = 2.0) -> float:
    """Character n-gram F-score, 0–1, as sacreBLEU's chrF2 computes it for one sentence."""
    said, wanted = "".join(answer.split()), "".join(reference.split())
    precision = recall = 0.0
    orders = 0
    for n in range(1, order + 1):
        mine = Counter(said[i : i + n] for i in range(len(said) - n + 1))
        theirs = Counter(wanted[i : i + n] for i in range(len(wanted) - n + 1))
        if not mine or not theirs:
            continue
        both = sum((mine & theirs).values())
        precision += both / sum(mine.values())
        recall += both / sum(theirs.values())
        orders += 1
    if not orders or not precision + recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
