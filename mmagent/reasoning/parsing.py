"""Tells thoughts from the answer in what a model wrote, however it marks them.

A fallback for models whose own template does not do it: `<think>` that the prompt opened already
or that was never closed, gpt-oss's and Gemma's channels, and tags of our templates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Thought", "split_tagged", "split_thoughts"]

_THINK = re.compile(r"<(think|thinking|thought|reasoning)>(.*?)</\1>", re.DOTALL | re.I)
_OPEN = re.compile(r"\s*<(?:think|thinking|thought|reasoning)>", re.I)
_CLOSE = re.compile(r"</(think|thinking|thought|reasoning)>", re.I)
_OSS = re.compile(
    r"<\|channel\|>(\w+).*?<\|message\|>(.*?)(?=<\|end\|>|<\|start\|>|<\|return\|>|\Z)", re.DOTALL
)
_GEMMA = re.compile(r"<\|channel>(\w+)\n?(.*?)(<channel\|>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Thought:
    """What a model wrote, taken apart.

    Attributes:
        answer: What is for the user; "" if it never came to it.
        rationale: The thoughts; "" if there are none.
        is_closed: False if the thoughts broke off, so that no answer can be told from them.
    """

    answer: str
    rationale: str = ""
    is_closed: bool = True


def split_thoughts(text: str) -> Thought:
    """Split by the marks that reasoning models use."""
    if "<|channel|>" in text:
        parts = _OSS.findall(text)
        answer = "".join(words for name, words in parts if name == "final")
        thoughts = [words.strip() for name, words in parts if name != "final"]
        return Thought(answer.strip(), "\n".join(thoughts), bool(answer.strip()))
    if "<|channel>" in text:
        rest = _GEMMA.sub("", text).strip()
        found = _GEMMA.findall(text)
        thoughts = [words.strip() for _, words, _ in found]
        return Thought(rest, "\n".join(thoughts), all(end for *_, end in found))
    close = _CLOSE.search(text)
    if close and not re.search(rf"<{close[1]}>", text[: close.start()], re.I):
        # The prompt opened the tag, so that only its end stands in the answer.
        before, after = text[: close.start()], text[close.end() :]
        then = split_thoughts(after)
        joined = "\n".join(part for part in (before.strip(), then.rationale) if part)
        return Thought(then.answer, joined, then.is_closed)
    thoughts = [words.strip() for _, words in _THINK.findall(text)]
    rest = _THINK.sub("", text)
    # Only at the beginning: further on, an answer may speak of the tag.
    unclosed = _OPEN.match(rest)
    if unclosed:
        thoughts.append(rest[unclosed.end() :].strip())
        rest = ""
    return Thought(rest.strip(), "\n".join(filter(None, thoughts)), unclosed is None)


def split_tagged(text: str, answer_tag: str) -> Thought:
    """Split a text whose answer stands between tags of a template.

    An answer that was begun and not closed (the end of the budget) counts as closed if there is
    anything of it; no answer at all does not.
    """
    match = re.search(rf"<{answer_tag}>(.*?)(?:</{answer_tag}>|\Z)", text, re.DOTALL | re.I)
    if match is None or not match[1].strip():
        return Thought("", _without_tags(text), is_closed=False)
    return Thought(match[1].strip(), _without_tags(text[: match.start()]))


def _without_tags(text: str) -> str:
    return re.sub(r"</?[A-Za-z_]+>", "", text).strip()
