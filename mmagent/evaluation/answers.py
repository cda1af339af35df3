"""What an answer is, told without a judge: right or wrong, refused, out of character, repeated.

Pure functions of texts, in English and Chinese. They are coarse on purpose: each counts only
what nobody would argue about, and a report shows the transcripts beside the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mmagent.reasoning.voting import normalise

__all__ = [
    "holds",
    "is_out_of_character",
    "is_refusal",
    "language_of",
    "leaks",
    "length",
    "repeats_itself",
    "speaks_for",
]

_REFUSAL = re.compile(
    r"\b(?:do(?:n't| not) (?:know|remember|recall|have (?:that|this|any) information)"
    r"|not sure|no idea|unknown to me"
    r"|(?:have(?:n't| not)|did(?:n't| not)|never) (?:yet )?"
    r"(?:told|tell|mention(?:ed)?|shared?|said|say)"
    r"|can(?:'t|not) (?:say|tell|know|recall|remember))\b"
    r"|不知道|不清楚|不记得|没有告诉|没告诉|没说过|没有说过|没提过|没有提到|不确定",
    re.IGNORECASE,
)
_MACHINE = r"(?:ai|artificial intelligence|(?:large )?language model|chat ?bot"
_OUT_OF_CHARACTER = re.compile(
    rf"\bas an? {_MACHINE}|assistant|machine)\b"
    rf"|\bi(?:'m| am) (?:just |only )?an? {_MACHINE}|computer program|virtual assistant)\b"
    r"|\bi (?:was|am) (?:trained|developed) by\b|\b(?:openai|hugging ?face|chatgpt)\b"
    r"|\bmy (?:training data|knowledge cut-?off|programming)\b"
    r"|作为(?:一个|一名)?(?:AI|人工智能|语言模型|助手|聊天机器人)"
    r"|我(?:只)?是(?:一个|一名)?(?:AI|人工智能|语言模型)|我的训练数据",
    re.IGNORECASE,
)
_CJK = re.compile(r"[一-鿿]")
_WORD = re.compile(r"[一-鿿]|[^\W一-鿿]+(?:['’-]\w+)*")


def length(answer: str) -> int:
    """Words of an answer; each Chinese character counts as one."""
    return len(_WORD.findall(answer))


def holds(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an answer holds one of the accepted ones, as whole words in any case."""
    said = answer.casefold().replace("’", "'")
    plain = normalise(answer)
    for wanted in accepted:
        low = wanted.casefold()
        if _CJK.search(low):
            if low in said:
                return True
        elif plain == normalise(wanted) or re.search(
            rf"(?<!\w){re.escape(low)}(?:e?s)?(?!\w)", said
        ):
            return True
    return False


def is_refusal(answer: str) -> bool:
    """Whether somebody says that they do not know, or were never told."""
    return bool(_REFUSAL.search(answer.replace("’", "'")))


def is_out_of_character(answer: str) -> bool:
    """Whether the machine behind the persona speaks ("as an AI language model")."""
    return bool(_OUT_OF_CHARACTER.search(answer.replace("’", "'")))


def language_of(answer: str) -> str | None:
    """Return "zh" or "en" by the script; None where there is too little to tell."""
    letters = re.findall(r"[^\W\d_]", answer)
    if len(letters) < 3:
        return None
    return "zh" if len(_CJK.findall(answer)) >= 0.3 * len(letters) else "en"


def leaks(answer: str, secret: str, words: int = 10) -> bool:
    """Whether so many words in a row of a prompt stand in an answer."""
    hidden = _WORD.findall(secret.casefold())
    said = " ".join(_WORD.findall(answer.casefold()))
    return any(
        " ".join(hidden[place : place + words]) in said
        for place in range(max(0, len(hidden) - words + 1))
    )


def speaks_for(answer: str, names: Iterable[str]) -> bool:
    """Whether an answer goes on with a line of the user's, such as "Sam: Hello!"."""
    listed = "|".join(re.escape(name) for name in (*names, "User", "Human", "用户") if name)
    return bool(re.search(rf"(?m)^\s*\**(?:{listed})\**\s*[:：]", answer))


def repeats_itself(answer: str, before: Sequence[str]) -> bool:
    """Whether an answer was given before word by word, or goes round in circles."""
    plain = normalise(answer)
    if len(plain.split()) >= 4 and plain in {normalise(other) for other in before}:
        return True
    words = _WORD.findall(answer.casefold())
    runs = [tuple(words[place : place + 4]) for place in range(len(words) - 3)]
    return len(runs) >= 8 and len(set(runs)) < 0.6 * len(runs)
