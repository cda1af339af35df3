"""From the text of a growing answer to chunks: stop texts end it, calls are told from text."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from mmagent.engine.base import CallPiece, Chunk, FinishReason, Usage
from mmagent.engine.textstream import StopFilter
from mmagent.engine.toolformat import ToolFormat

__all__ = ["AnswerReader", "CallReader", "ThoughtReader"]

_THINK, _THINK_END = "<think>", "</think>"


class AnswerReader:
    """What an engine's text means."""

    def __init__(
        self,
        stop: Sequence[str],
        format: ToolFormat | None = None,
        names: Sequence[str] = (),
        thoughts: ThoughtReader | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            stop: Texts that end it; looked for in its text, not inside calls or thoughts.
            format: How calls are written, if there may be any.
            names: Of the functions that may be called.
            thoughts: How thoughts are told from the answer, for a model that has some.
        """
        self._stop = StopFilter(stop)
        self._calls = CallReader(format, names) if format is not None else None
        self._thoughts = thoughts

    @property
    def stopped(self) -> bool:
        """A stop text came."""
        return self._stop.stopped

    def push(self, text: str) -> Chunk | None:
        """Add text; the chunk that is certain now, if any."""
        thought = ""
        if self._thoughts is not None:
            thought, text = self._thoughts.push(text)
        pieces: list[CallPiece] = []
        if self._calls is not None:
            text, pieces = self._calls.push(text)
        text = self._stop.push(text)
        if not (text or pieces or thought):
            return None
        return Chunk(text, calls=tuple(pieces), thought=thought)

    @property
    def thinking(self) -> bool:
        """What comes now is thought, not answer."""
        return self._thoughts is not None and self._thoughts.thinking

    def finish(self, text: str, reason: FinishReason, usage: Usage) -> Chunk:
        """The last chunk, with what was held back."""
        last = self.push(text) or Chunk()
        tail, thought = last.text, last.thought
        if self._thoughts is not None:
            more, held = self._thoughts.finish()
            thought += more
            tail += self._stop.push(held)
        if self._calls is not None:
            tail += self._stop.push(self._calls.finish())
        tail += self._stop.finish()
        if self.stopped:
            reason = "stop"
        if self._calls is not None and self._calls.calls and reason == "stop":
            reason = "tool_calls"
        return Chunk(tail, reason, usage, last.calls, thought)


class ThoughtReader:
    """Tells `<think>...</think>` at the beginning of an answer from the answer itself.

    Some templates open the thought themselves, so that only its end is in the answer.
    """

    def __init__(self, *, opened: bool) -> None:
        """Begin; `opened` says that the prompt ended inside a thought."""
        self._state = "inside" if opened else "before"
        self._held = ""
        self._end = StopFilter([_THINK_END])

    @property
    def thinking(self) -> bool:
        """Inside a thought."""
        return self._state == "inside"

    def push(self, text: str) -> tuple[str, str]:
        """Add text; return what of it is thought and what is answer."""
        if self._state == "before":
            self._held += text
            begun = self._held.lstrip()
            if begun.startswith(_THINK):
                text, self._held, self._state = begun[len(_THINK) :], "", "inside"
            elif _THINK.startswith(begun):
                return "", ""  # it may still become one
            else:
                text, self._held, self._state = self._held, "", "answer"
        thought = ""
        if self._state == "inside":
            for at, character in enumerate(text):
                thought += self._end.push(character)
                if self._end.stopped:
                    text, self._state = text[at + 1 :], "after"
                    break
            else:
                return thought, ""
        if self._state == "after":  # blank lines between the thought and the answer
            text = text.lstrip()
            self._state = "answer" if text else "after"
        return thought, text

    def finish(self) -> tuple[str, str]:
        """What was held back."""
        return (self._end.finish(), "") if self._state == "inside" else ("", self._held)


class CallReader:
    """Reads a growing answer: text on one side, calls on the other, as soon as each is certain."""

    def __init__(self, format: ToolFormat, names: Sequence[str]) -> None:
        self._format = format
        self._heads = {name: format.head(name) for name in names}
        self._mark = StopFilter([format.mark])  # holds back what may become a mark
        self._inside = ""
        self._state = "text"
        self._scan = _JsonScan()
        self.calls = 0

    def push(self, text: str) -> tuple[str, list[CallPiece]]:
        """Add text; return what of it is text, and what belongs to calls."""
        shown = ""
        pieces: list[CallPiece] = []
        while text:
            if self._state == "text":
                before, text = self._until_mark(text)
                shown += before if not self.calls or before.strip() else ""
            elif self._state == "head":
                text = self._head(text, pieces)
            elif self._state == "arguments":
                taken = self._scan.take(text)
                pieces.append(CallPiece(self.calls - 1, arguments=text[:taken]))
                text = text[taken:]
                if self._scan.done:
                    self._state, self._inside = "tail", ""
            else:
                self._inside += text
                text = ""
                if len(self._inside) >= len(self._format.tail):
                    text = self._inside[len(self._format.tail) :]
                    self._state = "text"
                    self._mark = StopFilter([self._format.mark])
        return shown, [piece for piece in pieces if piece.name or piece.arguments]

    def finish(self) -> str:
        """What was held back and is text after all."""
        return self._mark.finish() if self._state == "text" else ""

    def _until_mark(self, text: str) -> tuple[str, str]:
        shown = ""
        for at, character in enumerate(text):
            shown += self._mark.push(character)
            if self._mark.stopped:
                self._state, self._inside = "head", ""
                return shown, text[at + 1 :]
        return shown, ""

    def _head(self, text: str, pieces: list[CallPiece]) -> str:
        self._inside += text
        for name, head in self._heads.items():
            if self._inside.startswith(head):
                pieces.append(CallPiece(self.calls, f"call_{uuid.uuid4().hex[:24]}", name))
                self.calls += 1
                self._state, self._scan = "arguments", _JsonScan()
                return self._inside[len(head) :]
        return ""


class _JsonScan:
    """Finds the end of one JSON object in a growing text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.done = False

    def take(self, text: str) -> int:
        """How many characters of the text still belong to the object."""
        for at, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.done = True
                    return at + 1
        return len(text)
