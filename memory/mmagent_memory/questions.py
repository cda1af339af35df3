"""What a question asks, beyond its words: parts, dates, pictures. Pure; no model is needed."""

from __future__ import annotations

import re

from mmagent_memory.text import question_words

__all__ = ["asks_for_picture", "parts_of", "without_instructions"]

_SENTENCE = re.compile(r"(?<=[.?!。？！])\s+")
# "Please answer with a number.", "Only return the id.": how to answer, not what is asked.
_INSTRUCTION = re.compile(
    r"^(?:please\s+)?(?:only\s+)?(?:return|answer|respond|reply|output|write|format)\b", re.I
)
_EXAMPLE = re.compile(r"\s*\(e\.g\.[^)]*\)", re.I)
_PICTURE = re.compile(
    r"\b(?:images?|pictures?|photos?|photographs?|pics?|drawings?|screenshots?|selfies?|"
    r"show(?:n|ed|s)?|shared|uploaded|sent)\b|图片|照片|图像|相片|截图|拍的",
    re.I,
)
# Words that join two things a question asks of at once.
_JOINT = re.compile(
    r"\s*(?:,?\s+or\s+|;\s*|:\s+|,?\s+before\s+|,?\s+after\s+|,\s+and\s+|"
    r"\s+compared\s+(?:to|with)\s+|还是|之前|之后|以及)\s*",
    re.I,
)
_MAX_PARTS = 3


def without_instructions(question: str) -> str:
    """Return a question without the sentences that say how to answer."""
    sentences = _SENTENCE.split(_EXAMPLE.sub("", question))
    kept = [s for n, s in enumerate(sentences) if n == 0 or not _INSTRUCTION.match(s)]
    return " ".join(kept)


def parts_of(question: str) -> list[str]:
    """Return what a question compares or lists, each to be looked for by itself.

    "Did she paint before she moved?" asks for two memories that need not be alike.
    """
    parts = [part.strip(" ?.,？。，") for part in _JOINT.split(question)]
    telling = [part for part in parts if len(question_words(part)) >= 2]
    return telling[:_MAX_PARTS] if len(telling) > 1 else []


def asks_for_picture(question: str) -> bool:
    """Whether a question is about something that was shown."""
    return _PICTURE.search(question) is not None
