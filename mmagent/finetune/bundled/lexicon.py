"""The words that the eye says: what every cell of a picture's feature map means, as word vectors.

Tower and projector are taught together that each image token is to be a mix of the language model's
own input embeddings: the concept and its colour where an object lies, the colour of the background
elsewhere, the side of each of two things, how many there are, or that nothing known is there. The
language model is to find words it knows.

A code is said as it would stand in a text: in the rows of cells about its line those of the first
column say its first letter, those of the second column the second, whatever its size and where the
line begins. A row of tokens then is the code, letter by letter, and copying it is what a language
model can do best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.dialogues_picture import NUMBERS, Shown
from mmagent.finetune.bundled.scenes import SHADES
from mmagent.finetune.bundled.screens import LETTERS

__all__ = [
    "DOUBTS", "GROUPS", "IGNORE", "QUIET", "SIDES", "Lexicon", "labels_of", "side_of", "weights_of",
]  # fmt: skip

SIDES = ("left", "right", "top", "bottom")
DOUBTS = ("nothing", "unknown")  # noise and the like; things beyond the concepts

GROUPS: dict[str, tuple[str, ...]] = {
    "concept": tuple(c.name for c in CONCEPTS),
    "colour": tuple(SHADES),
    "side": SIDES,
    "number": NUMBERS,
    "doubt": DOUBTS,
    "letter": tuple(LETTERS),
}
IGNORE = -100
_OBJECT, _COLOUR, _BACKGROUND, _PLACE, _NUMBER = 1.0, 0.6, 0.6, 0.7, 0.4
_SHARP = 8.0
QUIET = _SHARP / 2  # the product of a word that is not said stays below this
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
                text = word if group == "letter" else f" {word}"
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


def _spelt(shown: Shown, grid: int) -> Tensor:
    """Number of the letter that every cell says, [grid * grid].

    As many as there are letters for none; `IGNORE` beside the rows that say the code.
    """
    none = len(LETTERS)
    table = torch.full((grid, grid), none)
    signs = [LETTERS.index(sign) for sign in shown.names[0][:grid]]
    _, top, _, bottom = shown.boxes[0]
    line = min(grid - 1, max(0, int((top + bottom) / 2 * grid)))
    table[max(0, line - 2) : line + 3] = IGNORE
    table[max(0, line - 1) : line + 2] = torch.tensor(signs + [none] * (grid - len(signs)))
    return table.flatten()


def weights_of(shown: Shown, grid: int) -> Tensor:
    """How much of each word every cell says: [grid * grid, W].

    Args:
        shown: what the picture shows.
        grid: cells along a side; of a longer code the end is not said.
    """
    table = torch.zeros(grid * grid, sum(map(len, GROUPS.values())))
    if shown.kind == "screen":
        first, last = Lexicon.span("letter")
        spelt = _spelt(shown, grid)
        said = one_hot(spelt.where(spelt != IGNORE, last - first), last - first + 1)
        table[:, first:last] = said[:, :-1].float()
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


def labels_of(shown: Shown, grid: int) -> dict[str, Tensor]:
    """For every group the word that each cell says, [grid * grid].

    It is the word's number in the group, as many as there are words where the cell says none, and
    `IGNORE` where that is not asked for.
    """
    cells = grid * grid
    label = {group: torch.full((cells,), IGNORE) for group in GROUPS}
    none = {group: len(words) for group, words in GROUPS.items()}
    if shown.kind == "screen":
        for group in ("concept", "doubt"):
            label[group][:] = none[group]
        if shown.names[0]:  # else lines of letters that are no code
            label["letter"] = _spelt(shown, grid)
        return label
    label["letter"][:] = none["letter"]
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
