"""`CompactionMiddleware`: the stored conversation itself stays small, and loses no picture.

LangChain's `SummarizationMiddleware` drops pictures. Here the summary that takes the place of
old messages keeps a line for each of them, the image ledger keeps their numbers, and their pixels
come back from the long-term memory when they are spoken of.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NotRequired

from langchain.agents.middleware.types import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, HumanMessage, RemoveMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.runtime import Runtime

from mmagent.context.counting import TokenCounter, estimate_messages
from mmagent.context.ledger import ImageLedger
from mmagent.context.packing import first_kept, split_turns
from mmagent.errors import UsageError
from mmagent.middleware.ledger import LedgerState
from mmagent.middleware.shown import PictureReader
from mmagent.middleware.summarising import Summariser, Summary
from mmagent.middleware.turns import thread_id

__all__ = ["CompactionMiddleware"]


class _State(LedgerState):
    context: NotRequired[Any]


class CompactionMiddleware(AgentMiddleware[_State, Any, Any]):
    """Puts a summary in the place of the oldest turns, in the stored conversation.

    It works before a run begins, in big steps, and never splits a turn. Together with
    `ImageLedgerMiddleware` the pictures of compacted turns keep their numbers; give both to an
    agent that runs for weeks on one thread. `ContextMiddleware` is for the single prompt.
    """

    state_schema = _State

    def __init__(
        self,
        max_tokens: int,
        *,
        summary: BaseChatModel | Literal["extractive"] = "extractive",
        summary_tokens: int = 600,
        names: tuple[str, str] = ("User", "Assistant"),
        media_policy: Any = None,
        count_tokens: TokenCounter = estimate_messages,
    ) -> None:
        """Set when to compact.

        Args:
            max_tokens: Most tokens of the stored conversation.
            summary: Who sums up: a chat model, or "extractive" for none.
            summary_tokens: Most tokens of the summary.
            names: Of the user and the assistant, in the summary.
            media_policy: Where pictures in messages may come from.
            count_tokens: Counts messages.

        Raises:
            UsageError: There would be no room beside the summary.
        """
        super().__init__()
        if max_tokens <= summary_tokens:
            raise UsageError("max_tokens must be more than summary_tokens.")
        self.max_tokens = max_tokens
        self._summariser = Summariser(summary, max_tokens=summary_tokens, names=names)
        self._reader = PictureReader(media_policy)
        self._count = count_tokens

    def before_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Compact if it is time."""
        split = self._split(state)
        if split is None:
            return None
        gone, kept = split
        ledger, lines = self._pictures(state, gone)
        _, block = self._summariser.make(gone, Summary(), self._count, lines)
        return _update(gone, kept, ledger, block)

    async def abefore_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Compact if it is time."""
        split = self._split(state)
        if split is None:
            return None
        gone, kept = split
        ledger, lines = self._pictures(state, gone)
        _, block = await self._summariser.amake(gone, Summary(), self._count, lines)
        return _update(gone, kept, ledger, block)

    def _split(self, state: _State) -> tuple[list[AnyMessage], list[AnyMessage]] | None:
        turns = split_turns(state["messages"])
        sizes = [self._count(turn) for turn in turns]
        if sum(sizes) <= self.max_tokens:
            return None
        start = first_kept(sizes, self.max_tokens - self._summariser.max_tokens)
        if start == 0:
            return None
        gone = [message for turn in turns[:start] for message in turn]
        return gone, [message for turn in turns[start:] for message in turn]

    def _pictures(self, state: _State, gone: list[AnyMessage]) -> tuple[ImageLedger, list[str]]:
        stored = ImageLedger.from_data(state.get("pictures"))
        ledger = self._reader.ledger(state["messages"], stored, thread_id())
        kept = {m.id for m in state["messages"]} - {m.id for m in gone}
        return ledger, [p.line() for p in ledger.pictures if p.message not in kept]


def _update(
    gone: list[AnyMessage], kept: list[AnyMessage], ledger: ImageLedger, block: str
) -> dict[str, Any]:
    name = hashlib.sha256("\0".join(str(m.id) for m in gone).encode()).hexdigest()[:32]
    # Marked as LangChain marks its summaries, so that nobody takes it for the user's words.
    summary = HumanMessage(
        block, id=f"summary-{name}", additional_kwargs={"lc_source": "summarization"}
    )
    messages: list[Any] = [RemoveMessage(id=REMOVE_ALL_MESSAGES)]
    messages += [summary] if block else []
    return {"messages": [*messages, *kept], "pictures": ledger.as_data()}
