import itertools
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from notebook import parrot

from mmagent.agents import create_companion
from mmagent.chat_model import ChatMMAgent
from mmagent.context.counting import estimate_messages
from mmagent.errors import ContextOverflowError, UsageError
from mmagent.middleware.context import ContextMiddleware, prompt_budget
from mmagent.personas.persona import Persona

THREAD: Any = {"configurable": {"thread_id": "t1"}}


def test_a_long_conversation_fits_and_its_beginning_is_stable() -> None:
    model = parrot(*["word " * 20] * 60)
    agent = create_agent(
        model, middleware=[ContextMiddleware(600, reserve=200)], system_prompt="Be kind.",
        checkpointer=InMemorySaver(),
    )  # fmt: skip
    beginnings = []
    for number in range(60):
        result = agent.invoke({"messages": [HumanMessage(f"question {number}")]}, THREAD)
        sent = model.seen[-1]
        assert estimate_messages(sent) <= 400  # what the reserve leaves
        assert sent[-1].text == f"question {number}"
        assert sent[0].text == "Be kind."
        beginnings.append(sent[1].text)
        packing = result["context"]
        assert packing.budget == 600
        assert sum(not block.kept for block in packing.blocks) == number + 1 - sum(
            isinstance(message, HumanMessage) for message in sent
        )
    assert len(result["messages"]) == 120
    changes = sum(a != b for a, b in itertools.pairwise(beginnings))
    assert 5 < changes < 25
    assert "context" not in agent.get_state(THREAD).values


async def test_async() -> None:
    model = parrot("ok")
    agent = create_agent(model, middleware=[ContextMiddleware(60)])
    history = [HumanMessage("x" * 300), AIMessage("y"), HumanMessage("last")]
    await agent.ainvoke({"messages": history})
    assert [m.text for m in model.seen[0]] == ["last"]


def test_tool_calls_stay_with_their_results() -> None:
    call = {"name": "look", "args": {}, "id": "c1", "type": "tool_call"}
    history = [
        HumanMessage("first"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("z" * 200, tool_call_id="c1"),
        AIMessage("seen"),
        HumanMessage("second"),
    ]
    for budget in range(30, 200, 10):
        model = parrot("ok")
        agent = create_agent(model, middleware=[ContextMiddleware(budget)])
        agent.invoke({"messages": history})
        assert [m.type for m in model.seen[0]] in (["human"], [m.type for m in history])


def test_what_is_pinned_does_not_fit() -> None:
    agent = create_agent(
        parrot("ok"), middleware=[ContextMiddleware(100, reserve=50)], system_prompt="x" * 90
    )
    with pytest.raises(ContextOverflowError, match="Shorten the message or the persona"):
        agent.invoke({"messages": [HumanMessage("y" * 90)]})


def test_notes_of_a_call_count_but_do_not_sway_the_choice() -> None:
    persona = Persona(name="Rex", post_history_instructions="n" * 90)
    model = parrot("ok")
    agent = create_companion(model, None, persona, max_tokens=130)
    history = [HumanMessage("a" * 150), AIMessage("b" * 30), HumanMessage("last")]
    agent.invoke({"messages": history})
    assert len(model.seen[0]) == 2
    assert estimate_messages(model.seen[0]) <= 130


def test_the_budget_comes_from_the_profile() -> None:
    assert prompt_budget(parrot("ok")) is None
    profile = {"max_input_tokens": 1000, "max_output_tokens": 100}
    assert prompt_budget(parrot("ok", profile=profile)) == 900
    assert prompt_budget(parrot("ok", profile={"max_input_tokens": 1000})) == 750
    model = parrot("ok")
    result = create_agent(model, middleware=[ContextMiddleware()]).invoke(
        {"messages": [HumanMessage("x" * 100_000)]}
    )
    assert "context" not in result


@pytest.mark.parametrize(("tokens", "reserve"), [(0, 0), (-1, 0), (5, -1)])
def test_wrong_numbers(tokens: int, reserve: int) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        ContextMiddleware(tokens, reserve=reserve)


def test_many_turns_in_a_small_window_with_exact_counts() -> None:
    """The echo engine refuses a prompt that is one token too long."""
    window = 700
    model = ChatMMAgent(model="echo", context_length=window, max_tokens=40)
    agent = create_companion(
        model, InMemoryStore(), "mia", user="sam", checkpointer=InMemorySaver()
    )
    fact = "My locker code is 4711."
    agent.invoke({"messages": [HumanMessage(fact)]}, THREAD)
    largest = 0
    for number in range(50):
        text = f"Let us talk about topic {number}. " * (1 + number % 3)
        result = agent.invoke({"messages": [HumanMessage(text)]}, THREAD)
        recall = result["recall"]
        largest = max(largest, model.get_num_tokens_from_messages(list(recall.sent)))
    assert largest <= window - 40
    assert fact not in [message.text for message in recall.sent]
    # It has long left the window, and memory brings it back.
    result = agent.invoke({"messages": [HumanMessage("What is my locker code?")]}, THREAD)
    assert fact in result["recall"].block
    assert fact in result["recall"].sent[-1].text


def test_memories_keep_to_their_share() -> None:
    model = ChatMMAgent(model="echo", context_length=600, max_tokens=40)
    agent = create_companion(model, InMemoryStore(), "mia", user="sam")
    for number in range(8):
        agent.invoke({"messages": [HumanMessage(f"cat {number} " * 40)]})
    recall = agent.invoke({"messages": [HumanMessage("cat?")]})["recall"]
    assert 0 < len(recall.hits) < 6
    assert model.get_num_tokens_from_messages([HumanMessage(recall.block)]) <= 560 // 4


def test_a_persona_names_its_adapter() -> None:
    from langchain.agents.middleware import AgentMiddleware

    class Spy(AgentMiddleware[Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            settings.append(dict(request.model_settings))
            return handler(request.override(model_settings={}))

    settings: list[dict[str, Any]] = []
    persona = Persona(name="Rex", adapter="some/folder")
    from mmagent.middleware.persona import PersonaMiddleware

    for model in (
        ChatMMAgent(model="echo"),
        ChatMMAgent(model="echo", adapter="other"),
        parrot("ok"),
    ):
        agent = create_agent(model, middleware=[PersonaMiddleware(persona), Spy()])
        try:
            agent.invoke({"messages": [HumanMessage("Hi")]})
        except UsageError:
            continue  # The echo engine has no adapters to load.
    assert settings == [{"adapter": "some/folder"}, {}, {}]
