import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from mmagent.context.counting import estimate_messages
from mmagent.context.packing import Block, Packing, first_kept, split_turns

sizes = st.lists(st.integers(min_value=0, max_value=50), min_size=1, max_size=80)
budgets = st.integers(min_value=1, max_value=300)


@given(sizes, budgets)
def test_what_is_kept_fits_and_holds_the_last_turn(turns: list[int], budget: int) -> None:
    start = first_kept(turns, budget)
    assert 0 <= start < len(turns)
    assert sum(turns[start:]) <= budget or start == len(turns) - 1


@given(sizes, budgets)
def test_one_more_turn_changes_the_beginning_only_by_a_step(turns: list[int], budget: int) -> None:
    starts = [first_kept(turns[:number], budget) for number in range(1, len(turns) + 1)]
    for number, (before, after) in enumerate(itertools.pairwise(starts), start=2):
        assert after >= before
        if after > before:
            # A step was due, and it went down to the low-water mark.
            assert sum(turns[before:number]) > budget
            assert sum(turns[after:number]) <= budget * 0.6 or after == number - 1


@given(sizes, budgets, st.integers(min_value=0, max_value=50))
def test_an_answer_that_makes_a_turn_longer_brings_nothing_back(
    turns: list[int], budget: int, more: int
) -> None:
    assert first_kept([*turns[:-1], turns[-1] + more], budget) >= first_kept(turns, budget)


def test_steps_are_big() -> None:
    starts = {first_kept([10] * number, 100) for number in range(1, 101)}
    # Ten turns fit and six remain: one step for every five turns, not one for each.
    assert len(starts) == 19


kinds = st.lists(st.sampled_from(["user", "answer", "call", "result"]), max_size=20)


@given(kinds)
def test_turns_are_whole(names: list[str]) -> None:
    call = {"name": "look", "args": {}, "id": "c", "type": "tool_call"}
    made: dict[str, Any] = {
        "user": HumanMessage("u"),
        "answer": AIMessage("a"),
        "call": AIMessage("", tool_calls=[call]),
        "result": ToolMessage("r", tool_call_id="c"),
    }
    messages = [made[name] for name in names]
    turns = split_turns(messages)
    assert [message for turn in turns for message in turn] == messages
    assert all(turns)
    for turn in turns[1:]:
        assert isinstance(turn[0], HumanMessage)
        assert not any(isinstance(message, HumanMessage) for message in turn[1:])


def test_a_greeting_goes_with_the_first_turn() -> None:
    hello, first, answer = AIMessage("hello"), HumanMessage("hi"), AIMessage("yes")
    assert split_turns([hello, first, answer, first]) == [[hello, first, answer], [first]]
    assert split_turns([]) == []


def test_the_account() -> None:
    packing = Packing(
        1000,
        (
            Block("system", 100, True, "pinned"),
            Block("turn 1", 1200, False, "evicted"),
            Block("turn 2", 50, True, "fits"),
        ),
    )
    assert packing.tokens == 150
    assert packing.explain()[1] == {
        "source": "turn 1",
        "tokens": 1200,
        "kept": False,
        "reason": "evicted",
    }
    assert packing.table() == (
        "system      100  kept: pinned\n"
        "turn 1    1,200  dropped: evicted\n"
        "turn 2       50  kept: fits\n"
        "total       150  of 1,000"
    )


def test_estimates_are_rather_too_large() -> None:
    english = "The quick brown fox jumps over the lazy dog. " * 20
    # Common tokenizers: about 200 and 100 tokens.
    assert 200 <= estimate_messages([HumanMessage(english)]) < 400
    assert 100 <= estimate_messages([HumanMessage("我对花生过敏。" * 14)]) < 150
    picture = {"type": "image", "base64": "x"}
    assert estimate_messages([HumanMessage([picture, picture])]) > 500

    def look(where: str) -> str:
        """Look somewhere, and tell what is there."""
        return where

    assert estimate_messages([], [look]) > 20
    call = {"name": "look", "args": {"where": "x" * 300}, "id": "c", "type": "tool_call"}
    assert estimate_messages([AIMessage("", tool_calls=[call])]) > 100
