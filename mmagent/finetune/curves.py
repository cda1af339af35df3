"""Plots of a run: curves of the loss, histograms of lengths. Files appear whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bars", "draw_curves", "draw_histogram", "figure"]

_BLUE, _ORANGE, _GREY = "#2f6fb3", "#d9822b", "#8a8f98"


@contextmanager
def figure(file: Path, width: float = 7.0, height: float = 4.0) -> Iterator[Any]:
    """A matplotlib axes to draw on; saved to `file` (PNG) afterwards. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    yield axes
    temporary = file.with_name(f".{file.name}.tmp")
    drawn.savefig(temporary, format="png", dpi=120)
    temporary.replace(file)


def draw_curves(
    history: Sequence[dict[str, Any]],
    file: Path,
    title: str = "",
    label: str = "loss on answers (nats a token)",
) -> bool:
    """Loss in training and validation by step, and the learning rate; False if there is nothing.

    Args:
        history: The trainer's notes (`log_history`).
        file: The PNG to write.
        title: Above the plot.
        label: Beside the plot.
    """
    losses = [(note["step"], note["loss"]) for note in history if "loss" in note]
    checked = [(note["step"], note["eval_loss"]) for note in history if "eval_loss" in note]
    rates = [(n["step"], n["learning_rate"]) for n in history if "learning_rate" in n]
    if not losses:
        return False
    with figure(file) as axes:
        steps, values = zip(*losses, strict=True)
        axes.plot(steps, values, color=_BLUE, alpha=0.35, linewidth=1)
        axes.plot(steps, _smooth(values), color=_BLUE, label="training")
        if checked:
            axes.plot(*zip(*checked, strict=True), color=_ORANGE, marker="o", markersize=4,
                      label="validation")  # fmt: skip
        if rates:
            other = axes.twinx()
            other.plot(*zip(*rates, strict=True), color=_GREY, linestyle=":", linewidth=1)
            other.set_ylabel("learning rate (dotted)", color=_GREY)
            other.spines[["top"]].set_visible(False)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.set_title(title)
        axes.legend(frameon=False)
    return True


def draw_histogram(
    lengths: Sequence[int], learned: Sequence[int], file: Path, limit: int | None = None
) -> None:
    """How many tokens rows have, and how many of these are learned."""
    with figure(file) as axes:
        most = max([*lengths, 1])
        edges = [most * i / 30 for i in range(31)]
        axes.hist(lengths, edges, color=_GREY, alpha=0.6, label="all tokens")
        axes.hist(learned, edges, color=_BLUE, alpha=0.8, label="learned tokens")
        if limit is not None and limit <= most * 1.3:
            axes.axvline(limit, color=_ORANGE, label=f"limit {limit:,}")
        axes.set_xlabel("tokens in a row")
        axes.set_ylabel("rows")
        axes.legend(frameon=False)


def bars(values: Sequence[int], bins: int = 10, width: int = 30) -> list[str]:
    """A histogram as lines of text."""
    if not values:
        return []
    low, high = min(values), max(values)
    step = max(1, -(-(high - low + 1) // bins))
    counts: dict[int, int] = {}
    for value in values:
        counts[(value - low) // step] = counts.get((value - low) // step, 0) + 1
    most = max(counts.values())
    label = len(f"{high:,}")
    return [
        f"{low + i * step:>{label},}–{min(high, low + (i + 1) * step - 1):<{label},} "
        f"{'█' * max(1, round(width * counts[i] / most)) if i in counts else '':<{width}} "
        f"{counts.get(i, 0)}"
        for i in range(max(counts) + 1)
    ]


def _smooth(values: Sequence[float], share: float = 0.8) -> list[float]:
    out: list[float] = []
    for value in values:
        out.append(value if not out else share * out[-1] + (1 - share) * value)
    return out
