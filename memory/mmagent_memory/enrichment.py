"""What a memory is found by: its words, who said it, when, what it shows, what was said before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mmagent_memory.records import TURN, image_entries, kind_of
from mmagent_memory.rows import FullText
from mmagent_memory.text import prepare

__all__ = [
    "COLUMN_WEIGHTS",
    "INDEXED",
    "captions_of",
    "date_words",
    "full_text_of",
    "indexed_fields",
    "previous_of",
]

INDEXED = ("text", "images[*].caption")
"""Paths of a memory's value that are embedded, each as a vector of its own."""
COLUMN_WEIGHTS = (1.0, 0.6, 1.0, 0.4)
"""What a word counts in the body, in speaker and date, in a caption, in the turn before."""
_CONTEXT_CHARS = 600


def full_text_of(value: Mapping[str, Any], previous: Mapping[str, Any] | None) -> FullText:
    """Return the words by which a memory is found.

    Args:
        value: The memory.
        previous: What was said before it in the same conversation, if anything.
    """
    at = value.get("at")
    about = [value.get("speaker") or "", date_words(datetime.fromisoformat(at)) if at else ""]
    context = ""
    if previous is not None:
        context = " ".join([previous.get("text") or "", *captions_of(previous)])[:_CONTEXT_CHARS]
    return FullText(
        body=prepare(value.get("text") or ""),
        about=prepare(" ".join(about)),
        caption=prepare(" ".join(captions_of(value))),
        context=prepare(context),
    )


def captions_of(value: Mapping[str, Any]) -> list[str]:
    """Return the captions of a memory's pictures."""
    return [entry["caption"] for entry in image_entries(value) if entry.get("caption")]


def indexed_fields(value: Mapping[str, Any]) -> list[str]:
    """Return the paths of a memory that hold words."""
    fields = ["text"] if (value.get("text") or "").strip() else []
    return [*fields, "images[*].caption"] if captions_of(value) else fields


def date_words(at: datetime) -> str:
    """Return the ways in which people write a day, in English and Chinese."""
    return f"{at:%Y-%m-%d %B %d %A} {at.day} {at.year}年{at.month}月{at.day}日"


def previous_of(thread: str | None, newest_first: list[Any]) -> Any | None:
    """Return the last thing said in the same conversation, among the latest memories."""
    for stored in newest_first:
        if stored.value.get("thread") == thread and kind_of(stored.value) == TURN:
            return stored
    return None
