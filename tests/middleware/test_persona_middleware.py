from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from notebook import parrot

from mmagent.errors import PersonaError
from mmagent.middleware.persona import PersonaMiddleware
from mmagent.personas.persona import Persona

REX = Persona(name="Rex", description="A dog.", examples="{{user}}: Sit\n{{char}}: Woof")


def sent_to(model_prompt: Any, persona: Persona | str = REX, **options: Any) -> list[Any]:
    model = parrot("ok")
    agent = create_agent(
        model,
        middleware=[PersonaMiddleware(persona, user="sam", **options)],
        system_prompt=model_prompt,
    )
    agent.invoke({"messages": [HumanMessage("Hi")]})
    return model.seen[0]


def test_the_persona_speaks_without_a_developer() -> None:
    system, last = sent_to(None)
    assert isinstance(system, SystemMessage)
    assert system.text == REX.system_prompt(user="Sam", max_example_chars=1500)
    assert "Sam: Sit" in system.text
    assert last.text == "Hi"


def test_the_developers_words_stand_first() -> None:
    system = sent_to("Never give medical advice.")[0]
    assert system.text.startswith("Never give medical advice.\n\n")
    assert system.text.index("the above holds") < system.text.index("A dog.")


def test_content_blocks_of_the_developer_stay_as_they_are() -> None:
    block = {"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral"}}
    system = sent_to(SystemMessage([block]))[0]
    assert system.content[0] == block
    assert system.content[1]["text"].lstrip().startswith("You play the character")
    assert system.text == sent_to("Rules.")[0].text


async def test_async_and_by_name() -> None:
    model = parrot("ok")
    agent = create_agent(model, middleware=[PersonaMiddleware("mia", user="sam")])
    result = await agent.ainvoke({"messages": [HumanMessage("Hi")]})
    assert model.seen[0][0].text == Persona.load("mia").system_prompt(user="sam")
    assert [m.text for m in result["messages"]] == ["Hi", "ok"]


def test_examples_may_be_left_out_and_the_user_named() -> None:
    system = sent_to(None, max_example_chars=0, user_name="Dr. Who")[0]
    assert "Sit" not in system.text
    assert "Dr. Who" in system.text


def test_an_unknown_persona() -> None:
    with pytest.raises(PersonaError, match="not in the catalogue"):
        PersonaMiddleware("nobody")


# Lore and notes


def rex(*entries: dict[str, Any], **fields: Any) -> Persona:
    book = {"entries": list(entries), "scan_depth": 2}
    return Persona(name="Rex", description="A dog.", lorebook=book, **fields)


def lore(content: str, *keys: str, **fields: Any) -> dict[str, Any]:
    return {"content": content, "keys": list(keys), "enabled": True, "insertion_order": 1} | fields


def test_lore_that_is_always_said_stands_in_the_system_message() -> None:
    persona = rex(
        lore("First {{char}}.", constant=True, position="before_char"),
        lore("Last.", constant=True, position="after_char"),
        lore("Never.", "zebra"),
    )
    system, last = sent_to(None, persona)
    assert "First Rex.\n\nA dog.\n\nLast." in system.text
    assert last.text == "Hi"


def talk(persona: Persona, *texts: str, **options: Any) -> list[list[Any]]:
    model = parrot(*["ok"] * len(texts))
    agent = create_agent(
        model,
        middleware=[PersonaMiddleware(persona, user="sam", **options)],
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "t1"}}
    for text in texts:
        agent.invoke({"messages": [HumanMessage(text)]}, config)
    kept = agent.get_state(config).values["messages"]
    assert [m.text for m in kept[::2]] == list(texts)
    return model.seen


def test_lore_that_was_woken_follows_the_users_words() -> None:
    persona = rex(lore("The ball of {{user}} is <|red|>.", "ball"))
    first, second, third = talk(persona, "a ball", "hm", "hm")
    assert first[-1].text == "a ball\n\n[Lore]\nThe ball of Sam is < |red| >.\n[/Lore]"
    # Of the last two messages neither holds the key.
    assert third[-1].text == "hm"
    # The system message is the same in all turns.
    assert len({turn[0].text for turn in (first, second, third)}) == 1


def test_lore_keeps_its_time_with_the_thread() -> None:
    persona = rex(lore("Red.", "ball", extensions={"sticky": 4}))
    turns = talk(persona, "ball", "hm", "hm", "hm")
    assert ["Red." in turn[-1].text for turn in turns] == [True, True, False, False]


def test_lore_has_a_budget() -> None:
    persona = rex(lore("x" * 90, "ball", priority=2), lore("y" * 90, "ball", priority=1))
    (turn,) = talk(persona, "ball", max_lore_tokens=40)
    assert "x" * 90 in turn[-1].text
    assert "y" * 90 not in turn[-1].text


def test_notes_at_a_depth() -> None:
    deep = {"depth_prompt": {"prompt": "Stay {{char}}.", "depth": 2, "role": "system"}}
    persona = rex(
        lore("Deep.", "two", extensions={"position": 4, "depth": 99, "role": 1}), extensions=deep
    )
    turns = talk(persona, "one", "two")
    note = "[Note for Rex]\nStay Rex.\n[/Note]"
    assert turns[0][-1].text == f"one\n\n{note}"
    assert [m.text for m in turns[1][1:]] == [f"one\n\nDeep.\n\n{note}", "ok", "two"]


def test_lore_of_pictures_alone_and_of_no_user() -> None:
    persona = rex(lore("Red.", "ball"), post_history_instructions="Be brief.")
    model = parrot("ok", "ok")
    agent = create_agent(model, middleware=[PersonaMiddleware(persona, user="sam")])
    agent.invoke({"messages": [HumanMessage([{"type": "image", "url": "x"}])]})
    assert [block["type"] for block in model.seen[0][-1].content] == ["image", "text"]
    agent.invoke({"messages": [AIMessage("Hello")]})
    assert model.seen[1][-1].text == "Hello"
