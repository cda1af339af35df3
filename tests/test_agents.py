import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from mmagent.agents import create_companion
from mmagent.errors import PersonaError, UsageError
from mmagent.personas.persona import Persona
from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory


def ask(agent: Any, text: Any, thread: str = "t1") -> dict[str, Any]:
    config = {"configurable": {"thread_id": thread}}
    result: dict[str, Any] = agent.invoke({"messages": [HumanMessage(text)]}, config)
    return result


def test_without_memory_the_persona_still_speaks() -> None:
    agent = create_companion(FakeListChatModel(responses=["Hi Sam"]), None, "mia", user="sam")
    result = agent.invoke({"messages": [HumanMessage("Hi")]})
    assert result["messages"][-1].text == "Hi Sam"
    assert "recall" not in result


def test_a_persona_may_be_an_object_a_name_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rex.yaml"
    path.write_text("name: Rex\n")
    model = FakeListChatModel(responses=["ok"])
    for persona in (Persona(name="Rex"), "wren", path, str(path)):
        create_companion(model, None, persona).invoke({"messages": [HumanMessage("Hi")]})
    with pytest.raises(PersonaError, match="not in the catalogue"):
        create_companion(model, None, "nobody")


def test_a_store_that_is_none_of_ours() -> None:
    with pytest.raises(UsageError, match="a LangGraph store or a LongTermMemory, not str"):
        create_companion(FakeListChatModel(responses=["ok"]), "folder", "mia")  # type: ignore[arg-type]


def test_the_conversation_goes_on_in_its_thread() -> None:
    model = FakeListChatModel(responses=["one", "two"])
    agent = create_companion(model, None, "mia", checkpointer=InMemorySaver(), name="companion")
    ask(agent, "a")
    assert [m.text for m in ask(agent, "b")["messages"]] == ["a", "one", "b", "two"]
    assert agent.name == "companion"


def test_tools_and_further_middleware() -> None:
    from langchain.agents.middleware import ModelCallLimitMiddleware
    from langchain_core.language_models import GenericFakeChatModel

    class Model(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            assert [tool.name for tool in tools] == ["ring"]
            return self

    def ring() -> str:
        """Ring the bell."""
        return "ding"

    call = {"name": "ring", "args": {}, "id": "c1", "type": "tool_call"}
    model = Model(messages=iter([AIMessage("", tool_calls=[call]), "It rang."]))
    agent = create_companion(
        model,
        None,
        "mia",
        tools=[ring],
        middleware=[ModelCallLimitMiddleware(run_limit=3)],
        system_prompt="Be safe.",
    )
    result = agent.invoke({"messages": [HumanMessage("Ring!")]})
    assert [m.text for m in result["messages"]] == ["Ring!", "", "ding", "It rang."]


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, mmagent, mmagent.agents, mmagent.personas.persona\n"
        "heavy = {'torch', 'transformers', 'faiss', 'peft', 'mmagent_memory'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from mmagent import Persona, MemoryMiddleware, PersonaMiddleware, create_companion\n"
        "create_companion\n"
        "heavy = {'torch', 'transformers', 'faiss', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[1]
    path = ":".join(str(root / folder) for folder in ("", "memory", "prompts"))
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})


# With the real memory

NUTS = "My order number is A-17 and I am allergic to nuts."


def answering(*answers: str, **fields: Any) -> FakeListChatModel:
    return FakeListChatModel(responses=list(answers), **fields)


@pytest.fixture(params=["in memory", "on disk"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Opens the same store again and again."""
    in_memory = InMemoryStore()
    if request.param == "in memory":
        return lambda: in_memory
    return lambda: FaissStore(tmp_path / "M", HashEmbedder())


def test_a_later_process_is_given_what_was_said(open_store: Callable[[], Any]) -> None:
    ask(create_companion(answering("Noted!"), open_store(), "mia", user="sam"), NUTS)
    agent = create_companion(answering("Nuts."), open_store(), "mia", user="sam")
    recall = ask(agent, "What do you remember about my allergies to nuts?", "t2")["recall"]
    assert NUTS in [hit.text for hit in recall.hits[:3]]
    assert recall.sent[0].text.startswith("You are Mia")
    assert f"Sam) {NUTS}\n" in recall.sent[-1].text
    assert all(hit.score > 0 for hit in recall.hits)


def test_users_and_personas_remember_apart(open_store: Callable[[], Any]) -> None:
    ask(create_companion(answering("Noted!"), open_store(), "mia", user="sam"), NUTS)
    for user, persona in (("sam2", "mia"), ("sa", "mia"), ("sam", "ada")):
        agent = create_companion(answering("?"), open_store(), persona, user=user)
        recall = ask(agent, "What about nuts?")["recall"]
        assert recall.hits == ()
        assert "nuts." not in str(recall.sent)


def test_each_turn_is_stored_once(open_store: Callable[[], Any]) -> None:
    saver = InMemorySaver()
    for number in range(3):
        agent = create_companion(
            answering(f"answer {number}"), open_store(), "mia", user="sam", checkpointer=saver
        )
        ask(agent, f"question {number}")
    memory = LongTermMemory(open_store(), user="sam", persona="mia")
    kept = [(hit.text, hit.speaker, hit.thread) for hit in memory.list(newest_first=False)]
    assert kept == [
        (f"{what} {number}", who, "t1")
        for number in range(3)
        for what, who in (("question", "Sam"), ("answer", "Mia"))
    ]


async def test_async_with_a_memory_of_its_own(open_store: Callable[[], Any]) -> None:
    memory = LongTermMemory(open_store(), user="sam", persona="mia")
    agent = create_companion(answering("Noted!", "Nuts."), memory, "mia", user="sam")
    for thread, text in (("t1", NUTS), ("t2", "What about nuts?")):
        config: Any = {"configurable": {"thread_id": thread}}
        result = await agent.ainvoke({"messages": [HumanMessage(text)]}, config)
    assert NUTS in [hit.text for hit in result["recall"].hits]
    assert memory.count() == 4


def test_a_picture_comes_back(open_store: Callable[[], Any], picture: Callable[..., bytes]) -> None:
    packed = base64.b64encode(picture("red")).decode()
    image = {"type": "image", "base64": packed, "mime_type": "image/png"}
    model = answering("Cute!", profile={"image_inputs": True})
    agent = create_companion(model, open_store(), "mia", user="sam")
    ask(agent, [image, {"type": "text", "text": "Look at my new cat"}])
    agent = create_companion(model, open_store(), "mia", user="sam")
    recall = ask(agent, "Do you remember my new cat?", "t2")["recall"]
    assert recall.sent[-1].content[0] == image
    assert "Sam, picture below) Look at my new cat" in recall.sent[-1].content[1]["text"]
    memory = LongTermMemory(open_store(), user="sam", persona="mia")
    memory.erase()
    recall = ask(create_companion(model, open_store(), "mia", user="sam"), "My new cat?", "t3")
    assert recall["recall"].hits == ()
