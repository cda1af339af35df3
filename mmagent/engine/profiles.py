"""What a model can do, told before it is loaded: from its `config.json` alone, without torch."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from langchain_core.language_models import ModelProfile

from mmagent.errors import MediaError

__all__ = ["is_deaf", "profile_of", "refuse_blind"]

_BUNDLED_CONTEXT = 8192
_ECHO_CONTEXT = 8192


def profile_of(
    model: str,
    *,
    context_length: int | None = None,
    max_tokens: int | None = None,
    hears: bool = False,
) -> ModelProfile:
    """LangChain's profile of a model, every flag set.

    Args:
        model: "tiny", "echo", a folder, or a name on the hub.
        context_length: The window, if it is known better than from the checkpoint.
        max_tokens: Most tokens of an answer, if limited.
        hears: Whether speech is turned into text for it.
    """
    config = _config_of(model)
    window = context_length or _window(model, config)
    sees = model in ("tiny", "echo") or "vision_config" in config or not config
    return describe(
        sees=sees, window=window, max_tokens=max_tokens, hears=hears or _takes_sound(config)
    )


def is_deaf(model: str) -> bool:
    """Whether a model takes no sound, told before its weights are loaded or downloaded.

    Where its configuration cannot be had, it may take some.
    """
    if model in ("tiny", "echo"):
        return True
    config = _config_of(model) or _fetched(model)
    return bool(config) and not _takes_sound(config)


def _takes_sound(config: dict[str, Any]) -> bool:
    if not any(name.endswith(("audio_config", "encoder_config")) for name in config):
        return False  # without importing transformers
    from mmagent.engine.kinds import takes_sound

    return takes_sound(config)


def refuse_blind(model: str) -> None:
    """Say that a model takes no pictures, before its weights are loaded or downloaded.

    Raises:
        MediaError: Its configuration says so. Where that cannot be had, nothing is said.
    """
    config = {} if model in ("tiny", "echo") else _config_of(model) or _fetched(model)
    if not config:
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if config.get("model_type") not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise MediaError(
            f"The model {model} takes no images: {config.get('model_type')!r} models read text "
            "alone; use a vision-language model, or send text alone."
        )


def describe(
    *,
    sees: bool,
    window: int | None,
    max_tokens: int | None,
    reasons: bool = False,
    hears: bool = False,
) -> ModelProfile:
    """The profile of a model whose modalities and window are known.

    Some readers of profiles reject only an explicit False, so nothing is left open.
    """
    profile: ModelProfile = {
        "text_inputs": True,
        "image_inputs": sees,
        "image_url_inputs": sees,
        "image_tool_message": sees,
        # By their pages, frames and words, where the libraries that read them are installed.
        "pdf_inputs": sees and _installed("pypdfium2"),
        "pdf_tool_message": sees and _installed("pypdfium2"),
        "audio_inputs": hears and _installed("av"),
        "video_inputs": sees and _installed("av"),
        "text_outputs": True,
        "image_outputs": False,
        "audio_outputs": False,
        "video_outputs": False,
        "reasoning_output": reasons,
        "tool_calling": True,
        "tool_choice": True,
        "tool_call_streaming": True,
        "structured_output": True,
        "attachment": sees,
        "temperature": True,
        "open_weights": True,
        "mid_conversation_system_messages": True,
        "mid_conversation_tools": False,
    }
    if window is not None:
        profile["max_input_tokens"] = window
        profile["max_output_tokens"] = min(window, max_tokens or window)
    return profile


def _installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _window(model: str, config: dict[str, Any]) -> int | None:
    if model == "tiny":
        return _BUNDLED_CONTEXT
    if model == "echo":
        return _ECHO_CONTEXT
    text = config.get("text_config", config)
    found = text.get("max_position_embeddings") if isinstance(text, dict) else None
    return int(found) if isinstance(found, int) else None


def _fetched(model: str) -> dict[str, Any]:
    """The configuration of a model of the hub: a page of text, fetched for itself."""
    if "/" not in model or Path(model).expanduser().exists() or model.startswith((".", "/", "~")):
        return {}
    try:
        from huggingface_hub import hf_hub_download

        return dict(json.loads(Path(hf_hub_download(model, "config.json")).read_text("utf-8")))
    except Exception:  # Loading it says what is wrong, better than this could.
        return {}


def _config_of(model: str) -> dict[str, Any]:
    """The checkpoint's configuration if it is on this machine, else nothing."""
    places = [Path(model).expanduser() / "config.json"]
    if "/" in model and not Path(model).expanduser().exists():
        home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
        hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
        snapshots = hub / f"models--{model.replace('/', '--')}" / "snapshots"
        places += sorted(snapshots.glob("*/config.json"))
    for place in places:
        try:
            config = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            return config
    return {}
