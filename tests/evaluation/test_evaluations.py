"""The measures on models whose faults are known: a good one, a forgetful one, a rude one."""

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from mmagent.chat_model import ChatMMAgent
from mmagent.errors import ModelNotFoundError, UsageError
from mmagent.evaluation.long_conversation import draw_long, long_conversation, long_table
from mmagent.evaluation.models import open_model
from mmagent.evaluation.persona import draw_persona, evaluate_persona, persona_table
from mmagent.evaluation.planted import facts_told, plant, probes, small_talk, unanswerable
from mmagent.evaluation.questions import Question, built_in_questions, read_questions
from mmagent.evaluation.reasoning import compare_templates, draw_reasoning, reasoning_table
from mmagent.personas.persona import Persona
from mmagent_memory import HashEmbedder

KNOWS = {"482": "482", "Freya": "Freya", "walnut": "walnuts", "Lisbon": "Lisbon",
         "Bruno": "Bruno", "violet": "violet", "Mia": "Mia"}  # fmt: skip
ASKS = (("locker", "482"), ("sister", "Freya"), ("allerg", "walnut"), ("live", "Lisbon"),
        ("pet", "Bruno"), ("colour", "violet"), ("your name", "Mia"))  # fmt: skip


class Reader(BaseChatModel):
    """Answers from what stands in its prompt, and from nothing else."""

    style: str = "good"
    beside: Any = None
    """A barrier that only calls at the same time pass."""

    @property
    def _llm_type(self) -> str:
        return "reader"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if self.beside is not None:
            self.beside.wait(timeout=20)
        if self.style == "fails with memories" and "[Memories]" in messages[-1].text:
            raise RuntimeError("no memories, please")
        asked = messages[-1].text.rpartition("\n")[2]
        text = "\n".join(message.text for message in messages)
        key = next((value for word, value in ASKS if word in asked.lower()), None)
        answer = f"Let us talk of other things, my friend, number {len(text)}."
        if asked.endswith("?") and "today" not in asked and "rainy" not in asked:
            known = key is not None and key in text.replace(asked, "")
            answer = f"It is {KNOWS[key]}." if known and key else "You haven't told me that."
        if self.style == "rude":
            answer = "As an AI language model I live in Paris. Sam: Oh.\nSam: Really?"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer))])


def test_a_good_model_with_memory_and_without() -> None:
    report = long_conversation(
        Reader(), Persona.load("mia"), turns=60, budget=500, rounds=2, embeddings=HashEmbedder()
    )
    on, off = report["runs"]
    assert on["overflows"] == off["overflows"] == 0
    assert on["right"]["value"] == 1.0
    assert off["scores"]["user"]["value"] == 0.0  # it has left the window
    assert off["scores"]["persona"]["value"] == off["scores"]["name"]["value"] == 1.0
    assert len(on["turns"]) == 60
    assert {"turn", "asked", "said"} <= off["failures"][0].keys()
    table = long_table(report)
    assert "| prompts over the budget | 0 | 0 |" in table
    assert "| facts told by the user | 100.0%" in table
    quarters = on["seconds"]["median_by_quarter"]
    assert len(quarters) == 4
    assert f"| median seconds a turn, by quarter | {', '.join(map(str, quarters))} |" in table


def test_both_conversations_are_held_turn_by_turn_at_the_same_time() -> None:
    given: dict[str, Any] = {"turns": 10, "budget": 500, "rounds": 1}
    model = Reader(beside=threading.Barrier(2))
    report = long_conversation(model, Persona.load("mia"), embeddings=HashEmbedder(), **given)
    assert [run["memory"] for run in report["runs"]] == [True, False]
    assert report["together"] == 2
    assert "both conversations held at the same time" in long_table(report)
    # One that breaks off takes the other along, and it is its error that is told.
    with pytest.raises(RuntimeError, match="no memories, please"):
        long_conversation(
            Reader(style="fails with memories"), Persona.load("mia"),
            embeddings=HashEmbedder(), **given,
        )  # fmt: skip


def test_too_few_turns() -> None:
    with pytest.raises(UsageError, match="need at least 38 turns, not 20"):
        long_conversation(Reader(), Persona.load("mia"), turns=20)
    with pytest.raises(UsageError, match="at least one turn"):
        evaluate_persona(Reader(), Persona.load("mia"), turns=0)


def test_a_good_persona() -> None:
    report = evaluate_persona(
        Reader(), Persona.load("mia"), turns=16, embeddings=HashEmbedder(), nli=lambda a, b: False
    )
    found = report["measures"]
    for name in ("name facts", "persona facts", "user facts", "language match"):
        assert found[name]["value"] == 1.0, name
    for name in (
        "over-refusal", "under-refusal", "out of character", "speaks for the user",
        "prompt-to-line contradiction", "line-to-line contradiction", "card leakage", "repetition",
    ):  # fmt: skip
        assert found[name]["value"] == 0.0, name
    assert found["image swap"]["total"] == 0  # the model takes no pictures
    assert list(report["retest"]) == [1, 8, 16]
    assert report["drift_per_turn"] == 0
    assert found["user facts"]["mean_words"] == 3
    assert report["contradictions_by"] == "an NLI model"
    assert "| persona facts | planted facts about the persona, right | 100.0%" in persona_table(
        report
    )
    json.dumps(report)


def test_a_rude_one() -> None:
    report = evaluate_persona(
        Reader(style="rude"), Persona.load("mia"), turns=8, memory=False, budget=900
    )
    found = report["measures"]
    for name in ("out of character", "speaks for the user", "under-refusal"):
        assert found[name]["value"] == 1.0, name
    assert found["repetition"]["value"] > 0.5
    assert found["prompt-to-line contradiction"]["hits"] == 2  # where it lives, twice
    assert found["persona facts"]["value"] == 0.0
    assert report["contradictions_by"].startswith("rules")
    rude = evaluate_persona(
        Reader(style="rude"), Persona.load("mia"), turns=1, memory=False, nli=lambda a, b: True
    )
    # The persona's four facts by the function, the user's three by rule.
    assert rude["measures"]["prompt-to-line contradiction"]["hits"] == 4


def test_pictures_are_swapped_for_a_model_that_sees() -> None:
    report = evaluate_persona(ChatMMAgent(model="echo"), Persona.load("mia"), turns=1, memory=False)
    assert report["measures"]["image swap"]["total"] == 3
    assert report["measures"]["first picture again"]["total"] == 1
    again = next(t for t in report["transcript"] if t["purpose"].startswith("first picture"))
    assert "[picture 160x160 #ff" in again["answer"]  # shown again by the ledger: mostly red


def test_chinese() -> None:
    persona = Persona.load("xiaolan")
    told = plant(persona).system_prompt(user="Sam")
    for probe in probes(persona):
        assert all(re.search("[一-鿿]", question) for question in probe.questions)
        if probe.kind == "persona":
            assert any(word in told for word in probe.accepted)
    assert "482" in "".join(facts_told("zh"))
    assert small_talk("zh", 10) == small_talk("zh", 0)
    assert len(unanswerable("zh")) == 4


def test_templates_are_compared_with_direct() -> None:
    questions = [
        Question("Where do you live? Lisbon?", ("Lisbon",), "read"),
        Question("Your name? Mia!\nWhat is your name?", ("Mia",), "read"),
        Question("Nobody knows this?", ("42",), "reason"),
    ]
    report = compare_templates(Reader(), questions, ["two_stage", "self_consistency(2)"])
    assert list(report["templates"]) == ["direct", "two_stage", "self_consistency(2)"]
    direct, two = report["templates"]["direct"], report["templates"]["two_stage"]
    assert direct["right"]["hits"] == 1
    assert direct["by_kind"]["reason"]["value"] == 0
    assert (two["won"], two["lost"]) == (0, 1)  # the last line is the instruction then
    assert report["templates"]["self_consistency(2)"]["answers"][0]["agreement"] == 1
    table = reasoning_table(report)
    assert "| `direct` | 33.3%" in table
    assert "-33.3%" in table


def test_questions_are_asked_at_the_same_time_and_share_its_seconds() -> None:
    questions = [Question(f"Number {number}?", ("x",), "read") for number in range(4)]
    model = Reader(beside=threading.Barrier(2))
    report = compare_templates(model, questions, ["direct"], together=2)
    rows = report["templates"]["direct"]["answers"]
    assert [row["question"] for row in rows] == [question.text for question in questions]
    assert rows[0]["seconds"] == rows[1]["seconds"]
    assert "with 2 questions asked at the same time" in reasoning_table(report)
    alone = compare_templates(Reader(), questions, ["direct"], together=1)
    assert "same time" not in reasoning_table(alone)


def test_questions_without_pictures_remain_for_a_model_without_eyes() -> None:
    report = compare_templates(Reader(), built_in_questions()[:6], ["direct"])
    assert (report["questions"], report["left_out"]) == (3, 3)
    with pytest.raises(UsageError, match="takes none"):
        compare_templates(Reader(), built_in_questions()[:1])
    with pytest.raises(UsageError, match="no questions"):
        compare_templates(Reader(), [])


def test_the_built_in_questions_are_the_same_everywhere() -> None:
    made = built_in_questions()
    assert len(made) == 40
    assert {q.kind for q in made} == {"look", "look and reason", "read", "reason"}
    assert [q.text for q in made] == [q.text for q in built_in_questions()]
    assert sum(q.picture is not None for q in made) == 20
    assert all(q.accepted for q in made)


def test_questions_from_a_file(tmp_path: Path, picture: Any) -> None:
    (tmp_path / "cat.png").write_bytes(picture("red"))
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"question": "What colour?", "answer": ["red"], "image": "cat.png", "kind": "look"}\n'
        '\n{"question": "2 + 2?", "answer": 4}\n'
    )
    first, second = read_questions(path)
    assert first.picture is not None
    assert (second.accepted, second.kind) == (("4",), "all")
    for text, says in (
        ("", "holds no questions"), ("{", "line 1 is not JSON"), ("[1]", "no object"),
        ('{"question": "x"}', 'no "answer"'),
        ('{"question": "x", "answer": "y", "image": "../../etc/passwd"}', "roots"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UsageError, match=says):
            read_questions(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")


def test_models_by_name() -> None:
    assert open_model("echo", max_tokens=5)._llm_type == "mmagent"
    with pytest.raises(ModelNotFoundError):
        open_model("no-such-model-here", max_tokens=5)
    with pytest.raises(UsageError, match="cannot be used"):
        open_model("nosuchprovider:model", max_tokens=5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    long = long_conversation(
        Reader(), Persona.load("mia"), turns=24, budget=500, rounds=1, memory=(False,)
    )
    draw_long(long, tmp_path / "long.png")
    persona = evaluate_persona(Reader(), Persona.load("mia"), turns=1, memory=False)
    draw_persona(persona, tmp_path / "persona.png")
    draw_reasoning(
        compare_templates(Reader(), built_in_questions()[1:2], ["direct"]), tmp_path / "r.png"
    )
    for name in ("long", "persona", "r"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_loading_the_model_is_in_nobodys_seconds() -> None:
    class Slow(Reader):
        asked: list[str] = Field(default_factory=list)

        @property
        def _llm_type(self) -> str:
            return "mmagent-slow"

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            time.sleep(0.0 if self.asked else 0.5)
            self.asked.append(messages[-1].text)
            return super()._generate(messages)

    report = compare_templates(Slow(), [Question("Who?", ("x",), "read")], ["direct"])
    assert report["templates"]["direct"]["seconds"] < 0.4
