"""What a question asks, beyond its words: parts, dates, pictures. Pure; no model is needed."""

from __future__ import annotations

import re

from mmagent_memory.ranking import Wanted
from mmagent_memory.text import question_words

__all__ = ["asks_for_picture", "only_asks", "parts_of", "wanted_of", "without_instructions"]

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
_LATEST = re.compile(
    r"\b(?:final(?:ly)?|ultimate(?:ly)?|latest|most recent(?:ly)?|recent(?:ly)?|current(?:ly)?|now|"
    r"nowadays|eventually|in the end|updated|these days)\b|最后|最终|现在|目前|最近|如今",
    re.I,
)
_FIRST = re.compile(
    r"\b(?:first|initial(?:ly)?|original(?:ly)?|at the beginning|beg[ia]n|start(?:ed)?|earliest)\b|"
    r"最初|一开始|起初|第一次|最早",
    re.I,
)
_WHEN = re.compile(
    r"\b(?:when|before|after|(?:which|what|on which) (?:day|date|month|year|time)|how long|"
    r"how many (?:days|weeks|months|years)|first|earlier|later|prior|between)\b|"
    r"什么时候|何时|哪[天年]|几[月号]|之前|之后|多久",
    re.I,
)
_STATED = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")


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


def wanted_of(question: str) -> Wanted:
    """Return what a question asks for beyond its words."""
    return Wanted(
        picture=asks_for_picture(question),
        latest=_LATEST.search(question) is not None,
        first=_FIRST.search(question) is not None,
        when=_WHEN.search(question) is not None,
    )


def only_asks(text: str) -> bool:
    """Whether every sentence of a text is a question."""
    if "?" not in text and "？" not in text:
        return False  # As most that is said; the pattern takes longer.
    sentences = [sentence for sentence in _STATED.findall(text) if sentence.strip()]
    return bool(sentences) and all(s.rstrip().endswith(("?", "？")) for s in sentences)
