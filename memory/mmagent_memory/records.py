"""What is remembered, and what recall gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mmagent_memory.names import ANY_PERSONA, decode_name

__all__ = [
    "CAPTION",
    "FACT",
    "KINDS",
    "PROGRESS",
    "SUMMARY",
    "TURN",
    "EraseReceipt",
    "MemoryHit",
    "Stored",
    "StoredImage",
    "hit_of",
    "image_entries",
    "kind_of",
]

TURN, FACT, SUMMARY, CAPTION = "turn", "fact", "summary", "caption"
KINDS = (TURN, FACT, SUMMARY, CAPTION)
"""What a memory can be: what was said, or what was derived from that."""
PROGRESS = "progress"
"""A record that says what has been derived so far; it is nothing that is recalled."""


@dataclass(frozen=True)
class StoredImage:
    """A picture in memory; its bytes are read when asked for.

    Attributes:
        id: SHA-256 of its bytes, in hex.
        mime_type: Such as "image/png".
        caption: What it shows, if somebody said so.
        width: Pixels, if known.
        height: Pixels, if known.
        stored: Whether the picture itself is kept, and not its caption alone.
    """

    id: str
    mime_type: str
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    stored: bool = True
    _load: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    def data(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            LookupError: It has been forgotten since, or only its caption was kept.
        """
        if self._load is None:
            raise LookupError(f"The picture {self.id[:8]} is not kept; only its caption is.")
        return self._load()

    async def adata(self) -> bytes:
        """Return the picture's bytes without stopping the event loop."""
        return await asyncio.to_thread(self.data)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, without the bytes."""
        return {
            "id": self.id,
            "mime_type": self.mime_type,
            "caption": self.caption,
            "width": self.width,
            "height": self.height,
        }


@dataclass(frozen=True)
class MemoryHit:
    """One memory, as it was remembered.

    Attributes:
        id: Its id; `forget` takes it.
        text: What was said, unchanged.
        images: The pictures shown with it.
        speaker: Who said it.
        at: When.
        thread: In which conversation.
        persona: With which persona.
        importance: As given, 0–1.
        kind: "turn" for what was said; "fact", "summary" or "caption" for what was derived.
        sources: The ids of the turns it was derived from.
        valid_from: Since when a fact holds.
        valid_to: Until when it held; None while it holds.
        rating: 1 for an answer that was rated good, -1 for a bad one.
        score: How well it fits the question; comparable within one answer only.
        explain: The score's parts: `parts` add up to `score`; `raw` are the figures behind them.
    """

    id: str
    text: str
    images: tuple[StoredImage, ...] = ()
    speaker: str | None = None
    at: datetime | None = None
    thread: str | None = None
    persona: str | None = None
    importance: float | None = None
    score: float = 0.0
    explain: dict[str, Any] = field(default_factory=dict, compare=False)
    kind: str = TURN
    sources: tuple[str, ...] = ()
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    rating: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; pictures by their ids."""
        derived = {
            "sources": list(self.sources),
            "valid_from": self.valid_from.isoformat() if self.valid_from else None,
            "valid_to": self.valid_to.isoformat() if self.valid_to else None,
        }
        return {
            "id": self.id,
            "text": self.text,
            "images": [image.as_dict() for image in self.images],
            "speaker": self.speaker,
            "at": self.at.isoformat() if self.at else None,
            "thread": self.thread,
            "persona": self.persona,
            "importance": self.importance,
            "kind": self.kind,
            **({} if self.rating is None else {"rating": self.rating}),
            **({} if self.kind == TURN else derived),
            "score": self.score,
            "explain": self.explain,
        }


@dataclass(frozen=True)
class EraseReceipt:
    """What an erasure removed.

    Attributes:
        memories: How many memories went.
        images: How many pictures went; one that another user has too stays theirs.
        files: Files that were rewritten or removed.
        bytes_freed: How much smaller the folder is.
        complete: Whether no copy is left on disk. Another process that is reading keeps the old
            log until it ends; then this is False and `notes` says so.
        notes: What the person should know.
    """

    memories: int = 0
    images: int = 0
    files: tuple[str, ...] = ()
    bytes_freed: int = 0
    complete: bool = True
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "memories": self.memories,
            "images": self.images,
            "files": list(self.files),
            "bytes_freed": self.bytes_freed,
            "complete": self.complete,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Stored:
    """One memory as a store holds it; `order` rises with every write."""

    namespace: tuple[str, ...]
    key: str
    value: Mapping[str, Any]
    order: int = 0


def image_entries(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pictures named in a stored value."""
    return [dict(entry) for entry in value.get("images") or ()]


def kind_of(value: Mapping[str, Any]) -> str:
    """Return what kind of memory a stored value is."""
    return str(value.get("kind") or TURN)


def hit_of(
    stored: Stored,
    load: Callable[[tuple[str, ...], str], Callable[[], bytes]],
    *,
    score: float = 0.0,
    explain: dict[str, Any] | None = None,
) -> MemoryHit:
    """Return a stored memory for the caller.

    Args:
        stored: The memory.
        load: From a namespace and a picture's id to what reads its bytes.
        score: From recall.
        explain: From recall.
    """
    value = stored.value
    label = stored.namespace[2]
    images = tuple(
        StoredImage(
            id=entry["id"],
            mime_type=entry.get("mime_type") or "",
            caption=entry.get("caption"),
            width=entry.get("width"),
            height=entry.get("height"),
            stored=bool(entry.get("stored", True)),
            _load=load(stored.namespace, entry["id"]) if entry.get("stored", True) else None,
        )
        for entry in image_entries(value)
    )
    at = value.get("at")
    return MemoryHit(
        id=stored.key,
        text=value.get("text") or "",
        images=images,
        speaker=value.get("speaker"),
        at=datetime.fromisoformat(at) if at else None,
        thread=value.get("thread"),
        persona=None if label == ANY_PERSONA else decode_name(label),
        importance=value.get("importance"),
        rating=value.get("rating") if value.get("rating") in (1, -1) else None,
        score=score,
        explain=explain or {},
        kind=kind_of(value),
        sources=tuple(value.get("sources") or ()),
        valid_from=_moment(value.get("valid_from")),
        valid_to=_moment(value.get("valid_to")),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
