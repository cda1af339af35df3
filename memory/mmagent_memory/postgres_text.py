"""Between Python's texts and PostgreSQL's: what its types cannot hold, words, and BM25.

PostgreSQL's text and jsonb hold neither NUL nor half of a surrogate pair, and jsonb neither NaN
nor infinity. Such characters are written as a mark of the private use area and four hex digits,
so that everything that the other stores keep is kept here too.

Full text is a `tsvector` with Porter's stemmer and no stop words, as in the folder's store; ranks
are BM25 (Robertson and Zaragoza 2009), which PostgreSQL does not have, over the user's memories.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmagent_memory.rows import FullText, to_json

__all__ = [
    "Match",
    "bm25",
    "decode",
    "encode",
    "is_prefix",
    "json_of",
    "like",
    "path_text",
    "search_text",
    "value_of",
    "words_of",
]

_MARK = "\uf8fe"
_UNHOLDABLE = re.compile("[\x00\ud800-\udfff\uf8fe]")
_ENCODED = re.compile(_MARK + "([0-9a-f]{4})")
_NUMBER = _MARK + "n"
_SUSPECT = re.compile(r"\\u0000|\\ud[89a-f]|NaN|Infinity|[\ud800-\udfff\uf8fe]", re.IGNORECASE)
_TOKEN = re.compile(r"[^\W_]+")
_SINGLE = re.compile("[㐀-䶿一-鿿豈-﫿぀-ヿ가-힯\U00020000-\U0003ffff]")
_MAX_CHARS = 150_000
"""Most characters of a text that are found by words: a tsvector holds one megabyte."""
_K1, _B = 1.2, 0.75


def encode(text: str) -> str:
    """Return a text that PostgreSQL can hold."""
    return _UNHOLDABLE.sub(lambda found: f"{_MARK}{ord(found[0]):04x}", text)


def decode(text: str) -> str:
    """Return the text that was encoded."""
    if _MARK not in text:
        return text
    return _ENCODED.sub(lambda found: chr(int(found[1], 16)), text)


def path_text(namespace: Sequence[str]) -> str:
    """Return a namespace as LangGraph's PostgreSQL store writes it."""
    return ".".join(encode(label) for label in namespace)


def like(text: str) -> str:
    """Return a text as a LIKE pattern for itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def json_of(value: Mapping[str, Any], key: str) -> str:
    """Return a value as JSON that jsonb can hold."""
    text = to_json(value, key)
    if _SUSPECT.search(text):
        text = json.dumps(_encoded(json.loads(text)), ensure_ascii=False)
    return text


def value_of(text: str) -> Any:
    """Return the value that was stored as JSON."""
    value = json.loads(text)
    return _decoded(value) if _MARK in text else value


def _encoded(value: Any) -> Any:
    if isinstance(value, str):
        return encode(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{_NUMBER}{value}"
    if isinstance(value, dict):
        return {encode(name): _encoded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_encoded(one) for one in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return float(value[2:]) if value.startswith(_NUMBER) else decode(value)
    if isinstance(value, dict):
        return {decode(name): _decoded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    return value


def words_of(text: str) -> list[str]:
    """Return the words of a prepared text: lower case, without diacritics, letters and digits."""
    plain = unicodedata.normalize("NFKD", encode(text[:_MAX_CHARS]))
    # Hangul falls apart in NFKD too, and has to come together again.
    kept = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    return _TOKEN.findall(unicodedata.normalize("NFC", kept).lower())


def search_text(texts: FullText) -> tuple[list[str], int]:
    """Return the four columns of words, each as a text, and how many words there are."""
    columns = [words_of(column or "") for column in texts.columns()]
    return [" ".join(words) for words in columns], sum(map(len, columns))


def is_prefix(word: str) -> bool:
    """Whether a word of a question stands for every word that begins with it."""
    return len(word) == 1 and _SINGLE.match(word) is not None


@dataclass(frozen=True)
class Match:
    """A memory that full text found: how many words it has, and where which of them stand.

    Attributes:
        item: Its number.
        length: Its words.
        hits: For each stem found, the columns in which it stands, a letter each: "AAC".
    """

    item: int
    length: int
    hits: Mapping[str, str]


def bm25(
    matches: Sequence[Match],
    words: Sequence[tuple[tuple[str, ...], bool]],
    *,
    count: int,
    mean_length: float,
    weights: Sequence[float],
) -> dict[int, float]:
    """Return the score of each match, more is better.

    Args:
        matches: What was found.
        words: Of each word of the question its stems, and whether it stands for all that begin
            with it.
        count: How many memories there are, found or not.
        mean_length: Of how many words on average.
        weights: What a word counts in each of the four columns.
    """
    by_letter = dict(zip("ABCD", weights, strict=True))
    scores = dict.fromkeys((match.item for match in matches), 0.0)
    for stems, begins in words:
        found = []
        for match in matches:
            frequency = _frequency(match.hits, stems, begins, by_letter)
            if frequency > 0:
                found.append((match, frequency))
        rarity = math.log((count - len(found) + 0.5) / (len(found) + 0.5))
        rarity = max(rarity, 1e-6)  # What stands in most memories tells nothing.
        for match, frequency in found:
            length = _K1 * (1 - _B + _B * match.length / max(mean_length, 1e-9))
            scores[match.item] += rarity * frequency * (_K1 + 1) / (frequency + length)
    return {item: score for item, score in scores.items() if score > 0}


def _frequency(
    hits: Mapping[str, str], stems: Sequence[str], begins: bool, weights: Mapping[str, float]
) -> float:
    def weigh(letters: str) -> float:
        return sum(weights[letter] for letter in letters)

    if begins:
        return sum(weigh(at) for stem, at in hits.items() if stem.startswith(stems[0]))
    # Of a word of several parts ("don't") the rarest one counts.
    return min((weigh(hits.get(stem, "")) for stem in stems), default=0.0)
