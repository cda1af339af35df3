"""Kinds of checkpoints: which class of transformers reads one, and what it can be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmagent.engine.hearing import hearing_part

__all__ = ["class_of", "placeholders_of", "takes_sound"]

# They speak, stream or transcribe by loops of their own, which no chat template leads to.
_OTHER_LOOPS = frozenset(
    {"kyutai_speech_to_text", "qwen2_5_omni", "qwen3_omni_moe", "voxtral_realtime"}
)


def takes_sound(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of a model that takes sound besides text."""
    kind = config.get("model_type")
    if kind in _OTHER_LOOPS or config.get("is_encoder_decoder"):
        return False
    tower = config.get("audio_config") or (
        config.get("encoder_config") if str(kind).startswith("granite_speech") else None
    )
    return isinstance(tower, Mapping) and _table_of(str(kind)) is not None


def _table_of(kind: str) -> str | None:
    """The name of the automatic class for models of this type that take pictures or sound."""
    from transformers.models.auto import modeling_auto as known

    for name, table in (
        ("AutoModelForImageTextToText", known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
        ("AutoModelForMultimodalLM", known.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES),
        ("AutoModelForSeq2SeqLM", known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    ):
        if kind in table:
            return name
    return None


def class_of(config: Any) -> tuple[Any, bool]:
    """The automatic class that loads a checkpoint, and whether it takes more than text.

    Returns:
        None for the class of a checkpoint that does not answer in text.
    """
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText, True
    if takes_sound(config.to_dict()):
        return getattr(transformers, _table_of(config.model_type) or ""), True
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM, False
    return None, False


def placeholders_of(
    config: Any, processor: Any, takes_media: bool
) -> tuple[int | None, int | None]:
    """The tokens that stand for a picture and for sound, where the processor reads these."""

    def found(name: str) -> int | None:
        token = getattr(config, name, None)
        token = getattr(processor, name, None) if token is None else token
        return None if token is None else int(token)

    if not takes_media:
        return None, None
    image, audio = found("image_token_id"), found("audio_token_id")
    if audio is None and isinstance(getattr(processor, "audio_token", None), str):
        audio = processor.tokenizer.convert_tokens_to_ids(processor.audio_token)
    return image, audio if hearing_part(processor) is not None else None
