from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage
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
