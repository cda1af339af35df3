"""`mmagent finetune match`: does this text fit this picture? (BLIP's matching head).

BLIP's class has the head but no loss; binary cross-entropy over its two logits is added here. The
objective is that of Li et al., "BLIP" (ICML 2022), without its hard negatives: a row without a
label is taken as fitting, and texts of other rows are drawn against it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from mmagent.errors import UsageError
from mmagent.finetune.objectives.models import feeder_of, load_model, small_config
from mmagent.finetune.objectives.rows import PairRow
from mmagent.finetune.objectives.settings import MatchSettings
from mmagent.finetune.objectives.task import Objective, Report, Task, classes_report

__all__ = ["MATCH"]

_TRUE = ("true", "1", "yes")
_FALSE = ("false", "0", "no")
_PARTS = {
    "vision": ("vision_model",),
    "projector": ("vision_proj", "text_proj"),
    "language": ("text_encoder",),
}


class MatchTask(Task):
    """BlipForImageTextRetrieval on rows of image, text, label."""

    parts = _PARTS

    def __init__(self, settings: MatchSettings, rows: Sequence[PairRow]) -> None:
        from transformers import BlipForImageTextRetrieval

        for row in rows:
            if row.label is not None and row.label.lower() not in (*_TRUE, *_FALSE):
                raise UsageError(f"{row.where}: the label is {row.label!r}; write true or false.")
        self._texts = [row.text for row in rows]
        self._negatives = settings.negatives
        self._rng = random.Random(settings.seed)
        self.feeder = feeder_of(settings.base, rows, settings.max_tokens)
        config = small_config("blip", len(self.feeder.tokenizer), settings.dropout)
        self.model = load_model(BlipForImageTextRetrieval, settings.base, config)

    def collate(self, rows: Sequence[PairRow], *, training: bool) -> dict[str, Any]:
        """Return pairs of pixels and texts with labels [pairs], 1 for those that fit."""
        import torch

        rng = self._rng if training else random.Random(0)
        pairs = [pair for row in rows for pair in self._pairs(row, rng)]
        batch = {
            **self.feeder.text([text for _, text, _ in pairs]),
            **self.feeder.pixels([row for row, _, _ in pairs]),
        }
        batch.pop("pixel_mask", None)
        return {**batch, "labels": torch.tensor([int(fits) for _, _, fits in pairs])}

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the cross-entropy over "does not fit" and "fits"."""
        import torch

        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, use_itm_head=True).itm_score  # [pairs, 2]
        return torch.nn.functional.cross_entropy(logits, batch["labels"]), logits, batch["labels"]

    def measure(self, model: Any, rows: Sequence[PairRow]) -> Report:
        """Return accuracy and a report of both classes."""
        truth: list[str] = []
        said: list[str] = []
        names = ("does not fit", "fits")
        for batch in self.batches(model, rows):
            _, logits, labels = self.loss(model, batch)
            truth += [names[label] for label in labels.tolist()]
            said += [names[label] for label in logits.argmax(-1).tolist()]
        return classes_report(truth, said)

    def _pairs(self, row: PairRow, rng: random.Random) -> list[tuple[PairRow, str, bool]]:
        if row.label is not None:
            return [(row, row.text, row.label.lower() in _TRUE)]
        found = [(row, row.text, True)]
        for _ in range(self._negatives):
            for _ in range(20):
                text = rng.choice(self._texts)
                if text != row.text:
                    found.append((row, text, False))
                    break
        return found


MATCH = Objective(
    "match", "text", "label", MatchTask, "BlipForImageTextRetrieval", needs_label=False
)
