"""`ChatMMAgent`: any local vision-language checkpoint as a LangChain chat model.

    ChatMMAgent ── messages ──> Conversation ── engine ──> chunks ──> AIMessageChunk

This module speaks LangChain on one side and the engine's few plain classes on the other. It
imports neither torch nor transformers; the engine is loaded at the first call, or by `load()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import run_in_executor
from langchain_core.tools import BaseTool
from langchain_core.utils import from_env
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from mmagent.answers import to_chunk, to_result
from mmagent.engine.base import Chunk, Engine, Sampling
from mmagent.engine.profiles import describe, profile_of
from mmagent.engine.registry import EngineSpec, engine_for
from mmagent.errors import GenerationError, UsageError
from mmagent.media import MediaPolicy
from mmagent.messages import Conversation, ImageShelf, to_conversation

__all__ = ["ChatMMAgent"]

_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "num_beams",
    "repetition_penalty",
    "seed",
)
# Settings of hosted models that LangChain passes to every chat model; they mean nothing here.
_HOSTED = ("api_key", "base_url", "max_retries")


class ChatMMAgent(BaseChatModel):
    """A local multimodal chat model.

    Example:
        ```python
        from mmagent import ChatMMAgent

        model = ChatMMAgent(model="tiny", temperature=0)
        model.invoke([
            {"role": "user", "content": [
                {"type": "text", "text": "What is in the picture?"},
                {"type": "image", "url": "data:image/png;base64,..."},
            ]}
        ])
        ```

    Every sampling parameter can also be given per call, as can `stop`, `adapter` and `model`:
    `model.invoke("Hi", temperature=0.7, seed=1)`.
    """

    model: str = Field(default_factory=from_env("MMAGENT_MODEL", default="tiny"))
    """"tiny" (the bundled model), a folder, a name on the model hub, or "echo" (no model)."""
    adapter: str | None = None
    """Folder of a PEFT adapter; several chat models with different ones share one base."""
    max_tokens: int | None = 512
    """Most tokens of an answer; None lets it fill the context window."""
    temperature: float | None = None
    """0 always takes the likeliest token; None is what the checkpoint recommends."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    num_beams: int = 1
    repetition_penalty: float | None = None
    seed: int | None = None
    """Makes sampled answers repeatable."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Texts that end an answer; they are not part of it."""
    timeout: float | None = None
    """Most seconds that an answer may take."""
    streaming: bool = False
    device: str = "auto"
    dtype: str = "auto"
    context_length: int | None = None
    """A smaller window than the checkpoint's."""
    cache_bytes: int = 512 * 1024 * 1024
    """Budget for what is remembered of prompts between turns; 0 remembers nothing."""
    sanitize_control_tokens: bool = True
    """Keep control tokens that are typed in messages from taking effect."""
    media_policy: MediaPolicy = Field(default_factory=MediaPolicy, exclude=True)
    """Where pictures may come from."""
    engine: Engine | None = Field(default=None, exclude=True, repr=False)
    """An engine of your own, instead of one that is loaded by `model`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    _engines: dict[EngineSpec, Engine] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _shelf: ImageShelf = PrivateAttr(default_factory=ImageShelf)

    @model_validator(mode="before")
    @classmethod
    def _drop_hosted(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = {name: value for name, value in values.items() if name not in _HOSTED}
            if "model_name" in values:
                values.setdefault("model", values.pop("model_name"))
        return values

    @field_validator("model", "adapter", mode="before")
    @classmethod
    def _path_to_str(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _check_sampling(self) -> ChatMMAgent:
        self._sampling(None, {})
        return self

    # ---- what LangChain asks about it ------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "mmagent"

    @property
    def model_name(self) -> str:
        """The model, by the name that hosted models use for it."""
        return self.model

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that an answer depends on: the key of LangChain's answer cache."""
        names = ("model", "adapter", *_SAMPLING, "dtype", "context_length")
        found = {name: getattr(self, name) for name in names}
        found["stop_sequences"] = self.stop  # LangChain puts the call's own under "stop"
        found["sanitize_control_tokens"] = self.sanitize_control_tokens
        if self.engine is not None:
            found["engine"] = self.engine.name
        return found

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="mmagent",
            ls_model_type="chat",
            ls_model_name=self._name_of(kwargs),
        )
        temperature = kwargs.get("temperature", self.temperature)
        if temperature is not None:
            params["ls_temperature"] = temperature
        max_tokens = kwargs.get("max_tokens", self.max_tokens)
        if max_tokens is not None:
            params["ls_max_tokens"] = max_tokens
        if ends := stop or self.stop:
            params["ls_stop"] = list(ends)
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        if self.engine is not None:
            return _profile_from(self.engine, self.max_tokens)
        return profile_of(
            self.model, context_length=self.context_length, max_tokens=self.max_tokens
        )

    # ---- tokens ----------------------------------------------------------------------------

    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        **kwargs: Any,
    ) -> int:
        """Exactly the tokens of the prompt, those of pictures and of the template included."""
        del kwargs
        return self.load().count_tokens(self._conversation(messages, tools or ()))

    def prompt_text(self, messages: Sequence[BaseMessage]) -> str:
        """The prompt that these messages become, as the model is given it, one mark a picture."""
        return self.load().prompt_text(self._conversation(messages, ()))

    def get_token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""
        return self.load().token_ids(text)

    # ---- answering -------------------------------------------------------------------------

    def load(self, model: str | None = None) -> Engine:
        """Load the model now rather than at the first call; return its engine.

        Raises:
            ModelNotFoundError: No such model.
            UsageError: A model that cannot be driven.
            DownloadError: The bundled model could not be fetched.
        """
        if self.engine is not None and model in (None, self.model, self.engine.name):
            return self.engine
        spec = EngineSpec(
            model or self.model,
            self.device,
            self.dtype,
            self.context_length,
            self.cache_bytes,
            self.sanitize_control_tokens,
        )
        with self._lock:
            if spec not in self._engines:
                self._engines[spec] = engine_for(spec)
                if spec.model == self.model:  # now it is known, not only read from a file
                    self.profile = _profile_from(self._engines[spec], self.max_tokens)
            return self._engines[spec]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        return to_result(list(self._chunks(messages, stop, kwargs)), self._name_of(kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        # Not in one thread from end to end: a cancelled call would go on there.
        chunks = [chunk async for chunk in self._achunks(messages, stop, kwargs)]
        return to_result(chunks, self._name_of(kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        del run_manager  # LangChain reports the tokens of a stream itself
        name = self._name_of(kwargs)
        with contextlib.closing(self._chunks(messages, stop, kwargs)) as chunks:
            for chunk in chunks:
                yield to_chunk(chunk, name)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        del run_manager
        name = self._name_of(kwargs)
        async with contextlib.aclosing(self._achunks(messages, stop, kwargs)) as chunks:
            async for chunk in chunks:
                yield to_chunk(chunk, name)

    def _chunks(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> Generator[Chunk, None, None]:
        """The engine's answer; closing this stops the model at once."""
        kwargs = dict(kwargs)
        engine = self.load(kwargs.pop("model", None))
        adapter = kwargs.pop("adapter", self.adapter)
        tools = kwargs.pop("tools", ())
        sampling = self._sampling(stop, kwargs)
        conversation = self._conversation(messages, tools)
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        chunks = engine.generate(
            conversation, sampling, adapter=None if adapter is None else str(adapter)
        )
        try:
            for chunk in chunks:
                yield chunk
                if deadline is not None and time.monotonic() > deadline:
                    raise GenerationError(
                        f"The answer took longer than {self.timeout:g} seconds; "
                        "raise timeout, or lower max_tokens."
                    )
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    async def _achunks(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        """`_chunks`, each step of it in a thread."""
        chunks = self._chunks(messages, stop, kwargs)
        step: asyncio.Future[Chunk | None] | None = None
        try:
            while True:
                step = asyncio.ensure_future(run_in_executor(None, next, chunks, None))
                chunk = await asyncio.shield(step)
                if chunk is None:
                    return
                yield chunk
        finally:
            if step is None or step.done():
                chunks.close()
            else:
                # Cancelled in the middle of a token: stop as soon as that one is there.
                step.add_done_callback(lambda done: _close_after(done, chunks))

    # ---- inside ----------------------------------------------------------------------------

    def _name_of(self, kwargs: Mapping[str, Any]) -> str:
        return str(kwargs.get("model") or self.model)

    def _conversation(self, messages: Sequence[BaseMessage], tools: Sequence[Any]) -> Conversation:
        described = [convert_to_openai_tool(tool) for tool in tools]
        return to_conversation(messages, self.media_policy, tools=described, shelf=self._shelf)

    def _sampling(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Sampling:
        """The settings of one call: its own where given, else the model's."""
        known = {*_SAMPLING, "stream"}
        unknown = [name for name in kwargs if name not in known and not name.startswith("ls_")]
        if unknown:
            raise UsageError(
                f"ChatMMAgent knows no parameter {', '.join(sorted(unknown))}; "
                f"a call may set {', '.join(_SAMPLING)}, stop, adapter, model and tools."
            )
        values = {name: kwargs.get(name, getattr(self, name)) for name in _SAMPLING}
        ends = stop if stop is not None else self.stop
        return Sampling(**values, stop=tuple([ends] if isinstance(ends, str) else ends or ()))


def _profile_from(engine: Engine, max_tokens: int | None) -> ModelProfile:
    return describe(
        sees="image" in engine.modalities, window=engine.context_length, max_tokens=max_tokens
    )


def _close_after(step: asyncio.Future[Any], chunks: Generator[Chunk, None, None]) -> None:
    if not step.cancelled():
        step.exception()  # it was cancelled: nobody else will ask how it ended
    chunks.close()
