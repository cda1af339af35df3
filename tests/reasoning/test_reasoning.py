import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmagent.errors import UsageError
from mmagent.reasoning.parsing import split_tagged, split_thoughts
from mmagent.reasoning.templates import Reasoning
from mmagent.reasoning.voting import normalise, vote

TEMPLATES = ["ddcot", "direct", "plan_solve", "scene_graph", "staged_tags", "two_stage"]


def test_the_catalogue() -> None:
    assert Reasoning.catalogue() == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_whole_in_both_languages(name: str) -> None:
    template = Reasoning.load(name)
    assert template.name == name
    assert template.about
    assert template.is_direct == (name == "direct")
    if not template.is_direct:
        assert template.source
        for text in (*template.steps, template.answer):
            assert set(text) == {"en", "zh"}
        assert template.answer_text("zh-CN") == template.answer["zh"]
        assert template.answer_text("fr") == template.answer["en"]
        assert template.step_texts("zh") != template.step_texts("en") or not template.steps
        if template.answer_tag:
            assert f"<{template.answer_tag}>" in template.answer_text("en")
            assert f"<{template.answer_tag}>" in template.answer_text("zh")


def test_votes() -> None:
    assert Reasoning.load("two_stage").self_consistency(5).votes == 5
    assert Reasoning.load("self_consistency(5, two_stage)").steps
    assert Reasoning.load(" self_consistency( 3 ) ").is_direct
    for wrong in ("self_consistency(0)", "self_consistency(65)", "self_consistency(2, nothing)"):
        with pytest.raises(UsageError):
            Reasoning.load(wrong)


def test_what_cannot_be_loaded() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'two_stage'.*self_consistency\(5"):
        Reasoning.load("two_stages")
    with pytest.raises(UsageError, match="'stages'"):
        Reasoning.from_fields(name="x", stages=[])
    with pytest.raises(UsageError, match="'answer_tag'"):
        Reasoning.from_fields(name="x", answer_tag="a b")
    assert Reasoning.from_fields(name="mine", answer={"en": "Be short."}).votes == 1


@pytest.mark.parametrize(
    ("text", "answer", "rationale", "is_closed"),
    [
        ("yes", "yes", "", True),
        ("<think>hm</think>\n yes", "yes", "hm", True),
        ("hm</think> yes", "yes", "hm", True),
        ("<think>hm and on", "", "hm and on", False),
        ("  <Thinking>hm</Thinking>yes<think>ah</think>!", "yes!", "hm\nah", True),
        ("a</think>b<think>c</think>d", "bd", "a\nc", True),
        ("The <think> tag opens thoughts.", "The <think> tag opens thoughts.", "", True),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes",
            "yes",
            "hm",
            True,
        ),
        ("<|channel|>analysis<|message|>hm and on", "", "hm and on", False),
        ("<|channel>thought\nhm<channel|>yes", "yes", "hm", True),
        ("<|channel>thought\nhm and on", "", "hm and on", False),
        ("", "", "", True),
    ],
)
def test_thoughts_of_reasoning_models(
    text: str, answer: str, rationale: str, is_closed: bool
) -> None:
    found = split_thoughts(text)
    assert (found.answer, found.rationale, found.is_closed) == (answer, rationale, is_closed)


@pytest.mark.parametrize(
    ("text", "answer", "rationale", "is_closed"),
    [
        ("<SUMMARY>a</SUMMARY> <CONCLUSION>yes</CONCLUSION>", "yes", "a", True),
        ("<summary>a</summary><conclusion>yes", "yes", "a", True),
        ("<SUMMARY>a</SUMMARY><REASONING>b and on", "", "ab and on", False),
        ("<CONCLUSION> </CONCLUSION>", "", "", False),
        ("just text", "", "just text", False),
    ],
)
def test_tags_of_a_template(text: str, answer: str, rationale: str, is_closed: bool) -> None:
    found = split_tagged(text, "CONCLUSION")
    assert (found.answer, found.rationale, found.is_closed) == (answer, rationale, is_closed)


@given(st.text(alphabet="<>/|think channel a\n", max_size=60))
def test_any_text_can_be_taken_apart(text: str) -> None:
    found = split_thoughts(text)
    assert found.answer == found.answer.strip()


@pytest.mark.parametrize(
    "same",
    [
        ("The answer is (B).", "b", "B)", "(b)", "Final answer: B. the red one", "答案是B"),
        ("Three cats", "3 cats", "the 3 cats!"),
        ("1,000", "1000", "1000.0", "１０００"),
        ("Yes.", "yes", " YES "),
        ("红色", "答案：红色", "红色。"),
        ("-3.5", "-3.5."),
        ("a dog", "The dog", "dog."),
    ],
)
def test_wordings_of_one_answer(same: tuple[str, ...]) -> None:
    assert len({normalise(text) for text in same}) == 1


def test_different_answers_stay_apart() -> None:
    texts = ["b", "c", "3", "30", "3.5", "-3", "yes", "no", "a dog", "dogs", "I", "10%"]
    assert len({normalise(text) for text in texts}) == len(texts)


def test_the_vote() -> None:
    assert vote(["3", "Four", "the answer is 4", "5"]) == (1, 0.5)
    assert vote(["x", "y", "y", "x"]) == (0, 0.5)
    assert vote(["", "", "z"]) == (2, 1 / 3)
    assert vote(["", ""]) == (0, 0.0)
