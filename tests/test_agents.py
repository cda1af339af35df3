import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from mmagent.agents import create_companion
from mmagent.errors import PersonaError, UsageError
from mmagent.personas.persona import Persona


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
