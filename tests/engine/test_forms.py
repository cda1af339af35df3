"""Answers held to a form: calls and JSON are valid whatever the (random) model would like."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from mmagent.engine import CallPiece, Form, Sampling, Usage
from mmagent.engine.examples import example_of
from mmagent.engine.reader import AnswerReader
from mmagent.engine.toolformat import ToolFormat
from mmagent.engine.turns import ways_to_say
from mmagent.errors import UsageError
from mmagent.messages import to_conversation

ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
FIND = {
    "name": "find",
    "parameters": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["cat", "dog"]},
            "deep": {
                "type": "array",
                "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Place"}]},
                "maxItems": 2,
            },
        },
        "required": ["kind", "deep"],
        "$defs": {
            "Place": {
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
            }
        },
    },
}
HERE = {"name": "here"}


def tools(*functions):
    return [{"type": "function", "function": function} for function in functions]


def answer(engine, messages, form, sampling=None, functions=()):
    conversation = to_conversation(messages, tools=tools(*functions))
    sampling = sampling or Sampling(max_tokens=60, temperature=0)
    chunks = list(engine.generate(conversation, sampling, form=form))
    return "".join(chunk.text for chunk in chunks), _calls(chunks), chunks[-1]


def _calls(chunks):
    calls: list[list[str]] = []
    for piece in (piece for chunk in chunks for piece in chunk.calls):
        if piece.name:
            assert piece.id
            calls.append([piece.name, ""])
        assert piece.index == len(calls) - 1
        calls[-1][1] += piece.arguments
    return [(name, json.loads(arguments)) for name, arguments in calls]


# ---- with a model --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_is_required_comes_and_fits(llava_engine, seed):
    functions = (ADD, FIND, HERE)
    form = Form(functions, required=True, parallel=False)
    sampling = Sampling(max_tokens=80, temperature=1.5, seed=seed)
    said, calls, last = answer(llava_engine, [HumanMessage("Go")], form, sampling, functions)
    assert said == ""
    assert last.finish_reason == "tool_calls"
    [(name, arguments)] = calls
    if name == "add":
        assert {key: type(value) for key, value in arguments.items()} == {"a": int, "b": int}
    elif name == "find":
        assert arguments["kind"] in ("cat", "dog")
        assert len(arguments["deep"]) <= 2
        assert all(place is None or set(place) == {"name"} for place in arguments["deep"])
    else:
        assert (name, arguments) == ("here", {})


def test_several_calls_and_the_call_that_is_named(llava_engine):
    _, calls, last = answer(llava_engine, [HumanMessage("Go")], Form((HERE,), required=True))
    assert {name for name, _ in calls} == {"here"}
    assert last.finish_reason == "tool_calls"
    form = Form((ADD,), required=True, parallel=False)
    assert [name for name, _ in answer(llava_engine, [HumanMessage("Go")], form)[1]] == ["add"]


def test_without_need_a_model_may_talk(llava_engine):
    said, calls, last = answer(llava_engine, [HumanMessage("Hello")], Form((ADD,)))
    assert said
    assert calls == []
    assert last.finish_reason in ("stop", "length")


def test_text_is_json_of_the_schema_even_at_the_limit(llava_engine):
    schema = ADD["parameters"] | {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    for limit in (24, 40):
        said, _, last = answer(
            llava_engine,
            [HumanMessage("Hello")],
            Form(schema=schema),
            Sampling(max_tokens=limit, temperature=1.5, seed=1),
        )
        assert set(json.loads(said)) == {"a", "b"}
        assert last.finish_reason == "stop"
        assert last.usage.output_tokens <= limit
    # Where even the shortest value is too long, the limit holds and is told.
    _, _, last = answer(
        llava_engine, [HumanMessage("Hello")], Form(schema=schema), Sampling(max_tokens=3)
    )
    assert last.finish_reason == "length"


@pytest.mark.parametrize(
    ("properties", "limit"),
    [
        ({"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "boolean"}}}, 40),
        ({"a": {"type": "number"}, "b": {"type": ["number", "null"]}, "c": {"type": "string"}}, 45),
        ({"a": {"type": "string", "minLength": 120}, "b": {"type": "integer"}}, 60),
    ],
    ids=["a number that could go on", "one that may be none", "a text that must be long"],
)
def test_the_shortest_way_to_the_end_is_found(llava_engine, properties, limit):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    said, _, last = answer(
        llava_engine,
        [HumanMessage("Hello")],
        Form(schema=schema),
        Sampling(max_tokens=limit, temperature=1.5, seed=1),
    )
    assert set(json.loads(said)) == set(properties)
    assert last.finish_reason == "stop"


def test_forms_that_cannot_be_held(llava_engine):
    for form, sampling, message in (
        (Form(schema={"type": "nonsense"}), Sampling(), "schema"),
        (Form(schema={"$ref": "#/$defs/none"}), Sampling(), "schema"),
        (Form((ADD,)), Sampling(num_beams=2), "num_beams"),
    ):
        with pytest.raises(UsageError, match=message):
            answer(llava_engine, [HumanMessage("Hello")], form, sampling)


def test_a_form_does_not_disturb_what_is_remembered(llava_engine):
    messages = [HumanMessage("Remember me")]
    first = answer(llava_engine, messages, None)
    answer(llava_engine, messages, Form((ADD,), required=True, parallel=False))
    again = answer(llava_engine, messages, None)
    assert again[0] == first[0]
    assert again[2].usage.cache_read == again[2].usage.input_tokens - 1


names = st.text("abcxyz_", min_size=1, max_size=6)


def schemas():
    """Schemas of every word that a grammar can hold, some levels deep."""
    leaves = st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(
            lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
            st.integers(-50, 50),
            st.integers(0, 200),
        ),
        st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 6)),
        st.builds(lambda n: {"type": "string", "minLength": n}, st.integers(0, 6)),
        st.builds(lambda v: {"enum": v}, st.lists(names, min_size=1, max_size=3, unique=True)),
        st.builds(lambda v: {"const": v}, st.one_of(names, st.integers(-9, 9), st.none())),
    )

    def deeper(inner):
        return st.one_of(
            st.builds(
                lambda items, low, more: {
                    "type": "array",
                    "items": items,
                    "minItems": low,
                    "maxItems": low + more,
                },
                inner,
                st.integers(0, 2),
                st.integers(0, 2),
            ),
            st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(
                lambda fields, optional: {
                    "type": "object",
                    "properties": fields,
                    "required": sorted(fields)[optional:],
                },
                st.dictionaries(names, inner, max_size=3),
                st.integers(0, 2),
            ),
        )

    return st.recursive(leaves, deeper, max_leaves=5)


def fits(value, schema) -> bool:
    """A validator of our own for these words, so that no grammar judges itself."""
    if "anyOf" in schema:
        return any(fits(value, choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return value == schema["const"] and type(value) is type(schema["const"])
    match schema["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole and schema["minimum"] <= value <= schema["maximum"]
        case "string":
            longest = schema.get("maxLength", 10_000)
            return isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= longest
        case "array":
            return (
                isinstance(value, list)
                and schema["minItems"] <= len(value) <= schema["maxItems"]
                and all(fits(item, schema["items"]) for item in value)
            )
    return (
        isinstance(value, dict)
        and set(schema["required"]) <= set(value) <= set(schema["properties"])
        and all(fits(value[name], schema["properties"][name]) for name in value)
    )


@settings(
    # MMAGENT_SCHEMAS=1000 takes some minutes.
    max_examples=int(os.environ.get("MMAGENT_SCHEMAS", "25")),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(schemas())
def test_random_schemas_give_values_that_fit(llava_engine, schema):
    said, _, last = answer(
        llava_engine,
        [HumanMessage("x")],
        Form(schema=schema),
        Sampling(max_tokens=160, temperature=1.2, seed=3),
    )
    assert last.finish_reason == "stop"
    assert fits(json.loads(said), schema)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(schemas())
def test_examples_fit_too(schema):
    assert fits(example_of(schema), schema)


# ---- how calls are written -----------------------------------------------------------------


def test_the_format_is_taken_from_the_template(llava_engine):
    format = llava_engine._prompts.tool_format
    assert format == ToolFormat("<tool_call>", "</tool_call>", "arguments", True, True)
    assert format.head("add") == '{"name": "add", "arguments": '


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            '<tool_call>\n{"name": "N", "arguments": A}\n</tool_call><|end|>\n',
            ToolFormat("<tool_call>\n", "\n</tool_call>", "arguments", True, True),
        ),
        (
            '[TOOL]{"name": "N", "parameters": A}<|end|>',
            ToolFormat("[TOOL]", "", "parameters", True, True),
        ),
        # A mark that decoding drops, bare JSON, and another language: our own way of writing.
        (
            '<|tag|>{"name": "N", "arguments": A}<|end|>',
            ToolFormat(shows_tools=True, shows_calls=True),
        ),
        ('{"name": "N", "parameters": A}<|end|>', ToolFormat(shows_tools=True, shows_calls=True)),
        ("<fn=N>A</fn>", ToolFormat(shows_tools=True, shows_calls=True)),
        ("nothing", ToolFormat(shows_tools=True, shows_calls=False)),
    ],
)
def test_formats_of_other_templates(written, expected):
    def render(turns, tools):
        text = json.dumps(tools) + "user: x\n"
        for turn in turns[1:]:
            call = turn["tool_calls"][0]["function"]
            text += written.replace("N", call["name"], 1).replace(
                "A", json.dumps(call["arguments"])
            )
        return text

    assert ToolFormat.of(render, frozenset({"<|end|>", "<|tag|>"})) == expected


def test_a_template_without_tools_is_told_of_them():
    format = ToolFormat.of(lambda turns, tools: "x", frozenset())
    assert format == ToolFormat()
    call = {"name": "add", "args": {"a": 1, "b": 2}, "id": "1"}
    messages = [
        SystemMessage("Be kind."),
        HumanMessage("1+2?"),
        AIMessage("Wait.", tool_calls=[call]),
        ToolMessage("3", tool_call_id="1"),
    ]
    for said in (messages, messages[1:]):
        conversation = to_conversation(said, tools=tools(ADD))
        turns = format.prepare(conversation.turns, conversation.tools)
        system = "".join(part["text"] for part in turns[0]["content"])
        assert turns[0]["role"] == "system"
        assert '"name": "add"' in system
        assert "<tool_call>" in system
        asked = turns[-2]
        assert "tool_calls" not in asked
        assert asked["content"][-1]["text"] == (
            '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
        )
        assert len(ways_to_say(turns, True)) == 3


# ---- reading -------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=1, max_size=60), st.booleans())
def test_calls_are_read_wherever_the_pieces_are_cut(sizes, spoken):
    format = ToolFormat()
    args = ['{"a": "}\\"{", "b": [1, {}]}', "{}"]
    text = "Let me see. " if spoken else ""
    text += "\n".join(
        format.mark + format.head(n) + a + format.tail for n, a in zip("fg", args, strict=True)
    )
    reader = AnswerReader((), format, ["f", "g"])
    chunks, rest = [], text
    while rest:
        for size in sizes:
            chunk = reader.push(rest[:size])
            rest = rest[size:]
            if chunk:
                chunks.append(chunk)
    chunks.append(reader.finish("", "stop", Usage(1, 1)))
    assert "".join(chunk.text for chunk in chunks) == ("Let me see. " if spoken else "")
    assert _calls(chunks) == [("f", json.loads(args[0])), ("g", {})]
    assert chunks[-1].finish_reason == "tool_calls"


def test_text_that_only_looks_like_a_call_is_text():
    reader = AnswerReader((), ToolFormat(), ["f"])
    shown = [reader.push(piece) for piece in ("a <tool", "box> b ", "<tool_")]
    last = reader.finish("", "stop", Usage(1, 1))
    assert "".join(c.text for c in shown if c) + last.text == "a <toolbox> b <tool_"
    assert last.finish_reason == "stop"


def test_stop_texts_do_not_cut_calls():
    reader = AnswerReader(("\n",), ToolFormat(), ["f"])
    chunk = reader.push('<tool_call>\n{"name": "f", "arguments": {"x": "a\\nb\n"}}\n</tool_call>')
    assert not reader.stopped
    assert [piece for piece in chunk.calls if piece.name] == [CallPiece(0, chunk.calls[0].id, "f")]
    reader = AnswerReader(("\n",), ToolFormat(), ["f"])
    assert reader.push("one\ntwo").text == "one"
    assert reader.stopped
