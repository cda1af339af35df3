"""What an engine is: counts tokens, and answers a conversation piece by piece.

Engines know nothing of LangChain; the chat model knows nothing of tensors. Between them are the
few plain classes of this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, Protocol, runtime_checkable

from mmagent.errors import ContextOverflowError, UsageError
from mmagent.messages import Conversation

__all__ = [
    "CallPiece",
    "Chunk",
    "Engine",
    "FinishReason",
    "Form",
    "Modality",
    "Sampling",
    "TokenChance",
    "Usage",
    "room_for_answer",
]

_REALS = ("temperature", "top_p", "min_p", "repetition_penalty", "timeout")
FinishReason = Literal["stop", "length", "tool_calls"]
Modality = Literal["text", "image", "audio"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and when to end.

    Attributes:
        max_tokens: Most tokens of the answer; None leaves it to the context window.
        temperature: 0 takes the likeliest token; None is what the checkpoint recommends.
        top_p: Sample from the likeliest tokens that together have this probability.
        top_k: Sample from this many of the likeliest tokens.
        min_p: Drop tokens less likely than this share of the likeliest one.
        num_beams: More than one searches for the likeliest answer; it arrives in one piece.
        repetition_penalty: Above 1 makes tokens that were used before less likely.
        seed: Makes sampling repeatable, whatever else the model answers at the same time.
        stop: Texts that end the answer; they are not part of it.
        logprobs: How many of the likeliest tokens to report at each place, besides the one that
            was taken; None reports nothing.
        timeout: Most seconds that the answer may take, waiting for its turn included.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    num_beams: int = 1
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Check kinds and ranges, so that mistakes are named before a model runs."""
        self._check_kinds()
        rules: list[tuple[str, bool, str]] = [
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature is None or self.temperature >= 0, "0 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "between 0 and 1"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            (
                "repetition_penalty",
                self.repetition_penalty is None or self.repetition_penalty > 0,
                "above 0",
            ),
            ("temperature", self.temperature != float("inf"), "a finite number"),
            ("seed", self.seed is None or -(1 << 63) <= self.seed < 1 << 63, "of 64 bits"),
            ("stop", all(self.stop), "texts that are not empty"),
            (
                "top_logprobs",
                self.logprobs is None or 0 <= self.logprobs <= 20,
                "between 0 and 20",
            ),
            ("timeout", self.timeout is None or self.timeout > 0, "above 0 seconds"),
        ]
        for name, holds, range_ in rules:
            if not holds:
                value = self.logprobs if name == "top_logprobs" else getattr(self, name)
                raise UsageError(f"{name} must be {range_}; it is {value!r}.")
        if self.logprobs is not None and self.num_beams > 1:
            raise UsageError("logprobs cannot be combined with num_beams; leave one of them out.")

    def _check_kinds(self) -> None:
        whole = ("max_tokens", "top_k", "num_beams", "seed", "logprobs")
        for name in (*whole, *_REALS):
            value = getattr(self, name)
            kind: type = Integral if name in whole else Real
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                wanted = "a whole number" if name in whole else "a number"
                shown = "top_logprobs" if name == "logprobs" else name
                raise UsageError(f"{shown} must be {wanted}; it is {value!r}.")
        if not all(isinstance(text, str) for text in self.stop):
            raise UsageError(f"stop must be texts; it is {list(self.stop)!r}.")

    @property
    def samples(self) -> bool | None:
        """Whether chance has a part; None leaves it to the checkpoint."""
        if self.temperature is not None:
            return self.temperature > 0
        if any(value is not None for value in (self.top_p, self.top_k, self.min_p)):
            return True
        return None


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer.

    Attributes:
        input_tokens: Of the whole prompt, pictures included.
        output_tokens: Generated, thoughts included.
        cache_read: Those of the prompt that were still known from an earlier turn.
        reasoning: Those of the output that were thoughts.
    """

    input_tokens: int
    output_tokens: int
    cache_read: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Form:
    """What an answer must look like; held by a grammar while it is generated.

    Attributes:
        functions: What may be called: OpenAI's function objects (`name`, `parameters`, ...).
        required: The answer must be a call (of one of them), not text.
        parallel: One answer may have several calls.
        schema: A JSON schema; if the answer is text, it is JSON of this schema.
    """

    functions: tuple[dict[str, Any], ...] = ()
    required: bool = False
    parallel: bool = True
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class CallPiece:
    """A piece of a function call; the first one of a call has its id and name."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class TokenChance:
    """How likely a token was to the model, before temperature and the like.

    Attributes:
        text: Of the token; a part of a character reads as U+FFFD.
        raw: The token's bytes, as far as the text tells them.
        logprob: Natural logarithm of its probability.
        others: The likeliest tokens at this place, likeliest first.
    """

    text: str
    raw: bytes
    logprob: float
    others: tuple[TokenChance, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer; the last one has the reason why it ended and the usage.

    `thought` is what a reasoning model wrote for itself before it answered; `chances` are those
    of the tokens that became this piece, if they were asked for.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    calls: tuple[CallPiece, ...] = ()
    thought: str = ""
    chances: tuple[TokenChance, ...] = ()


@runtime_checkable
class Engine(Protocol):
    """A model that answers conversations. Safe to share between threads.

    An engine may also have `agenerate`, with the parameters of `generate`: an asynchronous
    generator that needs no thread while it waits. Where it is absent, `generate` runs in threads.
    """

    @property
    def name(self) -> str:
        """The model's name, for traces."""

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the model can be shown."""

    def count_tokens(self, conversation: Conversation) -> int:
        """Exactly the tokens that the prompt of this conversation has."""

    def prompt_text(self, conversation: Conversation) -> str:
        """The prompt of this conversation as the model is given it, one mark a picture."""

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""

    def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        adapter: str | None = None,
        form: Form | None = None,
    ) -> Iterator[Chunk]:
        """Answer in pieces; closing the iterator stops the work at once.

        Raises:
            ContextOverflowError: Before anything is generated.
            UsageError: A form that cannot be held.
            GenerationError: The model failed.
        """


def room_for_answer(prompt_tokens: int, context_length: int, wanted: int | None) -> int:
    """How many tokens the answer may have.

    Raises:
        ContextOverflowError: The prompt leaves no room for even one.
    """
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextOverflowError(
            f"The prompt has {prompt_tokens:,} tokens and the model's context window "
            f"{context_length:,}: shorten the conversation, or use a model with a longer window."
        )
    return room if wanted is None else min(wanted, room)
