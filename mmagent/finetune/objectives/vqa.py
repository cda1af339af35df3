"""`mmagent finetune vqa`: answering questions on pictures as a choice among answers (ViLT).

The answers of the training rows are the classes; the loss is binary cross-entropy over soft
labels, as in Kim, Son and Kim, "ViLT" (ICML 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmagent.finetune.objectives.models import feeder_of, load_model, small_config
from mmagent.finetune.objectives.rows import PairRow, labels_of
from mmagent.finetune.objectives.settings import VqaSettings
from mmagent.finetune.objectives.task import Objective, Report, Task, classes_report

__all__ = ["VQA"]
_PARTS = {
    "vision": ("vilt.embeddings.patch_embeddings", "vilt.embeddings.position_embeddings"),
    "projector": ("vilt.embeddings.token_type_embeddings",),
    "language": ("vilt.embeddings.text_embeddings",),
}


class VqaTask(Task):
    """ViltForQuestionAnswering on rows of image, question, answer."""

    parts = _PARTS

    def __init__(self, settings: VqaSettings, rows: Sequence[PairRow]) -> None:
        from transformers import ViltForQuestionAnswering

        self.answers = labels_of(rows, settings.answers)
        self._number = {answer: number for number, answer in enumerate(self.answers)}
        self.feeder = feeder_of(settings.base, rows, settings.max_tokens)
        names = {
            "id2label": dict(enumerate(self.answers)),
            "label2id": dict(self._number),
            "num_labels": len(self.answers),
        }
        config = small_config("vilt", len(self.feeder.tokenizer), settings.dropout, **names)
        self.model = load_model(
            ViltForQuestionAnswering, settings.base, config, ignore_mismatched_sizes=True, **names
        )

    def collate(self, rows: Sequence[PairRow], *, training: bool) -> dict[str, Any]:
        """Return texts, pixels and soft labels [rows, answers]."""
        import torch

        labels = torch.zeros(len(rows), len(self.answers))
        for place, row in enumerate(rows):
            if row.label in self._number:
                labels[place, self._number[row.label]] = 1.0
        texts = self.feeder.text([row.text for row in rows])
        return {**texts, **self.feeder.pixels(rows), "labels": labels}

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the model's own loss, logits and the right answers."""
        found = model(**batch)
        return found.loss, found.logits, batch["labels"].argmax(-1)

    def measure(self, model: Any, rows: Sequence[PairRow]) -> Report:
        """Return accuracy and a report by answer."""
        said = [self.answers[number] for number in self.choices(model, rows)]
        return classes_report([row.label or "" for row in rows], said)


VQA = Objective("vqa", "question", "answer", VqaTask, "ViltForQuestionAnswering")
