"""A conversation with a persona, one turn at a time; knows nothing of terminals.

A turn can be stopped at any token. What was said until then stays in the conversation and in
memory, like any other answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage

from mmagent.agents import create_companion
from mmagent.chat_model import ChatMMAgent
from mmagent.cli.memory import open_store
from mmagent.cli.pictures import image_block
from mmagent.errors import UsageError
from mmagent.personas.persona import Persona
from mmagent.untrusted import display_name

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from mmagent.media import LoadedImage
    from mmagent_memory import LongTermMemory

__all__ = ["ChatSession", "Settings", "Turn"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a conversation needs to begin.

    Attributes:
        model: What `ChatMMAgent` takes.
        adapter: A folder with a fine-tuned adapter.
        persona: What `Persona.load` takes.
        user: Whose memory it is.
        memory: The memory's folder.
        system: Instructions of the developer, above the persona's.
        sampling: Settings of `ChatMMAgent` by name.
        k: Most memories recalled for a turn.
    """

    model: str = "tiny"
    adapter: str | None = None
    persona: str = "mia"
    user: str = "user"
    memory: Path
    system: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    k: int = 6


@dataclass
class Turn:
    """One question and its answer.

    Attributes:
        message: What the user said.
        images: Hashes of the pictures they showed.
        answer: What was answered, without reasoning.
        reasoning: What the model thought, if it says so apart from its answer.
        memories: What was recalled, best first.
        prompt: The text of the prompt that was sent.
        tokens: `in`, `out`, and `cached` (those of `in` known from an earlier turn).
        seconds: How long it took.
        stopped: Whether it was cut short.
    """

    message: str
    images: list[str]
    answer: str = ""
    reasoning: str = ""
    memories: list[Any] = field(default_factory=list)
    prompt: str = ""
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The turn for JSON."""
        return {
            "message": self.message,
            "images": self.images,
            "answer": self.answer,
            "reasoning": self.reasoning,
            "memories": [
                {
                    "id": hit.id,
                    "text": hit.text,
                    "speaker": hit.speaker,
                    "at": hit.at.isoformat() if hit.at else None,
                    "score": round(float(hit.score), 4),
                    "images": [image.id for image in hit.images],
                }
                for hit in self.memories
            ],
            "prompt": self.prompt,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
        }


class _Stopped(BaseException):
    """Unwinds the agent from inside a token; no `except Exception` on the way holds it up."""


class _Watcher(BaseCallbackHandler):
    """Sees what is sent to the model, and stops it when asked to."""

    raise_error = True

    def __init__(self) -> None:
        self.stop = False
        self.sent: list[BaseMessage] = []

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **_: Any
    ) -> None:
        self.sent = list(messages[0])
        self._check()

    def on_llm_new_token(self, token: str | list[str | dict[str, Any]], **_: Any) -> None:
        self._check()

    def _check(self) -> None:
        if self.stop:
            raise _Stopped


class ChatSession:
    """Holds the model, the memory and the conversation of one person."""

    def __init__(self, settings: Settings) -> None:
        """Open the memory and check the model; weights are loaded at the first turn, or `load`.

        Raises:
            PersonaError: There is no such persona, or it cannot be used.
            ModelNotFoundError: There is no such model.
            MemoryStoreError: The memory folder cannot be used.
            UsageError: A setting cannot work.
        """
        from langgraph.checkpoint.memory import InMemorySaver

        from mmagent.models import resolve_model

        if not settings.user.strip():
            raise UsageError("The user is empty: say who you are with --user NAME.")
        self.settings = settings
        self.persona = Persona.load(settings.persona)
        self.user_name = display_name(settings.user)
        # Before anything is opened or made: a wrong name must not leave a folder behind.
        resolve_model(settings.model)
        if settings.adapter is not None and not Path(settings.adapter).expanduser().is_dir():
            raise UsageError(f"There is no adapter folder {settings.adapter}.")
        self.model = ChatMMAgent(
            model=settings.model, adapter=settings.adapter, **settings.sampling
        )
        self.store = open_store(settings.memory, create=True)
        self._saver = InMemorySaver()
        self.begin(self.persona)

    def load(self) -> None:
        """Load the model now rather than at the first turn."""
        self.model.load()

    def begin(self, persona: Persona) -> None:
        """Begin a conversation of its own."""
        self._thread = uuid.uuid4().hex
        self.change_persona(persona)

    def change_persona(self, persona: Persona) -> None:
        """Go on with another persona: the conversation stays, the memory is the other's own."""
        from mmagent_memory import LongTermMemory

        self.persona = persona
        self.memory: LongTermMemory = LongTermMemory(
            self.store, user=self.settings.user, persona=persona.key
        )
        self._agent = create_companion(
            self.model,
            self.store,
            persona,
            user=self.settings.user,
            checkpointer=self._saver,
            system_prompt=self.settings.system,
            k=self.settings.k,
        )

    @property
    def history(self) -> list[BaseMessage]:
        """What was said in this conversation."""
        config: RunnableConfig = {"configurable": {"thread_id": self._thread}}
        return list(self._agent.get_state(config).values.get("messages", []))

    def ask(self, text: str, pictures: Sequence[LoadedImage] = ()) -> Asking:
        """Say something; iterate over the result for the pieces of the answer.

        Raises:
            UsageError: There is neither a word nor a picture.
        """
        if not text.strip() and not pictures:
            raise UsageError("The message is empty: say something, or show a picture.")
        content: list[str | dict[str, Any]] = [image_block(picture) for picture in pictures]
        if text.strip():
            content.append({"type": "text", "text": text})
        turn = Turn(text, [picture.sha256 for picture in pictures])
        config: RunnableConfig = {"configurable": {"thread_id": self._thread}}
        return Asking(self._agent, self.model, config, HumanMessage(content), turn)

    def close(self) -> None:
        """Let go of the memory's files."""
        close = getattr(self.store, "close", None)
        if close is not None:
            close()


class Asking:
    """One turn on its way: iterate for the pieces of the answer; `turn` is then complete."""

    def __init__(
        self,
        agent: Any,
        model: ChatMMAgent,
        config: RunnableConfig,
        message: HumanMessage,
        turn: Turn,
    ) -> None:
        self.turn = turn
        self._agent = agent
        self._model = model
        self._config = config
        self._message = message
        self._watcher = _Watcher()

    def stop(self) -> None:
        """End the answer at the next token. May be called from a signal handler."""
        self._watcher.stop = True

    def __iter__(self) -> Iterator[str]:
        began = time.monotonic()
        pieces: list[str] = []
        state: dict[str, Any] = {}
        config: RunnableConfig = {**self._config, "callbacks": [self._watcher]}
        try:
            events = self._agent.stream(
                {"messages": [self._message]}, config, stream_mode=["messages", "values"]
            )
            for mode, event in events:
                if mode == "values":
                    state = event
                elif isinstance(event[0], AIMessageChunk) and event[0].text:
                    pieces.append(event[0].text)
                    yield pieces[-1]
        except _Stopped:
            self.turn.stopped = True
            self._keep("".join(pieces))
        self.turn.seconds = time.monotonic() - began
        self._complete("".join(pieces), state)
        if not pieces and not self.turn.stopped and self.turn.answer:
            # It was not made by a stream: a question back, or an answer out of a template's tags.
            yield self.turn.answer

    def _keep(self, said: str) -> None:
        """Finish the turn with what was said, as if the model had ended there."""
        partial = AIMessage(said, id=f"stopped-{uuid.uuid4().hex}")
        self._agent.update_state(self._config, {"messages": [partial]}, as_node="model")
        self._agent.invoke(None, self._config)  # what comes after the model: remembering
        if not said:
            from langchain_core.messages import RemoveMessage

            self._agent.update_state(
                self._config, {"messages": [RemoveMessage(id=str(partial.id))]}, as_node="model"
            )

    def _complete(self, streamed: str, state: dict[str, Any]) -> None:
        turn = self.turn
        messages = state.get("messages") or []
        answer = messages[-1] if messages and isinstance(messages[-1], AIMessage) else None
        turn.answer = streamed
        if answer is not None and not turn.stopped:
            turn.answer = str(answer.text)
            turn.reasoning = "\n".join(
                str(block.get("reasoning", ""))
                for block in answer.content_blocks
                if block["type"] == "reasoning"
            )
        usage = answer.usage_metadata if answer is not None else None
        if usage is not None and not turn.stopped:
            turn.tokens = {
                "in": usage["input_tokens"],
                "out": usage["output_tokens"],
                "cached": usage.get("input_token_details", {}).get("cache_read", 0),
            }
        recall = state.get("recall")
        turn.memories = list(recall.hits) if recall is not None else []
        turn.prompt = self._model.prompt_text(self._watcher.sent) if self._watcher.sent else ""
