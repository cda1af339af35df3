"""Messages of every dialect become the same turns, with their pictures in order."""

from __future__ import annotations

import base64

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.content import create_image_block

from mmagent.errors import MediaError, UsageError
from mmagent.media import MediaPolicy
from mmagent.messages import ImageShelf, to_conversation

IMAGE = {"type": "image"}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


@pytest.fixture
def red(picture):
    return base64.b64encode(picture("red")).decode()


def test_every_dialect_of_a_picture(red, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    blocks = [
        {"type": "image", "base64": red, "mime_type": "image/png", "id": "lc_1"},
        {"type": "image", "url": f"data:image/png;base64,{red}"},
        {"type": "image", "file_id": "photo-7"},
        create_image_block(base64=red, mime_type="image/png"),
        {"type": "image", "source_type": "base64", "data": red, "mime_type": "image/png"},
        {"type": "image", "source_type": "url", "url": f"data:image/png;base64,{red}"},
        {"type": "image", "source_type": "id", "id": "photo-7"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{red}"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{red}"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{red}"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": red}},
        {"type": "image", "source": {"type": "url", "url": f"data:;base64,{red}"}},
        {"type": "image", "source": {"type": "file", "file_id": "photo-7"}},
        {"type": "media", "mime_type": "image/png", "data": picture("red")},
        {"type": "file", "mime_type": "image/png", "base64": red},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "url": (tmp_path / "a.png").as_uri()},
    ]
    files = {"photo-7": picture("red")}
    policy = MediaPolicy(allowed_roots=(tmp_path,), file_resolver=files.__getitem__)
    for block in blocks:
        conversation = to_conversation([HumanMessage([block])], policy)
        assert conversation.turns[0]["content"] == [IMAGE], block
        assert conversation.images[0].data == picture("red"), block


def test_the_order_of_text_and_pictures_is_kept(red, picture):
    blue = base64.b64encode(picture("blue")).decode()
    conversation = to_conversation(
        [
            SystemMessage("Be kind."),
            HumanMessage(["First", {"type": "image", "base64": red}, text("then"), text("")]),
            AIMessage([{"type": "reasoning", "reasoning": "hm"}, text("Yes.")]),
            HumanMessage(
                [{"type": "image", "base64": blue}, {"type": "image", "base64": red}, "ok"]
            ),
        ]
    )
    assert [turn["role"] for turn in conversation.turns] == ["system", "user", "assistant", "user"]
    assert conversation.turns[1]["content"] == [text("First"), IMAGE, text("then")]
    assert conversation.turns[3]["content"] == [IMAGE, IMAGE, text("ok")]
    colors = [image.pil().getpixel((0, 0)) for image in conversation.images]
    assert colors == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]


def test_tools_calls_and_results_with_pictures(red):
    call = {"name": "camera", "args": {"zoom": 2}, "id": "c1"}
    conversation = to_conversation(
        [
            HumanMessage("Look"),
            AIMessage([text("Wait."), {"type": "tool_call", **call}], tool_calls=[call]),
            ToolMessage(
                [text("shot"), {"type": "image", "base64": red}], tool_call_id="c1", name="camera"
            ),
            FunctionMessage("old", name="f"),
        ],
        tools=[{"type": "function", "function": {"name": "camera"}}],
    )
    asked, shown, old = conversation.turns[1:]
    assert asked["content"] == [text("Wait.")]
    assert asked["tool_calls"] == [
        {"type": "function", "id": "c1", "function": {"name": "camera", "arguments": {"zoom": 2}}}
    ]
    assert shown == {
        "role": "tool",
        "content": [text("shot"), IMAGE],
        "tool_call_id": "c1",
        "name": "camera",
    }
    assert old["role"] == "tool"
    assert conversation.tools[0]["function"]["name"] == "camera"


def test_thoughts_stay_with_the_turn_they_prepare():
    thinking = AIMessage([{"type": "reasoning", "reasoning": "think"}, text("a")])
    other = AIMessage("b", additional_kwargs={"reasoning_content": "think"})
    history = to_conversation([HumanMessage("1"), thinking, HumanMessage("2")])
    assert "reasoning_content" not in history.turns[1]
    for message in (thinking, other):
        current = to_conversation([HumanMessage("1"), message, ToolMessage("x", tool_call_id="1")])
        assert current.turns[1]["reasoning_content"] == "think"


def test_roles_by_name_and_what_is_no_message():
    roles = ["user", "Human", "assistant", "developer", "tool"]
    conversation = to_conversation([ChatMessage("x", role=role) for role in roles])
    assert [t["role"] for t in conversation.turns] == [
        "user",
        "user",
        "assistant",
        "system",
        "tool",
    ]
    for wrong in ([], [ChatMessage("x", role="narrator")], [RemoveMessage(id="1")]):
        with pytest.raises(UsageError):
            to_conversation(wrong)


def test_plain_text_files_and_foreign_blocks():
    encoded = base64.b64encode("naïve".encode()).decode()
    conversation = to_conversation(
        [
            HumanMessage(
                [
                    {"type": "text-plain", "text": "file", "mime_type": "text/plain"},
                    {"type": "text-plain", "base64": encoded, "mime_type": "text/plain"},
                    {"type": "tool_result", "tool_use_id": "1", "content": "green"},
                ]
            ),
            AIMessage([{"type": "redacted_thinking", "data": "x"}, {"type": "odd"}, text("hi")]),
        ]
    )
    assert [p["text"] for p in conversation.turns[0]["content"]] == ["file", "naïve", "green"]
    assert conversation.turns[1]["content"] == [text("hi")]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "audio", "base64": "x"}, "data of the recording is malformed"),
        ({"type": "video", "url": "https://example.org/secret"}, "film's address is not allowed"),
        ({"type": "file", "mime_type": "application/pdf", "base64": "x"}, "data of the PDF"),
        ({"type": "file", "mime_type": "application/zip", "base64": "x"}, "'file'"),
        ({"type": "image"}, "names no picture"),
        ({"type": "image", "id": "lc_1"}, "names no picture"),
        ({"type": "image", "file_id": "photo-7"}, "file_resolver"),
        ({"type": "image", "url": "https://example.org/secret"}, "not allowed"),
        ({"type": "image", "url": "/etc/secret"}, "allowed_roots"),
        ({"type": "text-plain", "base64": "//79"}, "UTF-8"),
        ({"type": "text-plain", "url": "https://example.org"}, "no text"),
    ],
)
def test_blocks_that_cannot_be_shown(block, message):
    with pytest.raises(UsageError, match=message) as refused:
        to_conversation([HumanMessage([block])])
    assert "secret" not in str(refused.value)


def test_a_file_id_that_is_not_known():
    policy = MediaPolicy(file_resolver={}.__getitem__)
    with pytest.raises(MediaError, match="not known"):
        to_conversation([HumanMessage([{"type": "image", "file_id": "x"}])], policy)


def test_the_number_of_pictures_is_limited(red):
    block = {"type": "image", "base64": red}
    policy = MediaPolicy(max_images=2)
    assert len(to_conversation([HumanMessage([block, block])], policy).images) == 2
    with pytest.raises(MediaError, match="more than 2 pictures"):
        to_conversation([HumanMessage([block, block, block])], policy)


def test_pictures_are_decoded_once_and_the_shelf_is_bounded(picture, tmp_path):
    small = picture("red")
    shelf = ImageShelf(max_bytes=3 * len(small))
    policy = MediaPolicy(allowed_roots=(tmp_path,))
    first = shelf.load(small, policy)
    assert shelf.load(small, policy) is first
    for color in ("blue", "green", "white", "black"):
        shelf.load(picture(color), policy)
    assert shelf._size() <= shelf.max_bytes
    assert shelf.load(small, policy) is not first
    (tmp_path / "a.png").write_bytes(small)
    before = shelf.load(tmp_path / "a.png", policy)
    (tmp_path / "a.png").write_bytes(picture("blue"))
    assert shelf.load(tmp_path / "a.png", policy) != before
