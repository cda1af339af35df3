"""Files and faults of personas: bytes within bounds, and what is wrong in one sentence."""

from __future__ import annotations

import difflib
from pathlib import Path

from pydantic import ValidationError

from mmagent.errors import PersonaError
from mmagent.personas import containers

__all__ = ["explain", "read_file"]


def read_file(path: Path) -> bytes:
    """Return the bytes of a file that is no larger than a card may be."""
    try:
        if path.stat().st_size > containers.MAX_FILE:
            raise PersonaError(f"{path.name} is larger than {containers.MAX_FILE:,} bytes.")
        return path.read_bytes()
    except FileNotFoundError:
        raise PersonaError(f"There is no file {path}; check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PersonaError(f"{path} cannot be read: {reason}.") from error


def explain(error: ValidationError, source: str, known: list[str]) -> str:
    """Say the first thing that is wrong in one sentence."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{source}: unknown field {field!r}; {hint}Known fields: {', '.join(known)}."
    if first["type"] == "missing":
        return f"{source}: the field {field!r} is missing; add it."
    message = first["msg"].removeprefix("Value error, ")
    return f"{source}: the field {field!r} cannot be used: {message[:1].lower()}{message[1:]}."
