"""The persona's examples in a system message: where they stand, and how to take them out.

They are the first thing to go when a conversation grows, so whoever compiles the context must
know them from the rest. The mark says so on the message and never reaches a model.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import SystemMessage

__all__ = ["examples_of", "mark_examples", "unmarked", "without_examples"]

_MARK = "mmagent_examples"


def mark_examples(message: SystemMessage, examples: str) -> SystemMessage:
    """Return the message with a mark that says which of its text is examples."""
    if not examples or examples not in str(message.text):
        return message
    marks = {**message.additional_kwargs, _MARK: examples}
    return message.model_copy(update={"additional_kwargs": marks})


def examples_of(message: SystemMessage) -> str:
    """Return the examples in the message, or ""."""
    return str(message.additional_kwargs.get(_MARK, ""))


def without_examples(message: SystemMessage) -> SystemMessage:
    """Return the message without its examples."""
    examples = examples_of(message)
    content: Any = message.content
    if isinstance(content, str):
        content = _cut(content, examples)
    else:
        content = [
            {**block, "text": _cut(block["text"], examples)}
            if isinstance(block, dict) and isinstance(block.get("text"), str)
            else block
            for block in content
        ]
    return unmarked(message.model_copy(update={"content": content}))


def unmarked(message: SystemMessage) -> SystemMessage:
    """Return the message without the mark."""
    if _MARK not in message.additional_kwargs:
        return message
    marks = {k: v for k, v in message.additional_kwargs.items() if k != _MARK}
    return message.model_copy(update={"additional_kwargs": marks})


def _cut(text: str, examples: str) -> str:
    before, found, after = text.rpartition(examples)
    return f"{before.rstrip()}{after}" if found else text
