"""The few statistics that reports need: shares with intervals, slopes, correlations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Share", "correlation", "slope"]


@dataclass(frozen=True)
class Share:
    """How many of how many."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.hits / self.total if self.total else None

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """The 95% interval of the share (Wilson 1927), which also holds near 0 and 1."""
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.hits / self.total
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def as_dict(self) -> dict[str, float | int | list[float] | None]:
        """The share for JSON."""
        value = self.value
        return {
            "hits": self.hits,
            "total": self.total,
            "value": None if value is None else round(value, 4),
            "interval": [round(end, 4) for end in self.interval()],
        }

    def __str__(self) -> str:
        if not self.total:
            return "-"
        low, high = self.interval()
        return f"{self.hits / self.total:.1%} ({low:.1%} to {high:.1%}) of {self.total}"


def slope(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The slope of the least-squares line; None where there is no line."""
    if len(set(xs)) < 2:
        return None
    return statistics.linear_regression(xs, ys).slope


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's correlation; None where one side does not vary."""
    if len(xs) < 3 or len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return statistics.correlation(xs, ys)
