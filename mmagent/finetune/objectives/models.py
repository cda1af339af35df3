"""The models of the objectives: loaded, or made small from nothing; and what feeds them.

Small models have the architecture's every part with few weights (about one million), for
pictures of 96 x 96 pixels, and a tokenizer of the words that the rows use. Pretrained ones come
from a folder or the hub by transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent.errors import ModelNotFoundError
from mmagent.finetune.objectives.rows import PairRow
from mmagent.finetune.objectives.settings import SMALL
from mmagent.models.quiet import quiet_transformers

__all__ = ["Feeder", "feeder_of", "load_model", "small_config"]

_SIDE, _PATCH, _WIDTH, _LAYERS, _HEADS = 96, 16, 128, 4, 4
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass
class Feeder:
    """Turns rows into batches: a tokenizer and an image processor."""

    tokenizer: Any
    images: Any
    max_tokens: int

    def text(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return `input_ids` and `attention_mask`, [texts, tokens]."""
        names = ["input_ids", "attention_mask"]
        found = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return {name: found[name] for name in names}

    def pixels(self, rows: Sequence[PairRow]) -> dict[str, Any]:
        """Return `pixel_values`, [rows, 3, height, width], and `pixel_mask` where there is one."""
        found = self.images(images=[row.image.pil() for row in rows], return_tensors="pt")
        return {name: found[name] for name in ("pixel_values", "pixel_mask") if name in found}

    def save(self, folder: Path) -> None:
        """Write both beside a model."""
        self.tokenizer.save_pretrained(folder)
        self.images.save_pretrained(folder)


def feeder_of(base: str, rows: Sequence[PairRow], max_tokens: int) -> Feeder:
    """Return the feeder of a base; for a small one, made of the words of the rows.

    Raises:
        ModelNotFoundError: There is no such base.
    """
    import transformers

    hf: Any = transformers
    if base == SMALL:
        images = hf.CLIPImageProcessor(
            size={"height": _SIDE, "width": _SIDE}, do_center_crop=False, do_convert_rgb=True
        )
        return Feeder(_tokenizer([row.text for row in rows]), images, max_tokens)
    with _translated(base), quiet_transformers():
        tokenizer = hf.AutoTokenizer.from_pretrained(base)
        return Feeder(tokenizer, hf.AutoImageProcessor.from_pretrained(base), max_tokens)


def load_model(model_class: Any, base: str, config: Any, **options: Any) -> Any:
    """Load a model, or make one of a config if the base is small.

    Raises:
        ModelNotFoundError: There is no such base, or it is of another architecture.
    """
    if base == SMALL:
        return model_class(config)
    with _translated(base), quiet_transformers():
        return model_class.from_pretrained(base, **options)


def small_config(kind: str, words: int, dropout: float = 0.0, **more: Any) -> Any:
    """Return the config of a small model: "vilt", "blip", "clip" or "flava"."""
    import transformers

    hf: Any = transformers  # configs are checked when they are made
    tower = {
        "hidden_size": _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "intermediate_size": 2 * _WIDTH,
    }
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    sight = {"image_size": _SIDE, "patch_size": _PATCH}
    if kind == "vilt":
        return hf.ViltConfig(vocab_size=words, **tower, **drops, **sight, **more)
    if kind == "blip":
        text = {
            **tower,
            **drops,
            "vocab_size": words,
            "encoder_hidden_size": _WIDTH,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "sep_token_id": 3,
            "pad_token_id": 0,
        }
        return hf.BlipConfig(
            text_config=text,
            vision_config={**tower, **sight, "attention_dropout": dropout},
            image_text_hidden_size=_WIDTH,
            projection_dim=_WIDTH,
        )
    if kind == "clip":
        text = {**tower, "vocab_size": words, "eos_token_id": 3, "attention_dropout": dropout}
        return hf.CLIPConfig(
            text_config={**text, "pad_token_id": 0, "bos_token_id": 2},
            vision_config={**tower, **sight, "attention_dropout": dropout},
            projection_dim=more.get("dims", _WIDTH),
        )
    joint = {**tower, "num_hidden_layers": 2}
    return hf.FlavaConfig(
        image_config={**tower, **drops, **sight, "vocab_size": more["regions"], "mask_token": True},
        text_config={**tower, **drops, "vocab_size": words, "pad_token_id": 0},
        multimodal_config={**joint, **drops},
        hidden_size=_WIDTH,
        projection_dim=_WIDTH,
        init_codebook=False,
    )


def _tokenizer(texts: Sequence[str]) -> Any:
    """A word tokenizer like BERT's, of the words that occur."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordPiece(**{"unk_token": _SPECIAL[1]}))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=8_000, special_tokens=list(_SPECIAL), show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast: Any = PreTrainedTokenizerFast  # untyped
    return fast(tokenizer_object=inner, **dict(zip(names, _SPECIAL, strict=True)))


class _translated:
    """Errors of loading, in our words."""

    def __init__(self, base: str) -> None:
        self._base = base

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError | KeyError | RuntimeError):
            raise ModelNotFoundError(
                f"The base {self._base!r} could not be loaded for this objective: name a folder "
                f"or a model of the hub of its architecture, or `small` ({error})"
            ) from error
