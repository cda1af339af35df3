"""Whether a question is about the persona alone, which her own prompt answers.

"Where do you live?" finds what the user said of living somewhere, and a small model then takes
that, or "you haven't told me", for the answer. So such a question is shown only what the persona
said of herself. Pure, in English and Chinese; whatever is not plainly of this kind is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["about_the_persona", "asks_the_persona_alone"]

_OF_PERSONA = re.compile(r"\b(?:you|your|yours|yourself)\b|你|您", re.IGNORECASE)
_QUESTION = re.compile(
    r"^\W*(?:and |so |well |hey |hi )*(?:what|what's|where|which|who|how old|how tall|when|do you "
    r"have|are you|may i)\b.*\?\s*$|[吗呢？?]\s*$",
    re.IGNORECASE | re.DOTALL,
)
# The user has a part in it, or the past of the two has.
_SHARED = re.compile(
    r"\b(?:i(?!\s+(?:know|ask|call)\b)|i'm|i've|me|my|mine|we|us|our|ours|it|this|that|these|"
    r"those|remember|recall|(?<!i )know|told|tell|said|say|saw|seen|show\w*|did|were|was|think|"
    r"recommend|suggest|mean|last|yesterday|again|earlier|before|picture|photo|image)\b"
    r"|我|咱|它|记得|知道|说过|告诉|昨天|上次|之前|图|照片|觉得|推荐",
    re.IGNORECASE,
)
_OF_ONESELF = re.compile(r"\b(?:i|i'm|i've|my|mine)\b|我", re.IGNORECASE)


def asks_the_persona_alone(words: str) -> bool:
    """Whether the words ask the persona about herself and nothing else."""
    plain = words.strip().replace("’", "'")
    return (
        len(plain) <= 120
        and bool(_OF_PERSONA.search(plain))
        and bool(_QUESTION.search(plain))
        and not _SHARED.search(plain)
    )


def about_the_persona(hits: Sequence[Any], persona: str) -> list[Any]:
    """Return of the memories those in which the persona speaks of herself, in their order."""
    return [hit for hit in hits if hit.speaker == persona and _OF_ONESELF.search(str(hit.text))]
