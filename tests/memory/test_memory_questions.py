"""What is read out of a question: dates, parts, pictures, words."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.dates import periods
from mmagent_memory.questions import asks_for_picture, parts_of, without_instructions
from mmagent_memory.text import full_text_query, prepare, question_words

TODAY = date(2024, 5, 15)  # A Wednesday.


@pytest.mark.parametrize(
    ("question", "first", "last"),
    [
        ("What did we do on 2024-02-03?", "2024-02-03", "2024-02-03"),
        ("What happened in May 2023?", "2023-05-01", "2023-05-31"),
        ("in early June 2023", "2023-06-01", "2023-06-12"),
        ("at the end of February 2024", "2024-02-18", "2024-02-29"),
        ("on March 5, 2024", "2024-03-05", "2024-03-05"),
        ("on the 5th of March 2024", "2024-03-05", "2024-03-05"),
        ("What did I say last week?", "2024-05-06", "2024-05-12"),
        ("and this week?", "2024-05-13", "2024-05-19"),
        ("last month", "2024-04-01", "2024-04-30"),
        ("last year", "2023-01-01", "2023-12-31"),
        ("in 2022", "2022-01-01", "2022-12-31"),
        ("three days ago", "2024-05-12", "2024-05-12"),
        ("2 weeks ago", "2024-04-29", "2024-05-05"),
        ("a month ago", "2024-04-01", "2024-04-30"),
        ("yesterday", "2024-05-14", "2024-05-14"),
        ("the day before yesterday", "2024-05-13", "2024-05-13"),
        ("last Friday", "2024-05-10", "2024-05-10"),
        ("last Wednesday", "2024-05-08", "2024-05-08"),
        ("我上周说了什么", "2024-05-06", "2024-05-12"),
        ("昨天呢", "2024-05-14", "2024-05-14"),
        ("前天", "2024-05-13", "2024-05-13"),
        ("三天前", "2024-05-12", "2024-05-12"),
        ("上个月", "2024-04-01", "2024-04-30"),
        ("去年", "2023-01-01", "2023-12-31"),
        ("2023年5月6日", "2023-05-06", "2023-05-06"),
        ("2023年5月初", "2023-05-01", "2023-05-12"),
        ("between May and July 2023", "2023-05-01", "2023-07-31"),
        ("from November to February 2024", "2023-11-01", "2024-02-29"),
        ("since March 2023", "2023-03-01", "2024-05-15"),
        ("since November", "2023-11-01", "2024-05-15"),
        ("after June 2023", "2023-07-01", "2024-05-15"),
        ("before 2022", "1900-01-01", "2021-12-31"),
        ("in the last three days", "2024-05-12", "2024-05-15"),
        ("over the past week", "2024-05-08", "2024-05-15"),
        ("the other day", "2024-05-08", "2024-05-15"),
        ("What did I do last May?", "2023-05-01", "2023-05-31"),
        ("last March", "2024-03-01", "2024-03-31"),
        ("on the 20th", "2024-04-20", "2024-04-20"),
        ("on the 31st", "2024-03-31", "2024-03-31"),
        ("5/6/2023", "2023-05-06", "2023-05-06"),
        ("25/6/2023", "2023-06-25", "2023-06-25"),
        ("on Friday of last week", "2024-05-10", "2024-05-10"),
        ("Tuesday last week", "2024-05-07", "2024-05-07"),
        ("last weekend", "2024-05-11", "2024-05-12"),
        ("the week before last", "2024-04-29", "2024-05-05"),
        ("the year before last", "2022-01-01", "2022-12-31"),
        ("last summer", "2023-06-01", "2023-08-31"),
        ("last winter", "2023-12-01", "2024-02-29"),
        ("in the summer of 2022", "2022-06-01", "2022-08-31"),
        ("last Christmas", "2023-12-24", "2023-12-26"),
        ("in early 2023", "2023-01-01", "2023-04-30"),
        ("the second half of 2023", "2023-07-01", "2023-12-31"),
        ("in Q3 2023", "2023-07-01", "2023-09-30"),
        ("tonight", "2024-05-15", "2024-05-15"),
        ("去年五月", "2023-05-01", "2023-05-31"),
        ("今年三月八号", "2024-03-08", "2024-03-08"),
        ("二零二三年十二月二十五日", "2023-12-25", "2023-12-25"),
        ("上周三", "2024-05-08", "2024-05-08"),
        ("这个星期天", "2024-05-19", "2024-05-19"),
        ("上上周", "2024-04-29", "2024-05-05"),
        ("上周末", "2024-05-11", "2024-05-12"),
        ("大前天", "2024-05-12", "2024-05-12"),
        ("前年", "2022-01-01", "2022-12-31"),
        ("去年夏天", "2023-06-01", "2023-08-31"),
        ("最近三天", "2024-05-12", "2024-05-15"),
        ("过去两周", "2024-05-01", "2024-05-15"),
        ("去年上半年", "2023-01-01", "2023-06-30"),
        ("2023年5月到7月", "2023-05-01", "2023-07-31"),
        ("2023年以来", "2023-01-01", "2024-05-15"),
        ("两年前", "2022-01-01", "2022-12-31"),
    ],
)
def test_dates(question: str, first: str, last: str):
    (period,) = periods(question, TODAY)
    assert (f"{period.first}", f"{period.last}") == (first, last)
    assert period.holds(period.first)
    assert period.holds(period.last)
    assert not period.holds(period.last + timedelta(days=1))


def test_a_month_without_a_year_is_of_any_year():
    (period,) = periods("What did we talk about in June?", TODAY)
    assert period.holds(date(2020, 6, 30))
    assert not period.holds(date(2020, 7, 1))
    (day,) = periods("5月6号", TODAY)
    assert day.holds(date(1999, 5, 6))


def test_seasons_and_feasts_without_a_year():
    (winter,) = periods("in winter", TODAY)
    assert winter.holds(date(2020, 12, 5))
    assert winter.holds(date(2021, 1, 5))
    assert not winter.holds(date(2021, 3, 5))
    (christmas,) = periods("What did I get for Christmas?", TODAY)
    assert christmas.holds(date(2019, 12, 24))
    (months,) = periods("between November and January", TODAY)
    assert months.holds(date(2020, 12, 5))
    assert not months.holds(date(2020, 2, 5))


@pytest.mark.parametrize(
    "question",
    [
        "on the 99th",
        "I fell in love, spring and all",
        "after 9999 miles",
        "before she moved",
        "May I ask you something?",
        "march on",
        "2024-13-45",
        "February 31, 2024",
        "9999999 days ago",
        "",
    ],
)
def test_no_dates(question: str):
    assert periods(question, TODAY) == []


def test_parts():
    assert parts_of("Did Sam buy the kettle before he painted the kitchen?") == [
        "Did Sam buy the kettle",
        "he painted the kitchen",
    ]
    assert parts_of("Which came first: the green kettle, or the red bicycle?") == [
        "Which came first",
        "the green kettle",
        "the red bicycle",
    ]
    assert parts_of("What is the name of my cat?") == []


def test_instructions_are_no_question():
    assert without_instructions("How many cats? Please answer with a number (e.g., “2”).") == (
        "How many cats?"
    )
    assert (
        without_instructions("Return of the cat. Who saw it?") == "Return of the cat. Who saw it?"
    )


def test_pictures_asked_for():
    assert asks_for_picture("Do you remember what pet I showed you?")
    assert asks_for_picture("那张照片")
    assert not asks_for_picture("What is my order number?")


def test_words():
    assert question_words("What is Sam's order number?") == ["sam", "order", "number"]
    assert question_words("who are you") == ["who", "are", "you"]
    assert question_words("What do you remember about my cat?") == ["cat"]
    assert "记得" not in question_words("你还记得我的小猫吗？")
    assert question_words("我的小猫") == ["小猫", "小", "猫"]
    assert question_words("我的猫叫什么名字") == ["猫叫", "猫", "叫", "名字", "名", "字"]
    assert question_words("周末去图书馆看书") == [
        "周末",
        "末去",
        "去图",
        "图书",
        "书馆",
        "馆看",
        "看书",
    ]
    assert question_words("我们") == ["我们"]
    assert question_words("") == []
    assert prepare("小猫cat") == " 小猫 猫 cat"
    assert full_text_query(['a"b', "猫"]) == '"a""b" OR "猫" *'
    assert len(question_words(" ".join(f"w{n}" for n in range(10_000)))) == 64


@pytest.mark.parametrize(
    "question", ['"', "AND OR NOT", "a* -b ^c :d", "{x}: (", "NEAR(a b)", "\x00"]
)
def test_no_question_breaks_the_query(tmp_path: Path, question: str):
    with FaissStore(tmp_path, HashEmbedder()) as store:
        memory = LongTermMemory(store, user="sam")
        memory.remember("a b c d x near and or not")
        memory.recall(question)


def test_a_date_in_the_question_decides(tmp_path: Path):
    now = datetime(2024, 5, 15, tzinfo=UTC)
    with FaissStore(tmp_path, HashEmbedder()) as store:
        memory = LongTermMemory(store, user="sam", clock=lambda: now)
        for days in (1, 7, 60, 400):
            memory.remember(f"We ate soup, {days}", at=now - timedelta(days=days), thread=f"{days}")
        assert memory.recall("What did we eat last week?")[0].text.endswith(" 7")
        assert memory.recall("What did we eat yesterday?")[0].text.endswith(" 1")
        assert memory.recall("上周吃了什么 soup")[0].text.endswith(" 7")
        hit = memory.recall("What did we eat in March 2024?")[0]
        assert hit.text.endswith(" 60")
        assert hit.explain["parts"]["date"] > 0
