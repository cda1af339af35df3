"""`MemoryMiddleware`: the agent remembers what was said and shown, with any chat model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Protocol, cast

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    OmitFromInput,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.types import Command

from mmagent.context.counting import counter_for
from mmagent.context.recall_format import format_memories
from mmagent.errors import UsageError
from mmagent.messages import ImageShelf
from mmagent.middleware.addressed import about_the_persona, asks_the_persona_alone
from mmagent.middleware.insertion import insert_before_words, picture_blocks
from mmagent.middleware.turns import (
    answered_turn,
    is_user_turn,
    last_turns,
    pictures_of,
    thread_id,
    turn_id,
    words_of,
)
from mmagent.middleware.worth import worth_showing
from mmagent.untrusted import display_name

if TYPE_CHECKING:
    from mmagent.media import MediaPolicy
    from mmagent.personas.persona import Persona
    from mmagent_memory.background import BackgroundDeriver

__all__ = ["Memory", "MemoryMiddleware", "MemoryState", "Recall"]


class Memory(Protocol):
    """The part of `LongTermMemory` that is used here."""

    def recall(self, question: str, images: Sequence[Any] = ..., k: int = ...) -> list[Any]:
        """Return what is remembered of a question, best first."""
        ...

    async def arecall(self, question: str, images: Sequence[Any] = ..., k: int = ...) -> list[Any]:
        """Return what is remembered of a question, best first."""
        ...

    def remember(self, text: str, images: Sequence[Any] = ..., **about: Any) -> str:
        """Keep a turn; the same `id` again changes nothing."""
        ...

    async def aremember(self, text: str, images: Sequence[Any] = ..., **about: Any) -> str:
        """Keep a turn; the same `id` again changes nothing."""
        ...


@dataclass(frozen=True)
class Recall:
    """What memory did for one turn; the agent's state has it as `recall` until the run ends.

    Attributes:
        message_id: The user's message that was asked with.
        question: Its words.
        asked_at: When.
        hits: The memories that were shown to the model, best first, with their scores.
        block: The text that was put before the user's words.
        sent: The exact messages that the model was given, the system message first.
    """

    message_id: str
    question: str
    asked_at: datetime
    hits: tuple[Any, ...] = ()
    block: str = ""
    sent: tuple[BaseMessage, ...] = ()


class MemoryState(AgentState[Any]):
    """The agent's state with the last recall, which is never written to a checkpoint."""

    recall: NotRequired[Annotated[Recall, UntrackedValue(Recall, guard=False), OmitFromInput]]


@dataclass(frozen=True)
class _Question:
    target: HumanMessage
    words: str
    pictures: list[Any]
    shown: frozenset[str]
    near: frozenset[str]
    near_words: frozenset[str]


class MemoryMiddleware(AgentMiddleware[MemoryState, Any, Any]):
    """Recalls before the model is called, and remembers after the agent has answered.

    Recalled memories are put before the words of the user's last message as delimited data, in
    the request alone: neither the system message nor the stored history changes. What stands
    close above the question, and pictures that are still shown, are not recalled again; words
    farther up the same conversation are, since models overlook what was said long before. The
    user's messages and the answer are remembered once each, without the model's reasoning.
    """

    state_schema = MemoryState

    def __init__(
        self,
        store: BaseStore | Memory,
        *,
        user: str = "user",
        persona: Persona | str = "assistant",
        user_name: str | None = None,
        k: int = 6,
        max_pictures: int = 1,
        max_tokens: int | None = None,
        near_turns: int | None = 4,
        media_policy: MediaPolicy | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        derive: BaseChatModel | None = None,
        derive_what: Sequence[str] = ("facts", "summaries", "captions"),
    ) -> None:
        """Set up the memory of one user with one persona.

        Args:
            store: A store, in which the memory of this user and persona is kept; or the
                `LongTermMemory` itself.
            user: Whose memory it is. Nothing of another user is ever recalled.
            persona: Whom the user talks with; each persona remembers for itself.
            user_name: How the user is called in memories; by default from `user`.
            k: Most memories recalled for one turn; 0 recalls none.
            max_pictures: Most recalled pictures shown to a model that takes pictures.
            max_tokens: Most tokens of memories and their pictures; by default unbounded but by
                `k`, each memory being cut to a few lines.
            near_turns: So many of the user's last turns are not recalled again while the prompt
                shows them; None for all that it shows.
            media_policy: Where pictures in messages may come from.
            clock: What time it is, with a time zone.
            derive: A model that reads what was remembered and keeps facts, summaries and captions
                beside it, in a thread of its own: no answer waits for it. See `flush`, `close`.
            derive_what: What it derives.

        Raises:
            UsageError: `k`, `max_pictures` or `near_turns` is negative, `store` is no store and no
                memory, or nothing can be derived in that memory.
        """
        super().__init__()
        if min(k, max_pictures, near_turns or 0) < 0:
            raise UsageError("k, max_pictures and near_turns must be 0 or more.")
        key = persona if isinstance(persona, str) else persona.key
        name = display_name(persona) if isinstance(persona, str) else persona.spoken_name
        self.memory: Memory = _memory_of(store, user, key)
        self.user_name = user_name or display_name(user)
        self.persona_name = name
        self.k = k
        self.max_pictures = max_pictures
        self.max_tokens = max_tokens
        self.near_turns = near_turns
        self.media_policy = media_policy
        self.clock = clock
        self._shelf = ImageShelf(max_bytes=32 * 1024 * 1024)
        self._deriver = None if derive is None else _deriver_of(self.memory, derive, derive_what)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what was remembered so far has been derived from; False if it took longer."""
        return self._deriver is None or self._deriver.flush(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Finish deriving and end its thread; call it before the store is closed."""
        return self._deriver is None or self._deriver.close(timeout)

    # Before the model: recall

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ExtendedModelResponse[Any] | ModelResponse[Any]:
        """Call the model with what is remembered of the user's last message."""
        question = self._question(request)
        if question is None:
            return handler(request)
        hits = self._known_hits(request, question)
        if hits is None:
            hits = self.memory.recall(question.words, images=question.pictures, k=self._k(question))
        request, recall = self._insert(request, question, hits)
        return ExtendedModelResponse(handler(request), Command(update={"recall": recall}))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any] | ModelResponse[Any]:
        """Call the model with what is remembered of the user's last message."""
        question = self._question(request)
        if question is None:
            return await handler(request)
        hits = self._known_hits(request, question)
        if hits is None:
            hits = await self.memory.arecall(
                question.words, images=question.pictures, k=self._k(question)
            )
        request, recall = self._insert(request, question, hits)
        return ExtendedModelResponse(await handler(request), Command(update={"recall": recall}))

    def _question(self, request: ModelRequest[Any]) -> _Question | None:
        """Return what to ask memory, or None if no person has said anything."""
        target = next((m for m in reversed(request.messages) if is_user_turn(m)), None)
        if not isinstance(target, HumanMessage):
            return None
        # Other middleware may have added to the message; memory is asked with what was said.
        history = request.state["messages"]
        said = next((m for m in history if target.id and m.id == target.id), target)
        pictures = pictures_of(said, self.media_policy, self._shelf)
        thread = thread_id()
        originals = {m.id: m for m in history if m.id}
        visible = [originals.get(m.id or "", m) for m in request.messages]
        near = last_turns(visible, self.near_turns)
        return _Question(
            target=target,
            words=words_of(said),
            pictures=[picture.data for picture in pictures],
            shown=frozenset(turn_id(thread, m) for m in visible),
            near=frozenset(turn_id(thread, m) for m in near),
            near_words=frozenset(words for m in near if (words := words_of(m))),
        )

    def _k(self, question: _Question) -> int:
        # Some hits will be of this conversation or not worth showing; more keeps k others.
        return 2 * self.k + min(len(question.shown), 50)

    def _known_hits(self, request: ModelRequest[Any], question: _Question) -> list[Any] | None:
        """Return the hits if nothing need be asked: the tool loop calls the model repeatedly."""
        if self.k == 0 or not (question.words or question.pictures):
            return []
        before = cast("Recall | None", request.state.get("recall"))
        if before is not None and before.message_id == question.target.id:
            return list(before.hits)
        return None

    def _insert(
        self, request: ModelRequest[Any], question: _Question, hits: list[Any]
    ) -> tuple[ModelRequest[Any], Recall]:
        unseen = [hit for hit in hits if not _is_at_hand(hit, question)]
        if not question.pictures and asks_the_persona_alone(question.words):
            unseen = about_the_persona(unseen, self.persona_name)
        fresh = worth_showing(unseen, self.persona_name, self.k)
        now = self.clock()
        block, pictures = self._block(request.model, fresh, now, question.target)
        while self.max_tokens is not None and fresh:
            # The worst goes first, until the rest fits.
            added = insert_before_words(HumanMessage(""), block, pictures)
            if counter_for(request.model)([added]) <= self.max_tokens:
                break
            fresh.pop()
            block, pictures = self._block(request.model, fresh, now, question.target)
        messages: list[AnyMessage] = list(request.messages)
        if block:
            # By identity: two messages may be equal.
            place = next(i for i, m in enumerate(messages) if m is question.target)
            messages[place] = insert_before_words(question.target, block, pictures)
            request = request.override(messages=messages)
        system = [request.system_message] if request.system_message else []
        return request, Recall(
            message_id=question.target.id or "",
            question=question.words,
            asked_at=now,
            hits=tuple(fresh),
            block=block,
            sent=(*system, *messages),
        )

    def _block(
        self, model: BaseChatModel, hits: Sequence[Any], now: datetime, beside: HumanMessage
    ) -> tuple[str, list[dict[str, Any]]]:
        """Return the text of the memories and the pictures to show with them."""
        below: dict[str, list[dict[str, Any]]] = {}
        if (model.profile or {}).get("image_inputs"):
            below = picture_blocks(hits, self.max_pictures, beside)
        pictures = [picture for blocks in below.values() for picture in blocks]
        return format_memories(hits, now, below=below), pictures

    # After the agent: remember

    def after_agent(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        """Remember the user's messages and the answer."""
        for text, images, about in self._records(state):
            self.memory.remember(text, images=images, **about)
        self._has_new()

    async def aafter_agent(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        """Remember the user's messages and the answer."""
        for text, images, about in self._records(state):
            await self.memory.aremember(text, images=images, **about)
        self._has_new()

    def _has_new(self) -> None:
        if self._deriver is not None:
            self._deriver.notify()

    def _records(self, state: MemoryState) -> list[tuple[str, list[Any], dict[str, Any]]]:
        asked, answer = answered_turn(state["messages"])
        now = self.clock()
        recall = state.get("recall")
        asked_at = recall.asked_at if recall is not None else now
        thread = thread_id()
        records = []
        for message in [*asked, *([answer] if answer else [])]:
            is_user = isinstance(message, HumanMessage)
            text = words_of(message)
            pictures = pictures_of(message, self.media_policy, self._shelf)
            images = [picture.data for picture in pictures]
            about = {
                "speaker": self.user_name if is_user else self.persona_name,
                "at": asked_at if is_user else now,
                "thread": thread,
                "id": turn_id(thread, message),
            }
            if text or images:
                records.append((text, images, about))
        return records


def _memory_of(store: BaseStore | Memory, user: str, persona: str) -> Memory:
    if isinstance(store, BaseStore):
        from mmagent_memory import LongTermMemory

        return cast("Memory", LongTermMemory(store, user=user, persona=persona))
    if not (hasattr(store, "recall") and hasattr(store, "remember")):
        raise UsageError(
            f"A memory must be a LangGraph store or a LongTermMemory, not {type(store).__name__}."
        )
    return store


def _deriver_of(memory: Any, model: BaseChatModel, what: Sequence[str]) -> BackgroundDeriver:
    from mmagent_memory.background import BackgroundDeriver
    from mmagent_memory.derived import DerivedMemory

    if not isinstance(memory, DerivedMemory):
        raise UsageError(
            f"Nothing can be derived in a {type(memory).__name__}; pass a store or a "
            "LongTermMemory, or leave `derive` out."
        )
    return BackgroundDeriver(memory, model, what)


def _is_at_hand(hit: Any, question: _Question) -> bool:
    sources = getattr(hit, "sources", ())
    if sources:
        # What was derived from turns that are still to be read says nothing new, and what holds
        # no more is for those who ask for its history.
        return question.near.issuperset(sources) or getattr(hit, "valid_to", None) is not None
    if hit.images:
        return hit.id in question.shown
    return hit.id in question.near or hit.text in question.near_words
