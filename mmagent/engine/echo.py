"""An engine without a model: it says back what it was told, always the same.

For tests, demonstrations and plumbing: `ChatMMAgent(model="echo")`. It counts tokens, streams,
honours `max_tokens` and `stop`, looks at pictures as far as their size and colour, and answers a
required call or a schema with the plainest values that fit.
"""

from __future__ import annotations

import json
import re
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace

from mmagent.engine.base import (
    CallPiece,
    Chunk,
    FinishReason,
    Form,
    Modality,
    Sampling,
    TokenChance,
    Usage,
    room_for_answer,
)
from mmagent.engine.examples import example_of
from mmagent.engine.reader import AnswerReader
from mmagent.media import LoadedImage
from mmagent.messages import Conversation

__all__ = ["EchoEngine"]

_TOKEN = re.compile(r"\s*\S+|\s+")
_TOKENS_PER_IMAGE = 16
_TOKENS_PER_TURN = 2


class EchoEngine:
    """Answers "You said: ..." with the last user turn; a token is a word."""

    def __init__(self, *, context_length: int = 8192) -> None:
        self._context_length = context_length

    @property
    def name(self) -> str:
        """The model's name, for traces."""
        return "echo"

    @property
    def context_length(self) -> int:
        """Most words of prompt and answer together."""
        return self._context_length

    @property
    def modalities(self) -> frozenset[Modality]:
        """Text and images."""
        return frozenset({"text", "image"})

    def count_tokens(self, conversation: Conversation) -> int:
        """Words, with 16 for a picture and 2 around each turn."""
        words = sum(
            len(_TOKEN.findall(part["text"])) if part["type"] == "text" else _TOKENS_PER_IMAGE
            for turn in conversation.turns
            for part in turn["content"]
        )
        return words + _TOKENS_PER_TURN * len(conversation.turns)

    def prompt_text(self, conversation: Conversation) -> str:
        """One line a turn: the role, a colon, and what was said."""
        return "\n".join(
            f"{turn['role']}: "
            + " ".join(p["text"] if p["type"] == "text" else "<image>" for p in turn["content"])
            for turn in conversation.turns
        )

    def token_ids(self, text: str) -> list[int]:
        """One number a word."""
        return [zlib.crc32(word.encode("utf-8", "replace")) for word in _TOKEN.findall(text)]

    def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        adapter: str | None = None,
        form: Form | None = None,
    ) -> Iterator[Chunk]:
        """Say the last user turn back, word by word; or the plainest answer of a form."""
        asked = self.count_tokens(conversation)
        room = room_for_answer(asked, self.context_length, sampling.max_tokens)
        if form is not None and form.required:
            return self._call(form, asked)
        said = _echo(conversation)
        if form is not None and form.schema is not None:
            said = json.dumps(example_of(form.schema), ensure_ascii=False)
        return self._answer(_TOKEN.findall(said), asked, room, sampling)

    def _call(self, form: Form, asked: int) -> Iterator[Chunk]:
        function = form.functions[0]
        arguments = json.dumps(example_of(function.get("parameters") or {"type": "object"}))
        name = f"call_{uuid.uuid4().hex[:24]}"
        yield Chunk(calls=(CallPiece(0, name, function["name"]),))
        words = _TOKEN.findall(arguments)
        for word in words:
            yield Chunk(calls=(CallPiece(0, arguments=word),))
        yield Chunk("", "tool_calls", Usage(asked, len(words)))

    def _answer(
        self, words: list[str], asked: int, room: int, sampling: Sampling
    ) -> Iterator[Chunk]:
        reader = AnswerReader(sampling.stop)
        produced = 0
        for word in words[:room]:
            produced += 1
            chunk = reader.push(word)
            if chunk is not None:
                yield chunk if sampling.logprobs is None else _certain(chunk)
            if reader.stopped:
                break
        reason: FinishReason = "length" if len(words) > room else "stop"
        yield reader.finish("", reason, Usage(asked, produced))


def _certain(chunk: Chunk) -> Chunk:
    """The chunk as one token that could be no other."""
    sure = TokenChance(chunk.text, chunk.text.encode("utf-8", "replace"), 0.0)
    return replace(chunk, chances=(sure,))


def _echo(conversation: Conversation) -> str:
    images = iter(conversation.images)
    said = ""
    for turn in conversation.turns:
        parts = [
            part["text"] if part["type"] == "text" else _describe(next(images))
            for part in turn["content"]
        ]
        if turn["role"] == "user":
            said = " ".join(parts)
    return f"You said: {said}"


def _describe(image: LoadedImage) -> str:
    red, green, blue = image.pil().resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    return f"[picture {image.width}x{image.height} #{red:02x}{green:02x}{blue:02x}]"
