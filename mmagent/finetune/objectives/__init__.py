"""Further objectives of training: questions, matching, embedding, classes, pretraining."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["OBJECTIVES", "objective_of"]

OBJECTIVES: dict[str, tuple[str, str]] = {
    "vqa": ("mmagent.finetune.objectives.vqa", "VQA"),
    "match": ("mmagent.finetune.objectives.match", "MATCH"),
    "embed": ("mmagent.finetune.objectives.embed", "EMBED"),
    "classify": ("mmagent.finetune.objectives.classify", "CLASSIFY"),
    "pretrain": ("mmagent.finetune.objectives.pretrain", "PRETRAIN"),
}
"""Name of each objective, with the module and the name of its definition."""


def objective_of(name: str) -> Any:
    """Return an objective by its name; its module is imported now."""
    module, attribute = OBJECTIVES[name]
    return getattr(importlib.import_module(module), attribute)
