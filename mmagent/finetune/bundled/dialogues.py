"""What the dialogues of stage B are made of, and the mixture in which they are drawn.

A `Dialogue` is a set of conversations that begin alike (the same picture, the same memories, the
same persona) and go on differently. They are trained as one row: the common beginning is run
once and every continuation sees only it and itself (see `dialogues_encode`). One picture of 25
tokens then carries five questions for little more than the price of one.

Everything is drawn from the given `random.Random`; the phrases are in `phrases/*.yaml`, each with
a part that only measuring uses ("test").
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

import yaml

__all__ = ["Dialogue", "Message", "Mixture", "Split", "Talk", "between", "phrases", "say", "user"]

Split = Literal["train", "test"]
Message = dict[str, Any]


@dataclass(frozen=True)
class Talk:
    """One conversation that ends with an answer of the assistant.

    Attributes:
        task: what it teaches or measures ("name", "background", "memory", …).
        messages: chat messages whose content is a list of parts, as chat templates take them.
        accept: the answer is right if it holds one of these words or phrases.
        functions: that may be called.
        schema: that the answer must have, if it is JSON.
    """

    task: str
    messages: tuple[Message, ...]
    accept: tuple[str, ...] = ()
    functions: tuple[dict[str, Any], ...] = ()
    schema: dict[str, Any] | None = None

    @property
    def answer(self) -> str:
        """The words of the last message."""
        return str(self.messages[-1]["content"][0]["text"])


@dataclass(frozen=True)
class Dialogue:
    """Conversations that begin alike.

    Attributes:
        kind: which generator made it.
        talks: the conversations.
        pictures: rows of the gallery, in the order in which the talks show them; the same for
            every talk.
        teacher: row of the cached distribution of the base to stay close to, if any.
    """

    kind: str
    talks: tuple[Talk, ...]
    pictures: tuple[int, ...] = ()
    teacher: int | None = None


def user(text: str, pictures: int = 0) -> Message:
    """A user's message: pictures, then words."""
    parts: list[dict[str, str]] = [{"type": "image"}] * pictures
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def say(text: str, role: str = "assistant") -> Message:
    """A message of the assistant (or of the system)."""
    return {"role": role, "content": [{"type": "text", "text": text}]}


@functools.cache
def phrases(name: str) -> dict[str, Any]:
    """The phrases of `phrases/<name>.yaml`; do not change what is returned."""
    text = files("mmagent.finetune.bundled").joinpath(f"phrases/{name}.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def between(values: Sequence[Any], split: Split) -> list[Any]:
    """The part of a pool that belongs to a split: every fifth value is for measuring."""
    return [v for i, v in enumerate(values) if (i % 5 == 4) == (split == "test")]


@dataclass(frozen=True)
class Mixture:
    """Draws dialogues of several kinds by their shares.

    Attributes:
        parts: kind → (share, generator). The shares need not sum to one.
    """

    parts: dict[str, tuple[float, Callable[[random.Random], Dialogue]]] = field(
        default_factory=dict
    )

    def draw(self, rng: random.Random) -> Dialogue:
        """One dialogue."""
        kinds = list(self.parts)
        kind = rng.choices(kinds, [self.parts[k][0] for k in kinds])[0]
        return self.parts[kind][1](rng)

    def chunk(self, seed: int, number: int, size: int) -> list[Dialogue]:
        """The `number`-th `size` dialogues of the endless sequence that `seed` names."""
        rng = random.Random(f"{seed}/{number}")
        return [self.draw(rng) for _ in range(size)]
