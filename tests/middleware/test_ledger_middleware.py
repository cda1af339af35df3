import base64
import hashlib
import io
import random
import time
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from notebook import parrot
from PIL import Image

from mmagent.agents import create_companion
from mmagent.chat_model import ChatMMAgent
from mmagent.context.ledger import ImageLedger
from mmagent.errors import UsageError
from mmagent.middleware.context import ContextMiddleware
from mmagent.middleware.ledger import ImageLedgerMiddleware
from mmagent.middleware.shown import PictureReader
from mmagent.middleware.turns import turn_id
from mmagent_memory import LongTermMemory

THREAD: Any = {"configurable": {"thread_id": "t1"}}
SEES = {"image_inputs": True}


def block(data: bytes) -> dict[str, Any]:
    packed = base64.b64encode(data).decode()
    return {"type": "image", "base64": packed, "mime_type": "image/png"}


def show(words: str, *pictures: bytes) -> HumanMessage:
    return HumanMessage([*map(block, pictures), {"type": "text", "text": words}])


def shown(message: Any) -> list[bytes]:
    content = message.content if isinstance(message.content, list) else []
    return [base64.b64decode(b["base64"]) for b in content if b.get("type") == "image"]


@pytest.fixture
def album(picture: Any) -> dict[str, bytes]:
    return {name: picture(name) for name in ("red", "green", "blue")}


def history(album: dict[str, bytes]) -> list[Any]:
    return [
        show("Look at my car", album["red"]), AIMessage("Nice."),
        show("And my garden", album["green"]), AIMessage("Lovely."),
        HumanMessage("It rained."), AIMessage("Oh."),
        HumanMessage("I had soup."), AIMessage("Good."),
    ]  # fmt: skip


def test_a_picture_of_long_ago_is_shown_again_where_it_is_spoken_of(album: Any) -> None:
    model = parrot("It is a car.", profile=SEES)
    agent = create_agent(model, middleware=[ImageLedgerMiddleware()])
    said = [*history(album), HumanMessage("What was in the first picture?")]
    result = agent.invoke({"messages": said})
    sent = model.seen[0][-1]
    assert shown(sent) == [album["red"]]
    assert sent.text.startswith("[Pictures shown before]\n- picture 1 (")
    assert "): Look at my car\n" in sent.text
    assert sent.text.endswith("What was in the first picture?")
    assert result["messages"][-2].text == "What was in the first picture?"  # nothing is stored


async def test_async_by_colour_and_in_chinese(album: Any) -> None:
    for words, name in (("Show me the red picture again", "red"), ("第二张图里有什么？", "green")):
        model = parrot("ok", profile=SEES)
        agent = create_agent(model, middleware=[ImageLedgerMiddleware()])
        await agent.ainvoke({"messages": [*history(album), HumanMessage(words)]})
        assert shown(model.seen[0][-1]) == [album[name]]


def test_what_stands_right_there_is_not_shown_again(album: Any) -> None:
    for last in (
        [HumanMessage("What is in the picture?")],
        [show("Is this like the previous picture?", album["green"])],
    ):
        model = parrot("ok", profile=SEES)
        agent = create_agent(model, middleware=[ImageLedgerMiddleware()])
        agent.invoke({"messages": [*history(album)[:2], *last]})
        assert model.seen[0][-1].content == last[0].content


def test_a_model_without_eyes_reads_the_caption(album: Any) -> None:
    model = parrot("ok")
    agent = create_agent(model, middleware=[ImageLedgerMiddleware()])
    agent.invoke({"messages": [*history(album), HumanMessage("the first picture?")]})
    assert shown(model.seen[0][-1]) == []
    assert "Look at my car" in model.seen[0][-1].text


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        ("Which is nicer, the picture of my cat?", "Which picture do you mean by “picture of my "),
        ("那张猫的照片", "您说的“那张猫的照片”是哪一张："),
        ("the ninth picture", "There is no ninth picture; there are 2 pictures so far."),
    ],
)
def test_unclear_words_are_asked_back_without_the_model(
    words: str, asks: str, picture: Any
) -> None:
    said = [
        show("my cat 猫 Tom", picture("red")), AIMessage("Hm."),
        show("my cat 猫 Kim", picture("blue")), AIMessage("Hm."),
        HumanMessage(words),
    ]  # fmt: skip
    model = parrot()  # it would fail if it were called
    agent = create_agent(model, middleware=[ImageLedgerMiddleware()])
    for _ in range(2):
        answer = agent.invoke({"messages": said})["messages"][-1]
        assert answer.text.startswith(asks)
        assert answer.response_metadata["asked_back"] == "picture"
        if "ninth" not in words:
            assert "Tom" in answer.text
            assert "Kim" in answer.text


def test_the_model_may_be_told_to_ask_or_left_alone(picture: Any) -> None:
    said = [
        show("my cat", picture("red")), AIMessage("Hm."),
        show("my cat", picture("blue")), AIMessage("Hm."),
        HumanMessage("the picture of my cat"),
    ]  # fmt: skip
    for ambiguous, holds in (("instruct", True), ("ignore", False)):
        model = parrot("ok")
        ledger = ImageLedgerMiddleware(ambiguous=ambiguous)  # type: ignore[arg-type]
        create_agent(model, middleware=[ledger]).invoke({"messages": said})
        assert ("Ask the user this" in model.seen[0][-1].text) is holds


def test_pixels_come_from_memory_where_the_messages_are_gone(album: Any) -> None:
    store = InMemoryStore()
    agent = create_companion(
        model := parrot(*["ok"] * 9, profile=SEES), store, "mia", user="sam", k=0,
        checkpointer=InMemorySaver(),
    )  # fmt: skip
    for words, name in (("my car", "red"), ("my garden", "green"), ("my pool", "blue")):
        agent.invoke({"messages": [show(words, album[name])]}, THREAD)
    kept = agent.get_state(THREAD).values["messages"]
    agent.update_state(THREAD, {"messages": [RemoveMessage(m.id) for m in kept[:4]]})
    agent.invoke({"messages": [HumanMessage("What was in the second picture?")]}, THREAD)
    assert shown(model.seen[-1][-1]) == [album["green"]]
    # Forgotten is forgotten; only the line is left.
    memory = LongTermMemory(store, user="sam", persona="mia")
    for hit in memory.list():
        memory.forget(hit.id)
    agent.invoke({"messages": [HumanMessage("And what was in the first picture?")]}, THREAD)
    assert shown(model.seen[-1][-1]) == []
    assert "my car" in model.seen[-1][-1].text


def test_memory_does_not_show_the_same_picture_once_more(album: Any) -> None:
    store = InMemoryStore()
    model = parrot(*["ok"] * 9, profile=SEES)
    agent = create_companion(model, store, "mia", user="sam", checkpointer=InMemorySaver(),
                             max_tokens=700)  # fmt: skip
    agent.invoke({"messages": [show("my red car", album["red"])]}, THREAD)
    for number in range(7):
        agent.invoke({"messages": [HumanMessage(f"Day {number}. " * 9)]}, THREAD)
    result = agent.invoke({"messages": [HumanMessage("What is in the picture of my car?")]}, THREAD)
    sent = model.seen[-1][-1]
    assert "my red car" in result["recall"].block
    assert shown(sent) == [album["red"]]


def test_what_is_shown_again_counts_and_gives_way_where_it_does_not_fit(album: Any) -> None:
    """The echo engine takes 16 words for a picture and refuses one word too many."""
    said = [*history(album), HumanMessage("What was in the first picture?")]
    seen = []
    for window in range(24, 60):
        model = ChatMMAgent(model="echo", context_length=window + 90, max_tokens=90)
        agent = create_agent(
            model, middleware=[ImageLedgerMiddleware(), ContextMiddleware(window)],
            checkpointer=InMemorySaver(),
        )  # fmt: skip
        result = agent.invoke({"messages": said}, THREAD)
        assert result["messages"][-1].text.endswith("What was in the first picture?")
        seen.append("[picture 64x48 #ff0000]" in result["messages"][-1].text)
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


def test_a_picture_that_only_has_an_address_still_has_a_number(album: Any) -> None:
    far = {"type": "image", "url": "https://example.invalid/cat.png"}
    said = [
        HumanMessage([far, {"type": "text", "text": "my cat"}]), AIMessage("Hm."),
        *history(album), HumanMessage("the first picture, please"),
    ]  # fmt: skip
    model = parrot("ok", profile=SEES)
    create_agent(model, middleware=[ImageLedgerMiddleware()]).invoke({"messages": said})
    assert far in model.seen[0][-1].content


@pytest.mark.parametrize("wrong", [{"max_pictures": -1}, {"ambiguous": "guess"}])
def test_wrong_settings(wrong: Any) -> None:
    with pytest.raises(UsageError, match="max_pictures must be"):
        ImageLedgerMiddleware(**wrong)


def test_a_picture_is_filed_under_the_message_that_shows_it_and_an_edited_one_anew(
    album: dict[str, bytes],
) -> None:
    reader = PictureReader()
    first = show("Look at my car", album["red"]).model_copy(update={"id": "m1"})
    edited = show("Look at my cat", album["red"]).model_copy(update={"id": "m1"})
    for message in (first, first, edited):
        (found,) = reader.ledger([message], ImageLedger(), "t1").pictures
        assert found.memory == turn_id("t1", message)
    assert turn_id("t1", first) != turn_id("t1", edited)
    other_picture = show("Look at my car", album["blue"]).model_copy(update={"id": "m1"})
    (changed,) = reader.ledger([other_picture], ImageLedger(), "t1").pictures
    assert changed.id == hashlib.sha256(album["blue"]).hexdigest()
    (other,) = reader.ledger([first], ImageLedger(), "t2").pictures
    assert other.memory == turn_id("t2", first)


def test_looking_at_old_pictures_again_costs_next_to_nothing() -> None:
    # Noise, so that it does not pack small: about 3 MB of text, which a hash would read.
    noise = Image.frombytes("RGB", (900, 900), random.Random(1).randbytes(3 * 900 * 900))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    message = show("Noise", buffer.getvalue()).model_copy(update={"id": "m1"})
    reader = PictureReader()
    reader.ledger([message], ImageLedger(), "t1")
    began = time.process_time()
    reader.ledger([message], ImageLedger(), "t1")
    again = time.process_time() - began
    began = time.process_time()
    turn_id("t1", message)
    assert again < 0.5 * (time.process_time() - began)
