"""How many tokens messages have, exactly where the model can tell and roughly elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from mmagent.personas.lore_engine import estimate_tokens

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["TokenCounter", "counter_for", "estimate_messages"]

TOKENS_OF_A_PICTURE = 300
"""What hosted models charge for a picture of moderate size, where nothing better is known."""
_TOKENS_OF_A_MESSAGE = 6


class TokenCounter(Protocol):
    """Counts messages, with the tools that are described to the model."""

    def __call__(self, messages: Sequence[BaseMessage], tools: Sequence[Any] = ...) -> int:
        """Return the tokens of the prompt that these make."""
        ...


def estimate_messages(messages: Sequence[BaseMessage], tools: Sequence[Any] = ()) -> int:
    """Return about how many tokens messages have; rather too many."""
    total = 0
    for message in messages:
        total += _TOKENS_OF_A_MESSAGE + estimate_tokens(str(message.text))
        calls = getattr(message, "tool_calls", None)
        if calls:
            total += estimate_tokens(json.dumps(calls, default=str))
        if isinstance(message.content, list):
            total += TOKENS_OF_A_PICTURE * sum(map(_is_medium, message.content))
    if tools:
        described = [convert_to_openai_tool(tool) for tool in tools]
        total += estimate_tokens(json.dumps(described, default=str))
    return total


def _is_medium(block: Any) -> bool:
    kinds = ("image", "image_url", "input_image", "audio", "video", "file", "media")
    return isinstance(block, dict) and block.get("type") in kinds


def counter_for(model: BaseChatModel) -> TokenCounter:
    """Return how to count for a model.

    Our own model counts exactly, pictures included. Others are not asked: LangChain's default
    fetches a tokenizer of another model from the web, and some vendors' ask their servers.
    """
    if not model._llm_type.startswith("mmagent"):
        return estimate_messages

    def count(messages: Sequence[BaseMessage], tools: Sequence[Any] = ()) -> int:
        listed = list(messages)
        if not any(isinstance(message, HumanMessage) for message in listed):
            # Chat templates want somebody to be answered; a few tokens more do no harm.
            listed.append(HumanMessage("."))
        return model.get_num_tokens_from_messages(listed, tools=list(tools) or None)

    return count
