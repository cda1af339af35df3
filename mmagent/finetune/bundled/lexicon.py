"""The words that the eye says: what every cell of a picture's feature map means, as word vectors.

Tower and projector are taught together that each image token is to be a mix of the language model's
own input embeddings (how near it comes, `refit` tells): the concept and its colour where an object
lies, the colour of the background elsewhere, the side of each of two things, how many there are,
the letters of a code, or that nothing known is there. The language model is to find words it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.dialogues_picture import NUMBERS, Shown
from mmagent.finetune.bundled.scenes import SHADES
from mmagent.finetune.bundled.screens import LETTERS, Letter

__all__ = ["DOUBTS", "GROUPS", "IGNORE", "SIDES", "Lexicon", "labels_of", "side_of", "weights_of"]

SIDES = ("left", "right", "top", "bottom")
DOUBTS = ("nothing", "unknown")  # noise and the like; things beyond the concepts
_FIGURES = ("Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
# The second letter in a cell is said by another word than the first, so that their order is told.
_SECOND = (*(sign.lower() for sign in LETTERS if sign.isalpha()), *_FIGURES)

GROUPS: dict[str, tuple[str, ...]] = {
    "concept": tuple(c.name for c in CONCEPTS),
    "colour": tuple(SHADES),
    "side": SIDES,
    "number": NUMBERS,
    "doubt": DOUBTS,
    "first": tuple(LETTERS),
    "second": _SECOND,
}
IGNORE = -100
_OBJECT, _COLOUR, _BACKGROUND, _PLACE, _NUMBER = 1.0, 0.6, 0.6, 0.7, 0.4
_SHARP = 8.0
_EVERYWHERE = 0.35  # of an object's name in the cells beside it, of the background under it


@dataclass(frozen=True)
class Lexicon:
    """The vectors of the words that pictures are described with.

    Attributes:
        vectors: their input embeddings less the mean of all embeddings, [W, D]; W words in the
            order of `GROUPS`.
        mean: that mean, [D].
        reader: reads how much of each word a mix says, [D, W]: the pseudo-inverse of `vectors`.
    """

    vectors: Tensor
    mean: Tensor
    reader: Tensor

    @classmethod
    def of(cls, tokenizer: Any, embeddings: Tensor) -> Lexicon:
        """Look the words up.

        A name of several tokens is their sum, the first of them in full and the others in half:
        the first is what an answer must find, and it leads to the others.

        Args:
            tokenizer: of the language model.
            embeddings: its input embeddings, [V, D]; D must be at least the number of words.
        """
        mean = embeddings.mean(0)
        rows = []
        for group, words in GROUPS.items():
            for word in words:
                text = word if group in ("first", "second") else f" {word}"
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                parts = embeddings[torch.tensor(ids)] - mean  # [n, D]
                weights = torch.tensor([1.0, *[0.5] * (len(ids) - 1)])
                rows.append((parts * weights[:, None]).sum(0))
        vectors = torch.stack(rows)
        return cls(vectors, mean, torch.linalg.pinv(vectors))

    @classmethod
    def from_gguf(cls, gguf: Path) -> Lexicon:
        """Look the words up in the language model's file."""
        from transformers import AutoTokenizer

        from mmagent.models.assemble import language_model

        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        return cls.of(tokenizer, language_model(gguf).get_input_embeddings().weight.detach())

    @staticmethod
    def span(group: str) -> tuple[int, int]:
        """Where the rows of a group begin and end."""
        start = 0
        for name, words in GROUPS.items():
            if name == group:
                return start, start + len(words)
            start += len(words)
        raise KeyError(group)

    @staticmethod
    def place(word: str, group: str) -> int:
        """Row of a word: "orange" is a concept and a colour."""
        return Lexicon.span(group)[0] + GROUPS[group].index(word)

    def read(self, said: Tensor) -> Tensor:
        """How much of each word image tokens say: [..., D] to [..., W]."""
        return (said - self.mean) @ self.reader

    def products(self, said: Tensor) -> Tensor:
        """Logits of all words by their products with image tokens: [..., D] to [..., W].

        So attention looks at them. A word that is said in full, of usual length, has about
        `_SHARP`.
        """
        length = self.vectors.norm(dim=1)  # [W]
        unit = self.vectors / length[:, None]
        loud: Tensor = (said - self.mean) @ unit.T * (_SHARP / length.mean())
        return loud


def side_of(shown: Shown, index: int) -> str:
    """On which side one of two objects is."""
    (left, top), (other_left, other_top) = (_centre(shown.boxes[i]) for i in (index, 1 - index))
    across, down = left - other_left, top - other_top
    if abs(across) > abs(down):
        return SIDES[0 if across < 0 else 1]
    return SIDES[2 if down < 0 else 3]


def _centre(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _overlap(box: Sequence[float], grid: int) -> Tensor:
    """Share of every cell that a box covers: [grid * grid]."""
    edges = torch.arange(grid, dtype=torch.float32)
    left, top, right, bottom = (float(v) * grid for v in box)
    wide = (torch.clamp(edges + 1, max=right) - torch.clamp(edges, min=left)).clamp(0, 1)
    high = (torch.clamp(edges + 1, max=bottom) - torch.clamp(edges, min=top)).clamp(0, 1)
    return (high[:, None] * wide[None, :]).flatten()


def _cell(letter: Letter, grid: int) -> int:
    """The cell in which a letter's centre lies."""
    column = min(grid - 1, max(0, int(letter.across * grid)))
    return min(grid - 1, max(0, int(letter.down * grid))) * grid + column


def _spelt(letters: Sequence[Letter], grid: int) -> dict[int, list[str]]:
    """The letters of every cell that has some, from left to right; at most two are told."""
    cells: dict[int, list[str]] = {}
    for letter in sorted(letters, key=lambda one: one.across):
        cells.setdefault(_cell(letter, grid), []).append(letter.sign)
    return cells


def weights_of(shown: Shown, grid: int, letters: Sequence[Letter] = ()) -> Tensor:
    """How much of each word every cell says: [grid * grid, W].

    Args:
        shown: what the picture shows.
        grid: cells along a side.
        letters: of the code that it shows, if it is a screen.
    """
    table = torch.zeros(grid * grid, sum(map(len, GROUPS.values())))
    if shown.kind == "screen":
        for cell, signs in _spelt(letters, grid).items():
            for group, sign in zip(("first", "second"), signs, strict=False):
                table[cell, Lexicon.span(group)[0] + LETTERS.index(sign)] = 1.0
        return table
    if shown.kind == "nothing":
        table[:, Lexicon.place("nothing", "doubt")] = 1.0
        return table
    cover = torch.zeros(grid * grid)
    alone = shown.kind in ("single", "other")
    for index, (name, colour, box) in enumerate(
        zip(shown.names, shown.colours, shown.boxes, strict=True)
    ):
        over = _overlap(box, grid)  # [grid * grid]
        cover = torch.maximum(cover, over)
        if alone:
            over = over.clamp_min(_EVERYWHERE)
        if shown.kind == "other":
            table[:, Lexicon.place("unknown", "doubt")] += _OBJECT * over
        else:
            table[:, Lexicon.place(name, "concept")] += _OBJECT * over
        if colour is not None:
            table[:, Lexicon.place(colour, "colour")] += _COLOUR * over
        if shown.kind == "pair":
            table[:, Lexicon.place(side_of(shown, index), "side")] += _PLACE * over
    table.clamp_(max=_OBJECT)
    if len(shown.names) > 1:  # in every cell: of one thing it would drown the name
        table[:, Lexicon.place(NUMBERS[len(shown.names)], "number")] = _NUMBER
    if shown.background is not None:
        behind = (1 - cover).clamp_min(_EVERYWHERE)
        table[:, Lexicon.place(shown.background, "colour")] += _BACKGROUND * behind
    return table


def labels_of(shown: Shown, grid: int, letters: Sequence[Letter] = ()) -> dict[str, Tensor]:
    """For every group the word that each cell says, [grid * grid].

    It is the word's number in the group, as many as there are words where the cell says none, and
    `IGNORE` where that is not asked for.
    """
    cells = grid * grid
    label = {group: torch.full((cells,), IGNORE) for group in GROUPS}
    none = {group: len(words) for group, words in GROUPS.items()}
    if shown.kind == "screen":
        return label | _screen_labels(letters, grid) | {
            group: torch.full((cells,), none[group]) for group in ("concept", "doubt")
        }  # fmt: skip
    for group in ("first", "second"):
        label[group][:] = none[group]
    if shown.kind == "nothing":
        label["doubt"][:] = DOUBTS.index("nothing")
        label["concept"][:] = none["concept"]
        return label
    cover = torch.zeros(cells)
    label["doubt"][:] = DOUBTS.index("unknown") if shown.kind == "other" else none["doubt"]
    label["number"][:] = len(shown.names)
    alone = shown.kind in ("single", "other")
    for index, (name, colour, box) in enumerate(
        zip(shown.names, shown.colours, shown.boxes, strict=True)
    ):
        over = _overlap(box, grid)
        cover = torch.maximum(cover, over)
        inside = over > (0.35 if alone else 0.5)
        if shown.kind == "other":
            label["concept"][:] = none["concept"]
        else:
            label["concept"][inside] = GROUPS["concept"].index(name)
        if colour is not None:
            label["colour"][inside] = GROUPS["colour"].index(colour)
        if shown.kind == "pair":
            label["side"][inside] = SIDES.index(side_of(shown, index))
    if not alone:
        label["concept"][cover < 0.1] = none["concept"]
    if shown.background is not None:
        label["colour"][cover < 0.25] = GROUPS["colour"].index(shown.background)
    return label


def _screen_labels(letters: Sequence[Letter], grid: int) -> dict[str, Tensor]:
    """Which letters each cell says; cells that a line of letters merely grazes are left out."""
    label = {group: torch.full((grid * grid,), len(GROUPS[group])) for group in ("first", "second")}
    for letter in letters:
        half = (letter.wide / 2, letter.high / 2)
        box = (letter.across - half[0], letter.down - half[1],
               letter.across + half[0], letter.down + half[1])  # fmt: skip
        grazed = _overlap(box, grid) > 0.12
        label["first"][grazed] = label["second"][grazed] = IGNORE
    for cell, signs in _spelt(letters, grid).items():
        label["first"][cell] = LETTERS.index(signs[0])
        label["second"][cell] = LETTERS.index(signs[1]) if len(signs) > 1 else len(LETTERS)
    return label
