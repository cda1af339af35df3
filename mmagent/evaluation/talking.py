"""A conversation that is measured: one persona, one user, one thread, turn by turn."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from mmagent.agents import create_companion
from mmagent.errors import ContextOverflowError
from mmagent.personas.persona import Persona

__all__ = ["Said", "Talk", "plain_picture"]


@dataclass
class Said:
    """One turn.

    Attributes:
        number: Of the turn, from 1.
        question: What the user said.
        answer: What came back; "" if the prompt did not fit.
        purpose: Why it was said: "talk", "fact", or what is probed.
        seconds: From the question to the whole answer.
        tokens: Of the prompt, counted by the model; 0 where it does not say.
        overflowed: Whether the prompt did not fit.
    """

    number: int
    question: str
    answer: str
    purpose: str
    seconds: float
    tokens: int = 0
    overflowed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The turn for JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


@dataclass
class Talk:
    """Talks, and keeps what was said.

    Attributes:
        model: Any chat model.
        persona: Who answers.
        store: A LangGraph store or memory; None for no memory.
        budget: Most tokens of a prompt; None for what the model's profile leaves.
        user: Whose memory it is.
        before: Is called before each turn, outside of its time.
        turns: What was said so far.
    """

    model: BaseChatModel
    persona: Persona
    store: Any = None
    budget: int | None = None
    user: str = "sam"
    summary: Any = None
    before: Callable[[], Any] = lambda: None
    turns: list[Said] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the agent."""
        self._agent = create_companion(
            self.model,
            self.store,
            self.persona,
            user=self.user,
            max_tokens=self.budget,
            summary=self.summary,
            checkpointer=InMemorySaver(),
        )

    @property
    def system_prompt(self) -> str:
        """What the persona is told to be."""
        return self.persona.system_prompt(user="Sam")

    def say(self, text: str, purpose: str = "talk", picture: bytes | None = None) -> Said:
        """Say something and return the turn."""
        content: list[str | dict[Any, Any]] = []
        if picture is not None:
            packed = base64.b64encode(picture).decode("ascii")
            content.append({"type": "image", "base64": packed, "mime_type": "image/png"})
        content.append({"type": "text", "text": text})
        message = HumanMessage(content if picture is not None else text)
        self.before()
        began = time.perf_counter()
        answer, tokens, overflowed = "", 0, False
        try:
            state = self._agent.invoke(
                {"messages": [message]}, {"configurable": {"thread_id": "measured"}}
            )
            last = state["messages"][-1]
            answer = str(last.text) if isinstance(last, AIMessage) else ""
            usage = getattr(last, "usage_metadata", None)
            tokens = int(usage["input_tokens"]) if usage else 0
        except ContextOverflowError:
            overflowed = True
        seconds = time.perf_counter() - began
        turn = Said(len(self.turns) + 1, text, answer, purpose, seconds, tokens, overflowed)
        self.turns.append(turn)
        return turn


def plain_picture(colour: str, side: int = 160) -> bytes:
    """A picture of one colour with a white disc, as PNG."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (side, side), colour)
    edge = side // 3
    ImageDraw.Draw(image).ellipse((edge, edge, side - edge, side - edge), fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
