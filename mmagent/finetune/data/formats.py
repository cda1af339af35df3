"""The ways in which people write dialogues, each turned into a `Dialogue`.

openai     {"messages": [{"role", "content": text or parts, "weight", "tool_calls"}], "tools"}
sharegpt   {"conversations": [{"from": "human" | "gpt", "value"}], "images": [...]}
llava      the same with "image", in one JSON list; <image> in the text is a picture's place
mmagent    {"messages": [{"role", "text", "images": [...]}], "system", "conversation", "split"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmagent.finetune.data.rows import Dialogue, PictureRef, Role, Turn

__all__ = ["PLACE", "RowError", "parse_row"]

PLACE = "<image>"
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}


class RowError(ValueError):
    """A row that cannot be read; `kind` is the sort of its problem."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def parse_row(row: Mapping[str, Any], where: str, root: Path, kind: str = "auto") -> Dialogue:
    """One row of a file as a dialogue; no picture is opened.

    Args:
        row: The JSON object.
        where: How to call the row.
        root: The folder of the pictures.
        kind: openai, sharegpt, llava, mmagent, or auto.

    Raises:
        RowError: It is not such a row.
    """
    if kind == "auto":
        kind = _guess(row)
    reader = _Reader(root)
    if kind in ("sharegpt", "llava"):
        turns = reader.sharegpt(row)
    elif kind == "mmagent":
        turns = reader.own(row)
    else:
        turns = reader.openai(row)
    split = row.get("split")
    if split is not None and split not in ("train", "validation", "test"):
        raise RowError("wrong shape", f"split is {split!r}; use train, validation or test.")
    return Dialogue(
        where=where,
        turns=tuple(turns),
        pictures=tuple(reader.pictures),
        conversation=str(row.get("conversation") or row.get("conversation_id") or ""),
        tools=tuple(_tools(row)),
        split=split,
    )


def _guess(row: Mapping[str, Any]) -> str:
    if "conversations" in row:
        return "llava"
    messages = row.get("messages")
    if isinstance(messages, list) and any(
        isinstance(m, dict) and ("text" in m or "images" in m) for m in messages
    ):
        return "mmagent"
    return "openai"


class _Reader:
    """Reads turns, and collects the pictures that they show."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pictures: list[PictureRef] = []

    def openai(self, row: Mapping[str, Any]) -> list[Turn]:
        beside = [self.picture(source) for source in _images(row)]
        turns = []
        for number, message in enumerate(_list(row, "messages"), start=1):
            role = _role(message, "role", number)
            content = message.get("content")
            calls = tuple(_calls(message, number))
            if isinstance(content, str) or content is None:
                parts = self.placed(content or "", beside) if beside else (content or "",)
            elif isinstance(content, list):
                parts = tuple(self.part(part, number) for part in content)
            else:
                raise RowError("wrong shape", f"the content of message {number} is no text.")
            weight = message.get("weight", 1)
            turns.append(Turn(role, _joined(parts), trained=weight != 0, tool_calls=calls))
        _all_placed(beside)
        return turns

    def sharegpt(self, row: Mapping[str, Any]) -> list[Turn]:
        beside = [self.picture(source) for source in _images(row)]
        turns = []
        if isinstance(row.get("system"), str) and row["system"].strip():
            turns.append(Turn("system", (row["system"],)))
        for number, message in enumerate(_list(row, "conversations"), start=1):
            role = _role(message, "from", number)
            value = message.get("value")
            if not isinstance(value, str):
                raise RowError("wrong shape", f"the value of turn {number} is no text.")
            turns.append(Turn(role, _joined(self.placed(value, beside))))
        _all_placed(beside)
        return turns

    def own(self, row: Mapping[str, Any]) -> list[Turn]:
        turns = []
        if isinstance(row.get("system"), str) and row["system"].strip():
            turns.append(Turn("system", (row["system"],)))
        for number, message in enumerate(_list(row, "messages"), start=1):
            role = _role(message, "role", number)
            text = message.get("text", "")
            if not isinstance(text, str):
                raise RowError("wrong shape", f"the text of message {number} is no text.")
            own = [self.picture(source) for source in _images(message)]
            count = text.count(PLACE)
            if own and not count:  # pictures are shown before the words unless places say more
                parts: tuple[str | int, ...] = (*own, text)
            else:
                parts = self.placed(text, own)
                _all_placed(own)
            trained = message.get("weight", 1) != 0
            calls = tuple(_calls(message, number))
            turns.append(Turn(role, _joined(parts), trained=trained, tool_calls=calls))
        return turns

    def picture(self, source: Any) -> int:
        """Take a picture in; returns its number."""
        if isinstance(source, dict):
            source = source.get("path") or source.get("url") or source.get("data")
        if not isinstance(source, str) or not source:
            raise RowError("wrong shape", "a picture must be a path or a data: address.")
        if not source.lower().startswith("data:") and "://" not in source[:64]:
            source = str(self.root / source)
        self.pictures.append(PictureRef(source, self.root))
        return len(self.pictures) - 1

    def part(self, part: Any, number: int) -> str | int:
        """One content part of a message."""
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            text: str = part["text"]
            return text
        if kind == "image_url":
            return self.picture(part.get("image_url"))
        if kind in ("image", "input_image"):
            source = part.get("image") or part.get("path") or part.get("url")
            source = source or part.get("image_url")
            if part.get("base64"):
                source = f"data:{part.get('mime_type', 'image/png')};base64,{part['base64']}"
            return self.picture(source)
        raise RowError(
            "wrong shape",
            f"message {number} has a part of type {kind!r}; text and image_url can be learned.",
        )

    def placed(self, text: str, waiting: list[int]) -> tuple[str | int, ...]:
        """The text, with the waiting pictures in the places that it has for them."""
        parts: list[str | int] = []
        pieces = text.split(PLACE)
        for number, piece in enumerate(pieces):
            if number:
                if not waiting:
                    raise RowError(
                        "placeholder mismatch",
                        f"the text has more {PLACE} places than pictures; list every picture.",
                    )
                parts.append(waiting.pop(0))
                piece = piece.removeprefix("\n")
            if number < len(pieces) - 1:
                piece = piece.removesuffix("\n")
            parts.append(piece)
        return tuple(parts)


def _all_placed(waiting: list[int]) -> None:
    if waiting:
        raise RowError(
            "placeholder mismatch",
            f"{len(waiting)} of the pictures have no place in the text; write {PLACE} where each "
            "is shown.",
        )


def _joined(parts: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return tuple(part for part in parts if part != "")


def _list(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = row.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(m, dict) for m in found):
        raise RowError("wrong shape", f"there is no list of turns under {name!r}.")
    return found


def _images(row: Mapping[str, Any]) -> list[Any]:
    found = row.get("images")
    if found is None:
        found = row.get("image")
    if found is None:
        return []
    return list(found) if isinstance(found, list) else [found]


def _role(message: Mapping[str, Any], key: str, number: int) -> Role:
    given = message.get(key)
    role = _ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        known = "system, user, assistant or tool" if key == "role" else "system, human or gpt"
        raise RowError("wrong shape", f"turn {number} is from {given!r}; use {known}.")
    return role


def _calls(message: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    found = message.get("tool_calls") or []
    calls = []
    for call in found if isinstance(found, list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError("wrong shape", f"message {number} has a tool call without a name.")
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise RowError(
                    "wrong shape", f"the arguments of a call in message {number} are not JSON."
                ) from error
        calls.append(
            {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        )
    return calls


def _tools(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = row.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("wrong shape", "tools must be a list of function descriptions.")
    return tools
