"""The settings of a fine-tuning run: one model for YAML files and for the command line.

`TrainSettings` is what every objective has; `ChatSettings` adds what dialogues need. A key that
is not known is refused, and the message names it and what may have been meant.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mmagent.errors import UsageError

__all__ = [
    "AugmentSettings",
    "ChatSettings",
    "EvaluateSettings",
    "FreezeSettings",
    "LoraSettings",
    "MemorySettings",
    "Section",
    "SplitSettings",
    "TrainSettings",
    "is_list",
    "leaves",
    "load_settings",
    "without_none",
]

Tower = Literal["vision", "projector", "language"]


def _as_list(value: Any) -> Any:
    """One value where a list may stand."""
    return [value] if isinstance(value, str | Path) else value


Paths = Annotated[list[Path], BeforeValidator(_as_list)]
Names = Annotated[list[str], BeforeValidator(_as_list)]


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class FreezeSettings(Section):
    """Which parts of the model stay as they are."""

    vision: bool = Field(default=True, description="Leave the vision tower as it is.")
    projector: bool = Field(default=False, description="Leave the projector as it is.")
    language: bool = Field(default=False, description="Leave the language model as it is.")


class SplitSettings(Section):
    """How rows are parted; an image and a conversation are never on two sides."""

    test: float = Field(default=0.1, ge=0, lt=1, description="Share of rows held out for the test.")
    validation: float = Field(default=0.1, ge=0, lt=1, description="Share of rows to validate on.")

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.test + self.validation >= 0.9:
            raise ValueError("test and validation together leave less than a tenth to train on")
        return self


class TrainSettings(Section):
    """What every objective has."""

    base: str = Field(default="tiny", description="tiny, a folder, or a hub name.")
    data: Paths = Field(default_factory=list, description="A file of rows; repeatable.")
    output: Path = Field(default=Path("finetuned"), description="The folder of the results.")
    epochs: float = Field(default=3.0, gt=0, description="Times through the data.")
    steps: int | None = Field(default=None, gt=0, description="Optimizer steps, instead of epochs.")
    lr: float = Field(default=2e-4, gt=0, lt=1, description="Highest learning rate.")
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the rate falls after the warm-up."
    )
    batch: int = Field(default=4, gt=0, description="Rows of a device at once.")
    accumulation: int = Field(default=1, gt=0, description="Batches that make one optimizer step.")
    warmup: float = Field(default=0.05, ge=0, description="Share of the steps; from 1 on: steps.")
    weight_decay: float = Field(default=0.01, ge=0, description="Pull of the weights towards zero.")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="Gradients are clipped to this norm."
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Of the adapters; of attention in full fine-tuning."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: fp32 on a CPU, bf16 where a GPU has it."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="auto: a GPU if there is."
    )
    gradient_checkpointing: bool = Field(default=False, description="Less memory for more time.")
    workers: int = Field(default=0, ge=0, le=64, description="Processes that prepare batches.")
    seed: int = Field(default=0, ge=0, description="Of everything that is drawn.")
    eval_every: int | None = Field(
        default=None, gt=0, description="Validate every N steps [default: ten times in a run]."
    )
    save_every: int | None = Field(
        default=None, gt=0, description="Checkpoint every N steps [default: as often as validated]."
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="The newest ones that are kept.")
    early_stopping: int = Field(
        default=0, ge=0, description="Stop after N validations without a gain; 0: never."
    )
    metric: str = Field(default="loss", description="What a gain is measured by.")
    keep_best: bool = Field(default=True, description="End with the best validated weights.")
    track: Names = Field(default_factory=list, description="trackio, tensorboard; repeatable.")
    freeze: FreezeSettings = Field(default_factory=FreezeSettings)
    split: SplitSettings = Field(default_factory=SplitSettings)

    @model_validator(mode="after")
    def _known_trackers(self) -> Self:
        for name in self.track:
            if name not in ("trackio", "tensorboard"):
                raise ValueError(f"track: {name!r} is not known; use trackio or tensorboard")
        return self


def _language() -> list[Tower]:
    return ["language"]


class LoraSettings(Section):
    """Low-rank adapters."""

    r: int = Field(default=16, gt=0, description="Rank.")
    alpha: float | None = Field(default=None, gt=0, description="Scale [default: twice the rank].")
    dora: bool = Field(default=False, description="Weight-decomposed adapters (DoRA).")
    rslora: bool = Field(default=False, description="Rank-stabilised scale (rsLoRA).")
    targets: Annotated[list[Tower], BeforeValidator(_as_list)] = Field(
        default_factory=_language,
        description="Parts that get adapters: vision, projector, language; repeatable.",
    )


class MemorySettings(Section):
    """Learning from what was said: stored conversations of one user."""

    folder: Path | None = Field(default=None, description="A memory folder to learn from.")
    user: str = Field(default="user", description="Whose conversations.")
    persona: str | None = Field(default=None, description="With which persona [default: all].")
    assistant: str | None = Field(
        default=None, description="The speaker to learn from [default: the persona's name]."
    )
    rated_only: bool = Field(default=False, description="Only answers that were rated good.")
    consent: bool = Field(default=False, description="The user has agreed to this use.")
    redact: bool = Field(default=True, description="Take out addresses, numbers and the like.")
    names: Names = Field(default_factory=list, description="Names to take out too; repeatable.")


class AugmentSettings(Section):
    """More variety from the same rows; the test rows are left alone."""

    copies: int = Field(
        default=0, ge=0, le=20, description="Changed copies of each row with pictures."
    )
    strength: float = Field(default=0.5, gt=0, le=1, description="How far pictures are changed.")
    paraphrases: int = Field(
        default=0, ge=0, le=5, description="Copies with the user's words reworded."
    )
    paraphraser: str | None = Field(
        default=None, description="The chat model that rewords, such as openai:gpt-5-mini or tiny."
    )


class EvaluateSettings(Section):
    """What is measured before and after, on the test rows."""

    answers: int = Field(default=32, ge=0, description="Most answers that are generated.")
    rows: int = Field(default=500, ge=1, description="Most rows that losses are measured on.")
    max_tokens: int = Field(default=48, gt=0, description="Most tokens of a generated answer.")
    forgetting: bool = Field(default=True, description="Measure general dialogues too.")


class ChatSettings(TrainSettings):
    """`mmagent finetune chat`."""

    format: Literal["auto", "openai", "sharegpt", "llava", "mmagent"] = Field(
        default="auto", description="How the rows are written."
    )
    images: Path | None = Field(
        default=None, description="The folder of the pictures [default: the data file's]."
    )
    max_row_bytes: int = Field(
        default=1_000_000, gt=0, description="Longest row; raise it for pictures inside of rows."
    )
    bad_rows: Literal["refuse", "skip"] = Field(
        default="refuse", description="What to do where rows cannot be used."
    )
    duplicates: Literal["warn", "drop", "refuse"] = Field(
        default="warn", description="What to do with rows that stand twice."
    )
    max_length: int | None = Field(
        default=None, gt=0, description="Most tokens of a row [default: the model's context]."
    )
    overlong: Literal["refuse", "shorten", "skip"] = Field(
        default="refuse", description="Rows above that; shorten drops their oldest turns."
    )
    full: bool = Field(default=False, description="Train the weights themselves, no adapters.")
    lora: LoraSettings = Field(default_factory=LoraSettings)
    from_memory: MemorySettings = Field(default_factory=MemorySettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        frozen = [tower for tower in ("vision", "projector", "language")
                  if getattr(self.freeze, tower)]  # fmt: skip
        if len(frozen) == 3:
            raise ValueError("freeze leaves nothing to train; set one of its parts to false")
        if self.metric not in ("loss", "token_accuracy"):
            raise ValueError(f"metric: {self.metric!r} is not known; use loss or token_accuracy")
        if self.full:
            return self
        both = sorted(set(frozen) & set(self.lora.targets))
        if both == ["language"] and "targets" not in self.lora.model_fields_set:
            self.lora.targets = []  # the default target, which the freeze takes away
        elif both:
            raise ValueError(
                f"{both[0]} is frozen and a target of lora.targets; decide for one of the two"
            )
        if not self.freeze.language and "language" not in self.lora.targets:
            raise ValueError(
                "the language model is neither frozen nor a target of lora.targets: set "
                "freeze.language, or train it in full with full: true"
            )
        return self

    @property
    def alpha(self) -> float:
        """LoRA's alpha, twice the rank where none is given."""
        return self.lora.alpha if self.lora.alpha is not None else 2.0 * self.lora.r


Settings = TypeVar("Settings", bound=Section)


def load_settings(
    kind: type[Settings], file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read settings from a YAML file; `overrides` (by dotted name) win over it.

    Raises:
        UsageError: The file cannot be read, or a setting is unknown or cannot be.
    """
    values: dict[str, Any] = {}
    if file is not None:
        from mmagent_prompts.safe_yaml import CatalogueError, load_yaml

        try:
            found = load_yaml(file.read_bytes(), source=str(file))
        except OSError as error:
            raise UsageError(
                f"The settings {file} cannot be read: {error.strerror or error}."
            ) from error
        except CatalogueError as error:
            raise UsageError(str(error)) from error
        if not isinstance(found, dict):
            raise UsageError(f"{file} must be a mapping of settings, such as `base: tiny`.")
        values = found
    for name, value in (overrides or {}).items():
        *path, last = name.split(".")
        place = values
        for key in path:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{key} must be a mapping in {file}, since {name} is given too.")
            place = inner
        place[last] = value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = str(file) if file is not None else "The settings"
        raise UsageError(f"{where}: {_explain(kind, error)}") from error


def leaves(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every single setting with its dotted name: (name, annotation, FieldInfo)."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner, field


def is_list(annotation: Any) -> bool:
    """Whether several values may be given."""
    if typing.get_origin(annotation) is typing.Annotated:
        return is_list(typing.get_args(annotation)[0])
    return typing.get_origin(annotation) is list


def without_none(annotation: Any) -> Any:
    """The type that a value has if there is one."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
        return kinds[0] if len(kinds) == 1 else str
    return annotation


def _explain(kind: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys_at(kind, path[:-1])
        every = [leaf for leaf, _, _ in leaves(kind)]
        close = [leaf for leaf in every if leaf.split(".")[-1] == path[-1] and "." in leaf]
        close = close or difflib.get_close_matches(path[-1], known, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else ""
        if len(known) <= 8 or not close:
            hint = f"{hint} Known are {', '.join(known)}.".strip()
        return f"there is no setting {name!r}; {hint}"
    reason = str(first["msg"]).removeprefix("Value error, ")
    reason = f"{reason[:1].lower()}{reason[1:]}"
    return f"{name}: {reason}." if name else f"{reason}."


def _keys_at(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = kind.model_fields.get(part)
        inner = field.annotation if field is not None else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            kind = inner
    return list(kind.model_fields)
