"""From tokens to text that may be shown at once.

Two things make that less than obvious: one character can be spread over several tokens, and a stop
text can begin in one token and end in another. Both are solved by holding back the little that is
not certain yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokenizer", "StopFilter"]


class Detokenizer:
    """Decodes a growing list of tokens in constant time per token.

    Only a short window is decoded anew: tokens since the last place where the text was certain,
    after enough of the ones before that the tokenizer treats the window like the middle of a text
    (some write no space before the first token they are given).
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = 0  # of the window
        self._done = 0  # tokens whose text was handed out

    def push(self, token: int) -> str:
        """Add a token; return the text that is certain now."""
        self._tokens.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """Return what was held back, broken characters included."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._tokens[self._start : self._done])
        now = self._decode(self._tokens[self._start :])
        # A character that is not complete decodes to U+FFFD: wait for the rest of its bytes.
        if not final and (len(now) <= len(before) or now.endswith("\ufffd")):
            return ""
        if len(now) <= len(before):
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return now[len(before) :]


class StopFilter:
    """Passes text on until one of the stop texts has come, and never a part of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; return what can no longer become part of a stop text."""
        if self.stopped or not self._stop:
            return "" if self.stopped else text
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            safe, self._held = self._held[: min(found)], ""
            return safe
        keep = max(self._overlap(stop) for stop in self._stop)
        cut = len(self._held) - keep
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def finish(self) -> str:
        """Return what was held back; no stop text came of it."""
        safe, self._held = self._held, ""
        return safe

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that a stop text begins with."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0
