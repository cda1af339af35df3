"""What was said and shown in a message, as memory keeps it."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langgraph.config import get_config

from mmagent.errors import UsageError
from mmagent.media import LoadedImage, MediaPolicy
from mmagent.messages import ImageShelf, to_conversation

__all__ = [
    "answered_turn",
    "is_user_turn",
    "last_turns",
    "pictures_of",
    "thread_id",
    "turn_id",
    "words_of",
]

_log = logging.getLogger(__name__)
_RATIONALE = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def words_of(message: BaseMessage) -> str:
    """Return the text of a message without reasoning, whether in blocks or in `<think>` tags."""
    text = str(message.text)
    if isinstance(message, AIMessage):
        # A template may open the tag in the prompt, so that only its end stands in the answer.
        if "</think>" in text and "<think>" not in text.partition("</think>")[0]:
            text = text.partition("</think>")[2]
        text = _RATIONALE.sub("", text)
    return text.strip()


def pictures_of(
    message: BaseMessage, policy: MediaPolicy | None = None, shelf: ImageShelf | None = None
) -> list[LoadedImage]:
    """Return the pictures of a message that can be kept.

    A picture that is not allowed or cannot be read is left out with a warning in the log: it is
    the model's to refuse or to understand (a hosted model may fetch what we do not).
    """
    pictures: list[LoadedImage] = []
    for block in message.content if isinstance(message.content, list) else []:
        if isinstance(block, str) or block.get("type") == "text":
            continue
        try:
            alone = AIMessage([block]) if isinstance(message, AIMessage) else HumanMessage([block])
            pictures += to_conversation([alone], policy, shelf=shelf).images
        except UsageError as error:
            _log.warning("Part of a message is not kept in memory: %s", error)
    return pictures


def is_user_turn(message: BaseMessage) -> bool:
    """Whether a person said this; summaries of the history are human messages too."""
    return isinstance(message, HumanMessage) and "lc_source" not in message.additional_kwargs


def last_turns(messages: Sequence[AnyMessage], number: int | None) -> Sequence[AnyMessage]:
    """Return the messages from the user's last turn but `number` on; all of them for None."""
    if number is None:
        return messages
    starts = [place for place, message in enumerate(messages) if is_user_turn(message)]
    earlier = starts[: -number - 1]
    return messages[starts[len(earlier)] :] if earlier else messages


def _is_answer(message: BaseMessage) -> bool:
    return isinstance(message, AIMessage) and not message.tool_calls


def answered_turn(messages: Sequence[AnyMessage]) -> tuple[list[HumanMessage], AIMessage | None]:
    """Return the last answer and the user's messages since the answer before it.

    There are several where an earlier run ended in an error after its message had been kept.
    """
    asked: list[HumanMessage] = []
    answer: AIMessage | None = None
    for message in reversed(messages):
        if isinstance(message, AIMessage) and _is_answer(message):
            if answer is not None or asked:
                break
            answer = message
        elif isinstance(message, HumanMessage) and is_user_turn(message):
            asked.append(message)
    return asked[::-1], answer


def turn_id(thread: str | None, message: BaseMessage) -> str:
    """Return the id under which a message is remembered: the same for the same message.

    The words are part of it, so that an edited message is a new memory and not a lost one.
    """
    parts = (thread or "", message.id or "", message.type, str(message.content))
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    return "turn-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def thread_id() -> str | None:
    """Return the id of the conversation that is running, if it has one."""
    try:
        thread = get_config().get("configurable", {}).get("thread_id")
    except RuntimeError:
        return None
    return None if thread is None else str(thread)
