"""Which of several answers is given most often, whatever its wording."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

__all__ = ["normalise", "vote"]

_LEAD = re.compile(
    r".*\b(?:the )?(?:final )?answer(?: is|:| =)\s*(.+)|.*(?:答案)(?:是|为|：|:)\s*(.+)",
    re.DOTALL | re.I,
)
_OPTION = re.compile(r"\(?([a-z])\)?(?:[.):]\s.*|[.)]?)", re.DOTALL)
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBERS = {word: str(value) for value, word in enumerate(_WORDS.split(" "))}


def normalise(answer: str) -> str:
    """Return an answer so that two wordings of the same short answer become equal.

    "The answer is (B)." and "b" are equal, as are "Three cats" and "3 cats", "1,000" and "1000".
    """
    text = unicodedata.normalize("NFKC", answer).casefold().strip()
    lead = _LEAD.fullmatch(text)
    if lead is not None:
        text = (lead[1] or lead[2]).strip()
    option = _OPTION.fullmatch(text.strip(" ."))
    if option is not None and text not in ("a", "i"):
        return option[1]
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<=\d)\.0+\b", "", text)
    text = re.sub(r"[^\w\s.%-]|\.(?!\d)", " ", text)
    words = [_NUMBERS.get(word, word) for word in text.split()]
    if len(words) > 1:
        words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(words)


def vote(answers: Sequence[str]) -> tuple[int, float]:
    """Return the number of the winning answer and its share of the votes.

    Empty answers do not vote. Of equally frequent answers the one that came first wins.
    """
    counted = Counter(name for answer in answers if (name := normalise(answer)))
    if not counted:
        return 0, 0.0
    # A Counter keeps the order in which it met its keys, and `max` takes the first of equals.
    winner = max(counted, key=lambda name: counted[name])
    number = next(i for i, answer in enumerate(answers) if normalise(answer) == winner)
    return number, counted[winner] / len(answers)
