"""How a checkpoint writes function calls: found out from its chat template, written and read here.

Templates differ (`<tool_call>{"name": ...}</tool_call>`, bare JSON with `parameters`, ...), and a
model is best at the way it was trained on. So the template is asked to render a call, and what it
writes around the JSON is taken over. Templates that know nothing of tools are helped out: the
functions are described in the system turn, and earlier calls and results are written as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmagent.messages import Turn

__all__ = ["ToolFormat"]

_NAME, _KEY, _VALUE = "probe_function", "probe_key", "probe_value"
_FUNCTION = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}},
    },
}
_CALL = {
    "type": "function",
    "id": "call00000",
    "function": {"name": _NAME, "arguments": {_KEY: _VALUE}},
}


@dataclass(frozen=True)
class ToolFormat:
    """What stands around a call, and what the template can do by itself.

    Attributes:
        begin: Before the JSON of a call; how a call is told from text.
        end: After it.
        arguments_key: "arguments" or "parameters".
        shows_tools: The template describes the functions.
        shows_calls: The template writes the calls of earlier turns.
    """

    begin: str = "<tool_call>\n"
    end: str = "\n</tool_call>"
    arguments_key: str = "arguments"
    shows_tools: bool = False
    shows_calls: bool = False

    @classmethod
    def of(cls, render: Callable[..., str], special: frozenset[str]) -> ToolFormat:
        """Ask a template.

        Args:
            render: `render(turns, tools)` gives the template's text.
            special: Tokens that decoding drops; a mark made of them could not be read back.
        """
        user: Turn = {"role": "user", "content": "x"}
        try:
            shows_tools = _NAME in render([user], [_FUNCTION])
        except Exception:
            shows_tools = False
        try:
            asked: Turn = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
            with_call = render([user, asked], [_FUNCTION] if shows_tools else None)
            without = render([user], [_FUNCTION] if shows_tools else None)
        except Exception:
            return cls(shows_tools=shows_tools)
        written = with_call[len(without) :] if with_call.startswith(without) else with_call
        shows_calls = _NAME in written and _VALUE in written
        found = re.search(
            r'\{\s*"name":\s*"' + _NAME + r'",\s*"(arguments|parameters)":\s*'
            r'\{\s*"' + _KEY + r'":\s*"' + _VALUE + r'"\s*\}\s*\}',
            written,
        )
        marks = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "x^")
        if found is None:
            return cls(shows_tools=shows_tools, shows_calls=shows_calls)
        # What belongs to the turn (its role, its end) is not part of the call.
        begin = marks.split(written[: found.start()])[-1]
        end = marks.split(written[found.end() :])[0].rstrip()
        tag = re.search(r"<[^<>\s]+>\s*$|\[[A-Z_]+\]\s*$", begin)
        if tag is None or marks.search(tag[0].strip()):
            return cls(shows_tools=shows_tools, shows_calls=shows_calls)
        return cls(tag[0], end, found[1], shows_tools, shows_calls)

    @property
    def mark(self) -> str:
        """The part of `begin` that tells a call from text."""
        return self.begin.rstrip()

    def head(self, name: str) -> str:
        """What is written before the arguments of a call of this function."""
        gap = self.begin[len(self.mark) :]
        return f'{gap}{{"name": {_quoted(name)}, "{self.arguments_key}": '

    @property
    def tail(self) -> str:
        """What is written after the arguments."""
        return "}" + self.end

    def prepare(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> list[Turn]:
        """The turns, with what the template would leave out written into them as text."""
        said = [self._with_calls(turn) for turn in turns] if not self.shows_calls else list(turns)
        if not tools or self.shows_tools:
            return said
        about = {"type": "text", "text": self._describe(tools)}
        if said and said[0]["role"] == "system":
            gap = {"type": "text", "text": "\n\n"}
            return [{**said[0], "content": [*said[0]["content"], gap, about]}, *said[1:]]
        return [{"role": "system", "content": [about]}, *said]

    def _with_calls(self, turn: Turn) -> Turn:
        if not turn.get("tool_calls"):
            return turn
        calls = "\n".join(
            self.mark
            + self.head(call["function"]["name"])
            + json.dumps(call["function"]["arguments"], ensure_ascii=False)
            + self.tail
            for call in turn["tool_calls"]
        )
        kept = {key: value for key, value in turn.items() if key != "tool_calls"}
        return {**kept, "content": [*turn["content"], {"type": "text", "text": calls}]}

    def _describe(self, tools: Sequence[dict[str, Any]]) -> str:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        example = self.mark + self.head("NAME") + "{...}" + self.tail
        return (
            f"You may call functions. These exist:\n{listed}\n"
            f"To call one, write nothing but:\n{example}"
        )


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
