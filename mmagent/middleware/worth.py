"""Which of the memories that were found are worth showing to the model.

A search finds what is alike. A question asked before is very much like the same question now, yet
tells nothing; an answer that the persona gave may have been a guess; the same words said twice
need not be read twice. So what the user told and showed goes before answers, answers before bare
questions, repetitions are left out, and so is what fits far worse than the best.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["worth_showing"]

_ANSWER = 0.6  # of its score is left of what the persona said
_QUESTION = 0.3  # and of what only asked
_LEAST = 0.1  # of the best memory's worth: below that it is noise
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")


def worth_showing(hits: Sequence[Any], persona: str, k: int) -> list[Any]:
    """The best k of the hits by what they tell, best first.

    Args:
        hits: Memories with `.text`, `.images`, `.speaker` and `.score`, in any order.
        persona: The name under which the persona's own words were remembered.
        k: How many at most.
    """
    ordered = sorted(hits, key=lambda hit: -_worth(hit, persona))
    best = _worth(ordered[0], persona) if ordered else 0.0
    said: set[str] = set()
    chosen: list[Any] = []
    for hit in ordered:
        words = " ".join(str(hit.text).casefold().split())
        is_noise = best > 0 and _worth(hit, persona) < _LEAST * best
        if is_noise or (words in said and not hit.images):
            continue
        said.add(words)
        chosen.append(hit)
    return chosen[:k]


def _worth(hit: Any, persona: str) -> float:
    score = float(hit.score or 0.0)
    if score <= 0:  # a scale that goes below zero: there is nothing to take a share of
        return score
    if only_asks(str(hit.text)) and not hit.images:
        return score * _QUESTION
    return score * _ANSWER if hit.speaker == persona else score


def only_asks(text: str) -> bool:
    """Whether every sentence of the text is a question."""
    sentences = [s for s in _SENTENCE.findall(text) if s.strip()]
    return bool(sentences) and all(s.rstrip().endswith(("?", "？")) for s in sentences)
