"""LangChain messages to what a chat template takes: turns of text, images and sounds, in order.

Content blocks come in several dialects, and all of them stay in use: LangChain's v1 blocks
(`{"type": "image", "base64": ...}`) and v0 blocks (`"source_type"`), OpenAI's `image_url`,
Anthropic's `source` and Google's `media`. `to_conversation` reads each, loads the pictures by the
`MediaPolicy`, and keeps the order of text and pictures inside a message. PDFs become their pages
and films frames; speech stays sound for a model that hears, and else becomes its words
(`attachments`).

This module knows nothing of models: whether one can look at pictures is the engine's affair.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from mmagent.attachments import Transcribe
from mmagent.errors import MediaError, UsageError
from mmagent.media import LoadedImage, MediaPolicy
from mmagent.media_sources import read
from mmagent.shelf import ImageShelf
from mmagent.sounds import LoadedSound

__all__ = ["Conversation", "ImageShelf", "Turn", "to_conversation"]

Turn = dict[str, Any]
"""One message for a chat template: `role`, `content` (a list of parts) and perhaps more."""

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}
# Blocks that repeat what the message says elsewhere (`tool_calls`) or that no later turn needs.
_SILENT = frozenset(
    {
        "tool_call",
        "tool_call_chunk",
        "invalid_tool_call",
        "tool_use",
        "input_json_delta",
        "server_tool_call",
        "server_tool_call_chunk",
        "server_tool_result",
        "redacted_thinking",
        "function_call",
        "refusal",
    }
)


@dataclass(frozen=True)
class Conversation:
    """What an engine answers.

    Attributes:
        turns: Messages for the chat template. Parts are `{"type": "text", "text": ...}`,
            `{"type": "image"}` or `{"type": "audio"}`; the n-th image part of all turns stands
            for `images[n]`, the n-th audio part for `sounds[n]`.
        images: The pictures, in the order of their parts.
        tools: Functions that may be called, in OpenAI's format.
        sounds: The recordings, in the order of their parts.
    """

    turns: tuple[Turn, ...]
    images: tuple[LoadedImage, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    sounds: tuple[LoadedSound, ...] = ()


def to_conversation(
    messages: Sequence[BaseMessage],
    policy: MediaPolicy | None = None,
    *,
    tools: Sequence[dict[str, Any]] = (),
    shelf: ImageShelf | None = None,
    transcribe: Transcribe | None = None,
    hears: Callable[[], bool] = lambda: False,
) -> Conversation:
    """Read a list of LangChain messages.

    Args:
        messages: System, human, AI, tool and chat messages.
        policy: Where pictures may come from.
        tools: Functions that may be called, in OpenAI's format.
        shelf: Where loaded pictures are kept between calls.
        transcribe: Turns speech into text.
        hears: Whether the model takes sound itself; asked only if there is some.

    Raises:
        UsageError: A message or a content block that no chat model can be shown.
        MediaError: A picture, PDF, film or recording that is refused or does not decode.
        MissingDependencyError: What reads PDFs or films is not installed.
    """
    if not messages:
        raise UsageError("There are no messages to answer; pass at least one.")
    reader = _Reader(policy or MediaPolicy(), shelf or ImageShelf(), transcribe, hears)
    last_user = max((i for i, m in enumerate(messages) if _role(m) == "user"), default=-1)
    turns = tuple(
        reader.turn(message, current=index > last_user) for index, message in enumerate(messages)
    )
    return Conversation(turns, tuple(reader.images), tuple(tools), tuple(reader.sounds))


def _role(message: BaseMessage) -> str:
    match message:
        case HumanMessage():
            return "user"
        case AIMessage():
            return "assistant"
        case SystemMessage():
            return "system"
        case ToolMessage() | FunctionMessage():
            return "tool"
        case ChatMessage(role=role) if role.lower() in _ROLES:
            return _ROLES[role.lower()]
    name = getattr(message, "role", None) or type(message).__name__
    raise UsageError(
        f"A message of the kind {name!r} cannot be shown to a chat model; "
        "use system, human, ai or tool messages."
    )


class _Reader:
    """Walks over messages and gathers their pictures and sounds."""

    def __init__(
        self,
        policy: MediaPolicy,
        shelf: ImageShelf,
        transcribe: Transcribe | None,
        hears: Callable[[], bool],
    ) -> None:
        self.policy = policy
        self.shelf = shelf
        self.transcribe = transcribe
        self.hears = hears
        self.images: list[LoadedImage] = []
        self.sounds: list[LoadedSound] = []

    def turn(self, message: BaseMessage, *, current: bool) -> Turn:
        """One message; `current` is whether it comes after the last one of the user."""
        role = _role(message)
        reasoning: list[str] = []
        content = message.content
        blocks = [content] if isinstance(content, str) else content
        parts: list[dict[str, Any]] = []
        for block in blocks:
            kind = None if isinstance(block, str) else _attachment_kind(block)
            if kind is not None:
                parts += self._attachment(block, kind)
                continue
            part = self._part(block, role, reasoning)
            if part is not None and (part["type"] != "text" or part["text"]):
                parts.append(part)
        turn: Turn = {"role": role, "content": parts}
        if isinstance(message, AIMessage) and message.tool_calls:
            turn["tool_calls"] = [
                {
                    "type": "function",
                    "id": call["id"],
                    "function": {"name": call["name"], "arguments": call["args"]},
                }
                for call in message.tool_calls
            ]
        if isinstance(message, AIMessage) and not reasoning:
            reasoning.append(str(message.additional_kwargs.get("reasoning_content") or ""))
        # Thoughts belong to the turn that they prepare (between tool calls), not to history.
        if current and any(reasoning):
            turn["reasoning_content"] = "".join(reasoning)
        if isinstance(message, ToolMessage):
            turn["tool_call_id"] = message.tool_call_id
        if role == "tool" and message.name:
            turn["name"] = message.name
        return turn

    def _part(
        self, block: str | Mapping[str, Any], role: str, reasoning: list[str]
    ) -> dict[str, Any] | None:
        if isinstance(block, str):
            return {"type": "text", "text": block}
        kind = block.get("type") or ("text" if "text" in block else None)
        if kind in ("text", "text-plain", "input_text", "output_text"):
            return {"type": "text", "text": _text_of(block)}
        if kind in ("reasoning", "thinking"):
            reasoning.append(str(block.get("reasoning") or block.get("thinking") or ""))
            return None
        if kind in _SILENT:
            return None
        if kind in ("image", "image_url", "input_image") or _is_picture_file(block):
            return self._image(_source_of(block, self.policy))
        if role == "assistant":  # other vendors' notes in an answer of theirs
            return None
        if kind == "tool_result":
            inner = block.get("content", "")
            return {"type": "text", "text": inner if isinstance(inner, str) else str(inner)}
        raise UsageError(
            f"A content block of the type {kind!r} cannot be shown to this model; "
            "send text, images, PDFs, films or sound."
        )

    def _attachment(self, block: Any, kind: str) -> list[dict[str, Any]]:
        what = {"pdf": "PDF", "video": "film", "audio": "recording"}[kind]
        inner = block.get("file") or block.get("input_audio") or block.get("video_url") or block
        if not isinstance(inner, Mapping):  # OpenAI's, as an address alone
            inner = {"url": inner}
        data = read(_source_of(inner, self.policy, what), self.policy, what)
        hears = kind != "pdf" and self.hears()
        parts: list[dict[str, Any]] = []
        for part in self.shelf.open(data, kind, self.policy, self.transcribe, hears=hears):
            if part.picture is not None:
                parts.append(self._image(part.picture))
            elif part.sound is not None:
                parts.append(self._sound(part.sound))
            else:
                parts.append({"type": "text", "text": part.text or ""})
        return parts

    def _image(self, source: bytes | Path | str) -> dict[str, Any]:
        if len(self.images) >= self.policy.max_images:
            raise MediaError(
                f"The conversation has more than {self.policy.max_images} pictures; "
                "drop old ones, or raise MediaPolicy(max_images=...)."
            )
        self.images.append(self.shelf.load(source, self.policy))
        return {"type": "image"}

    def _sound(self, sound: LoadedSound) -> dict[str, Any]:
        if len(self.sounds) >= self.policy.max_sounds:
            raise MediaError(
                f"The conversation has more than {self.policy.max_sounds} recordings; "
                "drop old ones, or raise MediaPolicy(max_sounds=...)."
            )
        self.sounds.append(sound)
        return {"type": "audio"}


def _is_picture_file(block: Mapping[str, Any]) -> bool:
    return block.get("type") in ("file", "media") and str(
        block.get("mime_type", "")
    ).lower().startswith("image/")


def _attachment_kind(block: Mapping[str, Any]) -> str | None:
    """Whether a block is a PDF, a film or sound, in whichever dialect says so."""
    kind = block.get("type")
    if kind in ("audio", "input_audio"):
        return "audio"
    if kind in ("video", "video_url", "input_video"):
        return "video"
    if kind not in ("file", "media", "document", "input_file"):
        return None
    inner = block.get("file") or block.get("source") or block
    if not isinstance(inner, Mapping):
        return None
    data = str(inner.get("file_data") or inner.get("url") or "")[:64]
    mime = str(inner.get("mime_type") or inner.get("media_type") or data).lower()
    for mark, found in (("application/pdf", "pdf"), ("video/", "video"), ("audio/", "audio")):
        if mime.removeprefix("data:").startswith(mark):
            return found
    name = str(inner.get("filename") or block.get("filename") or data).lower()
    return "pdf" if name.endswith(".pdf") else None


def _text_of(block: Mapping[str, Any]) -> str:
    if block.get("text") is not None:
        return str(block["text"])
    encoded = block.get("base64") or block.get("data")
    if isinstance(encoded, str):  # a text-plain block that carries a file
        try:
            return base64.b64decode(encoded, validate=True).decode()
        except ValueError:
            raise UsageError(
                "A text-plain block is not base64 of UTF-8 text; send its text instead."
            ) from None
    if block.get("type") == "text-plain":
        raise UsageError("A text-plain block has no text; only its text can be read here.")
    return ""


def _source_of(
    block: Mapping[str, Any], policy: MediaPolicy, what: str = "picture"
) -> bytes | Path | str:
    """Where the picture (or file) of a block is, in whichever dialect the block says it."""
    inner = block.get("source")
    if isinstance(inner, Mapping):  # Anthropic
        return _source_of({**inner, "source": None, "file_id": inner.get("file_id")}, policy, what)
    address = block.get("image_url")
    if isinstance(address, Mapping):  # OpenAI
        address = address.get("url")
    address = address or block.get("url")
    data = block.get("base64") or block.get("data") or block.get("file_data")
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data if data[:5].lower() == "data:" else f"data:;base64,{data}"
    if isinstance(address, str):
        return address
    if isinstance(block.get("path"), str | Path):
        path: str | Path = block["path"]
        return Path(path)
    # v1 blocks have an `id` of their own; only v0 said with it where the picture is.
    file_id = block.get("file_id") or (
        block.get("id") if block.get("source_type") == "id" else None
    )
    kind = "An image" if what == "picture" else f"A {what}"
    if file_id is None:
        raise MediaError(f"{kind} block names no {what}; give it one of url, base64 or file_id.")
    return _resolve(policy.file_resolver, str(file_id), kind, what)


def _resolve(
    resolver: Callable[[str], bytes | Path] | None, file_id: str, kind: str, what: str
) -> bytes | Path:
    if resolver is None:
        raise MediaError(
            f"{kind} block has a file_id, but nothing here knows files by id; "
            f"pass MediaPolicy(file_resolver=...), or send the {what} itself."
        )
    try:
        return resolver(file_id)
    except (KeyError, OSError):
        raise MediaError(
            f"{kind} block has a file_id that is not known; send the {what} itself."
        ) from None
