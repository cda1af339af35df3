"""Shows what a model would learn from rows: the very tokens, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from mmagent.finetune.data.pictures import Gallery
from mmagent.finetune.data.rows import Dialogue
from mmagent.finetune.encoding import IGNORED, ChatEncoder

__all__ = ["Piece", "pieces_of"]

Kind = Literal["learned", "read", "picture"]


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one kind.

    Attributes:
        kind: "learned", "read" (seen by the model and not learned), or "picture".
        text: The tokens decoded; for pictures, how many there are.
    """

    kind: Kind
    text: str


def pieces_of(encoder: ChatEncoder, row: Dialogue, gallery: Gallery) -> list[Piece]:
    """A row as the model is trained on it, decoded from its tokens and labels."""
    encoded = encoder.encode(row, [gallery.pil(ref) for ref in row.pictures])

    def kinds() -> Iterator[tuple[Kind, int]]:
        for token, label in zip(encoded.ids, encoded.labels, strict=True):
            if token == encoder.image_token_id:
                yield "picture", token
            else:
                yield ("read" if label == IGNORED else "learned"), token

    pieces = []
    for kind, run in groupby(kinds(), key=lambda pair: pair[0]):
        tokens = [token for _, token in run]
        text = f"[picture, {len(tokens)} tokens]" if kind == "picture" else _decode(encoder, tokens)
        pieces.append(Piece(kind, text))
    return pieces


def _decode(encoder: ChatEncoder, tokens: Sequence[int]) -> str:
    decode: Any = encoder.tokenizer.decode
    text: str = decode(list(tokens), skip_special_tokens=False)
    return text
