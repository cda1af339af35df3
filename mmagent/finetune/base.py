"""The model that is trained on: its processor alone, or all of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent.errors import UsageError

__all__ = ["Reader", "ends_of", "load_reader", "quiet_training"]


@dataclass(frozen=True)
class Reader:
    """What reads dialogues for a model, without its weights.

    Attributes:
        path: The folder or hub name of the model.
        processor: Its processor; the tokenizer for a model that takes text alone.
        image_token_id: The placeholder of a picture; None for text-only models.
        ends: Tokens that end an answer.
        context_length: Most tokens of a row.
    """

    path: str
    processor: Any
    image_token_id: int | None
    ends: tuple[int, ...]
    context_length: int


def load_reader(base: str, *, progress: bool = True) -> Reader:
    """The processor of a model by what users call it.

    Raises:
        ModelNotFoundError: There is no such model.
        UsageError: It is not one that talks.
    """
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer, GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    from mmagent.models import resolve_model
    from mmagent.models.quiet import quiet_transformers

    path = resolve_model(base, progress=progress)
    if path == "echo":
        raise UsageError("echo has no weights to train; name another base, such as tiny.")
    options: dict[str, Any] = {"local_files_only": Path(path).is_dir()}
    with quiet_transformers(), quiet_training():
        try:
            config = AutoConfig.from_pretrained(path, **options)
            sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            kind: Any = AutoProcessor if sees else AutoTokenizer
            processor = kind.from_pretrained(path, **options)
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"{base} is not a model that can be trained: {reason} Name a folder with "
                "config.json and safetensors weights, or a model of the hub."
            ) from error
        except ImportError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"The processor of {base} needs a package: {reason}") from error
        try:
            generation = GenerationConfig.from_pretrained(path, **options)
        except OSError:
            generation = None
    image_token_id = None
    if sees:
        image_token_id = getattr(config, "image_token_id", None)
        if image_token_id is None:
            image_token_id = getattr(processor, "image_token_id", None)
    text = config.get_text_config(decoder=True)
    return Reader(
        path=path,
        processor=processor,
        image_token_id=image_token_id,
        ends=ends_of(generation, getattr(processor, "tokenizer", processor)),
        context_length=int(getattr(text, "max_position_embeddings", None) or 1 << 20),
    )


def ends_of(generation: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer."""
    found = getattr(generation, "eos_token_id", None)
    ends = set(found if isinstance(found, list) else [found]) | {tokenizer.eos_token_id}
    return tuple(sorted(end for end in ends if end is not None))


@contextmanager
def quiet_training() -> Iterator[None]:
    """Leave out advice of libraries that nobody who trains can follow."""
    with warnings.catch_warnings():
        # PEFT and TRL ask transformers for things by their old names.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        yield
