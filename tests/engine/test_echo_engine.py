"""The engine without a model keeps the protocol's promises."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from mmagent.engine import EchoEngine, Engine, Sampling
from mmagent.errors import ContextOverflowError, UsageError
from mmagent.messages import to_conversation


def answer(engine, conversation, **settings):
    chunks = list(engine.generate(conversation, Sampling(**settings)))
    return "".join(chunk.text for chunk in chunks), chunks[-1]


def test_it_is_an_engine_and_says_the_last_user_turn_back(picture):
    engine = EchoEngine()
    assert isinstance(engine, Engine)
    blocks = [
        {"type": "text", "text": "Look:"},
        {"type": "image", "base64": b"", "data": picture()},
    ]
    blocks[1].pop("base64")
    conversation = to_conversation([HumanMessage("no"), AIMessage("x"), HumanMessage(blocks)])
    text, last = answer(engine, conversation)
    assert text == "You said: Look: [picture 64x48 #ff0000]"
    assert last.finish_reason == "stop"
    assert last.usage.input_tokens == engine.count_tokens(conversation) == 1 + 1 + 1 + 16 + 6
    assert last.usage.output_tokens == 6


def test_limits_and_stops():
    conversation = to_conversation([HumanMessage("one two three four")])
    assert answer(EchoEngine(), conversation, max_tokens=3)[0] == "You said: one"
    assert answer(EchoEngine(), conversation, max_tokens=3)[1].finish_reason == "length"
    text, last = answer(EchoEngine(), conversation, stop=("o th",))
    assert (text, last.finish_reason) == ("You said: one tw", "stop")
    with pytest.raises(ContextOverflowError, match=r"6 tokens.*window 5"):
        EchoEngine(context_length=5).generate(conversation, Sampling())


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"min_p": 2},
        {"num_beams": 0},
        {"repetition_penalty": 0},
        {"stop": ("",)},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be"):
        Sampling(**wrong)


def test_it_is_certain_of_what_it_says():
    conversation = to_conversation([HumanMessage("one two")])
    chunks = list(EchoEngine().generate(conversation, Sampling(logprobs=2)))
    assert [chance.text for chunk in chunks for chance in chunk.chances] == [
        "You", " said:", " one", " two",
    ]  # fmt: skip
    assert {chance.logprob for chunk in chunks for chance in chunk.chances} == {0.0}
