"""Tools and structured output through LangChain's interface."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from mmagent import ChatMMAgent
from mmagent.answers import to_chunk
from mmagent.engine.base import CallPiece, Chunk
from mmagent.errors import GenerationError, UsageError
from mmagent.structured import tools_of


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=120)
    mood: Literal["happy", "sad"]
    friends: list[str] = Field(max_length=2)


class Place(TypedDict):
    """A place."""

    name: str


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def subtract(a: int, b: int) -> int:
    """Subtract two numbers."""
    return a - b


OTHER = {"name": "other", "description": "", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def llava(tiny_llava):
    return ChatMMAgent(model=tiny_llava, temperature=0, max_tokens=120)


@pytest.fixture(params=["echo", "llava"])
def model(request, tiny_llava):
    name = "echo" if request.param == "echo" else tiny_llava
    return ChatMMAgent(model=name, temperature=0, max_tokens=120)


def test_every_kind_of_tool_and_choice(model):
    for choice, names in (
        ("any", {"add", "subtract", "Person", "find"}),
        ("required", {"add", "subtract", "Person", "find"}),
        (True, {"add", "subtract", "Person", "find"}),
        ("subtract", {"subtract"}),
        ({"type": "function", "function": {"name": "Person"}}, {"Person"}),
    ):
        openai = {
            "type": "function",
            "function": {"name": "find", "parameters": {"type": "object"}},
        }
        answer = model.bind_tools([add, subtract, Person, openai], tool_choice=choice).invoke("Go")
        assert answer.tool_calls
        assert {call["name"] for call in answer.tool_calls} <= names
        assert answer.response_metadata["finish_reason"] == "tool_calls"
    for choice in (None, "auto", "none"):
        assert not model.bind_tools([add], tool_choice=choice).invoke("Go").tool_calls


def test_calls_arrive_in_pieces_and_add_up(model):
    pieces = list(model.bind_tools([add], tool_choice="add").stream("Go"))
    assert sum(bool(piece.tool_call_chunks) for piece in pieces) > 2
    whole = sum(pieces[1:], pieces[0])
    [call] = whole.tool_calls
    assert call["name"] == "add"
    assert set(call["args"]) == {"a", "b"}
    assert call["id"]
    assert whole.text == ""


async def test_a_loop_of_calls_and_results(model):
    messages = [HumanMessage("What is 1 + 2?")]
    answer = await model.bind_tools([add], tool_choice="any").ainvoke(messages)
    messages.append(answer)
    messages += [add.invoke(call) for call in answer.tool_calls]
    final = await model.bind_tools([add], tool_choice="none").ainvoke(messages)
    assert isinstance(final, AIMessage)
    assert final.text
    assert not final.tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("strict", [None, True])
def test_structured_output_by_every_method(model, method, strict):
    person = model.with_structured_output(Person, method=method, strict=strict).invoke("Who?")
    assert isinstance(person, Person)
    raw = model.with_structured_output(Place, method=method, include_raw=True).invoke("Where?")
    assert set(raw) == {"raw", "parsed", "parsing_error"}
    assert raw["parsing_error"] is None
    assert set(raw["parsed"]) == {"name"}
    as_dict = model.with_structured_output(Person.model_json_schema(), method=method)
    assert Person(**as_dict.invoke("Who?"))


def test_a_value_that_was_cut_off_does_not_pass_for_whole(tiny_llava):
    short = ChatMMAgent(model=tiny_llava, max_tokens=5)
    for method in ("json_schema", "function_calling"):
        with pytest.raises(GenerationError, match="max_tokens"):
            short.with_structured_output(Person, method=method).invoke("Who?")
        raw = short.with_structured_output(Person, method=method, include_raw=True).invoke("Who?")
        assert raw["parsed"] is None
        assert isinstance(raw["parsing_error"], GenerationError)
    cut = ChatMMAgent(model=tiny_llava, max_tokens=20).bind_tools([Person], tool_choice="any")
    answer = cut.invoke("Who?")
    assert answer.response_metadata["finish_reason"] == "length"
    assert not answer.tool_calls


def test_response_formats_of_other_callers(model):
    schema = Person.model_json_schema()
    for response_format in (
        {"type": "json_schema", "json_schema": {"name": "Person", "schema": schema}},
        {"type": "json_object", "schema": schema},
        Person,
    ):
        assert Person(**json.loads(model.invoke("Who?", response_format=response_format).text))
    plain = model.invoke("Hello", response_format={"type": "text"}).text
    assert plain == model.invoke("Hello").text


def test_an_agent_of_langchain_gets_its_structured_response(model):
    from langchain.agents import create_agent

    agent = create_agent(model, tools=[add], response_format=Person)
    state = agent.invoke({"messages": [HumanMessage("Who?")]}, {"recursion_limit": 12})
    if "structured_response" in state:  # a random model may prefer to call the tool for ever
        assert isinstance(state["structured_response"], Person)
    assert model.profile["structured_output"] is True


def test_mistakes_are_named(model):
    for call, message in (
        (lambda: model.bind_tools([add], tool_choice="nope"), "'nope'.*add"),
        (lambda: model.bind_tools([], tool_choice="any"), "no tools"),
        (lambda: model.bind_tools([add, {**OTHER, "name": "add"}]), "Two tools"),
        (lambda: model.bind_tools([{"type": "web_search"}]), "tool"),
        (lambda: model.with_structured_output(Person, method="magic"), "json_schema"),
        (lambda: model.invoke("x", response_format=3), "response_format"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_what_is_asked_of_the_engine():
    from mmagent.structured import form_of, tools_of

    tools = tools_of([add, subtract])
    assert form_of(tools, "none", None, None) is None
    assert form_of([], None, None, None) is None
    free = form_of(tools, None, None, None)
    assert (free.required, free.parallel, len(free.functions)) == (False, True, 2)
    some = form_of(tools, "any", False, None)
    assert (some.required, some.parallel) == (True, False)
    # One tool by name is one call of it.
    named = form_of(tools, "add", None, None)
    assert (named.required, named.parallel, len(named.functions)) == (True, False, 1)
    both = form_of(tools, "auto", None, {"type": "json_object"})
    assert (both.required, both.schema) == (False, {"type": "object"})


class Branch(BaseModel):
    """A branch of a tree."""

    leaves: int
    left: Branch | None = None
    more: list[Branch] = []


class Garden(BaseModel):
    """A garden."""

    tree: Branch


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [Branch, Garden])
def test_values_that_hold_their_like_fit_at_every_depth(llava, method, schema):
    for seed in range(3):
        model = llava.with_structured_output(
            schema, method=method, temperature=1.5, seed=seed, max_tokens=250
        )
        assert isinstance(model.invoke("Plant one"), schema)


def test_the_parts_that_come_back_are_described_to_the_model():
    for schema in (Branch, Garden):
        parameters = tools_of([schema])[0]["function"]["parameters"]
        assert "Branch" in parameters["$defs"]
        assert parameters["properties"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_settings_hold_whatever_the_method(llava, method):
    short = llava.with_structured_output(Garden, method=method, max_tokens=3, include_raw=True)
    raw = short.invoke("Plant one")["raw"]
    assert raw.usage_metadata["output_tokens"] == 3
    assert raw.response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"title": "Numbers", "type": "array", "items": {"type": "integer"}, "maxItems": 3}, list),
        ({"title": "Either", "enum": ["yes", "no"]}, str),
        ({"title": "Perhaps", "type": ["integer", "null"]}, (int, type(None))),
        ({"$defs": {"N": {"type": "object", "properties": {"n": {"type": "integer"}},
                          "required": ["n"]}}, "$ref": "#/$defs/N"}, dict),
    ],
)  # fmt: skip
def test_a_schema_need_not_be_of_an_object(llava, schema, kind):
    for method in ("json_schema", "json_mode"):
        value = llava.with_structured_output(schema, method=method).invoke("Go")
        assert isinstance(value, kind)
    if kind is dict:
        assert set(value) == {"n"}
    with pytest.raises(UsageError, match="object with properties"):
        llava.with_structured_output(schema, method="function_calling")


def test_what_no_answer_could_repeat_is_named(llava):
    deep: dict = {"type": "integer"}
    for _ in range(3000):
        deep = {"type": "object", "properties": {"k": deep}, "required": ["k"]}

    def tool(name, parameters=None):
        function = {"name": name, "description": "d", "parameters": parameters or {}}
        return {"type": "function", "function": function}

    with pytest.raises(UsageError, match="nested more than 200 levels"):
        llava.bind_tools([tool("deep", deep)])
    with pytest.raises(UsageError, match="nested more than 200 levels"):
        llava.with_structured_output({"title": "Deep", **deep})
    for name, message in (("<|im_end|>", "control token"), ("a\ud800", "half a character")):
        with pytest.raises(UsageError, match=message):
            llava.bind_tools([tool(name)], tool_choice="any").invoke("Go")
    schema = {"title": "S", "type": "object", "properties": {"c": {"const": "<|im_end|>"}},
              "required": ["c"]}  # fmt: skip
    with pytest.raises(UsageError, match="control token"):
        llava.with_structured_output(schema).invoke("Go")


def test_a_chunk_that_begins_a_call_and_goes_on_with_it_joins_with_the_others():
    """A step may end the call's name and begin its arguments."""
    parts = [
        Chunk(calls=(CallPiece(0, "a", "look"), CallPiece(0, arguments='{"'))),
        Chunk(calls=(CallPiece(0, arguments='at": 1}'), CallPiece(1, "b", "go"))),
        Chunk(calls=(CallPiece(1, arguments="{}"),)),
    ]
    first, *rest = [to_chunk(part, "m").message for part in parts]
    whole = sum(rest, first)
    assert [(c["id"], c["name"], c["args"]) for c in whole.tool_calls] == [
        ("a", "look", {"at": 1}),
        ("b", "go", {}),
    ]
