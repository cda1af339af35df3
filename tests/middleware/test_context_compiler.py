"""What holds for every conversation, checked on random ones."""

import base64
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.memory import InMemorySaver
from notebook import parrot
from PIL import Image

from mmagent.agents import create_companion
from mmagent.chat_model import ChatMMAgent
from mmagent.context.counting import estimate_messages
from mmagent.context.packing import plan_turns
from mmagent.errors import ContextOverflowError
from mmagent.middleware.compaction import CompactionMiddleware
from mmagent.middleware.context import ContextMiddleware
from mmagent.middleware.ledger import ImageLedgerMiddleware
from mmagent.middleware.system import mark_examples
from mmagent.personas.persona import Persona

THREAD: Any = {"configurable": {"thread_id": "t1"}}
EXAMPLES = "Examples:\nSam: Hi\nRex: Woof!"
SYSTEM = mark_examples(SystemMessage(f"You are Rex.\n\n{EXAMPLES}"), EXAMPLES)


def picture(colour: str = "red", side: int = 20) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return {"type": "image", "base64": base64.b64encode(buffer.getvalue()).decode(),
            "mime_type": "image/png"}  # fmt: skip


turns = st.lists(
    st.tuples(
        st.text("abc I my 1.?", max_size=60),
        st.text("xyz.", max_size=60),
        st.sampled_from(["plain", "tool", "picture"]),
    ),
    min_size=1,
    max_size=14,
)


def messages_of(said: list[tuple[str, str, str]]) -> list[AnyMessage]:
    """A conversation that ends with what the user said last."""
    made: list[AnyMessage] = []
    for number, (words, answer, kind) in enumerate(said):
        content: Any = [picture(), {"type": "text", "text": words}] if kind == "picture" else words
        made.append(HumanMessage(content, id=f"u{number}"))
        if kind == "tool":
            call = {"name": "look", "args": {}, "id": f"c{number}", "type": "tool_call"}
            made.append(AIMessage("", tool_calls=[call], id=f"t{number}"))
            made.append(ToolMessage("seen", tool_call_id=f"c{number}", id=f"r{number}"))
        made.append(AIMessage(answer, id=f"a{number}"))
    last = max(i for i, m in enumerate(made) if m.type == "human")
    return made[: last + 1]


class Sent:
    """Compiles a conversation and keeps what a model would have been sent."""

    def __init__(self, middleware: ContextMiddleware) -> None:
        self.middleware = middleware
        self.packing: Any = None
        self.state: dict[str, Any] = {}

    def __call__(self, messages: list[AnyMessage]) -> list[BaseMessage]:
        kept: list[BaseMessage] = []

        def handler(request: ModelRequest[Any]) -> Any:
            assert request.system_message is not None
            kept.extend([request.system_message, *request.messages])

        state: Any = {"messages": messages, **self.state}
        request = ModelRequest(
            model=parrot("ok"), messages=messages, system_message=SYSTEM, state=state
        )
        result: Any = self.middleware.wrap_model_call(request, handler)
        self.packing = result.command.update["context"]
        self.state = {k: v for k, v in result.command.update.items() if k == "summary"}
        return kept


def compiled(said: list[tuple[str, str, str]], budget: int, summary: Any) -> list[BaseMessage]:
    return Sent(ContextMiddleware(budget, summary=summary))(messages_of(said))


@given(turns, st.integers(40, 2000), st.sampled_from([None, "extractive"]))
def test_never_over_budget_pinned_stays_pairs_stay_together(
    said: list[tuple[str, str, str]], budget: int, summary: Any
) -> None:
    messages = messages_of(said)
    try:
        sent = Sent(middleware := ContextMiddleware(budget, summary=summary))
        kept = sent(messages)
    except ContextOverflowError:
        bare = SystemMessage("You are Rex.")
        assert estimate_messages([bare, messages[-1]]) > budget
        return
    assert estimate_messages(kept) <= budget
    assert sent.packing.prompt_tokens == estimate_messages(kept)
    assert kept[0].text.startswith("You are Rex.")
    assert kept[-1].text.endswith(messages[-1].text)
    # What is kept is the end of the conversation, whole, from a message of the user on.
    ids = [m.id for m in messages]
    assert [m.id for m in kept[1:]] == ids[len(ids) - len(kept) + 1 :]
    assert kept[1].type == "human"
    calls = {c["id"] for m in kept if isinstance(m, AIMessage) for c in m.tool_calls}
    assert calls == {m.tool_call_id for m in kept if isinstance(m, ToolMessage)}
    # Examples go before any turn does.
    assert (EXAMPLES in kept[0].text) <= (len(kept) - 1 == len(messages))
    # The same again, by the same middleware and by a new one.
    for other in (middleware, ContextMiddleware(budget, summary=summary)):
        assert [m.model_dump() for m in Sent(other)(messages)] == [m.model_dump() for m in kept]


@given(turns, st.integers(60, 1500), st.sampled_from([None, "extractive"]))
@settings(max_examples=40)
def test_one_more_turn_leaves_the_beginning_but_for_a_step(
    said: list[tuple[str, str, str]], budget: int, summary: Any
) -> None:
    before: list[BaseMessage] | None = None
    steps = set()
    for number in range(1, len(said) + 1):
        try:
            kept = compiled(said[:number], budget, summary)
        except ContextOverflowError:
            before = None
            continue
        if before is not None and kept[: len(before)] != before:
            first = (kept[1].id, EXAMPLES in kept[0].text)
            assert first != (before[1].id, EXAMPLES in before[0].text)
            steps.add(first)
        before = kept
    # No step is undone: each beginning was come to once.
    assert len(steps) <= len(said)


def test_examples_go_first_then_turns_then_the_summary_takes_their_place() -> None:
    said = [(f"My number is {n}.", "Well. " * 8, "plain") for n in range(30)]
    ways = set()
    for budget in range(500, 540, 5):
        sent = Sent(ContextMiddleware(budget, summary="extractive"))
        seen = []
        for number in range(1, 31):
            kept = sent(messages_of(said[:number]))
            is_whole = len(kept) == number * 2
            seen.append((EXAMPLES in kept[0].text, is_whole, "[Earlier]" in kept[1].text))
        assert seen[0] == (True, True, False)
        assert seen[-1] == (False, False, True)
        ways |= set(seen)
        assert seen == sorted(seen, key=lambda s: (not s[0], not s[1]))
    assert ways == {(True, True, False), (False, True, False), (False, False, True)}
    assert "- User: My number is 1" in kept[1].text
    names = [block["source"] for block in sent.packing.explain() if block["kept"]]
    assert names[:2] == ["system", "summary"]
    dropped = [block["source"] for block in sent.packing.explain() if not block["kept"]]
    assert dropped[:2] == ["examples", "turn 1"]


def test_the_table_for_people() -> None:
    from rich.console import Console

    sent = Sent(ContextMiddleware(300, summary="extractive"))
    sent(messages_of([("My number is 1. " * 9, "ok", "plain")] * 9))
    console = Console(file=io.StringIO(), width=90)
    console.print(sent.packing.rich_table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "evicted, oldest first" in shown
    assert "of 300 tokens" in shown
    assert "summary" in sent.packing.table()


def test_a_plan() -> None:
    assert plan_turns([10, 10], 30, examples=10) == plan_turns([5], 30)
    assert plan_turns([10, 10], 25, examples=10).start == 0
    assert plan_turns([10, 10, 10], 25, summary=10).start == 2
    assert plan_turns([100], 10).start == 0


def test_a_summary_by_a_model_is_made_once_and_goes_on_from_the_last() -> None:
    second = "Sam has a cat and a dog."
    writer = parrot("Sam has a cat.\nHis code is 4711.", *[second] * 9)
    model = parrot(*["word " * 20] * 40)
    agent = create_agent(
        model, middleware=[ContextMiddleware(600, summary=writer)], system_prompt="Be kind.",
        checkpointer=(saver := InMemorySaver()),
    )  # fmt: skip
    for number in range(40):
        agent.invoke({"messages": [HumanMessage(f"question {number}")]}, THREAD)
    first, later = (request[0].text for request in writer.seen[:2])
    assert "question 0" in first
    assert "Until then: Sam has a cat.\nHis code is 4711." in later
    assert "question 0" not in later
    assert "[Earlier]\n- Sam has a cat and a dog.\n[/Earlier]" in model.seen[-1][1].text
    assert len(writer.seen) == len({sent[1].id for sent in model.seen}) - 1
    # Another process goes on with what the checkpoint holds, and asks nobody.
    silent, other = parrot(), parrot("ok")
    again = create_agent(
        other, middleware=[ContextMiddleware(600, summary=silent)], system_prompt="Be kind.",
        checkpointer=saver,
    )  # fmt: skip
    again.invoke({"messages": [HumanMessage("And now?")]}, THREAD)
    assert second in other.seen[0][1].text
    assert silent.seen == []


async def test_a_model_that_fails_is_stood_in_for() -> None:
    class Broken(type(parrot())):  # type: ignore[misc]
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("out of order")

    broken = Broken(messages=iter(()), seen=[])
    model = parrot("ok")
    agent = create_agent(model, middleware=[ContextMiddleware(200, summary=broken)])
    history = [
        HumanMessage("My code is 4711. " + "x" * 900),
        AIMessage("y" * 90),
        HumanMessage("?"),
    ]
    await agent.ainvoke({"messages": history})
    assert "- User: My code is 4711." in model.seen[0][-1].text


def test_summaries_keep_the_numbers_and_captions_of_pictures() -> None:
    model = parrot(*["ok"] * 3, profile={"image_inputs": True})
    said = [
        HumanMessage([picture(), {"type": "text", "text": "Look at my car"}], id="u1"),
        AIMessage("z" * 200, id="a1"),
        HumanMessage([picture("blue"), {"type": "text", "text": "And my pool"}], id="u2"),
        AIMessage("z" * 2000, id="a2"),
        HumanMessage("What now?", id="u3"),
    ]
    agent = create_agent(
        model, middleware=[ContextMiddleware(500, summary="extractive", summary_tokens=200)]
    )
    agent.invoke({"messages": said})
    text = model.seen[0][-1].text
    assert "- picture 1 (" in text
    assert "): Look at my car\n" in text
    assert "- picture 2 (" in text


def test_compaction_keeps_the_stored_conversation_small_and_every_picture() -> None:
    model = parrot(*["fine " * 40] * 30, profile={"image_inputs": True})
    agent = create_companion(
        model, None, "mia", user="sam", checkpointer=InMemorySaver(),
        middleware=[CompactionMiddleware(3000, summary_tokens=400)],
    )  # fmt: skip
    for number in range(25):
        words = {"type": "text", "text": f"My picture of day {number}."}
        content: Any = [picture(side=20 + number), words] if number % 5 == 0 else [words]
        agent.invoke({"messages": [HumanMessage(content)]}, THREAD)
    state = agent.get_state(THREAD).values
    kept = state["messages"]
    assert estimate_messages(kept) <= 3400
    assert [m.additional_kwargs.get("lc_source") for m in kept[:2]] == ["summarization", None]
    assert "- picture 1 (" in kept[0].text
    assert "My picture of day 0." in kept[0].text
    assert [p["number"] for p in state["pictures"]] == [1, 2, 3, 4, 5]
    assert kept[1].type == "human"


async def test_compaction_async_and_wrong_settings() -> None:
    agent = create_agent(parrot("ok"), middleware=[CompactionMiddleware(200, summary_tokens=60)])
    history = [HumanMessage("My name is Sam. " + "x" * 900), AIMessage("ok"), HumanMessage("Hi")]
    result = await agent.ainvoke({"messages": history})
    assert [m.type for m in result["messages"]] == ["human", "human", "ai"]
    assert "My name is Sam." in result["messages"][0].text
    with pytest.raises(ValueError, match="more than summary_tokens"):
        CompactionMiddleware(10, summary_tokens=10)


@pytest.mark.slow
def test_true_counts_of_a_real_processor_with_pictures(tiny_llava: Any) -> None:
    """A random-weight LLaVA refuses a prompt that is one token too long."""
    model = ChatMMAgent(model=str(tiny_llava), max_tokens=2, context_length=302)
    persona = Persona(name="Rex", instructions="You are {{char}}.")
    agent = create_companion(
        model, None, persona, user="sam", checkpointer=InMemorySaver(), summary="extractive"
    )
    dropped = False
    for number in range(12):
        words = {"type": "text", "text": f"My picture {number} is nice. " * (1 + number % 3)}
        content: Any = [picture(side=30 + number), words] if number % 2 else [words]
        packing = agent.invoke({"messages": [HumanMessage(content)]}, THREAD)["context"]
        assert packing.prompt_tokens <= packing.budget == 300
        dropped = dropped or any(not block.kept for block in packing.blocks)
    assert dropped


def test_a_ledger_beside_compaction_still_finds_the_first_picture() -> None:
    model = parrot(*["fine " * 40] * 30, profile={"image_inputs": True})
    agent = create_agent(
        model,
        middleware=[CompactionMiddleware(1500, summary_tokens=300), ImageLedgerMiddleware()],
        checkpointer=InMemorySaver(),
    )
    for number in range(12):
        words = {"type": "text", "text": f"My picture of day {number}."}
        content: Any = [picture(), words] if number == 0 else [words]
        agent.invoke({"messages": [HumanMessage(content)]}, THREAD)
    agent.invoke({"messages": [HumanMessage("What was in the first picture?")]}, THREAD)
    assert "My picture of day 0." in model.seen[-1][-1].text
