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

from mmagent.engine.base import Form
from mmagent.errors import GenerationError, UsageError

__all__ = ["Method", "checked_choice", "form_of", "structured", "tools_of"]

Method = Literal["json_schema", "function_calling", "json_mode"]
ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def tools_of(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools of every kind in OpenAI's format.

    Raises:
        UsageError: Something that is no tool, or two of one name.
    """
    try:
        made = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
    except (TypeError, ValueError) as error:
        raise UsageError(f"A tool cannot be described to the model: {error}") from error
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
        made: dict[str, Any] = convert_to_json_schema(response_format)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(
            "response_format must be a schema, or a dictionary with the type json_schema, "
            "json_object or text."
        ) from error
    return made


def structured(
    model: Any,
    schema: dict[str, Any] | type,
    *,
    method: Method = "json_schema",
    include_raw: bool = False,
    strict: bool | None = None,
) -> Runnable[Any, Any]:
    """A model whose answers are values of a schema.

    Args:
        model: A chat model with `bind` and `bind_tools`.
        schema: A pydantic class, TypedDict, JSON schema or function.
        method: "json_schema" answers in JSON, "function_calling" by a call, "json_mode" in JSON
            with the schema told by the caller's prompt (and held here all the same).
        include_raw: Give `{"raw", "parsed", "parsing_error"}` rather than the value alone.
        strict: Passed on to how the schema is described; a grammar holds it in any case.

    Raises:
        UsageError: An unknown method, or something that is no schema.
    """
    shape: Any = schema
    is_pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
    traced = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    parser: Runnable[Any, Any]
    if method == "function_calling":
        tool = tools_of([schema], strict=strict)[0]
        name = tool["function"]["name"]
        llm = model.bind_tools(
            [schema], tool_choice=name, strict=strict, ls_structured_output_format=traced
        )
        parser = (
            PydanticToolsParser(tools=[shape], first_tool_only=True)
            if is_pydantic
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    elif method in ("json_schema", "json_mode"):
        try:
            described = convert_to_json_schema(schema, strict=strict)
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"That is not a schema: {error}") from error
        name = described.get("title", "answer")
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": described, "strict": strict},
        }
        if method == "json_mode":
            response_format = {"type": "json_object", "schema": described}
        llm = model.bind(response_format=response_format, ls_structured_output_format=traced)
        parser = PydanticOutputParser(pydantic_object=shape) if is_pydantic else JsonOutputParser()
    else:
        raise UsageError(f"method is {method!r}; use json_schema, function_calling or json_mode.")
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
