"""The projector's first lesson: say in the language model's own word vectors what a cell shows.

Before any loss passes through the language model, the projector is fitted so that each of the 25
image tokens lies near a mix of the input embeddings of the words for what is there: the concept
and its colour where an object lies, the colour of the background elsewhere, and the side or the
number where there are several. `detectors` solves this in closed form, `align` refines it by
descent. Neither passes the language model, and stage B is left to teach how such tokens are read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.dialogues_picture import NUMBERS, Gallery, Shown
from mmagent.finetune.bundled.scenes import SHADES

__all__ = ["Lexicon", "align", "detectors", "named_right", "place_detectors"]

SIDES = ("left", "right", "top", "bottom")
_OBJECT, _COLOUR, _BACKGROUND, _PLACE = 1.0, 0.6, 0.6, 0.7
_EVERYWHERE = 0.35  # of an object's name in the cells beside it, of the background under it


@dataclass(frozen=True)
class Lexicon:
    """The vectors of the words that pictures are described with.

    Attributes:
        words: concept names, colours, sides, numbers.
        vectors: their input embeddings less the mean of all embeddings, [W, D].
        mean: that mean, [D].
    """

    words: tuple[str, ...]
    vectors: Tensor
    mean: Tensor

    @classmethod
    def of(cls, tokenizer: Any, embeddings: Tensor) -> Lexicon:
        """Look the words up.

        A name of several tokens is their sum, the first of them in full and the others in half:
        the first is what an answer must find, and it leads to the others.

        Args:
            tokenizer: of the language model.
            embeddings: its input embeddings, [V, D].
        """
        words = (*(c.name for c in CONCEPTS), *SHADES, *SIDES, *NUMBERS)
        mean = embeddings.mean(0)
        rows = []
        for word in words:
            ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            parts = embeddings[torch.tensor(ids)] - mean  # [n, D]
            weights = torch.tensor([1.0, *[0.5] * (len(ids) - 1)])
            rows.append((parts * weights[:, None]).sum(0))
        return cls(words, torch.stack(rows), mean)

    def place(self, word: str, group: str) -> int:
        """Row of a word: "orange" is a concept and a colour."""
        start = {"concept": 0, "colour": len(CONCEPTS), "side": len(CONCEPTS) + len(SHADES),
                 "number": len(CONCEPTS) + len(SHADES) + len(SIDES)}[group]  # fmt: skip
        return self.words.index(word, start)


def weights_of(shown: Shown, lexicon: Lexicon, grid: int) -> Tensor:
    """How much of each word every cell says: [grid * grid, W]."""
    table = torch.zeros(grid * grid, len(lexicon.words))
    cover = torch.zeros(grid * grid)
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in shown.boxes]
    for index, (name, colour, box) in enumerate(
        zip(shown.names, shown.colours, shown.boxes, strict=True)
    ):
        over = _overlap(box, grid)  # [grid * grid]
        cover = torch.maximum(cover, over)
        if shown.kind == "single":
            over = over.clamp_min(_EVERYWHERE)
        table[:, lexicon.place(name, "concept")] += _OBJECT * over
        if colour is not None:
            table[:, lexicon.place(colour, "colour")] += _COLOUR * over
        if shown.kind == "pair":
            other = centres[1 - index]
            across, down = centres[index][0] - other[0], centres[index][1] - other[1]
            side = SIDES[
                (0 if across < 0 else 1) if abs(across) > abs(down) else (2 if down < 0 else 3)
            ]
            table[:, lexicon.place(side, "side")] += _PLACE * over
    if shown.kind == "count":
        table.clamp_(max=_OBJECT)
        table[:, lexicon.place(NUMBERS[len(shown.names)], "number")] += _PLACE
    if shown.background is not None:
        behind = (1 - cover).clamp_min(_EVERYWHERE)
        table[:, lexicon.place(shown.background, "colour")] += _BACKGROUND * behind
    return table


def _overlap(box: Sequence[float], grid: int) -> Tensor:
    """Share of every cell that a box covers: [grid * grid]."""
    edges = torch.arange(grid, dtype=torch.float32)
    left, top, right, bottom = (float(v) * grid for v in box)
    wide = (torch.clamp(edges + 1, max=right) - torch.clamp(edges, min=left)).clamp(0, 1)
    high = (torch.clamp(edges + 1, max=bottom) - torch.clamp(edges, min=top)).clamp(0, 1)
    return (high[:, None] * wide[None, :]).flatten()


def detectors(
    projector: Any, gallery: Gallery, features: npt.NDArray[np.float16], lexicon: Lexicon,
    *, ridge: float = 0.01, threshold: float = 0.15, gain: float = 8.0,
) -> None:  # fmt: skip
    """Lay the regression from features to words into the projector, in closed form.

    The first hidden units become detectors, one for each word: unit j is the GELU of how much of
    word j a ridge regression sees, less a threshold, so that small doubts say nothing. The units
    that are left over keep their random weights. A second ridge regression, from all units to the
    words' vectors, is the second layer.

    Args:
        projector: `linear_1`, GELU, `linear_2`; with at least as many hidden units as words.
        gallery: what the pictures show.
        features: the tower's, [N, T, F].
        lexicon: the words' vectors.
        ridge: of the first regression, as a share of the features' mean square.
        threshold: how much of a word must be seen.
        gain: how sharply the threshold cuts.
    """
    grid, words = round(features.shape[1] ** 0.5), len(lexicon.words)
    targets = torch.stack([weights_of(s, lexicon, grid) for s in gallery.pictures])  # [N, T, W]
    first, second = projector.linear_1, projector.linear_2

    def cells(start: int) -> Tensor:
        return torch.from_numpy(features[start : start + 256].astype(np.float32)).flatten(0, 1)

    def said(start: int) -> Tensor:
        return targets[start : start + 256].flatten(0, 1)

    starts = range(0, len(features), 256)
    with torch.no_grad():
        weight, bias = _ridge(((cells(i), said(i)) for i in starts), ridge)
        first.weight[:words] = gain * weight.T
        first.bias[:words] = gain * (bias - threshold)
        vectors = lexicon.vectors
        units = ((projector.act(first(cells(i))), said(i) @ vectors) for i in starts)
        weight, bias = _ridge(units, 1e-3)
        second.weight.copy_(weight.T)
        second.bias.copy_(bias + lexicon.mean)


def place_detectors(
    projector: Any, features: npt.NDArray[np.float16], lexicon: Lexicon,
    *, threshold: float = 0.1, gain: float = 4.0, loud: float = 0.6, pictures: int = 3000,
) -> float:  # fmt: skip
    """Let every cell say where in the picture it lies: "left", "right", "top", "bottom".

    A ridge regression reads the place off the features (borders leave traces in a convolution).
    Four hidden units that say least give way to it: each is the GELU of how far to its side a
    cell lies, and writes that side's vector.

    Args:
        projector: `linear_1`, GELU, `linear_2`.
        features: the tower's, [N, T, F].
        lexicon: the words' vectors.
        threshold: how far from the middle a cell must lie.
        gain: how sharply the threshold cuts.
        loud: how much of the word the outermost cells say.
        pictures: how many to fit on.

    Returns:
        The share of cells beside the middle column whose side is told right (on what was fitted).
    """
    grid = round(features.shape[1] ** 0.5)
    step = max(1, len(features) // pictures)
    cells = torch.arange(grid * grid)
    middle = (grid - 1) / 2
    across, down = (cells % grid - middle) / middle, (cells // grid - middle) / middle
    place = torch.stack([across, down], 1)  # [T, 2] in -1 … 1
    chosen = features[::step]

    def read(start: int) -> Tensor:
        return torch.from_numpy(chosen[start : start + 256].astype(np.float32))  # [n, T, F]

    def pairs() -> Iterable[tuple[Tensor, Tensor]]:
        for start in range(0, len(chosen), 256):
            x = read(start)
            yield x.flatten(0, 1), place.repeat(len(x), 1)

    first, second = projector.linear_1, projector.linear_2
    with torch.no_grad():
        weight, bias = _ridge(pairs(), 0.01)  # [F, 2], [2]
        guess = read(0) @ weight + bias
        off = across != 0
        right = float(((guess[..., 0] > 0) == (across > 0))[:, off].float().mean())
        free = second.weight[:, len(lexicon.words) :].norm(dim=0).argsort()[:4]
        units = free + len(lexicon.words)
        signs = ((0, -1.0), (0, 1.0), (1, -1.0), (1, 1.0))  # as SIDES are ordered
        for unit, side, (axis, sign) in zip(units.tolist(), SIDES, signs, strict=True):
            first.weight[unit] = gain * sign * weight[:, axis]
            first.bias[unit] = gain * (sign * bias[axis] - threshold)
            vector = lexicon.vectors[lexicon.place(side, "side")]
            second.weight[:, unit] = vector * (loud / (gain * (0.7 - threshold)))
    return right


def _ridge(pairs: Iterable[tuple[Tensor, Tensor]], ridge: float) -> tuple[Tensor, Tensor]:
    """Weights [F, W] and constants [W] of a linear regression over chunks of ([n, F], [n, W])."""
    gram = mixed = torch.zeros((), dtype=torch.float64)
    for x, y in pairs:
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)  # [n, F + 1]
        gram = gram + (x.T @ x).double()
        mixed = mixed + (x.T @ y).double()
    penalty = (gram.diagonal()[:-1].mean() * ridge).repeat(len(gram))
    penalty[-1] = 1e-6
    solved = torch.linalg.solve(gram + penalty.diag(), mixed).float()  # [F + 1, W]
    return solved[:-1], solved[-1]


def align(
    projector: nn.Module, gallery: Gallery, features: npt.NDArray[np.float16], lexicon: Lexicon,
    *, seconds: float, batch: int = 32, lr: float = 3e-4, drop: float = 0.05, seed: int = 0,
    steps: int | None = None,
) -> float:  # fmt: skip
    """Fit the projector for some seconds (or `steps`); returns the last loss.

    Args:
        projector: maps [B, 25, F] to [B, 25, D]; changed in place.
        gallery: what the pictures show.
        features: the tower's, [N, 25, F].
        lexicon: the words' vectors.
        seconds: time to spend.
        batch: pictures a step.
        lr: highest learning rate.
        drop: share of the features that is left out, against leaning on few of them.
        seed: of order and dropout.
        steps: count steps and not seconds.
    """
    torch.manual_seed(seed)
    grid = round(features.shape[1] ** 0.5)
    targets = torch.stack([weights_of(s, lexicon, grid) for s in gallery.pictures]).half()
    scale = lexicon.vectors.pow(2).mean()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=lr, weight_decay=0.01)
    start, step, done, loss = time.monotonic(), 0, 0.0, torch.zeros(())
    dropout = nn.Dropout(drop)
    while done < 1.0:
        done = step / steps if steps else (time.monotonic() - start) / seconds
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * max(0.02, 1 - done)
        rows = torch.randint(len(gallery.pictures), (batch,)).tolist()
        x = torch.from_numpy(features[sorted(rows)].astype(np.float32))  # [B, 25, F]
        weights = targets[sorted(rows)].float()  # [B, 25, W]
        want = weights @ lexicon.vectors  # [B, 25, D]
        said = projector(dropout(x)) - lexicon.mean
        likeness = said @ lexicon.vectors.T / lexicon.vectors.pow(2).sum(-1)  # [B, 25, W]
        loss = mse_loss(said, want) / scale + mse_loss(likeness, _own(weights, lexicon))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            print(f"align: step {step}, {done:.0%}, loss {float(loss.detach()):.4f}", flush=True)
        step += 1
    return float(loss.detach())


def _own(weights: Tensor, lexicon: Lexicon) -> Tensor:
    """What the likeness is when the words are said exactly: words are not all at right angles."""
    gram = lexicon.vectors @ lexicon.vectors.T / lexicon.vectors.pow(2).sum(-1)
    return weights @ gram


@torch.no_grad()
def named_right(
    projector: nn.Module, gallery: Gallery, features: npt.NDArray[np.float16], lexicon: Lexicon
) -> tuple[float, float]:
    """How often the nearest concept and the nearest background colour are right on singles.

    This needs no language model; it bounds what stage B can reach.
    """
    rows = [i for i, s in enumerate(gallery.pictures) if s.kind == "single"]
    number = len(CONCEPTS)
    names, colours = [], []
    read = torch.linalg.pinv(lexicon.vectors)  # [D, W]: how much of each word is said
    grid = round(features.shape[1] ** 0.5)
    for row in rows:
        said = projector(torch.from_numpy(features[row].astype(np.float32))) - lexicon.mean
        shown = gallery.pictures[row]
        best = int((said.mean(0) @ read[:, :number]).argmax())
        names.append(CONCEPTS[best].name == shown.names[0])
        if shown.background is not None:
            free = 1 - _overlap(shown.boxes[0], grid)  # [25]
            behind = (said * free[:, None]).sum(0) @ read[:, number : number + len(SHADES)]
            colours.append(list(SHADES)[int(behind.argmax())] == shown.background)
    return float(np.mean(names)), float(np.mean(colours or [False]))
