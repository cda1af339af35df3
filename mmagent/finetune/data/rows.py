"""What a row of dialogue is, whatever file it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

__all__ = ["Dialogue", "PictureRef", "Problem", "Role", "Turn"]

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class PictureRef:
    """A picture of a row, by where it lies.

    Attributes:
        source: A path, a `data:` address or the bytes, as `mmagent.media` takes them.
        root: The folder that the path must lie in.
        sha256: Of its bytes; empty until it has been checked.
        look: A coarse thumbnail, to find pictures that look alike; empty until checked.
        change: Seed of an augmentation; 0 for the picture as it is.
    """

    source: str | bytes = field(repr=False)
    root: Path | None = None
    sha256: str = ""
    look: bytes = field(default=b"", repr=False)
    change: int = 0


@dataclass(frozen=True)
class Turn:
    """What one side says.

    Attributes:
        role: Who says it.
        parts: Texts, and the numbers of pictures of the row, in order.
        trained: Whether an assistant's turn is learned from (OpenAI's `weight: 0` says no).
        tool_calls: Calls of functions, as chat templates take them.
    """

    role: Role
    parts: tuple[str | int, ...]
    trained: bool = True
    tool_calls: tuple[dict[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The words alone."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[int, ...]:
        """Numbers of the pictures shown in it."""
        return tuple(part for part in self.parts if isinstance(part, int))


@dataclass(frozen=True)
class Dialogue:
    """One row: a dialogue with its pictures.

    Attributes:
        where: Such as "talks.jsonl, row 3"; errors name it.
        turns: In order.
        pictures: In the order in which turns refer to them.
        conversation: Rows of one conversation share it; empty for a row on its own.
        tools: Functions that are described to the model.
        split: "train", "validation" or "test", where the file says so.
    """

    where: str
    turns: tuple[Turn, ...]
    pictures: tuple[PictureRef, ...] = ()
    conversation: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    split: str | None = None

    @property
    def answers(self) -> list[int]:
        """Places of the assistant's turns that are learned from."""
        return [i for i, t in enumerate(self.turns) if t.role == "assistant" and t.trained]

    def messages(self, pictures: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """The turns as chat templates take them; `pictures` are put where they belong."""
        out: list[dict[str, Any]] = []
        for turn in self.turns:
            content = [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else ({"type": "image"} if pictures is None
                      else {"type": "image", "image": pictures[part]})
                for part in turn.parts
            ]  # fmt: skip
            message: dict[str, Any] = {"role": turn.role, "content": content}
            if turn.tool_calls:
                message["tool_calls"] = list(turn.tool_calls)
            out.append(message)
        return out

    def until(self, turn: int) -> Dialogue:
        """The dialogue before a turn, with the pictures that were shown by then."""
        turns = self.turns[:turn]
        seen = sorted({number for t in turns for number in t.pictures})
        place = {number: i for i, number in enumerate(seen)}
        moved = tuple(
            replace(t, parts=tuple(place[p] if isinstance(p, int) else p for p in t.parts))
            for t in turns
        )
        return replace(self, turns=moved, pictures=tuple(self.pictures[i] for i in seen))

    def fingerprint(self, *, with_pictures: bool = True) -> str:
        """A hash of what is said and shown."""
        said = [[t.role, [p if isinstance(p, str) else "#" for p in t.parts],
                 list(t.tool_calls)] for t in self.turns]  # fmt: skip
        shown = [p.sha256 or repr(p.source) for p in self.pictures] if with_pictures else []
        text = json.dumps([said, shown], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Problem:
    """Something about a row that its owner should know.

    Attributes:
        where: Which row.
        kind: Such as "missing picture"; one of a fixed few.
        message: What happened and what to do.
        fatal: Whether the row cannot be used.
    """

    where: str
    kind: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"
