"""Which pictures somebody's words mean: "the second picture", "the red one", 第二张图.

Deterministic, in English and Chinese. Ordinals count the pictures of the whole conversation, not
of what of it still fits. A description is compared with the words that a picture was shown with,
with what was answered, and with its colours. Words that fit several pictures alike are ambiguous,
and the caller asks; a description that fits none is left alone, since it may mean a picture of
another conversation, which is the long-term memory's to find.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mmagent.context.colours import COLOUR_WORDS
from mmagent.context.ledger import ImageLedger, ShownPicture

__all__ = ["Reference", "resolve"]


@dataclass(frozen=True)
class Reference:
    """One mention of pictures.

    Attributes:
        phrase: The words.
        numbers: The pictures that it means; the candidates, if it is ambiguous.
        kind: "resolved", "ambiguous", or "missing" (there are not so many pictures).
    """

    phrase: str
    numbers: tuple[int, ...]
    kind: Literal["resolved", "ambiguous", "missing"] = "resolved"


def _words(text: str) -> list[str]:
    return text.split()


_ORDINAL_WORDS = _words("first second third fourth fifth sixth seventh eighth ninth tenth")
_COUNT_WORDS = _words("one two three four five six seven eight nine ten")
_ZH_DIGITS = "零一二三四五六七八九十"
_NOUN = (
    r"(?:pictures?|images?|photo(?:graph)?s?|pics?|screenshots?|snapshots?|drawings?|selfies?)\b"
)
_ONE = _NOUN.replace("s?", "")
_ORDINAL = rf"(?P<ordinal>{'|'.join(_ORDINAL_WORDS)}|\d{{1,3}}(?:st|nd|rd|th))"
_LATEST = r"last|latest|newest|most recent"
_ZH_NOUN = r"(?:图[片像]?|照片|相片|截图|画)"
_ZH = rf"[张幅]{_ZH_NOUN}?"
_ABOUT_PICTURES = re.compile(rf"\b{_NOUN}|图|照片|相片|[这那]张|张", re.I)
_REQUEST = re.compile(
    r"[?？]|^\W*(?:please |and |now |then )*(?:what|which|who|where|how|is|are|was|were|do|does|"
    r"did|can|could|describe|compare|show|look|tell|explain|read|count|zoom|see|"
    # Or no sentence at all: "the ninth picture, please".
    r"(?:the|my|that) (?!.*\b(?:is|are|was|were|has|had|came|looks?|shows?)\b)[^.!]{1,60}$)|"
    r"请|描述|比较|看看|吗|呢|什么|第|那张",
    re.I,
)
# Words before "one" or "picture" that describe nothing.
_EMPTY = frozenset(
    _words(
        """
        a an the this that these those my your our his her their its it is was are were i you we
        me of in on at with to from for and or which what one ones picture image photo photograph
        pic screenshot snapshot drawing selfie show showed shown sent send gave there can see look
        did do does have has had about again before earlier just now other same good nice only
        right wrong left any some no every each new old big small
        """
    )
)
_ZH_EMPTY = re.compile(
    "刚才|刚刚|之前|以前|上次|我们?|你们?|他|她|给|发|看|过|的|有|是|那|这|张|里|中|在|色|了|和|还|记得"
)
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("from_end", re.compile(
        rf"\b(?:(?P<back>second|third|fourth)[- ]to[- ]last|last but (?P<but>one|two))"
        rf"(?: {_NOUN}| one\b)?", re.I)),
    ("from_end", re.compile(
        rf"\b(?:{_NOUN}|the one) before (?:the )?(?:{_LATEST}|previous|that)(?: one| {_NOUN})?",
        re.I)),
    ("several", re.compile(
        rf"\bthe (?P<end>first|last) (?P<count>{'|'.join(_COUNT_WORDS[1:])}|\d{{1,2}}) {_NOUN}",
        re.I)),
    ("all", re.compile(rf"\b(?:both|all)(?: of)?(?: the| my| these| those| your)? {_NOUN}", re.I)),
    ("ordinal", re.compile(
        # "the first and the third picture"
        rf"\b{_ORDINAL}(?= (?:and|or|with|to|from) (?:the )?"
        rf"(?:{'|'.join(_ORDINAL_WORDS)}|\d{{1,3}}(?:st|nd|rd|th)) {_NOUN})", re.I)),
    ("ordinal", re.compile(rf"\b{_ORDINAL} {_NOUN}", re.I)),
    ("ordinal_one", re.compile(rf"\bthe {_ORDINAL}(?: one\b|(?=\s*[?.!,]|\s*$))", re.I)),
    ("number", re.compile(rf"\b{_NOUN} (?:no\.? ?|number |nr\.? ?|#)?(?P<number>\d{{1,3}})\b",
                          re.I)),
    ("latest", re.compile(rf"\b(?:{_LATEST}) {_NOUN}", re.I)),
    ("latest_one", re.compile(rf"\bthe (?:{_LATEST}) one\b", re.I)),
    ("previous", re.compile(rf"\b(?:previous|earlier|prior|preceding) {_NOUN}", re.I)),
    ("previous", re.compile(rf"\b{_NOUN} (?:from )?before\b(?! (?:the|that|this|i|you|we))", re.I)),
    ("previous_one", re.compile(r"\bthe (?:previous|earlier|prior|preceding) one\b", re.I)),
    ("described", re.compile(
        rf"\b{_NOUN} (?:of|with|that shows?|showing|where) (?P<what>[^?.!,;\n]{{1,60}})", re.I)),
    ("described", re.compile(rf"\b(?:the|my|that) (?P<what>(?:[\w'-]+ ){{1,3}}){_NOUN}", re.I)),
    ("described_one", re.compile(
        r"\bthe (?P<what>(?!last|latest|newest|most|first|second|third|next|other|only|same|"
        r"previous|right|wrong)(?:[\w'-]+ ){1,2})one\b", re.I)),
    ("described_one", re.compile(
        r"\b(?:the|that) one (?:of|with|that shows?|showing) (?P<what>[^?.!,;\n]{1,60})", re.I)),
    ("this", re.compile(rf"\b(?:this|that|the) {_ONE}", re.I)),
    # Chinese
    ("zh_from_end", re.compile(rf"倒数第(?P<zh>[一二三四五六七八九十\d]{{1,3}}){_ZH}")),
    ("zh_from_end2", re.compile(rf"上上一?{_ZH}")),
    ("zh_ordinal", re.compile(
        rf"第(?P<zh>[一二三四五六七八九十\d]{{1,3}})[张幅]"
        rf"(?:{_ZH_NOUN}|(?=[的里中上是有呢和与跟同比或、，。？！?!,\s]|$))")),
    ("zh_ordinal", re.compile(
        # "… and the third", "… brighter than the second"
        r"(?<=[张幅图片像照相截画][和与跟同比或、])第(?P<zh>[一二三四五六七八九十\d]{1,3})[张幅]")),
    ("zh_several", re.compile(
        rf"(?P<end>[前头后]|最后)(?P<zh>[两二三四五六七八九十]|\d{{1,2}}){_ZH}")),
    ("zh_ordinal", re.compile(r"图(?:片)?(?P<zh>[一二三四五六七八九十]|\d{1,3})(?![\d张])")),
    ("zh_latest", re.compile(rf"(?:最后|最新|最近)的?(?:那|一)?一?{_ZH}")),
    ("zh_previous", re.compile(rf"(?:上|前)一?{_ZH}")),
    ("zh_all", re.compile(
        r"(?:所有|全部)的?(?:图[片像]?|照片|相片)|[这那]?两张(?:图[片像]?|照片|相片)?都?")),
    ("zh_described", re.compile(
        r"(?P<what>[一-鿿]{1,6})的?那[张幅](?:图[片像]?|照片|相片|截图)?")),
    ("zh_described", re.compile(
        r"[这那][张幅](?P<what>[一-鿿]{1,6}?)的?(?:图[片像]?|照片|相片|截图)")),
    ("zh_described", re.compile(r"(?P<what>[一-鿿]{1,6})的(?:图[片像]?|照片|相片)")),
    ("zh_this", re.compile(r"(?:刚才|之前)?的?[这那][张幅](?:图[片像]?|照片|相片|截图)?")),
)  # fmt: skip
# Not told apart from ordinary words unless the talk is of pictures.
_BARE = frozenset({"ordinal_one", "latest_one", "previous_one", "described_one"})


def resolve(
    words: str, ledger: ImageLedger, *, shown_now: Iterable[int] = (), before: str = ""
) -> tuple[Reference, ...]:
    """Return what pictures the words mean, in the order of the words.

    Args:
        words: What somebody says.
        ledger: The pictures so far, with those that come with these words.
        shown_now: The numbers of these.
        before: What was said right before; "the second one" means a picture only where the
            words, or these, speak of pictures.
    """
    if not ledger.pictures:
        return ()
    now = set(shown_now)
    about = bool(now) or bool(_ABOUT_PICTURES.search(words) or _ABOUT_PICTURES.search(before))
    finder = _Finder(ledger, now)
    taken: list[tuple[int, int]] = []
    found: list[tuple[int, Reference]] = []
    for name, rule in _RULES:
        if name in _BARE and not about:
            continue
        for match in rule.finditer(words):
            start, end = match.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            reference = finder.find(name, match)
            if reference is not None or _content_words(match.groupdict().get("what") or ""):
                # A description that fits nothing must not be read as "the picture".
                taken.append((start, end))
            if reference is not None:
                found.append((start, reference))
    # Who tells of a picture they once took need not be asked which one they mean.
    asks = not now and bool(_REQUEST.search(words))
    found = [pair for pair in found if asks or pair[1].kind == "resolved"]
    return tuple(reference for _, reference in sorted(found, key=lambda pair: pair[0]))


class _Finder:
    """Looks one match up."""

    def __init__(self, ledger: ImageLedger, now: set[int]) -> None:
        self.all = ledger.pictures
        # Nobody calls the picture in their hand "the last" or "the previous" one.
        self.earlier = [p for p in self.all if p.number not in now] or list(self.all)
        self.now = now

    def find(self, name: str, match: re.Match[str]) -> Reference | None:
        parts = match.groupdict()
        phrase = match.group().strip()
        match name:
            case "ordinal" | "ordinal_one":
                return self._nth(phrase, _ordinal(parts["ordinal"]))
            case "number":
                return self._nth(phrase, int(parts["number"]))
            case "zh_ordinal":
                return self._nth(phrase, _zh_number(parts["zh"]))
            case "latest" | "latest_one" | "previous" | "previous_one" | "zh_latest":
                return Reference(phrase, (self.earlier[-1].number,))
            case "zh_previous":
                return Reference(phrase, (self.earlier[-1].number,))
            case "from_end":
                back = {"third": 3, "two": 3, "fourth": 4}
                named = (parts.get("back") or parts.get("but") or "").lower()
                return self._from_end(phrase, back.get(named, 2))
            case "zh_from_end":
                return self._from_end(phrase, _zh_number(parts["zh"]))
            case "zh_from_end2":
                return self._from_end(phrase, 2)
            case "several":
                return self._several(phrase, parts["end"].lower(), _count(parts["count"]))
            case "zh_several":
                end = "first" if parts["end"] in "前头" else "last"
                return self._several(phrase, end, _zh_number(parts["zh"].replace("两", "二")))
            case "all" | "zh_all":
                return Reference(phrase, tuple(p.number for p in self.all))
            case "this" | "zh_this":
                if self.now:
                    return None  # it is there
                return Reference(phrase, (self.all[-1].number,))
        return self._described(phrase, parts["what"])

    def _nth(self, phrase: str, number: int) -> Reference:
        if not 1 <= number <= len(self.all):
            return Reference(phrase, (), "missing")
        return Reference(phrase, (number,))

    def _from_end(self, phrase: str, back: int) -> Reference:
        return self._nth(phrase, len(self.all) - back + 1)

    def _several(self, phrase: str, end: str, count: int) -> Reference:
        if count > len(self.all):
            return Reference(phrase, (), "missing")
        chosen = self.all[:count] if end == "first" else self.all[-count:]
        return Reference(phrase, tuple(p.number for p in chosen))

    def _described(self, phrase: str, what: str) -> Reference | None:
        wanted = _content_words(what)
        if not wanted:
            return None
        scores = {p.number: _likeness(wanted, p) for p in self.all}
        best = max(scores.values())
        if best <= 0:
            return None
        likely = [number for number, score in scores.items() if score >= 0.8 * best]
        # The same picture shown twice is one picture; its last showing stands for it.
        by_id = {self.all[number - 1].id: number for number in likely}
        numbers = tuple(sorted(by_id.values()))
        return Reference(phrase, numbers, "resolved" if len(numbers) == 1 else "ambiguous")


def _likeness(wanted: list[str], picture: ShownPicture) -> float:
    """How well a description fits: its words in the caption, in the answer, in the colours."""
    caption, said = _texts(picture.caption), _texts(picture.said)
    total = 0.0
    for word in wanted:
        colour = COLOUR_WORDS.get(word, "")
        names = [name for name in (word, colour) if name]
        if any(_holds(caption, name) for name in names):
            total += 1.0
        elif any(_holds(said, name) for name in names):
            total += 0.6
        else:
            total += picture.colours.get(colour, 0.0)
    return total


def _texts(text: str) -> tuple[str, set[str]]:
    low = text.casefold()
    return low, {_stem(word) for word in re.findall(r"[a-z0-9'-]+", low)}


def _holds(text: tuple[str, set[str]], word: str) -> bool:
    return _stem(word) in text[1] if word.isascii() else word in text[0]


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _content_words(what: str) -> list[str]:
    """The words of a description that tell pictures apart."""
    low = what.casefold()
    if re.search("[一-鿿]", low):
        rest = _ZH_EMPTY.sub(" ", low)
        return rest.split()
    return [word for word in re.findall(r"[a-z0-9'-]+", low) if word not in _EMPTY]


def _ordinal(text: str) -> int:
    low = text.lower()
    return _ORDINAL_WORDS.index(low) + 1 if low in _ORDINAL_WORDS else int(low[:-2])


def _count(text: str) -> int:
    low = text.lower()
    return _COUNT_WORDS.index(low) + 1 if low in _COUNT_WORDS else int(low)


def _zh_number(text: str) -> int:
    if text.isdigit():
        return int(text)
    tens, ten, ones = text.partition("十")
    if not ten:
        return _ZH_DIGITS.find(text)
    high = _ZH_DIGITS.find(tens) if tens else 1
    return 10 * high + (_ZH_DIGITS.find(ones) if ones else 0)
