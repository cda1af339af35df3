"""Put the bundled model together: language model from the GGUF, eye and adapter from the package.

The result is an ordinary model folder: `AutoProcessor` and `AutoModelForImageTextToText` load it,
and everything in it is safetensors and JSON.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmagent.models.vision import (
    FEATURES,
    SIDE,
    image_processor,
    neutral_gates,
    new_trunk,
    trunk_config,
)

if TYPE_CHECKING:
    from transformers import FastVlmForConditionalGeneration

__all__ = ["SHIPPED", "assemble", "build", "build_processor", "language_model", "picture_side"]

SHIPPED = Path(__file__).parent / "tiny"
IMAGE_TOKEN = "<image>"  # noqa: S105
_END = "<|im_end|>"


def _nothing(stage: str, done: float) -> None:
    pass


def picture_side(weights: Path) -> int:
    """The side in pixels that the tower of a weights folder was trained for."""
    from safetensors import safe_open

    path = weights / "vision.safetensors"
    if not path.exists():
        return SIDE
    with safe_open(path, "pt") as file:
        return int((file.metadata() or {}).get("side", SIDE))


def build_processor(gguf: Path, side: int = SIDE) -> Any:
    """The `LlavaProcessor` of the bundled model, for pictures of `side` pixels."""
    from transformers import AutoTokenizer, LlavaProcessor

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.pad_token = tokenizer.eos_token = _END
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 8192
    template = (SHIPPED / "chat_template.jinja").read_text("utf-8")
    tokenizer.chat_template = template
    processors: Any = LlavaProcessor  # without annotations
    return processors(
        image_processor=image_processor(side),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        chat_template=template,
    )


def language_model(gguf: Path) -> Any:
    """The language model of a GGUF file alone, dequantised, in single precision."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    models: Any = AutoModelForCausalLM  # without annotations
    return models.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )


def build(gguf: Path, processor: Any, weights: Path = SHIPPED) -> FastVlmForConditionalGeneration:
    """The whole model in memory, in single precision.

    What `weights` lacks (nothing, in a release) stays as initialised: the trainer starts so.

    Args:
        gguf: SmolLM2-135M-Instruct.
        processor: from `build_processor`.
        weights: folder of `vision.safetensors`, `projector.safetensors` and `adapter/`.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration
    from transformers.initialization import no_init_weights

    side = int(processor.image_processor.size["height"])
    language = language_model(gguf)
    old: Any = language.get_input_embeddings().weight.data
    rows = -(-len(processor.tokenizer) // 64) * 64
    language.resize_token_embeddings(rows, mean_resizing=False)
    language.get_input_embeddings().weight.data[len(old) :] = old.mean(0)
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    end_id = processor.tokenizer.convert_tokens_to_ids(_END)
    language.config.tie_word_embeddings = True
    config = FastVlmConfig(
        text_config=language.config.to_dict(),
        vision_config=trunk_config(side).to_dict(),
        image_token_index=image_id,
        image_seq_length=(side // 32) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with no_init_weights():  # all of it is loaded below; drawing it at random takes a minute
        model: Any = FastVlmForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    del language, old
    torch.manual_seed(0)
    neutral_gates(model.model.vision_tower)
    if (weights / "vision.safetensors").exists():
        state = {k: v.float() for k, v in load_file(weights / "vision.safetensors").items()}
        model.model.vision_tower.load_state_dict(state, strict=False)
    else:
        model.model.vision_tower = new_trunk(side)
    projector = model.model.multi_modal_projector
    if (weights / "projector.safetensors").exists():
        state = {k: v.float() for k, v in load_file(weights / "projector.safetensors").items()}
        projector.load_state_dict(state)
    else:
        projector.linear_1.reset_parameters()
        projector.linear_2.reset_parameters()
    if (weights / "adapter" / "adapter_config.json").exists():
        from peft import PeftModel

        with warnings.catch_warnings():  # PEFT asks transformers by an old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            model = PeftModel.from_pretrained(model, weights / "adapter").merge_and_unload()
    generation = model.generation_config
    generation.eos_token_id = generation.pad_token_id = end_id
    generation.bos_token_id = processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    generation.suppress_tokens = [image_id, *range(len(processor.tokenizer), rows)]
    built: FastVlmForConditionalGeneration = model.eval()
    return built


def _round(model: FastVlmForConditionalGeneration) -> None:
    """Give the language model weights that float16 holds without a loss.

    The engine keeps such weights in half of the bytes, and reading them is what a token waits for.
    The GGUF's four bits a weight are coarser by far.
    """
    for parameter in model.model.language_model.parameters():
        parameter.data = parameter.data.half().float()


def assemble(
    gguf: Path,
    minilm: Path | None,
    out: Path,
    report: Callable[[str, float], None] = _nothing,
    weights: Path = SHIPPED,
) -> None:
    """Write the model folder `out`; it appears whole or not at all.

    Args:
        gguf: the GGUF file of SmolLM2-135M-Instruct.
        minilm: folder of all-MiniLM-L6-v2, copied to `out/text-embedder`; None leaves it out.
        out: the folder to make; one that is there is replaced.
        report: called with the stage and the share done (0 … 1).
        weights: the shipped weights.

    Raises:
        OSError: the folder cannot be written (nothing is left behind).
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        report("reading the language model", 0.0)
        side = picture_side(weights)
        processor = build_processor(gguf, side)
        model = build(gguf, processor, weights)
        _round(model)
        report("writing the model", 0.6)
        model.save_pretrained(work)
        processor.save_pretrained(work)
        head = weights / "embedding_head.safetensors"
        if head.exists():
            shutil.copy2(head, work / head.name)
        if minilm is not None:
            shutil.copytree(minilm, work / "text-embedder")
        (work / "mmagent.json").write_text(
            json.dumps({"model": "tiny", "image_side": side, "features": FEATURES}), "utf-8"
        )
        report("putting it in place", 0.95)
        work.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
        report("done", 1.0)
    finally:
        shutil.rmtree(work, ignore_errors=True)
