import base64
import logging
from collections.abc import Callable

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from mmagent.media import MediaPolicy
from mmagent.middleware.turns import answered_turn, pictures_of, turn_id, words_of

CALL = {"name": "look", "args": {}, "id": "c1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (HumanMessage(" hi "), "hi"),
        (HumanMessage("what does <think> do?"), "what does <think> do?"),
        (AIMessage("<think>hm</think> yes"), "yes"),
        (AIMessage("hm, so</think> yes"), "yes"),
        (AIMessage("<think>hm, and never closed"), ""),
        (AIMessage("a<think>b</think>c<think>d</think>e"), "ace"),
        (
            AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "yes"}]),
            "yes",
        ),
        (AIMessage([]), ""),
    ],
)
def test_words_without_reasoning(message: AIMessage, words: str) -> None:
    assert words_of(message) == words


def test_pictures_of_every_dialect(picture: Callable[..., bytes]) -> None:
    red = picture("red")
    packed = base64.b64encode(red).decode()
    blocks: list[str | dict] = [
        "look",
        {"type": "image", "base64": packed, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{packed}"}},
        {"type": "text", "text": "and"},
        {"type": "image", "source_type": "base64", "data": packed, "mime_type": "image/png"},
        {"type": "image", "file_id": "f1"},
    ]
    policy = MediaPolicy(file_resolver={"f1": picture("blue")}.__getitem__)
    found = pictures_of(HumanMessage(blocks), policy)
    assert [image.data for image in found] == [red, red, red, picture("blue")]
    assert pictures_of(HumanMessage("text")) == []


def test_a_picture_that_cannot_be_kept_is_left_out(
    picture: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    packed = base64.b64encode(picture()).decode()
    blocks: list[str | dict] = [
        {"type": "image", "url": "http://169.254.169.254/latest"},
        {"type": "image", "base64": base64.b64encode(b"not a picture").decode()},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "audio", "base64": "xx"},
        {"type": "image", "base64": packed, "mime_type": "image/png"},
    ]
    with caplog.at_level(logging.WARNING):
        assert len(pictures_of(HumanMessage(blocks))) == 1
    assert len(caplog.records) == 4
    assert "169.254" not in caplog.text


def test_the_answered_turn() -> None:
    old, older = HumanMessage("old"), AIMessage("older")
    failed, asked = HumanMessage("failed run"), HumanMessage("asked")
    summary = HumanMessage("summary", additional_kwargs={"lc_source": "summarization"})
    tool = [AIMessage("", tool_calls=[CALL]), ToolMessage("seen", tool_call_id="c1")]
    answer = AIMessage("answer")
    history = [SystemMessage("s"), summary, old, older, failed, asked, *tool, answer]
    assert answered_turn(history) == ([failed, asked], answer)
    assert answered_turn(history[:4]) == ([old], older)
    assert answered_turn(history[:6]) == ([failed, asked], None)
    assert answered_turn([AIMessage("greeting")]) == ([], AIMessage("greeting"))
    assert answered_turn([]) == ([], None)


def test_turn_ids_tell_messages_apart() -> None:
    message = HumanMessage("hi", id="1")
    same = turn_id("t", message)
    assert same == turn_id("t", HumanMessage("hi", id="1"))
    others = [
        turn_id("u", message),
        turn_id(None, message),
        turn_id("t", HumanMessage("ho", id="1")),
        turn_id("t", HumanMessage("hi", id="2")),
        turn_id("t", AIMessage("hi", id="1")),
        turn_id("t1", HumanMessage("hi", id="")),
        turn_id("t", HumanMessage("\ud800", id="1")),
    ]
    assert len({same, *others}) == len(others) + 1
