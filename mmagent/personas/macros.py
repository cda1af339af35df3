"""Fills the macros of character cards: names, chance, time, comments.

Chance is drawn from a hash of the conversation and the turn, never from a generator: the same
prompt is compiled to the same bytes, and a repeated call does not roll again. Source: the
Character Card V2 and V3 specifications ("curly braced syntaxes").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["MacroContext", "chance", "fill_macros"]

MAX_NESTING = 8
MAX_DICE = 100
# What cards wrote before the braces; SillyTavern reads them in any case.
_LEGACY = re.compile(r"<(USER|BOT|CHAR)>", re.IGNORECASE)
_LEGACY_NAMES = {"user": "user", "bot": "char", "char": "char"}
_DICE = re.compile(r"(\d{0,3})d?(\d{1,6})([+-]\d{1,6})?", re.IGNORECASE)
_TRIM = re.compile(r"\n*\x00trim\x00\n*")


@dataclass(frozen=True)
class MacroContext:
    """What macros depend on.

    Attributes:
        values: Value by macro name in lower case, for instance `{"char": "Mia"}`.
        seed: Names the conversation: `{{pick}}` is the same throughout it.
        turn: `{{random}}` and `{{roll}}` are the same throughout a turn.
        now: The time; where there is none, macros of time stay as they are.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    seed: str = ""
    turn: int = 0
    now: datetime | None = None


def chance(*parts: object) -> float:
    """Return a number in [0, 1) that depends on nothing but the parts."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56


def fill_macros(text: str, context: MacroContext | Mapping[str, str]) -> str:
    """Replace macros by their values; what a value holds is never read as a macro.

    Comments (`{{// …}}`, `{{comment: …}}`) and `{{hidden_key: …}}` vanish; a macro that is not
    known stays as it is.
    """
    if not isinstance(context, MacroContext):
        context = MacroContext(context)
    filler = _Filler(context)
    return _TRIM.sub("", filler.fill(text.replace("\x00", ""), 0))


class _Filler:
    """One text; counts its macros, so that two equal ones draw apart."""

    def __init__(self, context: MacroContext) -> None:
        self.context = context
        self.count = 0

    def fill(self, text: str, depth: int) -> str:
        out = []
        position = 0
        while (start := text.find("{{", position)) >= 0:
            end = _closing(text, start)
            if end is None or depth >= MAX_NESTING:
                break
            out.append(self._legacy(text[position:start]))
            inner = text[start + 2 : end]
            value = self._value(self.fill(inner, depth + 1))
            out.append(text[start : end + 2] if value is None else value)
            position = end + 2
        out.append(self._legacy(text[position:]))
        return "".join(out)

    def _legacy(self, text: str) -> str:
        values = self.context.values
        return _LEGACY.sub(
            lambda match: values.get(_LEGACY_NAMES[match[1].lower()], match[0]), text
        )

    def _value(self, inner: str) -> str | None:
        self.count += 1
        words = inner.strip()
        if words.startswith("//"):
            return ""
        plain = self.context.values.get(words.lower())
        if plain is not None:
            return plain
        name, _, argument = words.partition(":")
        match name.strip().lower():
            case "comment" | "hidden_key" | "noop":
                return ""
            case "newline":
                return "\n"
            case "trim":
                return "\x00trim\x00"
            case "reverse":
                return argument.removeprefix(":")[::-1]
            case "random":
                return self._one_of(argument, self.context.turn)
            case "pick":
                return self._one_of(argument, -1)
            case "roll":
                return self._roll(argument.strip())
        return self._time(words.lower())

    def _one_of(self, argument: str, turn: int) -> str | None:
        if argument.startswith(":"):
            options = argument[1:].split("::")
        else:
            options = re.split(r"(?<!\\),", argument)
        drawn = chance(self.context.seed, turn, self.count, argument)
        return options[int(drawn * len(options))].replace("\\,", ",").strip()

    def _roll(self, dice: str) -> str | None:
        match = _DICE.fullmatch(dice)
        if match is None:
            return None
        # "6" and "d6" are one die; "2d6" is two.
        is_plain = "d" not in dice.lower()
        sides = int(match[1] + match[2]) if is_plain else int(match[2])
        times = 1 if is_plain else int(match[1] or 1)
        if not 0 < times <= MAX_DICE or sides < 1:
            return None
        total = int(match[3] or 0)
        for number in range(times):
            drawn = chance(self.context.seed, self.context.turn, self.count, dice, number)
            total += 1 + int(drawn * sides)
        return str(total)

    def _time(self, name: str) -> str | None:
        now = self.context.now
        if now is None:
            return None
        return {
            "time": now.strftime("%H:%M"),
            "date": now.strftime("%Y-%m-%d"),
            "isotime": now.strftime("%H:%M"),
            "isodate": now.strftime("%Y-%m-%d"),
            "weekday": now.strftime("%A"),
        }.get(name)


def _closing(text: str, start: int) -> int | None:
    """Return where the braces that open at `start` close."""
    depth = 0
    position = start
    while position < len(text) - 1:
        pair = text[position : position + 2]
        if pair == "{{":
            depth += 1
        elif pair == "}}":
            depth -= 1
            if depth == 0:
                return position
        else:
            position += 1
            continue
        position += 2
    return None
