"""Words for full text search: how texts are prepared, and how a question becomes a query.

SQLite's FTS5 splits at spaces and stems English (Porter). Chinese, Japanese and Korean are
written without spaces, so that here every run of them becomes its overlapping pairs of
characters, and its last character: each character then begins a word, and a question of a
single character is found as a beginning.
"""

from __future__ import annotations

import re

__all__ = ["full_text_query", "prepare", "question_words"]

_CJK = "㐀-䶿一-鿿豈-﫿぀-ヿ가-힯\U00020000-\U0003ffff"
_RUN = re.compile(f"[{_CJK}]+")
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)?", re.UNICODE)
_MAX_WORDS = 64
"""Longest question in words; what comes after adds nothing but time."""

# Words that stand in nearly every sentence and in every question: they find nothing.
_STOP_TEXT = """
a about after all also am an and any are as at be been being but by can could did do does doing
for from had has have having he her here hers him his how i if in into is it its just me more most
my no nor not now of on once only or other our out over own same she should so some such than that
the their them then there these they this those through to too under until up very was we were
what when where which while who whom why will with would you your ever please tell s t d ll m re ve
based according mentioned mention remember recall remind tell told know
记得 告诉 知道 提到
的 了 吗 呢 吧 啊 是 在 我 你 他 她 它 们 和 与 就 都 也
什么 怎么 哪个 哪些 我们 你们 他们 是不 不是 是否 有没 没有 可以 一个 这个 那个
"""
STOP_WORDS = frozenset(_STOP_TEXT.split())
# Chinese words that only hold a question together; it is cut at them.
_JOINING = re.compile(
    "什么|怎么|哪个|哪些|哪里|哪儿|多少|我们|你们|他们|她们|咱们|是不是|是否|有没有|可以|一个|这个|那个|"
    "为什么|时候|[的了吗呢吧啊呀是在我你他她它们和与就都也把被给过对得地几谁哪]"
)
_SHORT_RUN = 2


def prepare(text: str) -> str:
    """Return a text for the full text table; what SQLite cannot hold is left out."""
    if text.isascii():
        return text.replace("\x00", " ")
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")
    return _RUN.sub(lambda run: f" {' '.join([*_pairs(run[0]), run[0][-1]])} ", text)


def question_words(text: str) -> list[str]:
    """Return the words of a question that may find something, each once, in order.

    Where nothing but stop words is left, those are returned: "who are you" must find something.
    """
    text = text.encode("utf-8", "replace").decode("utf-8").lower()
    prepared = _RUN.sub(lambda run: f" {' '.join(_asked(run[0]))} ", text)
    found = []
    for match in _TOKEN.finditer(prepared):
        word = match[0].replace("’", "'")
        found.append(word.removesuffix("'s"))
    unique = list(dict.fromkeys(found))
    telling = [word for word in unique if word not in STOP_WORDS]
    return (telling or unique)[:_MAX_WORDS]


def full_text_query(words: list[str], columns: str = "") -> str:
    """Return an FTS5 query for any of the words; quoted, so that no word is an operator."""
    quoted = " OR ".join(_quoted(word) for word in words)
    return f"{{{columns}}} : ({quoted})" if columns else quoted


def _quoted(word: str) -> str:
    phrase = '"' + word.replace('"', '""') + '"'
    return f"{phrase} *" if len(word) == 1 and _RUN.match(word) else phrase


def _asked(run: str) -> list[str]:
    """Return what is looked for of a run: pairs of the words in it, and single characters.

    "我的猫叫什么名字" holds 猫叫 and 名字; only the single 猫 finds 黑猫.
    """
    found: list[str] = []
    for part in _JOINING.split(run):
        found += _pairs(part)
        if len(part) <= _SHORT_RUN:
            found += part
    return found or _pairs(run) or [run]


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]
