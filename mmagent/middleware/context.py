"""`ContextMiddleware`: a conversation of any length fits the model's window."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    OmitFromInput,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, BaseMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.types import Command

from mmagent.context.counting import TokenCounter, counter_for
from mmagent.context.packing import Block, Packing, first_kept, split_turns
from mmagent.errors import ContextOverflowError, UsageError

__all__ = ["ContextMiddleware", "ContextState", "prompt_budget"]

_REMEMBERED_SIZES = 10_000


class ContextState(AgentState[Any]):
    """The agent's state with the last packing, which is never written to a checkpoint."""

    context: NotRequired[Annotated[Packing, UntrackedValue(Packing, guard=False), OmitFromInput]]


def prompt_budget(model: BaseChatModel) -> int | None:
    """Return the most tokens of a prompt that leaves room for an answer, if the model says."""
    profile = model.profile or {}
    window = profile.get("max_input_tokens")
    if not window:
        return None
    # A model that may answer without end gets a quarter of its window to do so.
    answer = min(profile.get("max_output_tokens") or window, window // 4)
    return window - answer


class ContextMiddleware(AgentMiddleware[ContextState, Any, Any]):
    """Leaves the oldest turns out of the request where it would not fit.

    The stored conversation stays whole. Put it inside of what writes the system message and
    outside of memory, so that memory sees which turns are gone and may recall them.
    """

    state_schema = ContextState

    def __init__(
        self,
        max_tokens: int | None = None,
        *,
        reserve: int = 0,
        count_tokens: TokenCounter | None = None,
    ) -> None:
        """Set the budget.

        Args:
            max_tokens: Most tokens of a prompt; by default what the model's profile leaves
                beside an answer, or no bound if it says nothing.
            reserve: Tokens set aside for what is added further in, such as memories.
            count_tokens: Counts messages; by default exactly for our model, and roughly for
                others.

        Raises:
            UsageError: A number cannot work.
        """
        super().__init__()
        if (max_tokens is not None and max_tokens < 1) or reserve < 0:
            raise UsageError("max_tokens must be 1 or more, and reserve 0 or more.")
        self.max_tokens = max_tokens
        self.reserve = reserve
        self._count = count_tokens
        self._sizes: OrderedDict[tuple[Any, ...], int] = OrderedDict()

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model with as much of the conversation as fits."""
        request, packing = self.pack(request)
        return _with_packing(handler(request), packing)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model with as much of the conversation as fits."""
        request, packing = self.pack(request)
        return _with_packing(await handler(request), packing)

    def pack(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], Packing | None]:
        """Return the request with the oldest turns left out where they would not fit.

        Raises:
            ContextOverflowError: The system message and the last turn alone do not fit.
        """
        budget = self.max_tokens or prompt_budget(request.model)
        if budget is None or not request.messages:
            return request, None
        count = self._count or counter_for(request.model)
        turns = split_turns(request.messages)
        system = [request.system_message] if request.system_message else []
        fixed = count(system, request.tools) if system or request.tools else 0
        # Sizes of what was said, without the notes that other middleware adds for one call: the
        # choice must not waver with them.
        said = {m.id: m for m in request.state["messages"] if m.id}
        sizes = [self._size([said.get(m.id or "", m) for m in turn], count) for turn in turns]
        start = first_kept(sizes, budget - fixed - self.reserve)
        actual = self._actual(system, turns[start:], request.tools, count)
        while actual + self.reserve > budget and start < len(turns) - 1:
            start += 1
            actual = self._actual(system, turns[start:], request.tools, count)
        if actual + self.reserve > budget:
            raise ContextOverflowError(
                f"The last message and the instructions take {actual:,} tokens, and "
                f"{self.reserve:,} are set aside for memories; the prompt may have {budget:,}. "
                "Shorten the message or the persona, or raise max_tokens."
            )
        packing = Packing(budget, tuple(_blocks(fixed, sizes, start, self.reserve)))
        kept = [message for turn in turns[start:] for message in turn]
        return request.override(messages=kept), packing

    def _actual(
        self,
        system: Sequence[BaseMessage],
        turns: Sequence[Sequence[AnyMessage]],
        tools: Sequence[Any],
        count: TokenCounter,
    ) -> int:
        return count([*system, *(message for turn in turns for message in turn)], tools)

    def _size(self, turn: Sequence[AnyMessage], count: TokenCounter) -> int:
        """Count a turn, once for as long as it stays the same."""
        key = tuple((m.id, m.type, len(m.text), len(m.content)) for m in turn)
        if any(message.id is None for message in turn):
            return count(turn)
        if key not in self._sizes:
            self._sizes[key] = count(turn)
            if len(self._sizes) > _REMEMBERED_SIZES:
                self._sizes.popitem(last=False)
        return self._sizes[key]


def _blocks(fixed: int, sizes: Sequence[int], start: int, reserve: int) -> list[Block]:
    blocks = [Block("system", fixed, True, "pinned")] if fixed else []
    for number, size in enumerate(sizes):
        name = f"turn {number + 1}"
        if number < start:
            blocks.append(Block(name, size, False, "evicted, oldest first"))
        elif number == len(sizes) - 1:
            blocks.append(Block(name, size, True, "pinned, the current turn"))
        else:
            blocks.append(Block(name, size, True, "fits"))
    if reserve:
        blocks.append(Block("memories", reserve, True, "set aside"))
    return blocks


def _with_packing(
    response: ModelResponse[Any], packing: Packing | None
) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    if packing is None:
        return response
    return ExtendedModelResponse(response, Command(update={"context": packing}))
