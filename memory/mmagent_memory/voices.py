"""Whose words a question asks for: its own ("my", 我), the other's ("you said"), or a name's. Pure.

"What am I allergic to?" is answered by what the person said, not by the persona's repetition of
it. A name is understood by its beginning too: "Caro" is Caroline, where it is written as a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmagent_memory.text import STOP_WORDS

__all__ = ["Voice", "same_name", "voice_of"]

_YOU = re.compile(
    r"\b(?:did|have|had|were|would) you (?!remember\b|recall\b|know\b|forget\b|see\b)|"
    r"\byour? (?:said|told|suggest\w*|recommend\w*|advis\w*|advice|promis\w*|answer\w*|idea)|"
    r"你(?:说|建议|推荐|告诉|答应|觉得|回答)",
    re.I,
)
_ME = re.compile(r"\b(?:i|my|me|mine|myself|we|our|us|i'm|i've)\b|我|咱", re.I)
_I_DID = re.compile(r"\bi (?:\w+ )?(?:said|told|showed?|sent|mentioned)\b|我(?:说|告诉|给你)", re.I)
_WORD = re.compile(r"[^\W_]+")
_NICKNAME = 3
"""Fewest letters of a name's beginning that stand for it."""


@dataclass(frozen=True)
class Voice:
    """Whose words a question asks for.

    Attributes:
        names: The words of the question, and those of them that are written like names.
        whole: The question, for names without spaces.
        asker: Whether it asks for what the person who asks has said.
        other: Whether it asks for what the persona has said.
    """

    names: frozenset[str]
    capitalised: frozenset[str]
    whole: str
    asker: bool
    other: bool

    def of(self, speaker: str | None, user: str, persona: str | None) -> bool:
        """Whether these words are asked for.

        Args:
            speaker: Who said them.
            user: Who asks.
            persona: With whom.
        """
        if not speaker:
            return False
        if self._names(speaker):
            return True
        if self.other:
            return persona is not None and same_name(speaker, persona)
        if not self.asker:
            return False
        if persona is None or same_name(speaker, user):
            return same_name(speaker, user)
        # Two talk here: who is not the persona is the person, whatever they are called.
        return not same_name(speaker, persona)

    def _names(self, speaker: str) -> bool:
        spoken = speaker.casefold()
        if not spoken.isascii() and len(spoken) > 1 and spoken in self.whole:
            return True
        return any(
            part in self.names
            or any(len(c) >= _NICKNAME and part.startswith(c) for c in self.capitalised)
            for part in _WORD.findall(spoken)
            if part not in STOP_WORDS and len(part) > 1
        )


def voice_of(question: str) -> Voice:
    """Return whose words a question asks for."""
    words = [word.removesuffix("'s").removesuffix("’s") for word in question.split()]
    words = [part for word in words for part in _WORD.findall(word)]
    # The first word is capitalised in any case.
    named = [word for place, word in enumerate(words) if place and word[:1].isupper()]
    you = _YOU.search(question) is not None and _I_DID.search(question) is None
    return Voice(
        names=frozenset(word.casefold() for word in words),
        capitalised=frozenset(w.casefold() for w in named if w.casefold() not in STOP_WORDS),
        whole=question.casefold(),
        asker=not you and _ME.search(question) is not None,
        other=you,
    )


def same_name(one: str, other: str) -> bool:
    """Whether two spellings name the same: "Sam" and "sam", "Mia" and "mia-2"."""
    a, b = ("".join(_WORD.findall(name.casefold())) for name in (one, other))
    return (
        bool(a)
        and bool(b)
        and (
            a == b
            or (min(len(a), len(b)) > 1 and a.startswith(b))
            or (min(len(a), len(b)) > 1 and b.startswith(a))
        )
    )
