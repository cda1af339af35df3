"""What an objective brings to the common run: a model, batches, a loss, and a measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mmagent.finetune.objectives.models import Feeder
from mmagent.finetune.objectives.rows import PairRow

__all__ = ["Objective", "Report", "Task", "classes_report", "in_batches"]

_BATCH = 64
_Item = TypeVar("_Item")


@dataclass
class Report:
    """What was measured on rows held out.

    Attributes:
        figures: Name to value; the first is the one to look at.
        table: A text for people, such as a classification report.
    """

    figures: dict[str, float]
    table: str = ""


class Task(ABC):
    """One objective on its data: made once for a run."""

    model: Any
    feeder: Feeder
    parts: Mapping[str, tuple[str, ...]]
    """Beginnings of the parameters' names that are "vision", "projector" and "language"."""

    @abstractmethod
    def collate(self, rows: Sequence[PairRow], *, training: bool) -> dict[str, Any]:
        """Return a batch."""

    @abstractmethod
    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the loss, and logits [rows, classes] with labels [rows], or None for both."""

    @abstractmethod
    def measure(self, model: Any, rows: Sequence[PairRow]) -> Report:
        """Measure on rows; the model is in evaluation mode, and no gradients are kept."""

    def save(self, model: Any, folder: Path) -> None:
        """Write a checkpoint that transformers loads."""
        model.save_pretrained(folder)
        self.feeder.save(folder)

    def batches(self, model: Any, rows: Sequence[PairRow]) -> Iterator[dict[str, Any]]:
        """Yield the rows in batches for measuring, on the model's device."""
        for part in in_batches(rows):
            batch = self.collate(part, training=False)
            yield {name: value.to(model.device) for name, value in batch.items()}

    def choices(self, model: Any, rows: Sequence[PairRow]) -> list[int]:
        """Return the number of the class that the model gives each row."""
        found: list[int] = []
        for batch in self.batches(model, rows):
            _, logits, _ = self.loss(model, batch)
            found += logits.argmax(-1).tolist()
        return found


@dataclass(frozen=True)
class Objective:
    """An objective as the command line knows it.

    Attributes:
        name: Of the command.
        words: Key of the text in a row.
        label: Key of the label; None if there is none.
        needs_label: Whether each row must have one.
        make: From settings and rows to a task.
        classes: The transformers classes that are trained, for the card.
    """

    name: str
    words: str
    label: str | None
    make: Any
    classes: str
    needs_label: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def in_batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Yield the items, as many at a time as a small machine takes."""
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def classes_report(truth: Sequence[str], said: Sequence[str]) -> Report:
    """Return accuracy, macro F1, and precision, recall, F1 and support of each class."""
    from sklearn.metrics import classification_report, f1_score

    names = sorted(set(truth))
    right = sum(one == two for one, two in zip(truth, said, strict=True)) / max(1, len(truth))
    scored = f1_score(truth, said, labels=names, average="macro", zero_division=0)
    table = classification_report(truth, said, labels=names, zero_division=0, digits=3)
    return Report({"accuracy": right, "macro F1": float(scored)}, table)
