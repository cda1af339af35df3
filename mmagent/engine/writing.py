"""From the tokens of one answer to chunks: text that is certain, calls, thoughts, chances."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmagent.engine.base import Chunk, FinishReason, TokenChance, Usage
from mmagent.engine.reader import AnswerReader
from mmagent.engine.textstream import Detokenizer

if TYPE_CHECKING:
    import torch

__all__ = ["AnswerWriter"]


class AnswerWriter:
    """Writes one answer, token by token."""

    def __init__(
        self,
        reader: AnswerReader,
        decode: Callable[[list[int]], str],
        ends: frozenset[int],
        *,
        asked: int,
        logprobs: int | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            reader: What its text means.
            decode: From tokens to text, without control tokens.
            ends: Tokens that end it.
            asked: Tokens of the prompt.
            logprobs: How many of the likeliest tokens to report at each place, if any.
        """
        self._reader = reader
        self._decode = decode
        self._text = Detokenizer(decode)
        self._ends = ends
        self._asked = asked
        self._logprobs = logprobs
        self._held: list[tuple[int, TokenChance]] = []  # where each token's text begins
        self._read = self._shown = 0  # characters of the text so far, and of what was passed on
        self._produced = self._thought = 0
        self.cached = 0  # tokens of the prompt that were known
        self.reason: FinishReason | None = None

    def push(self, token: int, scores: torch.Tensor | None = None) -> Chunk | None:
        """Add a token; what is certain now, if anything. Sets `reason` when the answer ends."""
        self._produced += 1
        if token in self._ends:
            self.reason = "stop"
            return None
        if scores is not None:
            self._held.append((self._read, self._chance(token, scores)))
        text = self._text.push(token)
        self._read += len(text)
        chunk = self._reader.push(text)
        if self._reader.thinking:
            self._thought = self._produced
        if self._reader.stopped:
            self.reason = "stop"
        return None if chunk is None else self._with_chances(chunk)

    def finish(self, reason: FinishReason) -> Chunk:
        """The last chunk, with what was held back.

        Args:
            reason: Why it ends, if the text itself does not say so.
        """
        usage = Usage(self._asked, self._produced, self.cached, self._thought)
        last = self._reader.finish(self._text.finish(), self.reason or reason, usage)
        if not self._reader.stopped:
            self._shown = 1 << 60  # nothing is held back any more
        return self._with_chances(last)

    def _with_chances(self, chunk: Chunk) -> Chunk:
        if not self._held:
            return chunk
        # Tokens of calls and thoughts are told at once; of text, when their text is.
        self._shown += len(chunk.text)
        if chunk.calls or chunk.thought:
            self._shown = self._read
        ready = [chance for begin, chance in self._held if begin < self._shown]
        self._held = self._held[len(ready) :]
        return Chunk(
            chunk.text, chunk.finish_reason, chunk.usage, chunk.calls, chunk.thought, tuple(ready)
        )

    def _chance(self, token: int, scores: torch.Tensor) -> TokenChance:
        logprobs = scores.log_softmax(dim=-1)
        best: tuple[TokenChance, ...] = ()
        if self._logprobs:
            values, tokens = logprobs.topk(min(self._logprobs, len(logprobs)))
            best = tuple(
                self._named(other, value)
                for other, value in zip(tokens.tolist(), values.tolist(), strict=True)
            )
        return self._named(token, float(logprobs[token]), best)

    def _named(
        self, token: int, logprob: float, others: tuple[TokenChance, ...] = ()
    ) -> TokenChance:
        text = self._decode([token])
        return TokenChance(text, text.encode("utf-8"), logprob, others)
