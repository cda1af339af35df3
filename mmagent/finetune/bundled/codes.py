r"""Does the eye carry letters and figures? A linear probe on pictures of six-character codes.

Codes are drawn on plain sheets and the tower's features are read by a ridge regression for each of
the six places. What a linear reader cannot find, a projector of two layers and a frozen tower will
hardly teach the language model to read; so this is measured before any training is spent on it.

    python -m mmagent.finetune.bundled.codes --vision FILE
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["LETTERS", "draw_code", "probe"]

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_LENGTH = 6


def draw_code(rng: random.Random, side: int) -> tuple[Image.Image, str]:
    """A picture that shows one code across its middle, and the code."""
    code = "".join(rng.choices(LETTERS, k=_LENGTH))
    dark = rng.random() < 0.5
    sheet, ink = rng.randint(0, 70), rng.randint(170, 255)
    if not dark:
        sheet, ink = 255 - sheet, 255 - ink
    image = Image.new("RGB", (side, side), (sheet, sheet, sheet))
    font = ImageFont.load_default(rng.uniform(0.2, 0.24) * side)
    pen = ImageDraw.Draw(image)
    at = (
        (side - pen.textlength(code, font=font)) / 2 + rng.uniform(-3, 3),
        rng.uniform(0.3, 0.45) * side,
    )
    pen.text(at, code, fill=(ink, ink, ink), font=font)
    return image, code


def probe(model: Any, processor: Any, number: int, seed: int = 0) -> tuple[float, float]:
    """Share of characters and of whole codes that a linear reader finds on unseen codes.

    Args:
        model: the vision-language model; only its tower is used.
        processor: its processor.
        number: how many pictures to fit on; a fifth as many are read.
        seed: of the codes.
    """
    rng = random.Random(seed)
    side = processor.image_processor.size["height"]
    features, codes = [], []
    for start in range(0, number + number // 5, 32):
        drawn = [draw_code(rng, side) for _ in range(min(32, number + number // 5 - start))]
        pixels = processor.image_processor([i for i, _ in drawn], return_tensors="pt")
        with torch.inference_mode():
            grid = model.model.vision_tower(pixels["pixel_values"], return_dict=True)
        # A row of five cells holds the code: its features side by side.
        rows = grid.last_hidden_state[:, :, 1:3].mean(2)  # [B, F, 5]
        features.append(rows.flatten(1))
        codes += [code for _, code in drawn]
    x = torch.cat(features).float().clone()  # [N, F * 5]
    y = torch.tensor([[LETTERS.index(c) for c in code] for code in codes])  # [N, 6]
    read = _fitted(x[:number], y[:number], x[number:])  # [n, 6]
    right = read == y[number:]
    return float(right.float().mean()), float(right.all(1).float().mean())


def _fitted(x: Tensor, y: Tensor, unseen: Tensor) -> Tensor:
    """Ridge regression in its dual form: fewer pictures than features."""
    mean = x.mean(0)
    x, unseen = x - mean, unseen - mean
    gram = x @ x.T
    gram += gram.diagonal().mean() * 0.03 * torch.eye(len(x))
    wanted = torch.nn.functional.one_hot(y, len(LETTERS)).float()  # [N, 6, K]
    weights = torch.linalg.solve(gram, (wanted - wanted.mean(0)).flatten(1))  # [N, 6 * K]
    said: Tensor = (unseen @ x.T @ weights).view(len(unseen), _LENGTH, -1)
    return said.argmax(-1)


def main() -> None:
    """Print the two shares beside chance."""
    from safetensors.torch import load_file

    from mmagent.models.vision import image_processor, new_trunk

    parser = argparse.ArgumentParser(description="How much of a code does the eye carry?")
    parser.add_argument("--vision", type=Path, required=True, help="vision.safetensors")
    parser.add_argument("--pictures", type=int, default=2000)
    args = parser.parse_args()
    trunk: Any = new_trunk()
    trunk.eval()
    state = {k: v.float() for k, v in load_file(args.vision).items()}
    trunk.load_state_dict(state, strict=False)
    holder: Any = torch.nn.Module()
    holder.model = torch.nn.Module()
    holder.model.vision_tower = trunk
    reader: Any = type("Reader", (), {"image_processor": image_processor()})
    each, whole = probe(holder, reader, args.pictures)
    chance = 1 / len(LETTERS)
    print(f"characters {each:.1%} (chance {chance:.1%}), whole codes {whole:.1%}")


if __name__ == "__main__":
    main()
