"""What stage A shows and asks: pictures drawn anew, their labels, and the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, pad

from mmagent.finetune.bundled.dialogues_picture import Shown, shown_of
from mmagent.finetune.bundled.dialogues_screen import shown_on
from mmagent.finetune.bundled.lexicon import GROUPS, IGNORE, QUIET, Lexicon, labels_of, weights_of
from mmagent.finetune.bundled.pictograms import Sheet
from mmagent.finetune.bundled.scenes import SHADES, Scene, SceneMaker
from mmagent.finetune.bundled.screens import LETTERS, Screen, ScreenMaker
from mmagent.finetune.bundled.tower import PLACES, cells_of

__all__ = [
    "Draw",
    "batch_of",
    "direct_losses",
    "evenly",
    "facts_of",
    "look",
    "losses",
    "loud_scores_of",
    "mixed",
    "pixels_of",
    "scores_of",
    "shares_of",
    "signs_of",
    "strips_of",
]

_SHARES = {"single": 0.2, "other": 0.02, "pair": 0.14, "several": 0.1, "count": 0.1,
           "screen": 0.4, "wall": 0.01, "nothing": 0.03}  # fmt: skip
_COLOUR = {name: index for index, name in enumerate(SHADES)}
_STRIP = 3  # rows of cells
_SHARP = 16.0  # a word said in full has this logit
_SILENT = 10.0  # where no word of a group is said, the odds for that
_ASKED = {"concept": 1.0, "colour": 0.3, "side": 0.4, "number": 0.4, "doubt": 0.4,
          "letter": 1.0}  # fmt: skip

_DIRECTLY = {"concept": 0.5, "side": 0.2, "letter": 5.0}


def shares_of(pairs: Sequence[str]) -> dict[str, float]:
    """Shares by kind of a command line's `KIND=SHARE`."""
    return {kind: float(share) for kind, share in (pair.split("=") for pair in pairs)}


def pixels_of(image: Image.Image) -> Tensor:
    """A picture as the tower takes it: float32 [3, S, S] in -1 … 1."""
    array = np.asarray(image, np.float32) / 127.5 - 1.0
    return torch.from_numpy(array).permute(2, 0, 1)


class Draw:
    """Draws the pictures of stage A by their shares.

    Args:
        sheet: the pictograms.
        fonts: the folder of the fonts.
        side: pixels of a picture's side.
        shares: changes the shares of some kinds.
        doubled: of the codes so many have two like letters side by side.
    """

    def __init__(
        self, sheet: Sheet, fonts: Path, side: int, shares: dict[str, float] | None = None, *,
        doubled: float = 0.0,
    ) -> None:  # fmt: skip
        self.scenes, self.screens = SceneMaker(sheet, side), ScreenMaker(fonts, side, doubled)
        self.shares = _SHARES | (shares or {})

    def some(
        self, rng: np.random.Generator, number: int, split: str = "train", kind: str | None = None
    ) -> list[tuple[str, Scene | Screen]]:
        """So many pictures, each with its kind; all of `kind` if that is given."""
        share = np.array(list(self.shares.values()))
        kinds = rng.choice(list(self.shares), number, p=share / share.sum())
        if kind is not None:
            kinds[:] = kind
        clean = rng.random(number) < 0.25
        return [
            (str(kind), self.one(rng, str(kind), split, clean=bool(c)))
            for kind, c in zip(kinds, clean, strict=True)
        ]

    def one(
        self, rng: np.random.Generator, kind: str, split: str, *, clean: bool
    ) -> Scene | Screen:
        """One picture of a kind."""
        if kind == "screen":
            return self.screens.draw(rng, split, clean=clean)
        if kind == "wall":
            return self.screens.wall(rng, clean=clean)
        scene: Scene = getattr(self.scenes, kind)(rng, split, clean=clean)
        return scene


def facts_of(kind: str, picture: Scene | Screen) -> Shown:
    """What a picture of a kind shows."""
    return shown_on(picture) if isinstance(picture, Screen) else shown_of(picture, kind)


def signs_of(screen: Screen, grid: int) -> tuple[Tensor, Tensor]:
    """The letter whose centre lies in each cell, and the how manieth of the code it is.

    Returns:
        The letter, as many as there are for none, [grid * grid]; cells away from the code, where
        notes stand, are not asked for. Its place, not asked for where none is, [grid * grid].
    """
    table, place = torch.full((grid, grid), len(LETTERS)), torch.full((grid, grid), IGNORE)
    places = [
        tuple(min(grid - 1, max(0, int(v * grid))) for v in (letter.down, letter.across))
        for letter in screen.letters
    ]
    for index, ((row, column), letter) in enumerate(zip(places, screen.letters, strict=True)):
        table[row, column] = LETTERS.index(letter.sign)
        if screen.code:
            place[row, column] = index
    if screen.code:
        rows = [row for row, _ in places]
        table[: max(0, min(rows) - 1)] = table[max(rows) + 2 :] = IGNORE
    return table.flatten(), place.flatten()


def look(
    trunk: Any, draw: Draw, rng: np.random.Generator, kinds: Sequence[str], *,
    clean: float, split: str = "train", twins: float = 0.0,
) -> tuple[list[Shown], Tensor]:  # fmt: skip
    """Draw a picture of every kind and look at them all.

    Args:
        trunk: gives features [B, F, h, w].
        draw: draws the pictures.
        rng: draws everything.
        kinds: of the pictures.
        clean: the share that is not disturbed.
        split: whose styles.
        twins: the share of the single things that an earlier picture shows too, in another way.

    Returns:
        The facts of every picture, and their features, float16 [P, T, F].
    """
    drawn: list[Scene | Screen] = []
    shown: list[int] = []  # labels of the single things
    for kind in kinds:
        plain = bool(rng.random() < clean)
        if kind == "single" and shown and rng.random() < twins:
            label = shown[int(rng.integers(len(shown)))]
            drawn.append(draw.scenes.single(rng, split, label, clean=plain))
        else:
            drawn.append(draw.one(rng, kind, split, clean=plain))
        if kind == "single" and isinstance(drawn[-1], Scene):
            shown.append(drawn[-1].objects[0].item.label)
    cells = []
    for start in range(0, len(drawn), 24):
        pixels = torch.stack([pixels_of(p.image) for p in drawn[start : start + 24]])
        with torch.inference_mode():
            cells.append(cells_of(trunk, pixels).half())
    facts = [facts_of(k, p) for k, p in zip(kinds, drawn, strict=True)]
    return facts, torch.cat(cells).clone()


def mixed(features: Tensor, pool: Tensor, most: Tensor | float) -> Tensor:
    """Features of some pictures with some of those of others: float32 [B, T, F].

    Things of a style that was never trained on are seen less surely, and so are these.

    Args:
        features: [B, T, F].
        pool: of the pictures that others are drawn from, [P, T, F].
        most: how much of another picture is mixed in at most; one number or [B, 1, 1].
    """
    others = pool[torch.randint(len(pool), (len(features),))].float()
    return torch.lerp(features.float(), others, torch.rand(len(features), 1, 1) * most)


def batch_of(
    drawn: Sequence[tuple[str, Scene | Screen]], texts: dict[str, int]
) -> dict[str, Tensor]:
    """Pixels and labels of some pictures; -100 where a label does not apply.

    Args:
        drawn: pictures with their kinds, all of one size.
        texts: number of every text that a picture can be of.

    Returns:
        pixels [B, 3, S, S]; thing (a concept), text, background and tint [B]; words [B, T, W];
        for every group of words its label of each cell, [B, T]; and sign and place, the letter in
        every cell of half the side and which of the code it is, [B, 4 T];
        and code, its letters, [B, 7].
    """
    grid = drawn[0][1].image.size[0] // 32
    rows: dict[str, list[Any]] = {k: [] for k in ("thing", "text", "background", "tint")}
    words, labels, signs, places, codes = [], [], [], [], []
    for kind, picture in drawn:
        thing = text = tint = IGNORE
        shown = facts_of(kind, picture)
        if isinstance(picture, Scene) and len({p.item.label for p in picture.objects}) == 1:
            one = picture.objects[0]
            text = texts[one.item.text]
            thing = one.item.label if one.item.label >= 0 else IGNORE
            tint = _COLOUR[one.colour] if one.colour else IGNORE
        rows["thing"].append(thing)
        rows["text"].append(text)
        rows["tint"].append(tint)
        rows["background"].append(_COLOUR[shown.background] if shown.background else IGNORE)
        words.append(weights_of(shown, grid))
        labels.append(labels_of(shown, grid))
        code, sign = "", torch.full((4 * grid * grid,), IGNORE)
        place = sign
        if isinstance(picture, Screen):
            code, (sign, place) = picture.code, signs_of(picture, 2 * grid)
        codes.append([*map(LETTERS.index, code), *[len(LETTERS)] * (PLACES - len(code))])
        signs.append(sign)
        places.append(place)
    batch = {key: torch.tensor(value) for key, value in rows.items()}
    batch |= {group: torch.stack([row[group] for row in labels]) for group in GROUPS}
    batch["words"] = torch.stack(words)
    batch["code"] = torch.tensor(codes)
    batch["sign"], batch["place"] = torch.stack(signs), torch.stack(places)
    batch["pixels"] = torch.stack([pixels_of(picture.image) for _, picture in drawn])
    return batch


def strips_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of pictures that show a code the three rows of cells about its line alone.

    The tower sees such a strip in less than half the time, and all of it is about the code.

    Args:
        batch: from `batch_of`, of screens alone.

    Returns:
        The same with pixels [B, 3, 96, S] and labels for as many cells as those have.
    """
    grid = batch["pixels"].shape[-1] // 32
    letter = batch["letter"].view(-1, grid, grid)[:, :, 0]  # the first, where it is said
    first = ((letter >= 0) & (letter < len(LETTERS))).int().argmax(1).clamp_max(grid - _STRIP)
    out = dict(batch)
    out["pixels"] = torch.stack(
        [p[:, 32 * f : 32 * (f + _STRIP)] for p, f in zip(batch["pixels"], first, strict=True)]
    )
    for key in (*GROUPS, "words", "sign", "place"):
        cells = batch[key]  # [B, T, ...]
        rows = cells.reshape(len(cells), grid, -1, *cells.shape[2:])  # [B, grid, T / grid, ...]
        strips = [r[f : f + _STRIP] for r, f in zip(rows, first, strict=True)]
        out[key] = torch.stack(strips).flatten(1, 2)
    return out


def scores_of(coefficients: Tensor, group: str) -> Tensor:
    """Logits of a group's words, and of none of them, from how much of each word is said.

    Args:
        coefficients: [..., W].
        group: one of `GROUPS`.

    Returns:
        [..., words of the group + 1].
    """
    first, last = Lexicon.span(group)
    none = math.log(_SILENT * (last - first))
    return pad(coefficients[..., first:last] * _SHARP, (0, 1), value=none)


def loud_scores_of(products: Tensor, group: str) -> Tensor:
    """The same from products with words (`Lexicon.products`): none is said below `QUIET`."""
    return pad(products[..., slice(*Lexicon.span(group))], (0, 1), value=QUIET)


def evenly(scores: Tensor, label: Tensor) -> Tensor:
    """Mean over the cells that say a word, and over those that say none, in equal parts.

    Letters stand in few cells; among all the others they would hardly count.

    Args:
        scores: [N, C], the last for no word.
        label: [N].
    """
    none = scores.shape[-1] - 1
    each = cross_entropy(scores, label, ignore_index=IGNORE, reduction="none")  # [N]
    said, silent = (label >= 0) & (label < none), label == none
    parts = [each[cells].mean() for cells in (said, silent) if bool(cells.any())]
    return torch.stack(parts).mean()


def losses(
    out: dict[str, Tensor], said: Tensor, batch: dict[str, Tensor], lexicon: Lexicon
) -> dict[str, Tensor]:
    """What is to be made small, by part, weighted.

    Args:
        out: scores of the heads (`tower.Heads`).
        said: the projector's image tokens, [B, T, D].
        batch: from `batch_of`.
        lexicon: the words.
    """
    parts: dict[str, Tensor] = {}
    for key, weight in {"thing": 1.0, "text": 0.5, "background": 0.3, "tint": 0.3}.items():
        if bool((batch[key] >= 0).any()):
            smooth = 0.1 if key in ("thing", "text") else 0.0
            parts[key] = weight * cross_entropy(out[key], batch[key], label_smoothing=smooth)
    much = lexicon.read(said)  # [B, T, W]
    for group, weight in _ASKED.items():
        label = batch[group]
        if bool((label >= 0).any()):
            scores = scores_of(much, group).flatten(0, 1)
            parts[f"word {group}"] = weight * evenly(scores, label.flatten())
    # All cells together name the one kind of thing, and how many there are.
    whole = much.mean(1)  # [B, W]
    if bool((batch["thing"] >= 0).any()):
        scores = scores_of(whole * 2, "concept")
        parts["whole"] = cross_entropy(scores, batch["thing"])
    numbers = batch["number"].amax(1)
    if bool((numbers >= 0).any()):
        parts["total"] = 1.0 * cross_entropy(scores_of(whole, "number"), numbers)
    want = batch["words"] @ lexicon.vectors  # [B, T, D]
    scale = lexicon.vectors.pow(2).mean()
    parts["near"] = 0.5 * mse_loss(said - lexicon.mean, want) / scale
    return parts


def direct_losses(scores: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same of the features themselves, by part, weighted.

    Args:
        scores: from `tower.CellHeads`.
        batch: from `batch_of`.
    """
    parts: dict[str, Tensor] = {}
    for group, weight in _DIRECTLY.items():
        label = batch[group]
        if bool((label >= 0).any()):
            parts[f"cell {group}"] = weight * evenly(scores[group].flatten(0, 1), label.flatten())
    if bool((batch["sign"] >= 0).any()):
        parts["sign"] = 0.5 * evenly(scores["sign"].flatten(0, 1), batch["sign"].flatten())
    if bool((batch["place"] >= 0).any()):
        flat = scores["place"].flatten(0, 1), batch["place"].flatten()
        parts["place"] = cross_entropy(*flat, ignore_index=IGNORE)
        coded = (batch["place"] >= 0).any(1)
        parts["spelling"] = 2.0 * cross_entropy(
            scores["spelling"][coded].flatten(0, 1), batch["code"][coded].flatten()
        )
    numbers = batch["number"].amax(1)
    if bool((numbers >= 0).any()):
        parts["cell number"] = cross_entropy(scores["number"], numbers, ignore_index=IGNORE)
    return parts
