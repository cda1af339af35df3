"""Spans of time: days, weeks, months, seasons and what lies between two of them.

The rules here are read before those of `dates`, since they are longer: "last week's Friday" before
"last week". Pure; English and Chinese.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

__all__ = ["Period", "arabic", "day_of", "month_of", "span_rules", "week_of"]

Rule = tuple[re.Pattern[str], "Callable[[re.Match[str], date], Period | None]"]

_MONTH_NAMES = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    "(january|february|march|april|may|june|july|august|september|october|november|december|"
    r"(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.?)"
)
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_DAY = f"({'|'.join(_DAYS)})"
_CHINESE_DAYS = "一二三四五六日"
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_SEASONS |= {"春": 3, "夏": 6, "秋": 9, "冬": 12}
_FEASTS = {
    "new year's day": (1, 1, 1, 1),
    "valentine's day": (2, 14, 2, 14),
    "halloween": (10, 31, 10, 31),
    "christmas": (12, 24, 12, 26),
    "new year's eve": (12, 31, 12, 31),
    "元旦": (1, 1, 1, 1),
    "情人节": (2, 14, 2, 14),
    "劳动节": (5, 1, 5, 5),
    "国庆": (10, 1, 10, 7),
    "圣诞": (12, 24, 12, 26),
}
_SMALL = {"a": 1, "one": 1, "two": 2, "couple of": 2, "three": 3, "few": 3, "four": 4, "five": 5}
_SMALL |= {"six": 6, "seven": 7, "ten": 10, "两": 2, "几": 3}
_EARLIEST = date(1900, 1, 1)
_DIGITS = {digit: number for number, digit in enumerate("零一二三四五六七八九")} | {"〇": 0}


@dataclass(frozen=True)
class Period:
    """A span of days, both ends included; `any_year` where no year was named."""

    first: date
    last: date
    any_year: bool = False

    def holds(self, day: date) -> bool:
        """Whether a day lies in the period."""
        if not self.any_year:
            return self.first <= day <= self.last
        low, high = (self.first.month, self.first.day), (self.last.month, self.last.day)
        place = (day.month, day.day)
        return low <= place <= high if low <= high else place >= low or place <= high


def day_of(day: date) -> Period:
    """Return a day."""
    return Period(day, day)


def week_of(today: date, back: int) -> Period:
    """Return the week so many weeks ago, from Monday."""
    monday = today - timedelta(days=today.weekday() + 7 * back)
    return Period(monday, monday + timedelta(days=6))


def month_of(year: int | None, month: int, part: str | None = None) -> Period:
    """Return a month, or its beginning, middle or end as such words are meant."""
    # Without a year, 2024 stands in: it has a 29th of February.
    shown = year or 2024
    length = monthrange(shown, month)[1]
    first, last = 1, length
    if part and ("early" in part or "beginning" in part or "start" in part or part in "初上旬"):
        last = 12
    elif part and ("mid" in part or part in "中旬"):
        first, last = 9, 22
    elif part:
        first = 18
    return Period(date(shown, month, first), date(shown, month, last), any_year=year is None)


def arabic(text: str) -> str:
    """Return a text with Chinese numbers before 年, 月, 日 and 号 in digits."""
    return re.sub(
        "([〇零一二三四五六七八九十]+)(?=[年月日号])", lambda match: str(_chinese(match[1])), text
    )


def span_rules() -> Iterator[Rule]:
    """Yield how spans are named, the longest first."""
    yield from _between()
    yield from _weeks()
    yield from _seasons_and_feasts()
    yield from _years()


def _between() -> Iterator[Rule]:
    until = r"(?: and | to | until | till | through | ?[–-] ?)"
    yield (
        re.compile(rf"\b(?:between|from) {_MONTH}(?: (\d{{4}}))?{until}{_MONTH}(?: (\d{{4}}))?\b"),
        lambda m, today: _months(m[1], m[2] or m[4], m[3], m[4] or m[2], today),
    )
    yield (
        re.compile(r"(?:从)?(?:(\d{4})年)?(\d{1,2})月(?:到|至|-|–)(?:(\d{4})年)?(\d{1,2})月"),
        lambda m, today: _months(m[2], m[1] or m[3], m[4], m[3] or m[1], today),
    )
    yield (
        re.compile(rf"\b(since|after|before|until) (?:the )?(?:{_MONTH} )?(\d{{4}})\b"),
        lambda m, today: _side(m[1], _month_or_year(m[2], int(m[3])), today),
    )
    yield (
        re.compile(rf"\bsince {_MONTH}\b"),
        lambda m, today: _side("since", _latest_month(m[1], today), today),
    )
    yield (
        re.compile(r"(\d{4})年(?:(\d{1,2})月)?(以来|之?前|以前|之?后|以后)"),
        lambda m, today: _side(
            "since" if m[3] == "以来" else "before" if "前" in m[3] else "after",
            month_of(int(m[1]), int(m[2])) if m[2] else _year(int(m[1])),
            today,
        ),
    )
    yield (
        re.compile(
            r"\b(?:in|over|during|within) the (?:last|past) (?:(\d{1,3}|[a-z]+(?: of)?) )?"
            r"(day|week|month|year)s?\b"
        ),
        lambda m, today: _lasting(m[1] or "one", m[2], today),
    )
    yield (
        re.compile(
            r"(?:最近|过去|近)的?(这?[一两二三四五六七八九十几]|\d{1,3})个?(天|周|星期|月|年)"
        ),
        lambda m, today: _lasting(m[1].removeprefix("这"), m[2], today),
    )
    yield (
        re.compile(r"\bthe other day\b|前几天|这几天"),
        lambda _, today: Period(today - timedelta(days=7), today),
    )
    yield (
        re.compile(rf"\blast {_MONTH}\b"),
        lambda m, today: _latest_month(m[1], today.replace(day=1) - timedelta(days=1)),
    )
    yield (
        re.compile(r"\bon the (\d{1,2})(?:st|nd|rd|th)\b(?! (?:of|day))"),
        lambda m, today: _latest_day(int(m[1]), today),
    )
    yield (
        re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b"),
        # Month first as in America, unless there is no such month.
        lambda m, _: day_of(
            date(int(m[3]), *(map(int, (m[1], m[2]) if int(m[1]) <= 12 else (m[2], m[1]))))
        ),
    )


def _weeks() -> Iterator[Rule]:
    yield (
        re.compile(rf"\b{_DAY} (?:of )?last week\b|\blast week(?:'s)? (?:on )?{_DAY}\b"),
        lambda m, today: _in_week(today, 1, _DAYS.index(m[1] or m[2])),
    )
    yield (
        re.compile(r"\b(last|this|the) weekend\b"),
        lambda m, today: _weekend(today, 1 if m[1] == "last" or today.weekday() < 5 else 0),
    )
    yield (
        re.compile(r"(上上|上|这|本)个?(?:周|星期|礼拜)末"),
        lambda m, today: _weekend(today, {"上上": 2, "上": 1}.get(m[1], 0)),
    )
    yield (
        re.compile(r"(上上|上|这|本)个?(?:周|星期|礼拜)([一二三四五六日天])"),
        lambda m, today: _in_week(
            today, {"上上": 2, "上": 1}.get(m[1], 0), _CHINESE_DAYS.index(m[2].replace("天", "日"))
        ),
    )
    yield (
        re.compile(r"\bthe week before last\b|上上个?(?:周|星期|礼拜)"),
        lambda _, t: week_of(t, 2),
    )
    yield (
        re.compile(r"\b(?:the month before last)\b|上上个?月"),
        lambda _, today: _months_ago(today, 2),
    )
    yield re.compile(r"大前天"), lambda _, today: day_of(today - timedelta(days=3))
    yield re.compile(r"\btonight\b|\bearlier today\b|今早|今晨"), lambda _, today: day_of(today)


def _seasons_and_feasts() -> Iterator[Rule]:
    names = "spring|summer|autumn|fall|winter"
    yield (
        re.compile(rf"\b(?:in|during) the ({names}) of (\d{{4}})\b|\b({names}) (\d{{4}})\b"),
        lambda m, _: _season(m[1] or m[3], int(m[2] or m[4])),
    )
    yield (
        re.compile(rf"\b(last|this) ({names})\b"),
        lambda m, today: _latest_season(m[2], today, past=m[1] == "last"),
    )
    yield (
        re.compile(rf"\b(?:in|during) (?:the )?({names})\b"),
        lambda m, _: _season(m[1], None),
    )
    yield (
        re.compile(r"(?:(\d{4})年|(前年|去年|今年))?的?([春夏秋冬])[天季]"),
        lambda m, today: _season(
            m[3], int(m[1]) if m[1] else today.year - _years_back(m[2]) if m[2] else None
        ),
    )
    for name, (month, day, last_month, last_day) in _FEASTS.items():
        yield (
            re.compile(rf"(last |去年的?)?{name}"),
            lambda m, today, a=(month, day), b=(last_month, last_day): (  # type: ignore[misc]
                _latest_feast(a, b, today) if m[1] else Period(date(2024, *a), date(2024, *b), True)
            ),
        )


def _years() -> Iterator[Rule]:
    yield (
        re.compile(
            r"(前年|去年|今年)的?(\d{1,2})月(?:(\d{1,2})[日号])?(初|上旬|中旬|中|底|末|下旬)?"
        ),
        lambda m, today: (
            day_of(date(today.year - _years_back(m[1]), int(m[2]), int(m[3])))
            if m[3]
            else month_of(today.year - _years_back(m[1]), int(m[2]), m[4])
        ),
    )
    yield (
        re.compile(r"(?:(\d{4})年|(前年|去年|今年))的?(上半年|下半年|年?初|年?底|年?末)"),
        lambda m, today: _part_of_year(int(m[1]) if m[1] else today.year - _years_back(m[2]), m[3]),
    )
    yield (
        re.compile(
            r"\b(early|mid|late|(?:the )?(?:first|second) half of|(?:the )?(?:beginning|start|end) "
            r"of|q[1-4])[ -](\d{4}|last year|this year)\b"
        ),
        lambda m, today: _part_of_year(
            int(m[2]) if m[2].isdigit() else today.year - (m[2] == "last year"), m[1]
        ),
    )
    yield re.compile(r"\bthe year before last\b|前年"), lambda _, today: _year(today.year - 2)


def _chinese(word: str) -> int:
    if "十" not in word:
        return int("".join(str(_DIGITS[character]) for character in word))
    tens, _, ones = word.partition("十")
    return 10 * (_DIGITS[tens] if tens else 1) + (_DIGITS[ones] if ones else 0)


def _month_number(word: str) -> int:
    return int(word) if word.isdigit() else _MONTH_NAMES.index(word[:3]) + 1


def _year(year: int) -> Period:
    return Period(date(year, 1, 1), date(year, 12, 31))


def _years_back(word: str) -> int:
    return {"今年": 0, "去年": 1, "前年": 2}[word]


def _months(
    first: str, first_year: str | None, last: str, last_year: str | None, today: date
) -> Period:
    low, high = _month_number(first), _month_number(last)
    if first_year is None or last_year is None:
        return Period(month_of(None, low).first, month_of(None, high).last, any_year=True)
    begin, end = int(first_year), int(last_year)
    if begin == end and low > high:
        begin -= 1  # "From November to February 2024" began the year before.
    return Period(month_of(begin, low).first, month_of(end, high).last)


def _month_or_year(month: str | None, year: int) -> Period:
    return month_of(year, _month_number(month)) if month else _year(year)


def _side(word: str, period: Period, today: date) -> Period | None:
    if period.first.year < _EARLIEST.year:
        return None
    if word == "since":
        return Period(period.first, max(today, period.last))
    if word == "after":
        return Period(period.last + timedelta(days=1), max(today, period.last + timedelta(days=1)))
    return Period(_EARLIEST, period.first - timedelta(days=1))


def _lasting(count: str, unit: str, today: date) -> Period | None:
    number = int(count) if count.isdigit() else _SMALL.get(count)
    if number is None and len(count) <= 2 and count[:1] in "一二三四五六七八九十":
        number = _chinese(count)
    if number is None:
        return None
    days = {"day": 1, "week": 7, "month": 31, "year": 366}
    days |= {"天": 1, "周": 7, "星期": 7, "月": 31, "年": 366}
    return Period(today - timedelta(days=number * days[unit]), today)


def _latest_month(word: str, today: date) -> Period:
    number = _month_number(word)
    return month_of(today.year - (number > today.month), number)


def _months_ago(today: date, count: int) -> Period:
    month = today.year * 12 + today.month - 1 - count
    return month_of(month // 12, month % 12 + 1)


def _latest_day(number: int, today: date) -> Period:
    found = today.replace(day=1)
    while number > monthrange(found.year, found.month)[1] or found.replace(day=number) > today:
        if not 1 <= number <= 31:
            raise ValueError(number)
        found = (found - timedelta(days=1)).replace(day=1)
    return day_of(found.replace(day=number))


def _in_week(today: date, back: int, weekday: int) -> Period:
    return day_of(week_of(today, back).first + timedelta(days=weekday))


def _weekend(today: date, back: int) -> Period:
    monday = week_of(today, back).first
    return Period(monday + timedelta(days=5), monday + timedelta(days=6))


def _season(name: str, year: int | None) -> Period:
    month = _SEASONS[name]
    shown = year or 2024
    begin = date(shown, month, 1)
    end = month_of(shown + (month == 12), (month + 1) % 12 + 1).last
    return Period(begin, end, any_year=year is None)


def _latest_season(name: str, today: date, *, past: bool) -> Period:
    for year in (today.year, today.year - 1, today.year - 2):
        season = _season(name, year)
        if (season.last < today) if past else season.first <= today:
            return season
    return _season(name, today.year)


def _latest_feast(first: tuple[int, int], last: tuple[int, int], today: date) -> Period:
    year = today.year - (date(today.year, *first) >= today)
    return Period(date(year, *first), date(year, *last))


def _part_of_year(year: int, part: str) -> Period:
    if part.startswith("q"):
        quarter = int(part[1])
        return Period(date(year, 3 * quarter - 2, 1), month_of(year, 3 * quarter).last)
    if "first half" in part or part == "上半年":
        return Period(date(year, 1, 1), date(year, 6, 30))
    if "second half" in part or part == "下半年":
        return Period(date(year, 7, 1), date(year, 12, 31))
    if "mid" in part:
        return Period(date(year, 5, 1), date(year, 8, 31))
    if part.endswith("初") or any(word in part for word in ("early", "beginning", "start")):
        return Period(date(year, 1, 1), date(year, 4, 30))
    return Period(date(year, 9, 1), date(year, 12, 31))
