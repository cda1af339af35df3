from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from notebook import Parrot, parrot

from mmagent.agents import create_companion
from mmagent.chat_model import ChatMMAgent
from mmagent.errors import UsageError
from mmagent.middleware.reasoning import ReasoningMiddleware
from mmagent.reasoning.templates import Reasoning

THREAD: Any = {"configurable": {"thread_id": "t1"}}
TEMPLATE = Reasoning.load("two_stage")


def ask(model: Parrot, reasoning: Any, text: Any = "How many?", **options: Any) -> AIMessage:
    agent = create_agent(model, middleware=[ReasoningMiddleware(reasoning, **options)])
    answer = agent.invoke({"messages": [HumanMessage(text)]})["messages"][-1]
    assert isinstance(answer, AIMessage)
    return answer


def reasoning_of(answer: AIMessage) -> str:
    return "".join(b["reasoning"] for b in answer.content_blocks if b["type"] == "reasoning")


def noted(answer: AIMessage) -> dict[str, Any]:
    found: dict[str, Any] = answer.response_metadata["reasoning"]
    return found


def test_direct_is_one_plain_call() -> None:
    model = parrot("Three.")
    answer = ask(model, "direct")
    assert answer.content == "Three."
    assert [m.text for m in model.seen[0]] == ["How many?"]
    assert noted(answer) == {"template": "direct", "calls": 1, "unclosed": False}


def test_two_stages_both_see_the_picture() -> None:
    model = parrot("I see [three] cats.", "Three.")
    image = {"type": "image", "base64": "eA==", "mime_type": "image/png"}
    answer = ask(model, "two_stage", [image, {"type": "text", "text": "How many?"}])
    first, second = (call[-1] for call in model.seen)
    assert first.content[0] == second.content[0] == image
    assert first.text.endswith(TEMPLATE.step_texts("en")[0])
    assert "[Thoughts]\nI see (three) cats.\n[/Thoughts]" in second.text
    assert second.text.endswith(TEMPLATE.answer_text("en"))
    assert answer.text == "Three."
    assert reasoning_of(answer) == "I see (three) cats."
    assert noted(answer)["calls"] == 2


async def test_async() -> None:
    model = parrot("Hm.", "Three.")
    agent = create_agent(model, middleware=[ReasoningMiddleware("plan_solve", language="zh")])
    result = await agent.ainvoke({"messages": [HumanMessage("多少?")]})
    assert result["messages"][-1].text == "Three."
    assert "先不要回答" in model.seen[0][-1].text


def test_each_step_sees_the_thoughts_before_it() -> None:
    model = parrot("Q1", "A1", "Yes.")
    answer = ask(model, "ddcot")
    assert ["Q1" in call[-1].text for call in model.seen] == [False, True, True]
    assert ["A1" in call[-1].text for call in model.seen] == [False, False, True]
    assert reasoning_of(answer) == "Q1\n\nA1"


def test_tags() -> None:
    answer = ask(
        parrot("<SUMMARY>s</SUMMARY><REASONING>r</REASONING><CONCLUSION>Three.</CONCLUSION>"),
        "staged_tags",
    )
    assert answer.text == "Three."
    assert reasoning_of(answer) == "sr"


@pytest.mark.parametrize(
    ("reasoning", "broken"),
    [("direct", "<think>and on and"), ("staged_tags", "<SUMMARY>and on and")],
)
def test_thoughts_that_break_off_are_flagged_and_asked_directly_once(
    reasoning: str, broken: str
) -> None:
    model = parrot(broken, "Three.")
    answer = ask(model, reasoning)
    assert answer.text == "Three."
    assert reasoning_of(answer) == "and on and"
    assert noted(answer) == {"template": reasoning, "calls": 2, "unclosed": True}
    assert model.seen[1][-1].text.startswith("How many?\n\nAnswer at once")
    stubborn = ask(parrot("<think>a", "<think>b"), "direct")
    assert stubborn.text == "b"
    assert noted(stubborn)["calls"] == 2


def test_a_vote() -> None:
    model = parrot("4", "The answer is 3.", "<think>x</think>three", "5")
    answer = ask(model, "self_consistency(4)")
    assert answer.text == "The answer is 3."
    assert noted(answer)["agreement"] == 0.5
    assert noted(answer)["answers"] == ["4", "The answer is 3.", "three", "5"]
    assert len(model.seen) == 4


def test_thoughts_are_not_sent_again_nor_remembered_nor_streamed() -> None:
    model = parrot("My secret thought.", "Three.", "Second thought.", "Four.")
    store = InMemoryStore()
    agent = create_companion(
        model, store, "mia", user="sam", reasoning="two_stage", checkpointer=InMemorySaver()
    )
    streamed = "".join(
        event.text
        for event, _ in agent.stream(
            {"messages": [HumanMessage("How many?")]}, THREAD, stream_mode="messages"
        )
    )
    assert streamed == "Three."
    result = agent.invoke({"messages": [HumanMessage("And now?")]}, THREAD)
    assert reasoning_of(result["messages"][1]) == "My secret thought."
    for call in model.seen[2:]:
        assert "My secret thought." not in str(call)
        assert [m.text for m in call[1:3]] == ["How many?", "Three."]
    kept = [str(item.value) for item in store.search(())]
    assert any("Three." in value for value in kept)
    assert not any("thought" in value for value in kept)


def test_memory_is_asked_once_and_shown_to_every_call() -> None:
    from notebook import Notebook

    memory = Notebook()
    from datetime import UTC, datetime

    memory.remember("three cats", speaker="Sam", at=datetime.now(UTC), thread=None, id="1")
    model = parrot("Hm.", "Three.")
    agent = create_companion(model, memory, "mia", user="sam", reasoning="two_stage")
    agent.invoke({"messages": [HumanMessage("cats?")]})
    assert len(memory.asked) == 1
    assert all("three cats" in call[-1].text for call in model.seen)


def test_after_a_tool_the_answer_is_direct() -> None:
    def count() -> str:
        """Count."""
        return "3"

    call = {"name": "count", "args": {}, "id": "c1", "type": "tool_call"}
    model = parrot("I should count.", AIMessage("", tool_calls=[call]), "Three.")
    agent = create_agent(model, tools=[count], middleware=[ReasoningMiddleware("two_stage")])
    result = agent.invoke({"messages": [HumanMessage("How many?")]})
    assert result["messages"][-1].content == "Three."
    assert len(model.seen) == 3


def test_a_vendors_own_reasoning_stays() -> None:
    own = {"type": "reasoning", "reasoning": "v", "extras": {"signature": "s"}}
    history = [
        HumanMessage("a"),
        AIMessage([own, {"type": "text", "text": "b"}]),
        HumanMessage("c"),
    ]
    model = parrot("d")
    create_agent(model, middleware=[ReasoningMiddleware()]).invoke({"messages": history})
    assert model.seen[0][1].content[0] == own


def test_with_our_model_thoughts_have_a_budget_and_tokens_add_up() -> None:
    model = ChatMMAgent(model="echo", context_length=4000)
    plain = model.invoke("word " * 100)
    agent = create_agent(model, middleware=[ReasoningMiddleware("two_stage", max_thought_tokens=5)])
    answer = agent.invoke({"messages": [HumanMessage("word " * 100)]})["messages"][-1]
    assert len(reasoning_of(answer)) < len(plain.text) / 2
    assert answer.usage_metadata["input_tokens"] > 2 * plain.usage_metadata["input_tokens"]
    votes = create_agent(model, middleware=[ReasoningMiddleware("self_consistency(3)")])
    answer = votes.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1]
    assert noted(answer)["agreement"] == 1.0


def test_wrong_settings() -> None:
    with pytest.raises(UsageError, match="not in the catalogue of reasoning"):
        ReasoningMiddleware("nothing")
    with pytest.raises(UsageError, match="1 or more"):
        ReasoningMiddleware(max_thought_tokens=0)
