"""Makes the summary of turns that no longer fit, by a chat model or without one."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.constants import TAG_NOSTREAM

from mmagent.context.counting import TokenCounter
from mmagent.context.summary import (
    Line,
    extract,
    format_summary,
    picture_lines,
    summary_request,
)
from mmagent.errors import UsageError
from mmagent.middleware.driving import adrive, drive
from mmagent.middleware.turns import is_user_turn, words_of
from mmagent.reasoning.parsing import split_thoughts
from mmagent.untrusted import neutralise_line

__all__ = ["Summariser", "Summary"]

_log = logging.getLogger(__name__)
_CONFIG: RunnableConfig = {"tags": [TAG_NOSTREAM], "run_name": "summary"}
_KEPT = 256

Made = tuple["Summary", str]
"""A summary, and the block that shows it together with the pictures."""
Work = Generator[str, str, Made]
"""Yields what to ask the chat model, is sent its answer, returns what was made."""


@dataclass(frozen=True)
class Summary:
    """What is left of the oldest turns.

    Attributes:
        covers: How many messages it stands for, from the first of the conversation.
        key: Tells these messages from any others.
        text: The sentences, one a line, without those about pictures.
    """

    covers: int = 0
    key: str = ""
    text: str = ""

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, for a checkpoint."""
        return {"covers": self.covers, "key": self.key, "text": self.text}


class Summariser:
    """Writes summaries in the steps of eviction, each once."""

    def __init__(
        self,
        model: BaseChatModel | Literal["extractive"],
        *,
        max_tokens: int,
        names: tuple[str, str] = ("User", "Assistant"),
    ) -> None:
        """Set how to write.

        Args:
            model: A chat model, or "extractive" to pick sentences without one.
            max_tokens: Most tokens of the block.
            names: Of the user and of the assistant.

        Raises:
            UsageError: A name of a model, or no tokens.
        """
        if isinstance(model, str) and model != "extractive":
            raise UsageError('A summary is made by a chat model object, or "extractive".')
        if max_tokens < 1:
            raise UsageError("A summary needs at least one token.")
        self.model = None if isinstance(model, str) else model
        self.max_tokens = max_tokens
        self.names = names
        self._made: OrderedDict[str, Summary] = OrderedDict()

    def make(
        self,
        gone: Sequence[AnyMessage],
        before: Summary,
        count: TokenCounter,
        pictures: Sequence[str] = (),
    ) -> Made:
        """Return the summary of the messages that are gone, and its block; see `_work`."""
        return drive(self._work(gone, before, count, pictures), self._ask)

    async def amake(
        self,
        gone: Sequence[AnyMessage],
        before: Summary,
        count: TokenCounter,
        pictures: Sequence[str] = (),
    ) -> Made:
        """Return the summary of the messages that are gone, and its block; see `_work`."""
        return await adrive(self._work(gone, before, count, pictures), self._aask)

    def _work(
        self,
        gone: Sequence[AnyMessage],
        before: Summary,
        count: TokenCounter,
        pictures: Sequence[str],
    ) -> Work:
        """Summarise, with the lines about pictures, which may take half of the room.

        Args:
            gone: All messages that are left out, from the first of the conversation.
            before: The last summary.
            count: Counts tokens.
            pictures: Lines about pictures.
        """
        shown = picture_lines(pictures, lambda rows: _size(rows, (), count) <= self.max_tokens // 2)

        def fits(rows: Sequence[str]) -> bool:
            return _size(rows, shown, count) <= self.max_tokens

        summary = yield from self._summary(gone, before, fits)
        return summary, format_summary(summary.text.splitlines(), shown)

    def _summary(
        self,
        gone: Sequence[AnyMessage],
        before: Summary,
        fits: Callable[[Sequence[str]], bool],
    ) -> Generator[str, str, Summary]:
        """Write the sentences, going on from the summary before where that still holds."""
        key = _key(gone)
        if before.key == key:
            return before
        if key in self._made:
            return self._made[key]
        text = ""
        if self.model is not None:
            goes_on = before.text and _key(gone[: before.covers]) == before.key
            fresh = gone[before.covers :] if goes_on else gone
            request = summary_request(
                before.text if goes_on else "", self._lines(fresh), max(20, self.max_tokens // 2)
            )
            text = _cut((yield request), fits)
        if not text:
            text = "\n".join(extract(self._lines(gone), fits))
        summary = Summary(len(gone), key, text)
        self._made[key] = summary
        if len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return summary

    def _lines(self, messages: Sequence[AnyMessage]) -> list[Line]:
        user, assistant = self.names
        lines = []
        for message in messages:
            if isinstance(message, HumanMessage) and not is_user_turn(message):
                # A summary that stands for messages which are gone for good.
                rows = (row.removeprefix("- ") for row in words_of(message).splitlines())
                lines += [Line("", row, True) for row in rows if not row.startswith("[")]
            elif isinstance(message, HumanMessage):
                lines.append(Line(user, words_of(message), True))
            elif isinstance(message, AIMessage):
                lines.append(Line(assistant, words_of(message), False))
        return lines

    def _ask(self, request: str) -> str:
        assert self.model is not None
        try:
            return _words(self.model.invoke([HumanMessage(request)], _CONFIG))
        except Exception as error:  # any vendor's: without a summary the talk must go on
            _log.warning("The summary is made without a model: %s", error)
            return ""

    async def _aask(self, request: str) -> str:
        assert self.model is not None
        try:
            return _words(await self.model.ainvoke([HumanMessage(request)], _CONFIG))
        except Exception as error:
            _log.warning("The summary is made without a model: %s", error)
            return ""


def _words(answer: BaseMessage) -> str:
    return split_thoughts(str(answer.text)).answer


def _key(messages: Sequence[AnyMessage]) -> str:
    digest = hashlib.sha256()
    for message in messages:
        digest.update(f"{message.type}\0{len(message.text)}\0{message.text}\0".encode(
            "utf-8", "surrogatepass"
        ))  # fmt: skip
    return digest.hexdigest()[:32]


def _size(rows: Sequence[str], pictures: Sequence[str], count: TokenCounter) -> int:
    block = format_summary(rows, pictures)
    return count([HumanMessage(block)]) if block else 0


def _cut(text: str, fits: Callable[[Sequence[str]], bool]) -> str:
    """Return as much of a model's summary as fits, disarmed."""
    rows = [neutralise_line(row.lstrip("-•* "), 600) for row in text.splitlines() if row.strip()]
    while rows and not fits(rows):
        words = rows[-1].split(" ")
        if len(words) < 4:
            rows.pop()
        else:
            rows[-1] = " ".join(words[: len(words) * 3 // 4])
    return "\n".join(rows)
