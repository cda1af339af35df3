"""`mmagent finetune classify`: one class for a picture and a text together.

Three ways to join them, each on a class of transformers:

    early      one transformer reads words and patches from its first layer   ViltModel
    late       two towers; their vectors are laid side by side at the end     CLIPModel
    attention  two towers, then layers in which each attends to the other     FlavaModel
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmagent.errors import UsageError
from mmagent.finetune.objectives.models import Feeder, feeder_of, load_model, small_config
from mmagent.finetune.objectives.rows import PairRow, labels_of
from mmagent.finetune.objectives.settings import ClassifySettings
from mmagent.finetune.objectives.task import Objective, Report, Task, classes_report

if TYPE_CHECKING:
    import torch

__all__ = ["CLASSIFY", "load_classifier"]

_HEAD, _FACTS = "head.safetensors", "classifier.json"
_OF_FUSION = {
    "early": ("ViltModel", "vilt"),
    "late": ("CLIPModel", "clip"),
    "attention": ("FlavaModel", "flava"),
}
_PARTS = {
    "early": {
        "vision": ("encoder.embeddings.patch_embeddings",),
        "projector": (),
        "language": ("encoder.embeddings.text_embeddings",),
    },
    "late": {
        "vision": ("encoder.vision_model",),
        "projector": ("encoder.visual_projection", "encoder.text_projection"),
        "language": ("encoder.text_model",),
    },
    "attention": {
        "vision": ("encoder.image_model",),
        "projector": ("encoder.image_to_mm_projection", "encoder.text_to_mm_projection"),
        "language": ("encoder.text_model",),
    },
}


def _joint_classifier(encoder: Any, fusion: str, classes: int, dropout: float) -> Any:
    """A module with `encoder` and `head`; its forward returns logits, [rows, classes]."""
    import torch

    class JointClassifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.drop = torch.nn.Dropout(dropout)
            width = encoder.config.hidden_size if fusion != "late" else 0
            width = width or 2 * encoder.config.projection_dim
            self.head = torch.nn.Linear(width, classes)

        @property
        def device(self) -> torch.device:
            return self.head.weight.device

        def forward(self, **batch: Any) -> Any:
            return self.head(self.drop(self._joined(batch)))

        def _joined(self, batch: dict[str, Any]) -> Any:
            """The vector of a pair, [rows, width]."""
            if fusion == "early":
                return self.encoder(**batch).pooler_output
            if fusion == "attention":
                return self.encoder(**batch).multimodal_output.pooler_output
            found = self.encoder(**batch)
            return torch.cat([found.text_embeds, found.image_embeds], dim=-1)

    return JointClassifier()


class ClassifyTask(Task):
    """A joint classifier on rows of image, text, label."""

    def __init__(self, settings: ClassifySettings, rows: Sequence[PairRow]) -> None:
        import transformers

        self.fusion = settings.fusion
        self.parts = _PARTS[settings.fusion]
        self.labels = labels_of(rows)
        self._number = {label: number for number, label in enumerate(self.labels)}
        self.feeder = feeder_of(settings.base, rows, settings.max_tokens)
        name, kind = _OF_FUSION[settings.fusion]
        config = small_config(kind, len(self.feeder.tokenizer), settings.dropout, regions=64)
        encoder = load_model(getattr(transformers, name), settings.base, config)
        self.model = _joint_classifier(encoder, self.fusion, len(self.labels), settings.dropout)

    def collate(self, rows: Sequence[PairRow], *, training: bool) -> dict[str, Any]:
        """Return texts, pixels and labels [rows]."""
        import torch

        labels = [self._number.get(row.label or "", 0) for row in rows]
        return {**_inputs(self.feeder, rows, self.fusion), "labels": torch.tensor(labels)}

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the cross-entropy over the classes."""
        import torch

        logits = model(**{name: value for name, value in batch.items() if name != "labels"})
        return torch.nn.functional.cross_entropy(logits, batch["labels"]), logits, batch["labels"]

    def measure(self, model: Any, rows: Sequence[PairRow]) -> Report:
        """Return accuracy and a report by class."""
        said = [self.labels[number] for number in self.choices(model, rows)]
        return classes_report([row.label or "" for row in rows], said)

    def save(self, model: Any, folder: Path) -> None:
        """Write the encoder as transformers does, the head and the classes beside it."""
        from safetensors.torch import save_file

        super().save(model.encoder, folder)
        save_file(
            {name: value.contiguous() for name, value in model.head.state_dict().items()},
            folder / _HEAD,
        )
        facts = {"fusion": self.fusion, "labels": self.labels, "max_tokens": self.feeder.max_tokens}
        (folder / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def load_classifier(folder: Path) -> tuple[Any, Feeder, str, list[str]]:
    """Load what `finetune classify` wrote: (model, feeder, fusion, labels).

    Raises:
        UsageError: There is no classifier.
    """
    import transformers
    from safetensors.torch import load_file

    try:
        facts = json.loads((folder / _FACTS).read_text("utf-8"))
        fusion, labels = facts["fusion"], facts["labels"]
        name, _ = _OF_FUSION[fusion]
    except (OSError, ValueError, KeyError):
        raise UsageError(
            f"{folder} holds no classifier; name the `model` folder of `mmagent finetune classify`."
        ) from None
    encoder = load_model(getattr(transformers, name), str(folder), None)
    model = _joint_classifier(encoder, fusion, len(labels), 0.0)
    model.head.load_state_dict(load_file(folder / _HEAD))
    return model.eval(), feeder_of(str(folder), [], facts["max_tokens"]), fusion, labels


def _inputs(feeder: Feeder, rows: Sequence[PairRow], fusion: str) -> dict[str, Any]:
    batch = {**feeder.text([row.text for row in rows]), **feeder.pixels(rows)}
    if fusion != "early":
        batch.pop("pixel_mask", None)
    return batch


CLASSIFY = Objective("classify", "text", "label", ClassifyTask, "ViltModel, CLIPModel, FlavaModel")
