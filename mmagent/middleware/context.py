"""`ContextMiddleware`: a conversation of any length fits the model's window."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    OmitFromInput,
    PrivateStateAttr,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.types import Command

from mmagent.context.counting import TokenCounter, counter_for
from mmagent.context.ledger import ImageLedger
from mmagent.context.packing import Block, Packing, plan_turns, split_turns
from mmagent.errors import ContextOverflowError, UsageError
from mmagent.middleware.insertion import insert_before_words
from mmagent.middleware.shown import PictureReader
from mmagent.middleware.summarising import Summariser, Summary
from mmagent.middleware.system import examples_of, unmarked, without_examples
from mmagent.middleware.turns import thread_id

__all__ = ["ContextMiddleware", "ContextState", "prompt_budget"]

_REMEMBERED_SIZES = 10_000


class ContextState(AgentState[Any]):
    """The agent's state with the last packing, which is never written to a checkpoint."""

    context: NotRequired[Annotated[Packing, UntrackedValue(Packing, guard=False), OmitFromInput]]
    summary: NotRequired[Annotated[dict[str, Any], PrivateStateAttr]]


def prompt_budget(model: BaseChatModel) -> int | None:
    """Return the most tokens of a prompt that leaves room for an answer, if the model says."""
    profile = model.profile or {}
    window = profile.get("max_input_tokens")
    if not window:
        return None
    # A model that may answer without end gets a quarter of its window to do so.
    answer = min(profile.get("max_output_tokens") or window, window // 4)
    return window - answer


@dataclass
class _Compiled:
    """A request on its way through the compiler."""

    request: ModelRequest[Any]
    count: TokenCounter
    budget: int
    system: SystemMessage | None
    fixed: int
    turns: list[list[AnyMessage]]
    sizes: list[int]
    start: int = 0
    examples: tuple[int, bool] = (0, True)
    summary: Summary | None = None
    block: str = ""

    @property
    def messages(self) -> list[AnyMessage]:
        """What is kept, with the summary before the words of the first message."""
        kept = [message for turn in self.turns[self.start :] for message in turn]
        place = next((i for i, m in enumerate(kept) if isinstance(m, HumanMessage)), None)
        if self.block and place is not None:
            first = kept[place]
            assert isinstance(first, HumanMessage)
            kept[place] = insert_before_words(first, self.block)
        return kept

    def tokens(self, messages: Sequence[BaseMessage] | None = None) -> int:
        """Exactly what the prompt has."""
        system = [self.system] if self.system else []
        kept = self.messages if messages is None else messages
        return self.count([*system, *kept], self.request.tools)


class ContextMiddleware(AgentMiddleware[ContextState, Any, Any]):
    """Leaves the persona's examples and the oldest turns out of a request that would not fit.

    What is pinned always stays: the system message, the tools, the current turn. Of the rest,
    recent turns go before a summary of older ones, and that before examples; lore and memories
    have a share of their own. The stored conversation stays whole. The same conversation is
    packed alike in every process, and one more turn leaves the beginning of the prompt as it was,
    unless a step of eviction is due.

    Put it inside of what writes the system message and outside of memory, so that memory sees
    which turns are gone and may recall them.
    """

    state_schema = ContextState

    def __init__(
        self,
        max_tokens: int | None = None,
        *,
        reserve: int = 0,
        notes: int = 0,
        summary: BaseChatModel | Literal["extractive"] | None = None,
        summary_tokens: int | None = None,
        names: tuple[str, str] = ("User", "Assistant"),
        media_policy: Any = None,
        count_tokens: TokenCounter | None = None,
    ) -> None:
        """Set the budget.

        Args:
            max_tokens: Most tokens of a prompt; by default what the model's profile leaves
                beside an answer, or no bound if it says nothing.
            reserve: Tokens set aside for what is added further in, such as memories.
            notes: Tokens set aside for what is added further out for one call, such as lore.
            summary: Who summarises the turns that are left out: a chat model, "extractive" (no
                model), or None for no summary. A model that fails is stood in for by the latter.
            summary_tokens: Most tokens of the summary; by default a tenth of the budget.
            names: Of the user and the assistant, in the summary.
            media_policy: Where pictures in messages may come from.
            count_tokens: Counts messages; by default exactly for our model, and roughly for
                others.

        Raises:
            UsageError: A number cannot work.
        """
        super().__init__()
        if (max_tokens is not None and max_tokens < 1) or min(reserve, notes) < 0:
            raise UsageError("max_tokens must be 1 or more, reserve and notes 0 or more.")
        self.max_tokens = max_tokens
        self.reserve = reserve
        self.notes = notes
        self.summary_tokens = summary_tokens
        self.names = names
        self._summary = summary
        self._summariser: Summariser | None = None
        self._reader = PictureReader(media_policy)
        self._count = count_tokens
        self._sizes: OrderedDict[tuple[Any, ...], int] = OrderedDict()

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model with as much of the conversation as fits."""
        compiled = self._compile(request)
        if compiled is None:
            return handler(request)
        summariser = self._summariser_of(compiled)
        if summariser is not None:
            made = summariser.make(*self._gone(compiled))
            compiled.summary, compiled.block = made
        return _with_state(handler(self._fitted(compiled)), compiled, self._packing(compiled))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model with as much of the conversation as fits."""
        compiled = self._compile(request)
        if compiled is None:
            return await handler(request)
        summariser = self._summariser_of(compiled)
        if summariser is not None:
            made = await summariser.amake(*self._gone(compiled))
            compiled.summary, compiled.block = made
        return _with_state(await handler(self._fitted(compiled)), compiled, self._packing(compiled))

    # The logic, without I/O

    def _compile(self, request: ModelRequest[Any]) -> _Compiled | None:
        """Choose what to keep; None where there is no bound."""
        budget = self.max_tokens or prompt_budget(request.model)
        if budget is None or not request.messages:
            return None
        count = self._count or counter_for(request.model)
        turns = split_turns(request.messages)
        # Sizes of what was said, without the notes that other middleware adds for one call: the
        # choice must not waver with them.
        said = {m.id: m for m in request.state["messages"] if m.id}
        sizes = [self._size([said.get(m.id or "", m) for m in turn], count) for turn in turns]
        marked = request.system_message
        whole = unmarked(marked) if marked else None
        bare = without_examples(marked) if marked and examples_of(marked) else whole
        fixed = self._fixed(bare, request.tools, count)
        examples = self._fixed(whole, request.tools, count) - fixed if bare is not whole else 0
        room = budget - fixed - self.reserve - self.notes
        summary = self._room_of_summary(budget) if self._summary is not None else 0
        plan = plan_turns(sizes, room, examples=examples, summary=summary)
        system = whole if plan.has_examples else bare
        kept = (examples, plan.has_examples)
        return _Compiled(request, count, budget, system, fixed, turns, sizes, plan.start, kept)

    def _fitted(self, compiled: _Compiled) -> ModelRequest[Any]:
        """Return the request, evicting more where its notes take more than was set aside.

        Raises:
            ContextOverflowError: What is pinned alone does not fit.
        """
        last = len(compiled.turns) - 1
        actual = compiled.tokens()
        while actual + self.reserve > compiled.budget and compiled.start < last:
            compiled.start += 1
            actual = compiled.tokens()
        if actual + self.reserve > compiled.budget and compiled.block:
            compiled.block = ""
            actual = compiled.tokens()
        if actual + self.reserve > compiled.budget:
            raise ContextOverflowError(
                f"The last message and the instructions take {actual:,} tokens, and "
                f"{self.reserve:,} are set aside for memories; the prompt may have "
                f"{compiled.budget:,}. Shorten the message or the persona, or raise max_tokens."
            )
        return compiled.request.override(messages=compiled.messages, system_message=compiled.system)

    def _packing(self, compiled: _Compiled) -> Packing:
        kept = compiled.messages
        said = {m.id: m for m in compiled.request.state["messages"] if m.id}
        bare = [said.get(m.id or "", m) for turn in compiled.turns[compiled.start :] for m in turn]
        actual = compiled.tokens(kept)
        summary = compiled.count([HumanMessage(compiled.block)]) if compiled.block else 0
        notes = max(0, actual - compiled.tokens(bare) - summary)
        return Packing(
            compiled.budget, tuple(_blocks(compiled, summary, notes, self.reserve)), actual
        )

    # Summaries

    def _room_of_summary(self, budget: int) -> int:
        return self.summary_tokens or min(600, max(24, budget // 10))

    def _summariser_of(self, compiled: _Compiled) -> Summariser | None:
        if self._summary is None or compiled.start == 0:
            return None
        room = self._room_of_summary(compiled.budget)
        if self._summariser is None or self._summariser.max_tokens != room:
            self._summariser = Summariser(self._summary, max_tokens=room, names=self.names)
        return self._summariser

    def _gone(
        self, compiled: _Compiled
    ) -> tuple[list[AnyMessage], Summary, TokenCounter, list[str]]:
        """Return what the summariser is given."""
        state = compiled.request.state
        said = {m.id: m for m in state["messages"] if m.id}
        gone = [said.get(m.id or "", m) for turn in compiled.turns[: compiled.start] for m in turn]
        found: Any = state.get("summary")
        before = Summary(**found) if isinstance(found, dict) else Summary()
        stored = ImageLedger.from_data(state.get("pictures"))
        ledger = self._reader.ledger(state["messages"], stored, thread_id())
        there = {m.id for turn in compiled.turns[compiled.start :] for m in turn}
        lines = [p.line() for p in ledger.pictures if p.message not in there]
        return gone, before, compiled.count, lines

    # Counting

    def _fixed(
        self, system: SystemMessage | None, tools: Sequence[Any], count: TokenCounter
    ) -> int:
        if system is None and not tools:
            return 0
        listed = [system] if system else []
        if tools or system is None:  # they are not the same for ever
            return count(listed, tools)
        digest = hashlib.sha256(str(system.content).encode("utf-8", "surrogatepass")).digest()
        return self._counted(("system", digest), lambda: count(listed))

    def _size(self, turn: Sequence[AnyMessage], count: TokenCounter) -> int:
        """Count a turn, once for as long as it stays the same."""
        if any(message.id is None for message in turn):
            return count(turn)
        # Whole conversations pass here in every turn: cheap marks of the content, not its hash.
        key = tuple((m.id, m.type, _mark(m)) for m in turn)
        return self._counted(key, lambda: count(turn))

    def _counted(self, key: tuple[Any, ...], count: Callable[[], int]) -> int:
        if key not in self._sizes:
            self._sizes[key] = count()
            if len(self._sizes) > _REMEMBERED_SIZES:
                self._sizes.popitem(last=False)
        return self._sizes[key]


def _mark(message: AnyMessage) -> tuple[int, int]:
    """Return what changes with nearly every change of a message: its lengths."""
    content = message.content
    return (len(content), 0) if isinstance(content, str) else (len(message.text), len(content))


def _blocks(compiled: _Compiled, summary: int, notes: int, reserve: int) -> list[Block]:
    """Return the parts of the prompt in order, and in their places what was left out."""
    blocks = [Block("system", compiled.fixed, True, "pinned")] if compiled.fixed else []
    examples, has_examples = compiled.examples
    if examples:
        why = "fits" if has_examples else "dropped before any turn"
        blocks.append(Block("examples", examples, has_examples, why))
    for number, size in enumerate(compiled.sizes):
        name = f"turn {number + 1}"
        if number == compiled.start and summary:
            blocks.append(Block("summary", summary, True, "of the turns that are left out"))
        if number < compiled.start:
            blocks.append(Block(name, size, False, "evicted, oldest first"))
        elif number == len(compiled.sizes) - 1:
            blocks.append(Block(name, size, True, "pinned, the current turn"))
        else:
            blocks.append(Block(name, size, True, "fits"))
    if notes:
        blocks.append(Block("lore and notes", notes, True, "for this call alone"))
    if reserve:
        blocks.append(Block("memories", reserve, True, "set aside"))
    return blocks


def _with_state(
    response: ModelResponse[Any], compiled: _Compiled, packing: Packing
) -> ExtendedModelResponse[Any]:
    update: dict[str, Any] = {"context": packing}
    if compiled.summary is not None:
        data = compiled.summary.as_data()
        if data != compiled.request.state.get("summary"):
            update["summary"] = data
    return ExtendedModelResponse(response, Command(update=update))
