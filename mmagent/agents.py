"""Ready agents, built from LangChain's `create_agent` and the parts of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware.types import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import SystemMessage
from langchain_core.tools import BaseTool
from langgraph.store.base import BaseStore

from mmagent.middleware.context import ContextMiddleware, prompt_budget
from mmagent.middleware.ledger import ImageLedgerMiddleware
from mmagent.middleware.memory import Memory, MemoryMiddleware
from mmagent.middleware.persona import PersonaMiddleware
from mmagent.middleware.reasoning import ReasoningMiddleware
from mmagent.personas.persona import Persona
from mmagent.reasoning.templates import Reasoning

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.types import Checkpointer

    from mmagent.media import MediaPolicy

__all__ = ["create_companion"]


def create_companion(
    model: BaseChatModel | str,
    store: BaseStore | Memory | None,
    persona: Persona | str | Path,
    *,
    user: str = "user",
    user_name: str | None = None,
    tools: Sequence[BaseTool | Callable[..., Any] | dict[str, Any]] = (),
    middleware: Sequence[AgentMiddleware[Any, Any]] = (),
    checkpointer: Checkpointer | None = None,
    system_prompt: str | SystemMessage | None = None,
    k: int = 6,
    max_pictures: int = 1,
    max_tokens: int | None = None,
    reasoning: Reasoning | str = "direct",
    summary: BaseChatModel | Literal["extractive"] | None = None,
    media_policy: MediaPolicy | None = None,
    name: str | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return an agent that speaks as a persona and remembers its user across conversations.

    It is an ordinary LangGraph agent: `invoke`, `stream` and their async twins, with a
    `thread_id` where there is a checkpointer. What memory did in a turn stands in the result
    under `recall` (see `mmagent.middleware.memory.Recall`), and which turns still fitted under
    `context` (see `mmagent.context.packing.Packing`).

    Args:
        model: Any LangChain chat model; or what `ChatMMAgent(model=…)` takes, such as "tiny".
        store: A LangGraph store or a `LongTermMemory`; None for an agent without memory.
        persona: A persona, or what `Persona.load` takes.
        user: Whose memory it is.
        user_name: How the persona calls the user; by default from `user`.
        tools: Tools the agent may call.
        middleware: Further middleware. It runs outside of ours, so that memory sees the
            messages last, as they are sent.
        checkpointer: Keeps conversations by thread.
        system_prompt: The developer's own instructions; the persona's stand below them.
        k: Most memories recalled for one turn.
        max_pictures: Most recalled pictures shown to a model that takes pictures.
        max_tokens: Most tokens of a prompt, beyond which the oldest turns are left out of it;
            by default what the model's profile leaves beside an answer.
        reasoning: A template of `mmagent.reasoning`, such as "two_stage"; its thoughts are not
            shown, sent again or remembered.
        summary: Who sums up the turns that no longer fit: a chat model, or "extractive" for
            sentences picked without one. Numbers and captions of their pictures stay in it.
        media_policy: Where pictures in messages may come from.
        name: The agent's name in a larger graph.

    Raises:
        PersonaError: There is no such persona, or it cannot be used.
        UsageError: An argument cannot work.
    """
    if isinstance(model, str):
        from mmagent.chat_model import ChatMMAgent

        model = ChatMMAgent(model=model)
    who = persona if isinstance(persona, Persona) else Persona.load(persona)
    budget = max_tokens or prompt_budget(model)
    # A quarter for memories, which is plenty for a few lines each; the rest for the conversation.
    share = None if budget is None or store is None else min(1200, budget // 4)
    thinking = ReasoningMiddleware(reasoning, language=who.language)
    speaking = PersonaMiddleware(who, user=user, user_name=user_name)
    if budget is not None:
        speaking.max_lore_tokens = min(speaking.max_lore_tokens, budget // 8)
        speaking.max_example_chars = min(speaking.max_example_chars, budget // 2)
    remembering = None
    if store is not None:
        remembering = MemoryMiddleware(
            store,
            user=user,
            persona=who,
            user_name=user_name,
            k=k,
            max_pictures=max_pictures,
            max_tokens=share,
            media_policy=media_policy,
        )
    ledger = ImageLedgerMiddleware(
        remembering.memory if remembering else None, media_policy=media_policy
    )
    ours: list[AgentMiddleware[Any, Any]] = [
        speaking,
        ledger,
        ContextMiddleware(
            max_tokens,
            reserve=(share or 0) + thinking.reserve,
            notes=speaking.reserve,
            summary=summary,
            names=(speaking.user_name, who.spoken_name),
            media_policy=media_policy,
        ),
    ]
    if remembering is not None:
        ours.append(remembering)
    # Innermost, so that one recall serves all calls of a template.
    ours.append(thinking)
    return create_agent(
        model,
        list(tools),
        system_prompt=system_prompt,
        middleware=[*middleware, *ours],
        checkpointer=checkpointer,
        store=store if isinstance(store, BaseStore) else None,
        name=name,
    )
