"""The settings of the objectives beside dialogue; each is `TrainSettings` and a little more."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mmagent.finetune.config import FreezeSettings, TrainSettings

__all__ = [
    "SMALL",
    "ClassifySettings",
    "EmbedSettings",
    "MatchSettings",
    "ObjectiveSettings",
    "PretrainSettings",
    "VqaSettings",
]

SMALL = "small"
"""The base that is made from nothing: the objective's architecture with few weights."""


def _nothing_frozen() -> FreezeSettings:
    return FreezeSettings(vision=False, projector=False, language=False)


class ObjectiveSettings(TrainSettings):
    """What these objectives share."""

    base: str = Field(SMALL, description="small (from nothing), a folder, or a hub name.")
    example: int = Field(
        0, ge=0, le=100_000, description="Train on N drawn example pictures instead of --data."
    )
    images: Path | None = Field(
        None, description="The folder of the pictures [default: the data file's]."
    )
    batch: int = Field(32, gt=0, description="Rows of a device at once.")
    lr: float = Field(5e-4, gt=0, lt=1, description="Highest learning rate.")
    epochs: float = Field(10.0, gt=0, description="Times through the data.")
    max_tokens: int = Field(40, gt=0, le=512, description="Most tokens of a text.")
    freeze: FreezeSettings = Field(default_factory=_nothing_frozen)
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="What to do where rows cannot be used."
    )

    @model_validator(mode="after")
    def _known_metric(self) -> Self:
        if self.metric not in self.metrics():
            raise ValueError(
                f"metric: {self.metric!r} is not known; use {' or '.join(self.metrics())}"
            )
        return self

    @classmethod
    def metrics(cls) -> tuple[str, ...]:
        """What a gain can be measured by while training."""
        return ("loss", "accuracy")


class VqaSettings(ObjectiveSettings):
    """`mmagent finetune vqa`: rows of image, question, answer."""

    answers: int = Field(500, ge=2, description="Most different answers; rarer ones are left out.")


class MatchSettings(ObjectiveSettings):
    """`mmagent finetune match`: rows of image, text, label (true or false)."""

    negatives: int = Field(
        1, ge=0, le=8, description="Wrong texts drawn for each row that has no label."
    )


class EmbedSettings(ObjectiveSettings):
    """`mmagent finetune embed`: rows of image, text."""

    dims: int = Field(128, ge=8, le=4096, description="Length of the vectors (of base small).")
    temperature: float = Field(0.05, gt=0, le=1, description="Of the contrastive loss.")

    @classmethod
    def metrics(cls) -> tuple[str, ...]:
        """Recall has to see all rows at once, so only the loss is watched while training."""
        return ("loss",)


class ClassifySettings(ObjectiveSettings):
    """`mmagent finetune classify`: rows of image, text, label."""

    fusion: Literal["early", "late", "attention"] = Field(
        "attention",
        description="early: one transformer reads both (ViLT); late: two towers, joined at the "
        "end (CLIP); attention: two towers and layers across them (FLAVA).",
    )


class PretrainSettings(ObjectiveSettings):
    """`mmagent finetune pretrain`: rows of image, text."""

    masked_words: float = Field(0.15, gt=0, lt=1, description="Share of words that are hidden.")
    masked_patches: float = Field(0.4, gt=0, lt=1, description="Share of patches hidden.")
    mismatched: float = Field(0.3, ge=0, lt=1, description="Share of rows with a wrong text.")

    @classmethod
    def metrics(cls) -> tuple[str, ...]:
        """Three losses in one."""
        return ("loss",)
