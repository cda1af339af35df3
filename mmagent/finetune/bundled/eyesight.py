"""How well the eye sees by itself, on styles, fonts and layouts that it never trained on.

No language model takes part: the words are read off the image tokens. What is wrong here the
language model cannot put right.

    python -m mmagent.finetune.bundled.eyesight --weights mmagent/models/tiny --gguf FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.lexicon import DOUBTS, GROUPS, Lexicon
from mmagent.finetune.bundled.scenes import Scene
from mmagent.finetune.bundled.screens import LETTERS, Screen
from mmagent.finetune.bundled.sight import Draw, batch_of, loud_scores_of, scores_of
from mmagent.finetune.bundled.tower import Projector, cells_of, load_eye

__all__ = ["eyesight", "opened", "options", "spelt"]


def spelt(much: Tensor, *, loud: bool = False) -> str:
    """The code that the cells say, column by column: three rows of them say it.

    Args:
        much: how much of each word every cell says, [T, W].
        loud: `much` are products with words (`Lexicon.products`), not shares of them.
    """
    grid = round(len(much) ** 0.5)
    columns = much.view(grid, grid, -1).sum(0) / 3  # [grid, W]
    scores = (loud_scores_of if loud else scores_of)(columns, "letter")
    return "".join(LETTERS[k] for k in scores.argmax(-1).tolist() if k < len(LETTERS))


@torch.inference_mode()
def eyesight(
    trunk: Any, projector: Any, draw: Draw, lexicon: Lexicon, *, number: int = 100, seed: int = 7
) -> dict[str, float]:
    """Shares that are right.

    Args:
        trunk: gives features [B, 1280, h, w].
        projector: makes image tokens of them.
        draw: draws the pictures.
        lexicon: the words.
        number: pictures of each kind; single ones are of the 100 everyday concepts.
        seed: of the pictures.

    Returns:
        name (among all concepts), name-by-products (as attention reads), name-disturbed,
        background, side, pair-name, pair-name-by-products, count, letters, code, code-by-products;
        nothing and unknown (said where it is so), doubted (said where a known thing is).
    """
    rng = np.random.default_rng(seed)
    right: dict[str, list[float]] = {}

    def note(key: str, value: bool) -> None:
        right.setdefault(key, []).append(float(value))

    everyday = [i for i, c in enumerate(CONCEPTS) if c.everyday]
    for kind, clean in (("single", True), ("single", False), ("pair", True), ("count", True),
                        ("screen", True), ("nothing", True), ("other", True)):  # fmt: skip
        drawn: list[tuple[str, Scene | Screen]] = []
        for index in range(number):
            label = everyday[index % 100]
            if kind == "single" and draw.scenes.has("test", label):
                drawn.append((kind, draw.scenes.single(rng, "test", label, clean=clean)))
            elif kind != "single":
                drawn.append((kind, draw.one(rng, kind, "test", clean=clean)))
        for start in range(0, len(drawn), 32):
            part = drawn[start : start + 32]
            texts = {p.item.text: 0 for _, s in part if isinstance(s, Scene) for p in s.objects}
            batch = batch_of(part, texts)
            said = projector(cells_of(trunk, batch["pixels"]))  # [B, T, D]
            for one, (_, picture) in enumerate(part):
                much = lexicon.read(said[one])  # [T, W]
                loud = lexicon.products(said[one])
                if isinstance(picture, Screen):
                    note("code-by-products", spelt(loud, loud=True) == picture.code)
                elif kind == "single" and clean:
                    names = loud.mean(0)[slice(*Lexicon.span("concept"))]
                    note("name-by-products", int(names.argmax()) == picture.objects[0].item.label)
                _judge(note, kind if clean else "disturbed", picture, much, loud, batch, one)
    return {key: round(float(np.mean(values)), 3) for key, values in right.items()}


def _judge(
    note: Any, kind: str, picture: Scene | Screen, much: Tensor, loud: Tensor,
    batch: dict[str, Tensor], one: int,
) -> None:  # fmt: skip
    whole = much.mean(0)
    doubt = int(scores_of(whole, "doubt").argmax())
    if isinstance(picture, Screen):
        read = spelt(much)
        note("code", read == picture.code)
        for place, sign in enumerate(picture.code):
            note("letters", read[place : place + 1] == sign)
        return
    if kind in ("nothing", "other"):
        note("nothing" if kind == "nothing" else "unknown", doubt < len(DOUBTS))
        return
    first, last = Lexicon.span("concept")
    if kind in ("single", "disturbed"):
        note("name" if kind == "single" else "name-disturbed",
             int(whole[first:last].argmax()) == picture.objects[0].item.label)  # fmt: skip
        note("doubted", doubt < len(DOUBTS))
        if kind == "single":
            behind = batch["colour"][one] >= 0
            shade = scores_of(much[behind].mean(0), "colour")[: len(GROUPS["colour"])]
            note("background", GROUPS["colour"][int(shade.argmax())] == picture.background)
    elif kind == "pair":
        label = batch["side"][one]
        for side in set(label[label >= 0].tolist()):
            cells, products = (v[label == side].mean(0) for v in (much, loud))
            note("side", int(scores_of(cells, "side").argmax()) == side)
            name = int(batch["concept"][one][label == side][0])
            note("pair-name", int(cells[first:last].argmax()) == name)
            note("pair-name-by-products", int(products[first:last].argmax()) == name)
    elif kind == "count":
        number = int(scores_of(whole, "number")[: len(GROUPS["number"])].argmax())
        note("count", number == len(picture.objects))


def options(about: str) -> argparse.ArgumentParser:
    """The command line of what works on an eye and pictures that are drawn for it."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--weights", type=Path, required=True, help="vision and projector")
    parser.add_argument("--gguf", type=Path, required=True, help="SmolLM2-135M-Instruct")
    parser.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
    parser.add_argument("--fonts", type=Path, default=Path(".build/fonts"))
    return parser


def opened(args: argparse.Namespace) -> tuple[Any, Projector, Draw, Lexicon]:
    """Tower, projector, pictures of the tower's size, and words, of a command line of `options`."""
    from mmagent.finetune.bundled.pictograms import Sheet
    from mmagent.finetune.bundled.screens import fetch_fonts
    from mmagent.models.assemble import picture_side

    fetch_fonts(args.fonts)
    lexicon = Lexicon.from_gguf(args.gguf)
    trunk, projector = load_eye(args.weights, lexicon.vectors.shape[1])
    draw = Draw(Sheet.load(args.pictograms), args.fonts, picture_side(args.weights))
    return trunk, projector, draw, lexicon


def main() -> None:
    """Measure a weights folder and print the shares."""
    parser = options("How well does the eye see by itself?")
    parser.add_argument("--number", type=int, default=200, help="pictures of each kind")
    args = parser.parse_args()
    print(json.dumps(eyesight(*opened(args), number=args.number), indent=2))


if __name__ == "__main__":
    main()
