"""How recalled memories are written before the user's words.

    [Memories]
    - (2026-05-03, Sam) I am allergic to nuts.
    - (2026-05-04, Sam, picture below) Look at my new cat
    [/Memories]
    <the user's words>

A memory is data that anybody may have written: it stays on its line, says who said it and when,
and cannot close the block. The bundled model is trained on exactly this form, so that training
imports these functions; they load nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Protocol

from mmagent.untrusted import neutralise_line

__all__ = ["MAX_CHARS", "Recalled", "format_memories", "with_memories"]

MAX_CHARS = 400
"""Longest text of one memory in the block; the rest is cut."""
_MAX_SPEAKER = 40


class Recalled(Protocol):
    """What is needed of a memory to write it down."""

    id: str
    text: str
    images: Any
    speaker: Any
    at: Any


def format_memories(hits: Sequence[Recalled], now: datetime, *, below: Collection[str] = ()) -> str:
    """Return the block of memories, oldest first, or "" if there are none.

    Args:
        hits: The memories.
        now: The time of the question; dates are written in its time zone.
        below: Ids of the memories whose pictures are shown to the model. A picture of another
            memory is named by its caption and the start of its id.
    """
    if not hits:
        return ""
    lines = [_line(hit, now, hit.id in below) for hit in sorted(hits, key=_moment)]
    return "\n".join(["[Memories]", *lines, "[/Memories]"])


def with_memories(block: str, words: str) -> str:
    """Return the user's words with the block before them."""
    return f"{block}\n{words}" if block else words


def _moment(hit: Recalled) -> float:
    return hit.at.timestamp() if hit.at is not None else float("-inf")


def _line(hit: Recalled, now: datetime, is_below: bool) -> str:
    origin = []
    if hit.at is not None:
        origin.append(_local(hit.at, now).strftime("%Y-%m-%d"))
    speaker = neutralise_line(hit.speaker or "", _MAX_SPEAKER)
    # The speaker is bounded by a comma and a parenthesis, so it may hold neither.
    speaker = re.sub(r"[\s(),]+", " ", speaker).strip()
    if speaker:
        origin.append(speaker)
    if hit.images and is_below:
        origin.append("picture below")
    words = [neutralise_line(hit.text, MAX_CHARS)]
    if not is_below:
        words += [_placeholder(image) for image in hit.images]
    source = f"({', '.join(origin)})" if origin else ""
    return " ".join(part for part in ["-", source, *words] if part)


def _local(moment: datetime, now: datetime) -> datetime:
    # A memory without a time zone cannot be moved to another one.
    return moment.astimezone(now.tzinfo) if moment.tzinfo and now.tzinfo else moment


def _placeholder(image: Any) -> str:
    caption = neutralise_line(getattr(image, "caption", None) or "", 120)
    name = neutralise_line(str(getattr(image, "id", "")))[:8]
    return f"[picture {name}: {caption}]" if caption else f"[picture {name}]"
