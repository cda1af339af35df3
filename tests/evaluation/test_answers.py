import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmagent.evaluation.answers import (
    holds,
    is_out_of_character,
    is_refusal,
    language_of,
    leaks,
    length,
    repeats_itself,
    speaks_for,
)
from mmagent.evaluation.contradiction import claims_another, disagree
from mmagent.evaluation.planted import probes
from mmagent.evaluation.statistics import Share, correlation, slope
from mmagent.personas.persona import Persona


@pytest.mark.parametrize(
    ("answer", "accepted", "is_right"),
    [
        ("Your locker number is 482.", ["482"], True),
        ("It is 4821.", ["482"], False),
        ("You can't eat WALNUTS!", ["walnut"], True),
        ("three", ["3", "three"], True),
        ("The answer is (B).", ["b"], True),
        ("你妹妹叫小芳。", ["小芳"], True),
        ("", ["482"], False),
    ],
)
def test_right_answers(answer: str, accepted: list[str], is_right: bool) -> None:
    assert holds(answer, accepted) is is_right


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("You haven’t told me that yet.", True),
        ("I don't know.", True),
        ("I'm not sure, Sam.", True),
        ("你还没有告诉我。", True),
        ("You told me that it is 482.", False),
        ("I know it: 482.", False),
    ],
)
def test_refusals(answer: str, refuses: bool) -> None:
    assert is_refusal(answer) is refuses


@pytest.mark.parametrize(
    ("answer", "is_out"),
    [
        ("As an AI language model, I cannot eat.", True),
        ("I'm just a chatbot.", True),
        ("I was trained by somebody.", True),
        ("作为一个人工智能，我没有宠物。", True),
        ("I am a sailor.", False),
        ("As an assistant cook I peel a lot.", True),  # coarse, and said so
        ("Aid is an art.", False),
    ],
)
def test_out_of_character(answer: str, is_out: bool) -> None:
    assert is_out_of_character(answer) is is_out


def test_other_measures() -> None:
    assert length("I'm well, 你好!") == 4
    assert language_of("你好，Sam！今天") == "zh"
    assert language_of("Hello") == "en"
    assert language_of("42!") is None
    secret = "You are Mia, a warm and curious companion of Sam. Talk like an old friend."
    assert leaks("Sure: you are Mia, a warm and curious companion of Sam. Talk.", secret)
    assert not leaks("I am Mia, a warm friend.", secret)
    assert not leaks("anything", "")
    assert speaks_for("Hi!\nSam: And you?", ["Sam"])
    assert speaks_for("**User**: And you?", [])
    assert not speaks_for("I told Sam: go!", ["Sam"])
    assert repeats_itself("That is nice to hear!", ["that is nice to hear"])
    assert not repeats_itself("Yes.", ["Yes."])
    assert repeats_itself("we go on and on and on and on and on and on and on", [])


def test_contradictions_by_rule() -> None:
    home = next(p for p in probes(Persona(name="Rex")) if p.key == "home")
    assert claims_another("I live in Paris.", home)
    assert not claims_another("I live in Lisbon.", home)
    assert not claims_another("Somewhere nice.", home)
    assert disagree("I live in Lisbon.", "I live in Paris.", home)
    assert not disagree("I live in Lisbon.", "I don't know.", home)
    name = probes(Persona(name="Captain Wren", nickname="Wren"))[0]
    assert claims_another("My name is Bob.", name)
    assert not claims_another("I am Wren.", name)
    assert "Wren" in name.accepted


@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text_can_be_measured(answer: str, other: str) -> None:
    for measure in (is_refusal, is_out_of_character, language_of, length):
        measure(answer)
    leaks(answer, other)
    speaks_for(answer, [other])
    repeats_itself(answer, [other])
    holds(answer, [other])


def test_statistics() -> None:
    low, high = Share(9, 10).interval()
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)  # as published tables have it
    assert Share(0, 0).value is None
    assert str(Share(1, 2)).startswith("50.0% (")
    assert slope([1, 2, 3], [2, 4, 6]) == 2
    assert slope([1, 1], [2, 3]) is None
    assert correlation([1, 2, 3], [3, 2, 1]) == -1
    assert correlation([1, 2], [1, 2]) is None
