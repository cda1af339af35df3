"""Deriving beside a conversation: no answer waits, nothing it does can break one."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from notebook import Notebook, parrot

from mmagent.errors import UsageError
from mmagent.middleware.memory import MemoryMiddleware
from mmagent_memory import BackgroundDeriver, FaissStore, HashEmbedder, LongTermMemory


class Deriver(BaseChatModel):
    """Notes the nuts once it may; until then it keeps whoever waits for it waiting."""

    may: Any = None
    said: str = json.dumps(
        {"facts": [{"op": "add", "text": "Sam is allergic to nuts.", "turns": ["T1"]}]}
    )

    @property
    def _llm_type(self) -> str:
        return "deriver"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs) -> ChatResult:
        if self.may is not None:
            assert self.may.wait(20)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.said))])


@pytest.fixture
def memory(tmp_path: Path):
    with FaissStore(tmp_path, HashEmbedder()) as store:
        yield LongTermMemory(store, user="sam", persona="mia")


def say(text: str, thread: str = "t1") -> tuple[dict[str, Any], dict[str, Any]]:
    return {"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": thread}}


def middleware(memory: Any, **options: Any) -> MemoryMiddleware:
    return MemoryMiddleware(memory, user="sam", persona="mia", **options)


def test_no_answer_waits_and_flush_does(memory: LongTermMemory) -> None:
    may = threading.Event()
    remembers = middleware(memory, derive=Deriver(may=may), derive_what=["facts"])
    agent = create_agent(parrot("Noted!", "Nuts."), middleware=[remembers])
    started = time.monotonic()
    result = agent.invoke(*say("I am allergic to nuts."))
    assert result["messages"][-1].text == "Noted!"
    assert time.monotonic() - started < 10
    assert not remembers.flush(timeout=0.05)
    assert memory.facts() == []
    may.set()
    assert remembers.flush(timeout=20)
    (fact,) = memory.facts()
    assert fact.text == "Sam is allergic to nuts."
    # In another conversation the model is given the fact as well.
    later = agent.invoke(*say("What am I allergic to?", "t2"))
    assert "fact" in {hit.kind for hit in later["recall"].hits}
    assert remembers.close(timeout=20)


async def test_async_agents_derive_too(memory: LongTermMemory) -> None:
    remembers = middleware(memory, derive=Deriver(), derive_what=["facts"])
    agent = create_agent(parrot("Noted!"), middleware=[remembers])
    await agent.ainvoke(*say("I am allergic to nuts."))
    assert remembers.close(timeout=20)
    assert len(memory.facts()) == 1


def test_what_is_still_to_be_read_is_not_recalled_as_a_fact(memory: LongTermMemory) -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    remembers = middleware(memory, derive=Deriver(), derive_what=["facts"])
    model = parrot("Noted!", "Nuts.")
    agent = create_agent(model, middleware=[remembers], checkpointer=InMemorySaver())
    agent.invoke(*say("I am allergic to nuts."))
    assert remembers.flush(timeout=20)
    agent.invoke(*say("What am I allergic to?"))
    assert "[Memories]" not in str(model.seen[1])
    remembers.close(timeout=20)


def test_a_wrong_or_failing_model_is_only_logged(memory: LongTermMemory, caplog) -> None:
    remembers = middleware(memory, derive=Deriver(said="Sorry."), derive_what=["facts"])
    agent = create_agent(parrot("Noted!"), middleware=[remembers])
    agent.invoke(*say("I am allergic to nuts."))
    assert remembers.close(timeout=20)
    assert "was not used" in caplog.text
    assert memory.facts() == []
    assert memory.count() == 2


def test_a_closed_store_is_only_logged(tmp_path: Path, caplog) -> None:
    store = FaissStore(tmp_path / "m", HashEmbedder())
    memory = LongTermMemory(store, user="sam", persona="mia")
    memory.remember("I am allergic to nuts.", speaker="Sam")
    store.close()
    deriver = BackgroundDeriver(memory, Deriver())
    deriver.notify()
    assert deriver.close(timeout=20)
    assert "goes on next time" in caplog.text


def test_several_notices_are_one_and_none_is_lost(memory: LongTermMemory) -> None:
    may = threading.Event()
    reports: list[Any] = []
    deriver = BackgroundDeriver(memory, Deriver(may=may), ["facts"], on_report=reports.append)
    for number in range(5):
        memory.remember(f"I am allergic to nuts, {number}.", speaker="Sam", thread="t")
        deriver.notify()
    may.set()
    assert deriver.close(timeout=20)
    assert sum(report.read for report in reports) == 5
    assert len(reports) <= 3
    deriver.notify()  # After the end: nothing.
    assert deriver.flush(timeout=1)


def test_derive_needs_a_memory_that_can() -> None:
    with pytest.raises(UsageError, match="Notebook"):
        middleware(Notebook(), derive=Deriver())
    plain = middleware(Notebook())
    assert plain.flush()
    assert plain.close()
