"""`ImageLedgerMiddleware`: "the second picture" means the same picture for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
)
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.types import Command

from mmagent.context.ledger import ImageLedger, ShownPicture
from mmagent.context.references import Reference, resolve
from mmagent.errors import ContextOverflowError, UsageError
from mmagent.middleware.insertion import append_text, insert_before_words
from mmagent.middleware.shown import PictureReader, block_from_memory, image_blocks
from mmagent.middleware.turns import is_user_turn, thread_id, words_of

if TYPE_CHECKING:
    from mmagent.media import MediaPolicy

__all__ = ["ImageLedgerMiddleware", "LedgerState"]

NEAR_TURNS = 1
"""A picture of so many turns ago stands right there, and is not shown again."""

_ASK = {
    "en": "Which picture do you mean by “{phrase}”: {choices}?",
    "zh": "您说的“{phrase}”是哪一张：{choices}？",
}
_OR = {"en": ", or ", "zh": "，还是"}
_MISSING = {
    "en": "There is no {phrase}; {count} so far. Which one do you mean?",
    "zh": "没有{phrase}，到现在共有{count}。您指的是哪一张？",
}
_COUNT = {"en": ("one picture", "{n} pictures"), "zh": ("一张图片", "{n}张图片")}
_INSTRUCTION = "[Note]\nAsk the user this before anything else: {question}\n[/Note]"


class LedgerState(AgentState[Any]):
    """The agent's state with the ledger, kept with the thread."""

    pictures: NotRequired[Annotated[list[dict[str, Any]], PrivateStateAttr]]


@dataclass(frozen=True)
class _Plan:
    """What to do about the pictures that the user speaks of."""

    ledger: ImageLedger
    target: HumanMessage | None = None
    shown: tuple[ShownPicture, ...] = ()
    question: str = ""


class ImageLedgerMiddleware(AgentMiddleware[LedgerState, Any, Any]):
    """Keeps the ledger, shows again what is referred to, and asks where it is not clear.

    Which picture the user means is found in the whole conversation, before anything is left out
    of the request. A picture that was shown longer ago is put before the user's words again: from
    the stored messages or, where those are gone, from the long-term memory. Put it outside of
    what truncates, so that what it adds is counted.
    """

    state_schema = LedgerState

    def __init__(
        self,
        memory: Any = None,
        *,
        ambiguous: Literal["ask", "instruct", "ignore"] = "ask",
        max_pictures: int = 2,
        media_policy: MediaPolicy | None = None,
    ) -> None:
        """Set up the ledger.

        Args:
            memory: The `LongTermMemory` that `MemoryMiddleware` keeps the turns in; None reloads
                from the stored messages alone.
            ambiguous: Where words fit several pictures alike or none: "ask" the user without
                calling the model, "instruct" the model to ask, or "ignore" it.
            max_pictures: Most pictures shown again with one message.
            media_policy: Where pictures in messages may come from.

        Raises:
            UsageError: `max_pictures` is negative, or `ambiguous` is none of these.
        """
        super().__init__()
        if max_pictures < 0 or ambiguous not in ("ask", "instruct", "ignore"):
            raise UsageError(
                'max_pictures must be 0 or more, and ambiguous "ask", "instruct" or "ignore".'
            )
        self.memory = memory
        self.ambiguous = ambiguous
        self.max_pictures = max_pictures
        self._reader = PictureReader(media_policy)

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model with the pictures that the user speaks of, or ask which are meant."""
        plan = self._plan(request)
        if plan.question and self.ambiguous == "ask":
            return _with_ledger(_asking(plan.question), plan, request)
        blocks = [self._block(picture, request) for picture in _visible(plan, request)]
        changed = self._changed(request, plan, blocks)
        try:
            return _with_ledger(handler(changed), plan, request)
        except ContextOverflowError:
            if not any(blocks):
                raise
            return _with_ledger(handler(self._changed(request, plan, [])), plan, request)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model with the pictures that the user speaks of, or ask which are meant."""
        plan = self._plan(request)
        if plan.question and self.ambiguous == "ask":
            return _with_ledger(_asking(plan.question), plan, request)
        blocks = [await self._ablock(picture, request) for picture in _visible(plan, request)]
        changed = self._changed(request, plan, blocks)
        try:
            return _with_ledger(await handler(changed), plan, request)
        except ContextOverflowError:
            if not any(blocks):
                raise
            return _with_ledger(await handler(self._changed(request, plan, [])), plan, request)

    # The logic, without I/O

    def _plan(self, request: ModelRequest[Any]) -> _Plan:
        history = request.state["messages"]
        stored = ImageLedger.from_data(request.state.get("pictures"))
        ledger = self._reader.ledger(history, stored, thread_id())
        target = next((m for m in reversed(request.messages) if is_user_turn(m)), None)
        if not isinstance(target, HumanMessage) or not ledger.pictures:
            return _Plan(ledger)
        said = next((m for m in history if target.id and m.id == target.id), target)
        words = words_of(said)
        now = [p.number for p in ledger.pictures if said.id and p.message == said.id]
        near = _last_turns(history, said, NEAR_TURNS)
        before = " ".join(words_of(m) for m in near)
        if any(image_blocks(m) for m in near):
            before += " picture"
        found = resolve(words, ledger, shown_now=now, before=before)
        unclear = next((r for r in found if r.kind != "resolved"), None)
        if unclear is not None and self.ambiguous != "ignore":
            # In the tool loop the user has been asked already, or the model knew.
            if request.messages[-1] is not target:
                return _Plan(ledger)
            return _Plan(ledger, target, question=_question(unclear, ledger, words))
        wanted = {n for r in found if r.kind == "resolved" for n in r.numbers}
        there = {m.id for m in (*near, said)}
        shown = [
            picture
            for picture in ledger.pictures
            if picture.number in wanted and picture.message not in there
        ]
        return _Plan(
            ledger, target, tuple(shown[-self.max_pictures :] if self.max_pictures else [])
        )

    def _changed(
        self, request: ModelRequest[Any], plan: _Plan, blocks: Sequence[dict[str, Any] | None]
    ) -> ModelRequest[Any]:
        if plan.target is None:
            return request
        target = plan.target
        if plan.question:
            target = append_text(target, _INSTRUCTION.format(question=plan.question))
        if plan.shown:
            lines = [f"- {picture.line()}" for picture in plan.shown]
            text = "\n".join(["[Pictures shown before]", *lines, "[/Pictures shown before]"])
            target = insert_before_words(target, text, [b for b in blocks if b is not None])
        if target is plan.target:
            return request
        messages: list[AnyMessage] = [target if m is plan.target else m for m in request.messages]
        return request.override(messages=messages)

    def _block(self, picture: ShownPicture, request: ModelRequest[Any]) -> dict[str, Any] | None:
        found = _stored_block(picture, request.state["messages"])
        if found is None and hasattr(self.memory, "get"):
            hit = self.memory.get(picture.memory)
            found = block_from_memory(hit, picture) if hit is not None else None
        return found

    async def _ablock(
        self, picture: ShownPicture, request: ModelRequest[Any]
    ) -> dict[str, Any] | None:
        found = _stored_block(picture, request.state["messages"])
        if found is None and hasattr(self.memory, "aget"):
            hit = await self.memory.aget(picture.memory)
            found = block_from_memory(hit, picture) if hit is not None else None
        return found


def _visible(plan: _Plan, request: ModelRequest[Any]) -> tuple[ShownPicture, ...]:
    """Return what to show in pixels: nothing to a model without eyes, which reads the lines."""
    return plan.shown if (request.model.profile or {}).get("image_inputs") else ()


def _last_turns(history: Sequence[AnyMessage], said: AnyMessage, count: int) -> list[AnyMessage]:
    """Return the messages of so many turns before what was said."""
    place = next((i for i, m in enumerate(history) if m is said), len(history))
    start = place
    while start > 0 and count > 0:
        start -= 1
        count -= is_user_turn(history[start])
    return list(history[start:place])


def _stored_block(picture: ShownPicture, messages: Sequence[AnyMessage]) -> dict[str, Any] | None:
    for message in messages:
        if message.id == picture.message:
            blocks = image_blocks(message)
            return blocks[picture.place] if picture.place < len(blocks) else None
    return None


def _question(reference: Reference, ledger: ImageLedger, words: str) -> str:
    language = "zh" if any("一" <= letter <= "鿿" for letter in words) else "en"
    if reference.kind == "ambiguous":
        choices = _OR[language].join(ledger.get(n).line() for n in reference.numbers)
        return _ASK[language].format(phrase=reference.phrase, choices=choices)
    one, many = _COUNT[language]
    count = one if len(ledger) == 1 else many.format(n=len(ledger))
    if language == "en":
        count = f"there {'is' if len(ledger) == 1 else 'are'} {count}"
    return _MISSING[language].format(phrase=reference.phrase.removeprefix("the "), count=count)


def _asking(question: str) -> ModelResponse[Any]:
    message = AIMessage(question, response_metadata={"asked_back": "picture"})
    return ModelResponse([message])


def _with_ledger(
    response: ModelResponse[Any], plan: _Plan, request: ModelRequest[Any]
) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    data = plan.ledger.as_data()
    if data == (request.state.get("pictures") or []):
        return response
    return ExtendedModelResponse(response, Command(update={"pictures": data}))
