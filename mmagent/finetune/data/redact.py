"""Takes out of a text what tells who somebody is or gives access: patterns, not understanding.

Names are taken out only where they are given. This lowers a risk and does not end it: read what
`mmagent finetune inspect` shows before you train on what people said.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence

__all__ = ["Redactor"]


def _is_card(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits[::-1])]
    return sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "").upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    count = sum(c.isdigit() for c in text)
    # A bare run of digits is more likely an order's number than a telephone's.
    return 8 <= count <= 15 and (text.lstrip().startswith(("+", "0", "(")) or " " in text.strip())


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _always(text: str) -> bool:
    return True


# The order matters: what is sure comes before what is a guess.
_RULES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("EMAIL", re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}"), _always),
    ("URL", re.compile(r"\b(?:https?|ftp)://[^\s<>\"']{1,2000}", re.I), _always),
    (
        "SECRET",
        re.compile(r"\b(?:sk|pk|ghp|gho|xox[abp]|AKIA|eyJ)[\w-]{16,}(?:\.[\w-]+)*"),
        _always,
    ),
    ("IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b"), _is_iban),
    ("CARD", re.compile(r"\b\d(?:[ -]?\d){12,18}\b"), _is_card),
    ("IP", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]|\.\d)"), _is_address),
    ("IP", re.compile(r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.I),
     _is_address),
    ("SSN", re.compile(r"\b\d{3}-\d{2}-\d{4}\b"), _always),
    ("PHONE", re.compile(r"(?<![\w-])\+?\(?\d[\d ()./-]{6,18}\d(?![\w-])"), _is_phone),
)  # fmt: skip


class Redactor:
    """Replaces what it finds by a word in brackets, such as `[EMAIL]`.

    Args:
        names: Names of people to take out, whole words in any case.

    Attributes:
        found: How often each kind was taken out.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.found: Counter[str] = Counter()
        words = sorted({name.strip() for name in names if name.strip()}, key=len, reverse=True)
        choice = "|".join(re.escape(word) for word in words)
        self._names = re.compile(rf"(?<!\w)(?:{choice})(?!\w)", re.I) if words else None

    def __call__(self, text: str) -> str:
        """The text without what is found."""
        for kind, pattern, sure in _RULES:

            def swap(
                match: re.Match[str], kind: str = kind, sure: Callable[[str], bool] = sure
            ) -> str:
                if not sure(match.group()):
                    return match.group()
                self.found[kind] += 1
                return f"[{kind}]"

            text = pattern.sub(swap, text)
        if self._names is not None:
            text, count = self._names.subn("[NAME]", text)
            self.found["NAME"] += count
        return text
