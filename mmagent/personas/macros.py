"""Fills the placeholders of character cards: `{{char}}`, `{{user}}`, comments.

Source: the Character Card V2 and V3 specifications ("curly braced syntaxes").
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["fill_macros"]

_MACRO = re.compile(r"\{\{([^{}]*)\}\}")
# What cards wrote before the braces; SillyTavern reads them in any case.
_LEGACY = re.compile(r"<(USER|BOT|CHAR)>", re.IGNORECASE)
_LEGACY_NAMES = {"user": "user", "bot": "char", "char": "char"}


def fill_macros(text: str, values: Mapping[str, str]) -> str:
    """Replace macros by values in one pass, so that a value's own braces are never read.

    Args:
        text: A field of a persona.
        values: Value by macro name in lower case, for instance `{"char": "Mia"}`. A macro that
            is not among them stays as it is; comments (`{{// …}}`) vanish.
    """

    def value_of(match: re.Match[str]) -> str:
        inner = match.group(1).strip()
        lowered = inner.lower()
        if inner.startswith("//") or lowered.startswith("comment:"):
            return ""
        return values.get(lowered, match.group(0))

    def legacy_value_of(match: re.Match[str]) -> str:
        return values.get(_LEGACY_NAMES[match.group(1).lower()], match.group(0))

    # The older form first: a name put in by it can hold no braces that were checked already.
    pieces = _LEGACY.split(text)
    if len(pieces) == 1:
        return _MACRO.sub(value_of, text)
    filled = [_MACRO.sub(value_of, pieces[0])]
    for marker, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        filled.append(values.get(_LEGACY_NAMES[marker.lower()], f"<{marker}>"))
        filled.append(_MACRO.sub(value_of, rest))
    return "".join(filled)
