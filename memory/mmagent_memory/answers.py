"""Asking a chat model to derive something, and reading what it says without trusting it. Pure.

A model's answer is data of doubtful worth: it may be cut off, a refusal, or what somebody wrote
into a turn to be obeyed. Whatever is not exactly what was asked for raises `WrongAnswerError`, and
the caller then changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmagent_memory.text import question_words

__all__ = ["ModelCall", "WrongAnswerError", "grounded", "plain_line", "read_object"]

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^\s*```(?:json)?\s*|\s*```\s*$")
_CONTROL = re.compile(r"<\|[^<>|]{1,40}\|>|</?s>|\[/?INST\]|<<SYS>>|[\x00-\x08\x0b-\x1f\x7f]")
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|i can(?:no|')t|as an ai|sorry,|i won't|"
    r"unable to|there is no (?:image|picture)|抱歉|对不起|我无法|我不能|作为)",
    re.I,
)


_STEM = 4
_SHARE = 0.33


class WrongAnswerError(Exception):
    """A model's answer is not what was asked for; the message says in which way."""


@dataclass(frozen=True)
class ModelCall:
    """One question to a chat model, to be run as a step; any failure becomes `WrongAnswerError`.

    Attributes:
        model: A LangChain chat model.
        system: What is to be done.
        content: What it is to be done with: text, or content blocks.
    """

    model: Any
    system: str
    content: str | list[dict[str, Any]]

    def __call__(self) -> str | WrongAnswerError:
        """Return the answer's text without reasoning, or what went wrong."""
        from langchain_core.messages import HumanMessage, SystemMessage

        try:
            content: Any = self.content
            answer = self.model.invoke([SystemMessage(self.system), HumanMessage(content)])
            text = answer.text
        except Exception as error:  # Whatever a model raises is its affair.
            return WrongAnswerError(f"the model failed ({type(error).__name__}: {error})"[:300])
        text = str(text() if callable(text) and not isinstance(text, str) else text)
        if "</think>" in text and "<think>" not in text.partition("</think>")[0]:
            text = text.partition("</think>")[2]
        return _THINKING.sub("", text).strip()


def read_object(text: str, key: str) -> Any:
    """Return what an answer holds under its only key.

    Raises:
        WrongAnswerError: It is no JSON object with that key alone.
    """
    plain = _FENCE.sub("", text)
    try:
        found = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise WrongAnswerError(f"the answer is no JSON: {text[:80]!r}") from error
    if not isinstance(found, dict) or set(found) != {key}:
        raise WrongAnswerError(f"the answer is no object with {key!r} alone: {text[:80]!r}")
    return found[key]


def plain_line(text: Any, *, least: int, most: int, what: str) -> str:
    """Return a text as one clean line.

    Raises:
        WrongAnswerError: It is none, too short or long, a refusal, or holds control tokens.
    """
    if not isinstance(text, str):
        raise WrongAnswerError(f"the {what} is no text but {type(text).__name__}")
    if _CONTROL.search(text):
        raise WrongAnswerError(f"the {what} holds control tokens")
    line = " ".join(text.split())
    if not least <= len(line) <= most:
        raise WrongAnswerError(f"the {what} has {len(line)} characters, not {least} to {most}")
    if _REFUSAL.match(line):
        raise WrongAnswerError(f"the {what} is a refusal: {line[:60]!r}")
    return line


def grounded(
    text: str, sources: Sequence[str], speakers: Sequence[str] = (), *, names_count: bool = True
) -> bool:
    """Whether a third of the words of a text stand in what it is said to be from.

    Args:
        text: What a model made of it.
        sources: What was said.
        speakers: Who spoke; their names are in no turn of theirs, and need not be.
        names_count: Whether saying one of those names is ground for anything.
    """
    # By beginnings, so that "moved" and "moving" are the same word.
    known = {word[:_STEM] for source in sources for word in _all_words(source)}
    names = {word[:_STEM] for speaker in speakers for word in _all_words(speaker)}
    words = [word[:_STEM] for word in question_words(text)]
    words = [word for word in words if word not in names or (names_count and word in known)]
    return sum(word in known for word in words) >= max(1.0, _SHARE * len(words))


def _all_words(text: str) -> list[str]:
    """Return the telling words of a text of any length."""
    words: list[str] = []
    for start in range(0, len(text), 200):
        words += question_words(text[max(0, start - 20) : start + 200])
    return words
