"""Puts text and pictures into the last message of the user, around what the user said.

Pure: messages in, new messages out; the given ones are never changed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import HumanMessage

from mmagent.context.recall_format import with_memories

__all__ = ["append_text", "insert_before_words", "picture_blocks"]


def insert_before_words(
    message: HumanMessage, block: str, pictures: Sequence[dict[str, Any]] = ()
) -> HumanMessage:
    """Return the message with the block right before its words and the pictures before that.

    Args:
        message: The user's message; its own pictures keep their place.
        block: The text to put in.
        pictures: Content blocks.
    """
    if isinstance(message.content, str):
        text = with_memories(block, message.content)
        content: Any = [*pictures, {"type": "text", "text": text}] if pictures else text
        return message.model_copy(update={"content": content})
    blocks: list[Any] = list(message.content)
    for place, part in enumerate(blocks):
        if isinstance(part, str):
            blocks[place : place + 1] = [
                *pictures,
                {"type": "text", "text": with_memories(block, part)},
            ]
            break
        if part.get("type") == "text":
            joined = {**part, "text": with_memories(block, part.get("text", ""))}
            blocks[place : place + 1] = [*pictures, joined]
            break
    else:
        blocks += [*pictures, {"type": "text", "text": block}]
    return message.model_copy(update={"content": blocks})


def append_text(message: HumanMessage, text: str) -> HumanMessage:
    """Return the message with a text after everything in it."""
    if isinstance(message.content, str):
        return message.model_copy(update={"content": f"{message.content}\n\n{text}"})
    blocks = [*message.content, {"type": "text", "text": f"\n\n{text}"}]
    return message.model_copy(update={"content": blocks})


def picture_blocks(
    hits: Sequence[Any], most: int, beside: HumanMessage | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return the pictures to show, as content blocks by the id of their memory.

    The best memories come first; each picture is shown once, and none that the message beside
    which they will stand shows already. A memory goes whole or not at all, since the text says
    of it that its picture is there.
    """
    chosen: dict[str, list[dict[str, Any]]] = {}
    shown = _digests(beside) if beside is not None else set()
    for hit in hits:
        blocks: list[dict[str, Any]] = []
        for image in hit.images:
            try:
                data = image.data() if callable(image.data) else image.data
            except LookupError:
                # Forgotten since it was found, or only its caption was ever kept.
                blocks.clear()
                break
            digest = hashlib.sha256(data).hexdigest()
            if digest in shown:
                continue
            shown.add(digest)
            packed = base64.b64encode(data).decode("ascii")
            blocks.append({"type": "image", "base64": packed, "mime_type": image.mime_type})
        # A memory whose picture stands there already says so, and brings nothing.
        if hit.images and not blocks and all(image.id in shown for image in hit.images):
            chosen[hit.id] = []
        if blocks and len(blocks) + sum(map(len, chosen.values())) <= most:
            chosen[hit.id] = blocks
    return chosen


def _digests(message: HumanMessage) -> set[str]:
    """Return the hashes of the pictures that a message holds itself."""
    found = set()
    for block in message.content if isinstance(message.content, list) else []:
        packed = block.get("base64") if isinstance(block, dict) else None
        if isinstance(packed, str):
            with contextlib.suppress(ValueError):
                found.add(hashlib.sha256(base64.b64decode(packed)).hexdigest())
    return found
