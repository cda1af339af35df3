"""Turns in the shapes that chat templates accept: not all take what the next one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmagent.messages import Turn

__all__ = ["ways_to_say"]


def ways_to_say(turns: Sequence[Turn], takes_parts: bool) -> list[list[Turn]]:
    """The turns as they are, and then as templates with narrower views want them."""
    plain = [turn if takes_parts else _flat(turn) for turn in turns]
    return [plain, _tool_media_to_user(plain), _alternating(_tool_media_to_user(plain))]


def _flat(turn: Turn) -> Turn:
    """Content as one string, which templates of text-only models expect."""
    text = "".join(part.get("text", "") for part in turn["content"])
    return {**turn, "content": text}


def _tool_media_to_user(turns: Sequence[Turn]) -> list[Turn]:
    """Pictures and sounds that a tool returned, shown by the user right after the tools' turns."""
    said: list[Turn] = []
    held: list[dict[str, Any]] = []
    for turn in turns:
        if turn["role"] != "tool" and held:
            said.append({"role": "user", "content": held})
            held = []
        content = turn["content"]
        if turn["role"] == "tool" and isinstance(content, list):
            held = held + [part for part in content if part["type"] != "text"]
            turn = {**turn, "content": [part for part in content if part["type"] == "text"]}
        said.append(turn)
    return [*said, {"role": "user", "content": held}] if held else said


def _alternating(turns: Sequence[Turn]) -> list[Turn]:
    """System text inside the first user turn, and turns of one role in a row as one."""
    said: list[Turn] = []
    for turn in turns:
        role = {"system": "user", "tool": "user"}.get(turn["role"], turn["role"])
        if said and said[-1]["role"] == role:
            before, now = said[-1]["content"], turn["content"]
            gap: Any = "\n\n" if isinstance(now, str) else [{"type": "text", "text": "\n\n"}]
            said[-1] = {**said[-1], "content": before + gap + now}
        else:
            said.append({**turn, "role": role})
    return said
