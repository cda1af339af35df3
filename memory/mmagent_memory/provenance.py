"""Derived records as they are stored: what they say, from which turns, and how they were changed.

Beyond what a turn has:

    kind        fact, summary, caption, or progress (what has been derived so far)
    sources     ids of the turns it was derived from
    evidence    of a fact: each wording with the turns it is from; the last one is the fact's text
    valid_from  of a fact: since when
    valid_to    of a fact: until when it held
    supersedes  of a fact: ids of the facts that it took the place of
    ended       of a fact: what ended it: `by` the fact that took its place, `sources`, `at`
    image       of a caption: the picture's id
    what        of progress: what was derived
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.records import CAPTION, FACT, PROGRESS, SUMMARY

__all__ = ["derived_value", "extras_of"]

_EXTRAS = (
    "kind",
    "sources",
    "evidence",
    "valid_from",
    "valid_to",
    "supersedes",
    "ended",
    "image",
    "what",
)
_KINDS = (FACT, SUMMARY, CAPTION, PROGRESS)


def extras_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a derived record has beyond a turn."""
    return {name: value[name] for name in _EXTRAS if value.get(name) is not None}


def derived_value(line: Mapping[str, Any], extras: Any) -> dict[str, Any]:
    """Return the value of a derived record from a line of an import.

    Raises:
        MemoryUsageError: It is no derived record.
    """
    try:
        kept = {name: extras[name] for name in _EXTRAS if extras.get(name) is not None}
        sound = kept["kind"] in _KINDS and _ids(kept["sources"]) and _fact_is_sound(kept)
    except (AttributeError, KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise MemoryUsageError(
            f"The line of {line.get('id')!r} says that it is derived, but not from what; it is no "
            "export of this program, or damaged."
        )
    at = line.get("at")
    return {
        "text": line.get("text") or "",
        "speaker": None,
        "at": at.isoformat() if at else None,
        "thread": line.get("thread"),
        "importance": line.get("importance"),
        "images": [],
        **kept,
    }


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _fact_is_sound(kept: dict[str, Any]) -> bool:
    for name in ("valid_from", "valid_to"):
        if name in kept:
            datetime.fromisoformat(kept[name])
    ended = kept.get("ended")
    evidence = kept.get("evidence", [])
    return (
        _ids(kept.get("supersedes", []))
        and (ended is None or (_ids(ended["sources"]) and isinstance(ended.get("by", ""), str)))
        and isinstance(evidence, list)
        and all(isinstance(one["text"], str) and _ids(one["sources"]) for one in evidence)
        and (kept["kind"] != FACT or bool(evidence))
    )
