"""Dialogues to rows of tokens, and rows to batches.

The talks of a dialogue begin alike. A row holds that beginning once and then every continuation;
the attention mask lets a continuation see the beginning and itself, and its positions go on from
the beginning, so that each talk is computed exactly as if it stood alone. Only words of the
assistant are predicted. This module knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmagent.finetune.bundled.dialogues import Dialogue, Message
from mmagent.finetune.bundled.screens import LETTERS

__all__ = ["Batch", "Encoder", "Row", "collate", "supervised_text"]


@dataclass(frozen=True)
class Row:
    """One dialogue in tokens.

    Attributes:
        ids: the beginning, then every continuation, [L].
        positions: position of each token in its own talk, [L].
        branch: 0 for the beginning, else the number of the continuation, [L].
        source: indices of the tokens after which an answer's token is predicted, [S].
        target: the tokens to predict there, [S].
        pictures: rows of the gallery, in the order of their places in `ids`.
        teacher: row of the base's cached distribution, if any.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    branch: tuple[int, ...]
    source: tuple[int, ...]
    target: tuple[int, ...]
    pictures: tuple[int, ...]
    teacher: int | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length.

    Attributes:
        ids: [B, L].
        positions: [B, L].
        mask: True where a token (row) may look (column), [B, 1, L, L].
        rows: row of each prediction, [S].
        source: index in its row of each prediction, [S].
        target: [S].
        pictures: rows of the gallery in the order of their places, [P].
        teachers: (row of the batch, row of the cached distribution).
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    rows: Tensor
    source: Tensor
    target: Tensor
    pictures: Tensor
    teachers: tuple[tuple[int, int], ...]


class Encoder:
    """Encodes dialogues with the chat template that the model is used with.

    Args:
        tokenizer: with a chat template that marks what the assistant says.
        image_token: id of the placeholder; the template writes one for each picture.
        image_tokens: tokens that a picture takes.
    """

    def __init__(self, tokenizer: Any, image_token: int, image_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.image_tokens = image_tokens

    def tokens(
        self, messages: Sequence[Message], spelt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """One talk: its tokens with every picture at full length, and which are the assistant's.

        Args:
            messages: of the talk.
            spelt: let the assistant say the letters of codes one by one, not in the pairs that the
                tokenizer knows by chance: that is how a code is read off a picture.

        Raises:
            ValueError: the chat template marks no word as the assistant's.
        """
        out = self.tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids: list[int] = []
        spoken: list[bool] = []
        for token, is_spoken in zip(out["input_ids"], out["assistant_masks"], strict=True):
            times = self.image_tokens if token == self.image_token else 1
            said = self._spelt(token) if spelt and is_spoken else [token] * times
            ids += said
            spoken += [bool(is_spoken)] * len(said)
        if not any(spoken):
            raise ValueError(
                "No word of the assistant is marked; put {% generation %} into the chat template."
            )
        return ids, spoken

    def _spelt(self, token: int) -> list[int]:
        """The tokens of the single letters and of the space before them, or the token itself.

        A code that begins with a figure has that space by itself. If one that begins with a
        letter had not, the space alone would already say that a figure comes.
        """
        text = self.tokenizer.decode([token])
        letters = text.removeprefix(" ")
        if text == letters[:1] or not letters or any(sign not in LETTERS for sign in letters):
            return [token]
        return [self.tokenizer(s, add_special_tokens=False)["input_ids"][0] for s in text]

    def row(self, dialogue: Dialogue) -> Row:
        """The dialogue as one row."""
        talks = [self.tokens(talk.messages, talk.task == "code") for talk in dialogue.talks]
        shared = _shared([ids for ids, _ in talks]) if len(talks) > 1 else len(talks[0][0])
        first_ids, first_spoken = talks[0]
        ids, positions = first_ids[:shared], list(range(shared))
        branch = [0] * shared
        source = [i - 1 for i in range(1, shared) if first_spoken[i]]
        target = [first_ids[i] for i in range(1, shared) if first_spoken[i]]
        for number, (talk, spoken) in enumerate(talks if len(talks) > 1 else [], start=1):
            start = len(ids)
            for index in range(shared, len(talk)):
                if spoken[index]:
                    source.append(shared - 1 if index == shared else start + index - shared - 1)
                    target.append(talk[index])
            ids += talk[shared:]
            positions += range(shared, len(talk))
            branch += [number] * (len(talk) - shared)
        return Row(tuple(ids), tuple(positions), tuple(branch), tuple(source), tuple(target),
                   dialogue.pictures, dialogue.teacher)  # fmt: skip


def _shared(talks: Sequence[Sequence[int]]) -> int:
    """Length of the common beginning; at least one token of every talk is left over."""
    most = min(map(len, talks)) - 1
    for index in range(most):
        if any(talk[index] != talks[0][index] for talk in talks):
            return index
    return most


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pad rows on the right; padding sees only itself and is seen by nobody."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    branch = torch.full((len(rows), longest), -1)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row.ids)
        positions[index, : len(row)] = torch.tensor(row.positions)
        branch[index, : len(row)] = torch.tensor(row.branch)
    looks, seen = branch[:, :, None], branch[:, None, :]  # [B, L, 1], [B, 1, L]
    allowed = (looks >= 0) & ((seen == 0) | (seen == looks))
    order = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = (allowed & order) | torch.eye(longest, dtype=torch.bool)
    return Batch(
        ids=ids,
        positions=positions,
        mask=mask[:, None],
        rows=torch.tensor([i for i, row in enumerate(rows) for _ in row.source], dtype=torch.long),
        source=torch.tensor([s for row in rows for s in row.source], dtype=torch.long),
        target=torch.tensor([t for row in rows for t in row.target], dtype=torch.long),
        pictures=torch.tensor([p for row in rows for p in row.pictures], dtype=torch.long),
        teachers=tuple((i, row.teacher) for i, row in enumerate(rows) if row.teacher is not None),
    )


def supervised_text(row: Row, tokenizer: Any) -> list[str]:
    """What a row teaches to say, one text for each answer: for people and for tests."""
    texts: list[list[int]] = []
    previous = -2
    for source, target in zip(row.source, row.target, strict=True):
        jumped = source != previous + 1 or (texts and row.branch[source] != row.branch[previous])
        if jumped:
            texts.append([])
        texts[-1].append(target)
        previous = source
    return [tokenizer.decode(ids) for ids in texts]
