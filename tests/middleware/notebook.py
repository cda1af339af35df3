"""A small memory of whole words, and a chat model that keeps what it was given."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult


@dataclass(frozen=True)
class Picture:
    id: str
    mime_type: str
    content: bytes
    caption: str | None = None

    def data(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class Note:
    id: str
    text: str
    images: tuple[Picture, ...]
    speaker: str
    at: datetime
    thread: str | None
    score: float = 0.0


@dataclass
class Notebook:
    """What `LongTermMemory` promises, in a list: the most shared words come first."""

    notes: list[Note] = field(default_factory=list)
    asked: list[tuple[str, list[bytes], int]] = field(default_factory=list)

    def remember(
        self,
        text: str,
        images: Sequence[bytes] = (),
        *,
        speaker: str,
        at: datetime,
        thread: str | None,
        id: str,
    ) -> str:
        if all(note.id != id for note in self.notes):
            kept = tuple(Picture(f"p{len(data)}", "image/png", data) for data in images)
            self.notes.append(Note(id, text, kept, speaker, at, thread))
        return id

    async def aremember(self, text: str, images: Sequence[bytes] = (), **about: Any) -> str:
        return self.remember(text, images, **about)

    def recall(self, question: str, images: Sequence[bytes] = (), k: int = 10) -> list[Note]:
        self.asked.append((question, list(images), k))
        wanted = set(re.findall(r"\w+", question.lower()))
        scored = [(len(wanted & set(re.findall(r"\w+", n.text.lower()))), n) for n in self.notes]
        best = sorted(scored, key=lambda pair: -pair[0])
        return [note for score, note in best if score or images][:k]

    async def arecall(self, question: str, images: Sequence[bytes] = (), k: int = 10) -> list[Note]:
        return self.recall(question, images, k)


class Parrot(GenericFakeChatModel):
    """LangChain's own fake, which also keeps the messages of every call."""

    seen: list[list[BaseMessage]]

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.seen.append(list(messages))
        return super()._generate(messages, *args, **kwargs)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def parrot(*answers: Any, **fields: Any) -> Parrot:
    return Parrot(messages=iter(answers), seen=[], **fields)
