"""Names of users and personas as namespace labels, reversible and never colliding.

LangGraph forbids "." and NUL in labels, and some stores treat `*` and `%` specially. ASCII
letters and digits, "-", "_" and everything beyond ASCII stand for themselves; every other
character is written as the %XX of its UTF-8 bytes, "%" included, so that two names never meet.
"""

from __future__ import annotations

import re

from mmagent_memory.errors import MemoryUsageError

__all__ = [
    "ANY_PERSONA",
    "DERIVED",
    "ROOT",
    "decode_name",
    "derived_namespace",
    "encode_name",
    "is_derived",
    "memory_namespace",
]

ROOT = "memory"
ANY_PERSONA = "~"
"""Label of what was remembered without a persona; no encoded name can be equal to it."""
DERIVED = "derived"
"""Label below a memory's own: what was derived from its turns."""
_MAX_NAME = 1000


def encode_name(name: str, what: str = "user") -> str:
    """Return the label that stands for a name.

    Raises:
        MemoryUsageError: The name is no string, empty or too long.
    """
    if not isinstance(name, str) or not name:
        raise MemoryUsageError(f"The {what} must be a name, not {name!r}; pass a non-empty string.")
    if len(name) > _MAX_NAME:
        raise MemoryUsageError(f"The {what}'s name has {len(name)} characters; use up to 1,000.")
    return "".join(_encode(character) for character in name)


def decode_name(label: str) -> str:
    """Return the name that a label stands for."""
    data = re.sub(
        rb"%([0-9A-F]{2})",
        lambda match: bytes.fromhex(match[1].decode("ascii")),
        label.encode("utf-8", "surrogatepass"),
    )
    return data.decode("utf-8", "surrogatepass")


def memory_namespace(user: str, persona: str | None) -> tuple[str, str, str]:
    """Return the namespace in which the memories of a user with a persona are kept."""
    label = ANY_PERSONA if persona is None else encode_name(persona, "persona")
    return (ROOT, encode_name(user), label)


def derived_namespace(namespace: tuple[str, ...]) -> tuple[str, ...]:
    """Return where what is derived from a memory's turns is kept: below it, so it goes with it."""
    return (*namespace[:3], DERIVED)


def is_derived(namespace: tuple[str, ...]) -> bool:
    """Whether derived records are kept in a namespace, and not turns."""
    return len(namespace) > 3


def _encode(character: str) -> str:
    if character.isascii():
        plain = character.isalnum() or character in "-_"
    else:
        # No question to the Unicode tables here: their answers change between Pythons.
        plain = not "\ud800" <= character <= "\udfff"
    if plain:
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
