"""Checkpoints from folders and hubs: which class, which processor, and clear words when not.

No code from a checkpoint is run, and weights are read from safetensors only.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent.engine.kinds import class_of, placeholders_of
from mmagent.engine.placement import place
from mmagent.errors import MissingDependencyError, ModelNotFoundError, UsageError

__all__ = ["Checkpoint", "attach_adapter", "load_checkpoint", "vocabulary"]

# Attention over the whole prompt in both directions: what is remembered of its beginning would
# change with its end.
_PREFIX_ATTENTION = frozenset({"paligemma"})
# Pixels fed to layers of their own: not a function of the tokens before, which is what the cache
# assumes.
_OTHER_STATE = frozenset({"mllama"})


@dataclass
class Checkpoint:
    """A model, its processor, and what they can do.

    Attributes:
        model: The transformers model, in evaluation mode.
        processor: Its processor; the tokenizer for a model that takes text alone.
        image_token_id: The placeholder of a picture; None for text-only models.
        context_length: Most tokens of prompt and answer.
        reusable: Whether attention's keys and values are a function of the tokens before them, so
            that they may be kept between turns, and kept apart for each sequence of a step.
        looks_ahead: Attention over a prompt goes in both directions: what is known of it holds
            only for the same prompt.
        parameters: How many the model has.
        packed: How many layers were packed (see `packing`).
        audio_token_id: The placeholder of sound; None for models that take none.
    """

    model: Any
    processor: Any
    image_token_id: int | None
    context_length: int
    reusable: bool
    looks_ahead: bool = False
    parameters: int = 0
    packed: int = 0
    audio_token_id: int | None = None


def load_checkpoint(
    path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str | None = None,
    compile: bool = False,
) -> Checkpoint:
    """Load a folder, or a name on the model hub.

    Args:
        path: What `mmagent.models.resolve_model` returned.
        device: A torch device, "auto" (a GPU where there is one), or "balanced".
        dtype: A torch dtype by name, or "auto": see `placement`.
        quantization: One of `placement.QUANTIZATIONS`.
        compile: Whether to compile the forward pass.

    Raises:
        ModelNotFoundError: Nothing there, or not a checkpoint.
        UsageError: A checkpoint that this engine cannot drive.
        MissingDependencyError: Its processor needs a package that is not installed.
    """
    import torch
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer

    placement = place(device, dtype, quantization, compile)
    local = Path(path).is_dir()
    if not local and (Path(path).is_absolute() or path.startswith((".", "~")) or "\\" in path):
        raise ModelNotFoundError(
            f"There is no model folder {path}; check the path, or name a model of the hub."
        )
    common: dict[str, Any] = {"local_files_only": local}
    if local and not (Path(path) / "config.json").is_file():
        raise ModelNotFoundError(
            f"The folder {path} is not a checkpoint: it has no config.json; "
            "name the folder that holds config.json and safetensors weights."
        )
    with _translated(path), _quietly():
        config = AutoConfig.from_pretrained(path, **common)
        loader, takes_media = class_of(config)
        if loader is None:
            raise UsageError(
                f"A checkpoint of the type {config.model_type!r} does not answer in text; "
                "use a vision-language model or a causal language model."
            )
        # The processor first: it is small, and it is what is missing a package.
        if takes_media:
            processor = _processor(path, config.model_type, AutoProcessor, common)
        else:
            processor = AutoTokenizer.from_pretrained(path, **common)
        model = loader.from_pretrained(
            path,
            use_safetensors=True,
            **placement.options,
            **common,
        )
        if placement.device is not None:
            model = model.to(torch.device(placement.device))
        model.eval()
        text_config = model.config.get_text_config(decoder=True)
        reusable = _is_reusable(model, text_config)
        parameters = model.num_parameters()
        # Recurrent models take their layers' weights into their own hands.
        packed = _packed(model, lossy=placement.rounds) if placement.packs and reusable else 0
        if placement.compiles:
            model.forward = torch.compile(model.forward, dynamic=True)
    image_token_id, audio_token_id = placeholders_of(model.config, processor, takes_media)
    return Checkpoint(
        model=model,
        processor=processor,
        image_token_id=image_token_id,
        context_length=int(getattr(text_config, "max_position_embeddings", None) or 1 << 20),
        reusable=reusable,
        looks_ahead=model.config.model_type in _PREFIX_ATTENTION,
        parameters=parameters,
        packed=packed,
        audio_token_id=audio_token_id,
    )


def _packed(model: Any, *, lossy: bool) -> int:
    from mmagent.engine.packing import pack

    return pack(model, lossy=lossy)


def vocabulary(model: Any) -> int:
    """How many logits a model gives."""
    head = model.get_output_embeddings()
    # Packed weights are made anew for whoever looks at them.
    return int(getattr(head, "out_features", None) or head.weight.shape[0])


def _processor(path: str, kind: str, reader: Any, common: dict[str, Any]) -> Any:
    """A checkpoint's processor; where only its part for video lacks torchvision, without that."""
    try:
        return reader.from_pretrained(path, **common)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        from transformers.utils.import_utils import is_torchvision_available

        whole = None if is_torchvision_available() else _processor_class(kind)
        if whole is None or "video_processor" not in whole.get_attributes():
            raise
        try:
            return without_video(whole).from_pretrained(path, **common)
        except Exception:
            raise error from None  # it is the first one that names what is missing


def _processor_class(kind: str) -> Any:
    import transformers

    table: Any = importlib.import_module("transformers.models.auto.processing_auto")
    return getattr(transformers, table.PROCESSOR_MAPPING_NAMES.get(kind, ""), None)


def without_video(whole: Any) -> Any:
    """A class of processor that is made of its other parts alone, and reads pictures as ever."""
    parts = [name for name in whole.get_attributes() if name != "video_processor"]
    return type(whole.__name__, (whole,), {"get_attributes": classmethod(lambda _: parts)})


def attach_adapter(checkpoint: Checkpoint, adapter: str, name: str) -> None:
    """Put a PEFT adapter on the checkpoint's model, under a name, next to others.

    Raises:
        ModelNotFoundError: No adapter there.
        UsageError: An adapter of another model.
    """
    from peft import PeftModel

    folder = Path(adapter).expanduser()
    if folder.exists() and not (folder / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            f"{folder} is not an adapter: it has no adapter_config.json; "
            "name the folder that the fine-tuning wrote."
        )
    if not folder.exists() and (folder.is_absolute() or adapter.startswith((".", "~"))):
        raise ModelNotFoundError(
            f"There is no adapter folder {adapter}; check the path, or name an adapter of the hub."
        )
    where = str(folder) if folder.is_dir() else adapter
    misfit = UsageError(
        f"The adapter {adapter} does not fit this model: it was trained on another one; "
        "load the base model that it names."
    )
    if folder.is_dir() and not _fits(checkpoint.model, folder):
        raise misfit  # before PEFT puts its layers in
    peft_model = getattr(checkpoint.model, "_mmagent_peft", None)
    try:
        with _translated(adapter), warnings.catch_warnings():
            # PEFT asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", category=FutureWarning)
            # Weights that an adapter lacks would be random ones.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            if peft_model is None:
                peft_model = PeftModel.from_pretrained(checkpoint.model, where, adapter_name=name)
                # The adapter's layers now sit inside the base model, which generates as before.
                object.__setattr__(checkpoint.model, "_mmagent_peft", peft_model)
            else:
                peft_model.load_adapter(where, adapter_name=name)
    except (RuntimeError, UserWarning) as error:
        raise misfit from error
    peft_model.eval()


def _fits(model: Any, folder: Path) -> bool:
    """Whether the shapes of a LoRA adapter's matrices are those of the model's layers."""
    from safetensors import SafetensorError, safe_open

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelNotFoundError(
            f"{folder} has no adapter_model.safetensors; adapters in other formats are not loaded."
        )
    modules = dict(model.named_modules())
    found = 0
    try:
        with safe_open(str(file), framework="pt") as tensors:
            names = [name for name in tensors.keys() if ".lora_" in name]  # noqa: SIM118
            for name in names:
                module = modules.get(name.removeprefix("base_model.model.").split(".lora_")[0])
                if module is None or not hasattr(module, "in_features"):
                    continue
                found += 1
                shape = tensors.get_slice(name).get_shape()
                wanted = module.in_features if ".lora_A" in name else module.out_features
                if shape[1 if ".lora_A" in name else 0] != wanted:
                    return False
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"The adapter file {file} is damaged; write or download it again."
        ) from error
    return bool(found) or not names


def _is_reusable(model: Any, text_config: Any) -> bool:
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if model.config.is_encoder_decoder:
        return False
    if model.config.model_type in _OTHER_STATE:
        return False
    # Positions that a model keeps on itself belong to one conversation; they are known beforehand
    # where the model tells how it makes them of the pictures' rows and columns.
    body = getattr(model, "model", None)
    if any(hasattr(module, "rope_deltas") for module in (model, body)):
        makes = getattr(body, "get_rope_index", None)
        if makes is None or body is not model.base_model:
            return False
        known = {"input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask"}
        if not known <= set(inspect.signature(makes).parameters):
            return False
    layers = DynamicCache(config=text_config).layers
    # A recurrent state has no beginning to go back to.
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Errors of transformers while loading, in words that say what to do."""
    try:
        yield
    except UsageError:
        raise
    except ImportError as error:
        hint = _pip_hint(str(error))
        raise MissingDependencyError(
            f"Loading {path} needs a package that is not installed: {hint}."
        ) from error
    except OSError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFoundError(
            f"No usable checkpoint at {path}: {first} "
            "Name a folder with config.json and safetensors weights, or a model of the hub."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"The checkpoint {path} cannot be loaded: {first}") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No bar for reading weights from the disk; downloads keep theirs (they are the hub's)."""
    from transformers.utils import logging as transformers_logging

    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _pip_hint(message: str) -> str:
    lowered = message.lower()
    for package, command in (
        ("torchvision", "pip install torchvision"),
        ("sentencepiece", "pip install sentencepiece"),
        ("tiktoken", "pip install tiktoken"),
        ("num2words", "pip install num2words"),
    ):
        if package in lowered:
            return command
    return message.strip().splitlines()[0] if message.strip() else "see above"
