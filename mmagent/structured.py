"""Tools and schemas as LangChain's callers give them, and the form of an answer they ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from mmagent.engine.base import Form
from mmagent.errors import GenerationError, UsageError

__all__ = ["Method", "checked_choice", "form_of", "structured", "tools_of"]

Method = Literal["json_schema", "function_calling", "json_mode"]
_DEEPEST = 200
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_NO_SCHEMA = (TypeError, ValueError, KeyError, AttributeError, RecursionError)
ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def tools_of(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools of every kind in OpenAI's format.

    Raises:
        UsageError: Something that is no tool, or two of one name.
    """
    try:
        made = [_described_tool(tool, strict) for tool in tools]
    except _NO_SCHEMA as error:
        raise UsageError(f"A tool cannot be described to the model: {error}") from error
    _check_depth(made)
    known: dict[str, dict[str, Any]] = {}
    for tool in made:
        name = tool.get("function", {}).get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not name:
            raise UsageError(
                "A tool has no function with a name; tools that run at a vendor's do not work here."
            )
        # A class and its own schema, say, are one tool given twice.
        if name in known and _fields(known[name]) != _fields(tool):
            raise UsageError(f"Two tools have the name {name!r}; give each its own.")
        known.setdefault(name, tool)
    return list(known.values())


def _described_tool(tool: ToolLike, strict: bool | None) -> dict[str, Any]:
    made: dict[str, Any] = convert_to_openai_tool(tool, strict=strict)
    model = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if (whole := _recursive(model)) is not None:
        made["function"]["parameters"] = whole
    return made


def _recursive(model: Any) -> dict[str, Any] | None:
    """The schema of a class whose values hold values of the same kind, else nothing.

    LangChain's own conversion leaves open what is inside of those.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    try:
        schema = model.model_json_schema()
    except Exception:  # one that has none is for LangChain to refuse
        return None
    inside = {name: _named(part) for name, part in schema.get("$defs", {}).items()}
    for name, reached in inside.items():
        found: set[str] = set()
        todo = set(reached)
        while todo:
            found |= todo
            todo = {more for one in todo for more in inside.get(one, ())} - found
        if name in found:
            break
    else:
        return None
    root = schema.pop("$ref", None)
    if root is not None:  # the class itself is the one that comes back
        schema = {**schema["$defs"][root.rpartition("/")[2]], **schema}
    return schema


def _named(part: Any) -> set[str]:
    """Names of the definitions that a part of a schema refers to."""
    if isinstance(part, list):
        return {name for item in part for name in _named(item)}
    if not isinstance(part, dict):
        return set()
    found = {name for item in part.values() for name in _named(item)}
    reference = part.get("$ref")
    return found | {reference.rpartition("/")[2]} if isinstance(reference, str) else found


def _is_other_schema(schema: Any) -> bool:
    """Whether it is a JSON schema of something that is no object with properties.

    LangChain takes schemas for functions, and these have no like among functions.
    """
    if not isinstance(schema, Mapping) or "properties" in schema or "name" in schema:
        return False
    kind = schema.get("type")
    if kind is not None:
        return isinstance(kind, list) or kind in _TYPES
    return bool({"anyOf", "oneOf", "allOf", "$ref", "enum", "const"} & set(schema))


def _json_schema_of(schema: Any, strict: bool | None) -> dict[str, Any]:
    """A schema of any kind as JSON schema.

    Raises:
        UsageError: It is none.
    """
    if isinstance(schema, Mapping):
        _check_depth(schema)
    if _is_other_schema(schema):
        return dict(schema)
    try:
        made: dict[str, Any] = _recursive(schema) or convert_to_json_schema(schema, strict=strict)
    except _NO_SCHEMA as error:
        raise UsageError(f"That is not a schema: {error}") from error
    return made


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list | tuple)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not level:
            return
    raise UsageError(
        f"A tool or schema is nested more than {_DEEPEST} levels deep; flatten it, or define its "
        "parts under $defs."
    )


def _fields(tool: Mapping[str, Any]) -> set[str]:
    return set((tool["function"].get("parameters") or {}).get("properties", {}))


def checked_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """`tool_choice` as "auto", "none", "any" or the name of a tool.

    Raises:
        UsageError: A name that no tool has, or a choice without tools.
    """
    if isinstance(choice, Mapping):
        choice = choice.get("function", {}).get("name") or choice.get("name") or choice.get("type")
    if choice is None or choice is False or choice == "auto":
        return None if choice is None else "auto"
    if choice == "none":
        return "none"
    names = [tool["function"]["name"] for tool in tools]
    if choice in (True, "any", "required") and choice not in names:
        if not names:
            raise UsageError("tool_choice wants a call, but there are no tools; pass some.")
        return "any"
    if choice not in names:
        raise UsageError(
            f"tool_choice names {choice!r}, which is none of the tools: {', '.join(names)}."
        )
    return str(choice)


def form_of(
    tools: Sequence[dict[str, Any]], choice: Any, parallel: bool | None, response_format: Any
) -> Form | None:
    """What an answer must look like, or None for plain text."""
    chosen = checked_choice(choice, tools)
    functions = [tool["function"] for tool in tools]
    if chosen == "none":
        functions = []
    elif chosen not in (None, "auto", "any"):
        functions = [function for function in functions if function["name"] == chosen]
    schema = _schema_of(response_format)
    if not functions and schema is None:
        return None
    required = chosen not in (None, "auto", "none")
    # One function by name means one call of it.
    one = required and chosen != "any"
    return Form(tuple(functions), required, not one and parallel is not False, schema)


def _schema_of(response_format: Any) -> dict[str, Any] | None:
    if response_format is None:
        return None
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            schema: dict[str, Any] = response_format.get("schema") or {"type": "object"}
            return schema
        inner = response_format.get("json_schema")
        if kind == "json_schema" and isinstance(inner, Mapping):
            return dict(inner.get("schema", {"type": "object"}))
    try:
        return _json_schema_of(response_format, None)
    except UsageError as error:
        raise UsageError(
            "response_format must be a schema, or a dictionary with the type json_schema, "
            "json_object or text."
        ) from error


def structured(
    model: Any,
    schema: dict[str, Any] | type,
    *,
    method: Method = "json_schema",
    include_raw: bool = False,
    strict: bool | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Runnable[Any, Any]:
    """A model whose answers are values of a schema.

    Args:
        model: A chat model with `bind` and `bind_tools`.
        schema: A pydantic class, TypedDict, JSON schema or function.
        method: "json_schema" answers in JSON, "function_calling" by a call, "json_mode" in JSON
            with the schema told by the caller's prompt (and held here all the same).
        include_raw: Give `{"raw", "parsed", "parsing_error"}` rather than the value alone.
        strict: Passed on to how the schema is described; a grammar holds it in any case.
        settings: Further parameters of the calls.

    Raises:
        UsageError: An unknown method, or something that is no schema.
    """
    shape: Any = schema
    is_pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
    traced: dict[str, Any] = {}
    if not _is_other_schema(schema):  # which LangChain's traces cannot show
        about = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        traced = {"ls_structured_output_format": about}
    parser: Runnable[Any, Any]
    if method == "function_calling":
        if _is_other_schema(schema):
            raise UsageError(
                "The arguments of a call are an object with properties; give such a schema, or "
                "use the method json_schema."
            )
        tool = tools_of([schema], strict=strict)[0]
        name = tool["function"]["name"]
        llm = model.bind_tools([schema], tool_choice=name, strict=strict, **traced)
        parser = (
            PydanticToolsParser(tools=[shape], first_tool_only=True)
            if is_pydantic
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    elif method in ("json_schema", "json_mode"):
        described = _json_schema_of(schema, strict)
        name = described.get("title", "answer")
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": described, "strict": strict},
        }
        if method == "json_mode":
            response_format = {"type": "json_object", "schema": described}
        llm = model.bind(response_format=response_format, **traced)
        parser = PydanticOutputParser(pydantic_object=shape) if is_pydantic else JsonOutputParser()
    else:
        raise UsageError(f"method is {method!r}; use json_schema, function_calling or json_mode.")
    llm = llm.bind(**settings) if settings else llm
    whole = RunnableGenerator(_whole, _awhole) | parser
    if not include_raw:
        return llm | whole  # type: ignore[no-any-return]
    read = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | whole, parsing_error=lambda _: None
    )
    unread = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | read.with_fallbacks([unread], exception_key="parsing_error")


def _whole(messages: Iterator[AIMessage]) -> Iterator[AIMessage]:
    """Pass pieces on; half a value, cut by the limit of tokens, must not pass for a whole one."""
    for message in messages:
        _check_end(message)
        yield message


async def _awhole(messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    async for message in messages:
        _check_end(message)
        yield message


def _check_end(message: AIMessage) -> None:
    if message.response_metadata.get("finish_reason") == "length":
        raise GenerationError("The answer was cut off before it was complete; raise max_tokens.")
