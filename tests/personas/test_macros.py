from collections import Counter
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmagent.personas.macros import MacroContext, fill_macros
from mmagent.personas.persona import Persona

NOW = datetime(2026, 5, 3, 9, 7)


def filled(text: str, *, seed: str = "t", turn: int = 0, now: datetime | None = NOW) -> str:
    values = {"user": "Sam", "char": "Mia", "braces": "{{user}}"}
    return fill_macros(text, MacroContext(values, seed, turn, now))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{user}} and {{CHAR}}", "Sam and Mia"),
        ("a{{noop}}b{{newline}}c", "ab\nc"),
        ("a\n\n{{trim}}\n\nb", "ab"),
        ("{{reverse:abc}}", "cba"),
        ("{{date}} {{time}} {{weekday}}", "2026-05-03 09:07 Sunday"),
        ("{{isodate}}T{{isotime}}", "2026-05-03T09:07"),
        ("x{{// note}}{{comment: y}}{{hidden_key: z}}", "x"),
        ("{{random:{{user}}}}", "Sam"),
        ("{{reverse:{{user}}}}", "maS"),
        ("{{braces}}", "{{user}}"),
        ("{{nobody}} {{ {{user}}", "{{nobody}} {{ {{user}}"),
        ("{{random: a\\,b }}", "a,b"),
        ("{{pick::only}}", "only"),
        ("{{roll:d1}} {{roll:1}} {{roll:3d1+2}}", "1 1 5"),
        ("{{roll:0}} {{roll:x}} {{roll:999d6}}", "{{roll:0}} {{roll:x}} {{roll:999d6}}"),
        ("{{}} {} }} {", "{{}} {} }} {"),
    ],
)
def test_macros(text: str, expected: str) -> None:
    assert filled(text) == expected


def test_without_a_clock_time_stays() -> None:
    assert filled("{{time}}", now=None) == "{{time}}"


def test_chance_is_of_the_thread_and_the_turn() -> None:
    text = "{{random:a,b,c,d,e,f,g,h}}"
    assert filled(text) == filled(text)
    assert len({filled(text, turn=turn) for turn in range(30)}) > 4
    assert len({filled(text, seed=str(seed)) for seed in range(30)}) > 4
    assert len(set(filled(text * 30))) > 4
    picked = "{{pick:a,b,c,d,e,f,g,h}}"
    assert len({filled(picked, turn=turn) for turn in range(30)}) == 1
    assert len({filled(picked, seed=str(seed)) for seed in range(30)}) > 4


def test_dice_are_fair() -> None:
    rolls = Counter(int(filled("{{roll:d6}}", turn=turn)) for turn in range(1200))
    assert set(rolls) == {1, 2, 3, 4, 5, 6}
    assert min(rolls.values()) > 140
    sums = {int(filled("{{roll:2d6+1}}", turn=turn)) for turn in range(300)}
    assert min(sums) == 3
    assert max(sums) == 13


@given(st.text(alphabet="{}:,ab<USER>\\dr roll random6", max_size=60))
def test_any_text_comes_to_an_end(text: str) -> None:
    assert filled(text) == filled(text)


def test_great_nesting() -> None:
    text = "{{reverse:" * 5_000 + "}}" * 5_000
    assert len(filled(text)) <= len(text)
    assert filled("{{" * 50_000) == "{{" * 50_000


def test_a_persona_passes_them_on() -> None:
    persona = Persona(name="Mia", description="{{pick:a,b}} {{date}}", greeting="{{random:x,y}}")
    macros = MacroContext(seed="t", now=NOW)
    assert "2026-05-03" in persona.system_prompt(user="sam", macros=macros)
    seen = {persona.first_message(user="sam", macros=MacroContext(turn=n)) for n in range(20)}
    assert seen == {"x", "y"}
