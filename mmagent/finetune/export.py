"""A fine-tuned model as one ordinary folder: adapter merged, safetensors, processor, card."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mmagent.errors import DownloadError, UsageError
from mmagent.finetune.base import quiet_training
from mmagent.finetune.results import check_usable

__all__ = ["export", "push"]


def export(run: Path, out: Path, *, base: str | None = None, dtype: str = "auto") -> Path:
    """Write the whole model; `AutoModelForImageTextToText` and vLLM load the folder as it is.

    Args:
        run: The output of a run, or an adapter's or model's folder.
        out: The folder to make; it appears whole or not at all.
        base: The base model; by default the one that the adapter names.
        dtype: Of the weights: auto (the base's own), float32, bfloat16 or float16.

    Raises:
        UsageError: There is nothing to export, or `out` exists.
        ModelNotFoundError: The base is not there.
    """
    weights = check_usable(run)
    if out.exists():
        raise UsageError(f"{out} exists already; name a new folder.")
    name = base or _base_of(weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model, processor = _merged(weights, name, dtype)
        with quiet_training():
            model.save_pretrained(work)
            processor.save_pretrained(work)
        card = weights / "README.md"
        if card.exists():
            text = card.read_text("utf-8").replace("library_name: peft", "library_name: "
                                                   "transformers")  # fmt: skip
            text = text.replace(f'model="{name}", adapter="adapter"', f'model="{out.name}"')
            (work / "README.md").write_text(text, "utf-8")
        work.chmod(0o755)
        for file in work.iterdir():  # some writers leave files that only their owner may read
            file.chmod(0o644)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def _base_of(weights: Path) -> str:
    file = weights / "adapter_config.json"
    if not file.exists():
        return str(weights)
    name = json.loads(file.read_text("utf-8")).get("base_model_name_or_path")
    if not name:
        raise UsageError(f"{weights} does not name its base model; say it with --base.")
    return str(name)


def _merged(weights: Path, base: str, dtype: str) -> tuple[Any, Any]:
    import torch

    from mmagent.engine.loading import attach_adapter, load_checkpoint
    from mmagent.engine.placement import choose_dtype
    from mmagent.models import resolve_model

    is_adapter = (weights / "adapter_config.json").is_file()
    path = resolve_model(base) if is_adapter else str(weights)
    kind = choose_dtype(dtype, "meta")  # "auto" stays what the checkpoint has
    checkpoint = load_checkpoint(path, device="cpu", dtype="float32")
    model = checkpoint.model
    if is_adapter:
        attach_adapter(checkpoint, str(weights), "default")
        with quiet_training():
            # Merged in single precision and rounded once, at the end.
            model = model._mmagent_peft.merge_and_unload()
    if kind == "auto":
        from transformers import AutoConfig

        kind = AutoConfig.from_pretrained(path, local_files_only=Path(path).is_dir()).dtype
    if isinstance(kind, torch.dtype):
        model = model.to(kind)
    processor = checkpoint.processor
    return model, processor


def push(folder: Path, name: str, *, private: bool = True) -> str:
    """Upload an exported folder to the Hugging Face hub; returns its address.

    Raises:
        DownloadError: The hub refused it or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        place = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(folder_path=str(folder), repo_id=name)
    except Exception as error:  # its own errors, and every one of its transport
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DownloadError(
            f"{name} could not be uploaded: {reason} Log in with `hf auth login`, and check the "
            "name."
        ) from error
    return str(place)
