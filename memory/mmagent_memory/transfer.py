"""Memories as JSON lines: one object a memory, pictures inside in base64.

The first line says what the file is; each further line is a memory with `id`, `text`, `speaker`,
`at`, `thread`, `persona`, `importance` and `images`. What was derived from turns has `derived`: its
kind, the ids of those turns and what else is known of it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.records import MemoryHit

__all__ = ["FORMAT", "LineWriter", "line_of", "read_lines"]

FORMAT = 1
_HEADER = "mmagent_memory"


class LineWriter:
    """Writes a file that is there whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self._file = self._temporary.open("w", encoding="utf-8")
        except OSError as error:
            raise _unusable(self.path, error) from error
        self.write({_HEADER: FORMAT})

    def write(self, line: dict[str, Any]) -> None:
        """Write one object."""
        self._file.write(json.dumps(line) + "\n")

    def finish(self) -> None:
        """Put the file in its place, on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)

    def abandon(self) -> None:
        """Leave no half file behind."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def line_of(hit: MemoryHit, pictures: dict[str, bytes | None]) -> dict[str, Any]:
    """Return a memory as a line; `pictures` are the bytes by id."""
    images = []
    for image in hit.images:
        entry = image.as_dict()
        data = pictures.get(image.id)
        entry["data"] = None if data is None else base64.b64encode(data).decode("ascii")
        images.append(entry)
    return {
        "id": hit.id,
        "text": hit.text,
        "speaker": hit.speaker,
        "at": hit.at.isoformat() if hit.at else None,
        "thread": hit.thread,
        "persona": hit.persona,
        "importance": hit.importance,
        "images": images,
    }


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the memories of a file, pictures decoded and dates read.

    Raises:
        MemoryUsageError: It cannot be read or is no such file; the message names the line.
    """
    place = Path(path)
    try:
        with place.open(encoding="utf-8") as file:
            header = _object(place, 1, file.readline())
            if header.get(_HEADER) != FORMAT:
                raise MemoryUsageError(
                    f"{place} is no export of memories, or a newer version's; its first line must "
                    f'be {{"{_HEADER}": {FORMAT}}}.'
                )
            for number, line in enumerate(file, start=2):
                if line.strip():
                    yield _memory(place, number, _object(place, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(place, error) from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad_line(path, number, str(error)) from error
    if not isinstance(found, dict):
        raise _bad_line(path, number, "it is no object")
    return found


def _memory(path: Path, number: int, line: dict[str, Any]) -> dict[str, Any]:
    try:
        images = [
            {
                **entry,
                "data": base64.b64decode(entry["data"], validate=True)
                if entry.get("data")
                else None,
            }
            for entry in line.get("images") or ()
        ]
        return {
            "id": str(line["id"]),
            "text": str(line.get("text") or ""),
            "images": images,
            "speaker": line.get("speaker"),
            "at": datetime.fromisoformat(line["at"]) if line.get("at") else None,
            "thread": line.get("thread"),
            "importance": line.get("importance"),
            "persona": line.get("persona"),
            "derived": line.get("derived"),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _bad_line(path, number, f"{type(error).__name__} {error}") from error


def _bad_line(path: Path, number: int, reason: str) -> MemoryUsageError:
    return MemoryUsageError(
        f"Line {number} of {path} is no memory ({reason}); what stood before it was imported, and "
        "importing again after mending it does no harm."
    )


def _unusable(path: Path, error: Exception) -> MemoryUsageError:
    reason = getattr(error, "strerror", None) or error
    return MemoryUsageError(f"The file {path} cannot be used: {reason}.")
