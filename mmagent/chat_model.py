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
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, run_in_executor
from langchain_core.runnables.config import get_config_list
from langchain_core.tools import BaseTool
from pydantic import BaseModel, PrivateAttr

from mmagent.answers import to_chunk, to_result
from mmagent.chat_settings import ChatSettings, profile_from
from mmagent.engine.base import Chunk, Engine
from mmagent.engine.profiles import is_deaf, refuse_blind
from mmagent.engine.registry import EngineSpec, engine_for
from mmagent.errors import GenerationError
from mmagent.messages import Conversation, ImageShelf, to_conversation
from mmagent.structured import Method, checked_choice, form_of, structured, tools_of

__all__ = ["ChatMMAgent"]


class ChatMMAgent(ChatSettings):
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

    _engines: dict[EngineSpec, Engine] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _listener: Any = PrivateAttr(default=None)
    _shelf: ImageShelf = PrivateAttr(default_factory=ImageShelf)

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

    # ---- tools and schemas -----------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that it may call; calls always fit the tools' schemas.

        Args:
            tools: Functions, pydantic classes, LangChain tools or OpenAI's dictionaries.
            tool_choice: "auto", "none", "any" (some tool must be called), or the name of one.
            strict: Passed on to how the schemas are described.
            parallel_tool_calls: False allows one call an answer.
            kwargs: Further parameters of the calls.

        Raises:
            UsageError: Something that is no tool, or a choice that none of them is.
        """
        described = tools_of(tools, strict=strict)
        if (choice := checked_choice(tool_choice, described)) is not None:
            kwargs["tool_choice"] = choice
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(tools=described, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """The model with answers that are values of a schema; see `structured.structured`."""
        return structured(
            self, schema, method=method, include_raw=include_raw, strict=strict, settings=kwargs
        )

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
            self.max_batch,
            self.max_queue,
            self.quantization,
            self.compile,
        )
        with self._lock:
            if spec not in self._engines:
                self._engines[spec] = engine_for(spec)
                if spec.model == self.model:  # now it is known, not only read from a file
                    self.profile = profile_from(
                        self._engines[spec],
                        self.max_tokens,
                        hears=self.transcriber is not None,
                    )
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
        engine, request = self._request(messages, stop, kwargs)
        return self._timed(engine.generate(**request))

    def _timed(self, chunks: Iterator[Chunk]) -> Generator[Chunk, None, None]:
        """The chunks, as long as there is time; closing this closes them."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
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
        """`_chunks` without a thread that waits, where the engine can; else step by step in one."""
        # Loading a model and reading pictures takes time, too.
        engine, request = await run_in_executor(None, self._request, messages, stop, kwargs)
        agenerate = getattr(engine, "agenerate", None)
        if agenerate is not None:
            async with contextlib.aclosing(agenerate(**request)) as answer:
                async for chunk in answer:
                    yield chunk
            return
        chunks = self._timed(engine.generate(**request))
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

    # ---- many at once ----------------------------------------------------------------------

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answers to all, as many of them at once as the model takes."""
        return super().batch(
            inputs, self._at_once(config, inputs), return_exceptions=return_exceptions, **kwargs
        )

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answers to all, as many of them at once as the model takes."""
        return await super().abatch(
            inputs, self._at_once(config, inputs), return_exceptions=return_exceptions, **kwargs
        )

    def _at_once(
        self, config: RunnableConfig | list[RunnableConfig] | None, inputs: Sequence[Any]
    ) -> list[RunnableConfig]:
        # LangChain's default for threads is by the number of cores; a step of the model serves
        # many rows. And a large batch shall not fill the queue that others stand in.
        configs = get_config_list(config, len(inputs))
        for one in configs[:1]:
            if one.get("max_concurrency") is None:
                one["max_concurrency"] = self.max_batch
        return configs

    # ---- inside ----------------------------------------------------------------------------

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[Engine, dict[str, Any]]:
        """The engine of a call, and what it is asked."""
        kwargs = dict(kwargs)
        name = kwargs.pop("model", None)
        adapter = kwargs.pop("adapter", self.adapter)
        tools = tools_of(kwargs.pop("tools", None) or ())
        conversation = self._conversation(messages, tools, name)
        if conversation.images and self.engine is None and not self._loaded(name or self.model):
            refuse_blind(name or self.model)  # before gigabytes are fetched in vain
        engine = self.load(name)
        form = form_of(
            tools,
            kwargs.pop("tool_choice", None),
            kwargs.pop("parallel_tool_calls", None),
            kwargs.pop("response_format", None),
        )
        return engine, {
            "conversation": conversation,
            "sampling": self._sampling(stop, kwargs),
            "adapter": None if adapter is None else str(adapter),
            "form": form,
        }

    def _loaded(self, name: str) -> bool:
        return any(spec.model == name for spec in self._engines)

    def _hears(self, name: str | None) -> bool:
        """Whether a model takes sound itself; one that does not is not loaded to find out."""
        known = self.engine is not None or self._loaded(name or self.model)
        if not known and is_deaf(name or self.model):
            return False
        return "audio" in self.load(name).modalities

    def _conversation(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any], name: str | None = None
    ) -> Conversation:
        return to_conversation(
            messages,
            self.media_policy,
            tools=tools_of(tools),
            shelf=self._shelf,
            transcribe=self._transcribe(),
            hears=lambda: self._hears(name),
        )

    def _transcribe(self) -> Any:
        """What turns speech into text; a checkpoint that is named is loaded once, when needed."""
        if self.transcriber is None or callable(self.transcriber):
            return self.transcriber
        with self._lock:
            if self._listener is None:
                from mmagent.engine.speech import Transcriber

                self._listener = Transcriber(self.transcriber)
            return self._listener


def _close_after(step: asyncio.Future[Any], chunks: Generator[Chunk, None, None]) -> None:
    if not step.cancelled():
        step.exception()  # it was cancelled: nobody else will ask how it ended
    chunks.close()
