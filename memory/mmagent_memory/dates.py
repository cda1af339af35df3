"""Dates in questions: "last week", "in May 2023", "early June", "three days ago", 上周, 去年五月.

What is named relative to today is resolved against the time of the question. A month without a
year means that month of any year. Pure; English and Chinese. What a question may say of time
beyond a day, a week, a month or a year is in `date_spans`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta

from mmagent_memory.date_spans import (
    Period,
    arabic,
    day_of,
    month_of,
    span_rules,
    week_of,
)

__all__ = ["Period", "periods"]

_NAMES = """
january february march april may june july august september october november december
monday tuesday wednesday thursday friday saturday sunday
zero one two three four five six seven eight nine ten
"""
_MONTHS, _DAYS, _COUNTS = (line.split() for line in _NAMES.strip().splitlines())
_NUMBERS = {
    **{word: number for number, word in enumerate(_COUNTS)},
    **{word: number for number, word in enumerate("零一二三四五六七八九十")},
    "a": 1,
    "an": 1,
    "a couple of": 2,
    "a few": 3,
    "两": 2,
    "几": 3,
}
_MONTH = "|".join(_MONTHS)
_SHORT = "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
_COUNT = r"(\d{1,3}|" + "|".join(sorted((re.escape(n) for n in _NUMBERS), key=len)[::-1]) + ")"


def periods(question: str, today: date) -> list[Period]:
    """Return the periods that a question names; nothing where it names none."""
    text = arabic(question.lower())
    found: list[Period] = []
    for pattern, make in _RULES:
        for match in pattern.finditer(text):
            try:
                period = make(match, today)
            except (ValueError, OverflowError):
                continue  # The 31st of February.
            if period is not None:
                found.append(period)
        # What a rule has read is not read again by a coarser one.
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return found


def _number(word: str) -> int:
    return int(word) if word.isdigit() else _NUMBERS[word]


def _month_number(word: str) -> int:
    return next(n for n, month in enumerate(_MONTHS, 1) if month.startswith(word[:3]))


def _back(today: date, count: int, unit: str) -> Period:
    """Return the time so many units ago, as wide as such words are meant."""
    if unit.startswith(("day", "天", "日")):
        return day_of(today - timedelta(days=count))
    if unit.startswith(("week", "周", "星期", "礼拜", "个星期", "个礼拜")):
        return week_of(today, count)
    if unit.startswith(("month", "个月", "月")):
        month = today.year * 12 + today.month - 1 - count
        return month_of(month // 12, month % 12 + 1)
    year = today.year - count
    return Period(date(year, 1, 1), date(year, 12, 31))


def _past_weekday(today: date, weekday: int) -> Period:
    return day_of(today - timedelta(days=(today.weekday() - weekday - 1) % 7 + 1))


def _rules() -> Iterator[tuple[re.Pattern[str], Callable[[re.Match[str], date], Period | None]]]:
    yield from span_rules()
    part = r"(early|mid|late|(?:the )?(?:beginning|start|middle|end) of)"
    yield (
        re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b"),
        lambda m, _: day_of(date(int(m[1]), int(m[2]), int(m[3]))),
    )
    yield (
        re.compile(r"(?:(\d{4})年)?(\d{1,2})月(\d{1,2})[日号]"),
        lambda m, _: (
            day_of(date(int(m[1]), int(m[2]), int(m[3])))
            if m[1]
            else Period(date(2024, int(m[2]), int(m[3])), date(2024, int(m[2]), int(m[3])), True)
        ),
    )
    yield (
        re.compile(r"(?:(\d{4})年)?(\d{1,2})月(初|上旬|中旬|中|底|末|下旬)?"),
        lambda m, _: month_of(int(m[1]) if m[1] else None, int(m[2]), m[3]),
    )
    yield (
        re.compile(rf"\b({_MONTH}|{_SHORT})\.? (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?\b"),
        lambda m, _: _named_day(m[1], m[2], m[3]),
    )
    yield (
        re.compile(
            rf"\b(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?({_MONTH}|{_SHORT})(?:,? (\d{{4}}))?\b"
        ),
        lambda m, _: _named_day(m[2], m[1], m[3]),
    )
    yield (
        re.compile(rf"\b(?:{part}[ -])?({_MONTH}) (?:of )?(\d{{4}})\b"),
        lambda m, _: month_of(int(m[3]), _month_number(m[2]), m[1]),
    )
    # Alone, "may" and "march" are words of their own: they need a word of time before them.
    yield (
        re.compile(rf"\b(?:{part}[ -]|(?:in|of|during|since|last|this|from|at|by) )({_MONTH})\b"),
        lambda m, _: month_of(None, _month_number(m[2]), m[1]),
    )
    yield (re.compile(r"\b(?:in|of|during|since) (\d{4})\b"), _year)
    yield (re.compile(r"(\d{4})年"), _year)
    yield (
        re.compile(rf"\b{_COUNT} (days?|weeks?|months?|years?) ago\b"),
        lambda m, today: _back(today, _number(m[1]), m[2]),
    )
    yield (
        re.compile(rf"{_COUNT}(天|周|个?星期|个?礼拜|个月|年)(?:之?前|以前)"),
        lambda m, today: _back(today, _number(m[1]), m[2]),
    )
    yield (
        re.compile(rf"\b(?:last|on|this past) ({'|'.join(_DAYS)})\b"),
        lambda m, today: _past_weekday(today, _DAYS.index(m[1])),
    )
    yield re.compile(r"\bthe day before yesterday\b|前天"), lambda _, today: _back(today, 2, "day")
    yield re.compile(r"\byesterday\b|昨[天晚日]"), lambda _, today: _back(today, 1, "day")
    yield (
        re.compile(r"\btoday\b|\bthis (?:morning|afternoon|evening)\b|今[天晚早日]"),
        lambda _, today: day_of(today),
    )
    yield re.compile(r"\blast night\b"), lambda _, today: _back(today, 1, "day")
    for unit, chinese in (("week", "(?:周|个?星期|个?礼拜)"), ("month", "个?月")):
        yield (
            re.compile(rf"\b(?:last|the previous|the past) {unit}\b|上{chinese}"),
            lambda _, today, unit=unit: _back(today, 1, unit),  # type: ignore[misc]
        )
        yield (
            re.compile(rf"\bthis {unit}\b|[这本]{chinese}"),
            lambda _, today, unit=unit: _back(today, 0, unit),  # type: ignore[misc]
        )
    yield re.compile(r"\blast year\b|去年"), lambda _, today: _back(today, 1, "year")
    yield re.compile(r"\bthis year\b|今年"), lambda _, today: _back(today, 0, "year")


def _year(match: re.Match[str], _: date) -> Period | None:
    year = int(match[1])
    return Period(date(year, 1, 1), date(year, 12, 31)) if 1900 <= year <= 2200 else None


def _named_day(month: str, day: str, year: str | None) -> Period:
    found = date(int(year or 2024), _month_number(month), int(day))
    return Period(found, found, any_year=not year)


_RULES = tuple(_rules())
