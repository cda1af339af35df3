"""Keys of lore: words or regular expressions to look for in a conversation.

A card is untrusted, and so are its expressions: they run with a time limit, after which they
count as not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex

from mmagent.personas.macros import fill_macros

__all__ = ["Key", "found_in", "read_keys"]

TIMEOUT = 0.05
"""Most seconds one expression may search one text."""
MAX_PATTERN = 1_000
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]")
_WRAPPED = regex.compile(r"/(.+)/([a-z]*)", regex.DOTALL)
_NEVER = regex.compile(r"(?!)")
_FLAGS = {"i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL, "x": regex.VERBOSE}


@dataclass(frozen=True)
class Key:
    """One key as it was written, and how it is searched."""

    text: str
    pattern: Any = field(repr=False, compare=False)


def read_keys(
    texts: Sequence[str],
    *,
    case_sensitive: bool,
    whole_words: Any,
    all_regex: bool,
    names: Mapping[str, str] | None = None,
) -> tuple[Key, ...]:
    """Read keys.

    Args:
        texts: The keys; `/…/flags` is a regular expression in any case.
        case_sensitive: For plain words.
        whole_words: For plain words: whether "cat" must not be found in "category". Only an
            explicit False allows it. Never asked of scripts that put no spaces between words.
        all_regex: Whether the other keys are expressions too.
        names: What `{{char}}` and `{{user}}` in plain words stand for.
    """
    keys = []
    for text in texts:
        pattern = _expression(text, all_regex, case_sensitive)
        if pattern is None:
            words = fill_macros(text, names) if names else text
            pattern = _words(words, case_sensitive, whole_words is not False)
        keys.append(Key(text, pattern))
    return tuple(keys)


def _expression(text: str, all_regex: bool, case_sensitive: bool) -> Any:
    """Compile an expression; None if it is none, or none after all, which then is plain words.

    V3: where all keys are said to be expressions, a broken one is never found.
    """
    wrapped = _WRAPPED.fullmatch(text)
    if len(text) > MAX_PATTERN or not (wrapped or all_regex):
        return None
    if wrapped:
        flags = 0
        for letter in wrapped[2]:
            flags |= _FLAGS.get(letter, 0)
        body = wrapped[1]
    else:
        flags = 0 if case_sensitive else regex.IGNORECASE
        body = text
    try:
        return regex.compile(body, flags | regex.VERSION0)
    except (regex.error, RecursionError, OverflowError):
        return _NEVER if all_regex else None


def _words(text: str, case_sensitive: bool, whole: bool) -> Any:
    body = regex.escape(text, special_only=True)
    if whole and not _CJK.search(text):
        # Only beside a letter: a key such as ":)" has no word to be the whole of.
        before = r"(?<!\w)" if text[:1].isalnum() else ""
        after = r"(?!\w)" if text[-1:].isalnum() else ""
        body = before + body + after
    return regex.compile(body, 0 if case_sensitive else regex.IGNORECASE)


def found_in(key: Key, text: str) -> bool:
    """Whether the key occurs in the text."""
    try:
        return key.pattern.search(text, timeout=TIMEOUT) is not None
    except TimeoutError:
        return False
