"""`ReasoningMiddleware`: a model thinks by a template, and its thoughts stay apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

from langchain.agents.middleware.types import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langgraph.constants import TAG_NOSTREAM

from mmagent.errors import UsageError
from mmagent.middleware.driving import adrive, drive
from mmagent.middleware.insertion import append_text
from mmagent.middleware.turns import is_user_turn
from mmagent.reasoning.parsing import Thought, split_tagged, split_thoughts
from mmagent.reasoning.templates import Reasoning
from mmagent.reasoning.voting import vote
from mmagent.untrusted import neutralise

__all__ = ["ReasoningMiddleware"]

_Steps = Generator[ModelRequest[Any], ModelResponse[Any], ModelResponse[Any]]
_ANSWER_NOW = {
    "en": "Answer at once, in a sentence or two. Do not think aloud.",
    "zh": "请直接用一两句话回答，不要写出思考过程。",
}


class ReasoningMiddleware(AgentMiddleware[Any, Any, Any]):
    """Reasons by a template where a person has just spoken; tool results are answered directly.

    The thoughts become a reasoning block before the answer: they are neither streamed nor shown,
    not sent again in later turns, and not remembered. Thoughts that break off are flagged, and
    the question is then asked directly, once. Put it inside of all other middleware that changes
    the request, so that memory is asked once.

    What happened stands in the answer's `response_metadata["reasoning"]`: `template`, `calls`,
    `unclosed`, and with a vote `agreement` and `answers`.
    """

    def __init__(
        self,
        reasoning: Reasoning | str = "direct",
        *,
        language: str = "en",
        max_thought_tokens: int = 256,
        temperature: float = 0.7,
    ) -> None:
        """Set the template.

        Args:
            reasoning: A template, or what `Reasoning.load` takes.
            language: In which it speaks to the model ("en", "zh").
            max_thought_tokens: Most tokens of one call for thoughts.
            temperature: Of the calls of a vote, where the model is ours; others are taken as
                they are set.

        Raises:
            UsageError: There is no such template, or a number cannot work.
        """
        super().__init__()
        if max_thought_tokens < 1:
            raise UsageError("max_thought_tokens must be 1 or more.")
        loaded = reasoning if isinstance(reasoning, Reasoning) else Reasoning.load(reasoning)
        self.reasoning = loaded
        self.language = language
        self.max_thought_tokens = max_thought_tokens
        self.temperature = temperature

    @property
    def reserve(self) -> int:
        """How many tokens its thoughts and instructions may add to a prompt."""
        if self.reasoning.is_direct:
            return 0
        return (self.max_thought_tokens + 100) * (len(self.reasoning.steps) + 1)

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Call the model as often as the template wants."""
        return drive(self._steps(request), handler)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Call the model as often as the template wants."""
        return await adrive(self._steps(request), handler)

    # The logic, without I/O: it yields requests and is sent responses.

    def _steps(self, request: ModelRequest[Any]) -> _Steps:
        request = request.override(messages=[_without_thoughts(m) for m in request.messages])
        if not request.messages or not is_user_turn(request.messages[-1]):
            return (yield request)
        if self.reasoning.votes == 1:
            return (yield from self._once(request, {}))
        responses = []
        for number in range(self.reasoning.votes):
            settings: dict[str, Any] = {}
            if request.model._llm_type.startswith("mmagent"):
                settings = {"temperature": self.temperature, "seed": number}
            response = yield from self._once(_unstreamed(request), settings)
            if _calls_tools(response):
                return response
            responses.append(response)
        answers = [str(_answer_of(response).text) for response in responses]
        number, agreement = vote(answers)
        winner = _with_usage(responses[number], responses)
        return _noted(winner, agreement=agreement, answers=answers)

    def _once(self, request: ModelRequest[Any], settings: dict[str, Any]) -> _Steps:
        """Reason once."""
        request = request.override(model_settings={**request.model_settings, **settings})
        thoughts: list[str] = []
        made: list[ModelResponse[Any]] = []
        for text in self.reasoning.step_texts(self.language):
            response = yield self._asking(request, text, thoughts, for_thought=True)
            made.append(response)
            thoughts.append(self._thought_of(response))
        text = self.reasoning.answer_text(self.language)
        tag = self.reasoning.answer_tag
        asked = self._asking(request, text, thoughts)
        response = yield _unstreamed(asked) if tag else asked
        made.append(response)
        if _calls_tools(response):
            return response
        found = _split(response, tag)
        unclosed = not found.is_closed
        if unclosed:
            # The whole budget went into thoughts. Once more, without them.
            now = _ANSWER_NOW["zh" if self.language.lower().startswith("zh") else "en"]
            response = yield self._asking(request, now, [])
            made.append(response)
            again = _split(response, None)
            found = Thought(again.answer or again.rationale, found.rationale)
        rationale = "\n\n".join(part for part in (*thoughts, found.rationale) if part)
        name = self.reasoning.name
        changed = _with_usage(_with_answer(response, found.answer, rationale, name), made)
        return _noted(changed, template=name, calls=len(made), unclosed=unclosed)

    def _asking(
        self,
        request: ModelRequest[Any],
        text: str,
        thoughts: Sequence[str],
        *,
        for_thought: bool = False,
    ) -> ModelRequest[Any]:
        """Return the request with an instruction, and the thoughts so far, after the question."""
        notes = [f"[Thoughts]\n{thought}\n[/Thoughts]" for thought in thoughts if thought]
        if text:
            notes.append(text)
        last = request.messages[-1]
        assert isinstance(last, HumanMessage)
        for note in notes:
            last = append_text(last, note)
        request = request.override(messages=[*request.messages[:-1], last])
        if not for_thought:
            return request
        settings = dict(request.model_settings)
        if request.model._llm_type.startswith("mmagent"):
            settings["max_tokens"] = self.max_thought_tokens
        request = request.override(model_settings=settings, tools=[], tool_choice=None)
        return _unstreamed(request.override(response_format=None))

    def _thought_of(self, response: ModelResponse[Any]) -> str:
        found = split_thoughts(str(_answer_of(response).text))
        text = neutralise(found.answer or found.rationale)
        # Brackets would end the block that the thoughts are shown in. Models that take no limit
        # of tokens are cut here, at about four characters each.
        return text.replace("[", "(").replace("]", ")")[: 4 * self.max_thought_tokens].strip()


def _unstreamed(request: ModelRequest[Any]) -> ModelRequest[Any]:
    """Return the request with a model whose tokens LangGraph does not show to the user."""
    tags = request.model.tags or []
    if TAG_NOSTREAM in tags:
        return request
    quiet = request.model.model_copy(update={"tags": [*tags, TAG_NOSTREAM]})
    return request.override(model=quiet)


def _answer_of(response: ModelResponse[Any]) -> AIMessage:
    return next(message for message in response.result if isinstance(message, AIMessage))


def _calls_tools(response: ModelResponse[Any]) -> bool:
    return any(isinstance(m, AIMessage) and m.tool_calls for m in response.result)


def _split(response: ModelResponse[Any], tag: str | None) -> Thought:
    """Take an answer apart: by its own blocks, by a reasoning model's marks, by our tags."""
    message = _answer_of(response)
    given = [
        str(block.get("reasoning", ""))
        for block in message.content_blocks
        if block["type"] == "reasoning"
    ]
    text = str(message.text)
    # A template's own tags first: a model's marks may be among them by chance.
    found = split_tagged(text, tag) if tag is not None else split_thoughts(text)
    rationale = "\n".join(part for part in (*given, found.rationale) if part)
    return Thought(found.answer, rationale, found.is_closed)


def _with_answer(
    response: ModelResponse[Any], answer: str, rationale: str, template: str
) -> ModelResponse[Any]:
    """Return the response with the thoughts as a block of their own, if there are any."""
    message = _answer_of(response)
    if not rationale and answer == str(message.text):
        return response
    blocks: list[str | dict[str, Any]] = []
    if rationale:
        extras = {"template": template}
        blocks.append({"type": "reasoning", "reasoning": rationale, "extras": extras})
    blocks.append({"type": "text", "text": answer})
    changed = message.model_copy(update={"content": blocks if rationale else answer})
    result: list[BaseMessage] = [changed if m is message else m for m in response.result]
    return ModelResponse(result, response.structured_response)


def _with_usage(
    response: ModelResponse[Any], made: Sequence[ModelResponse[Any]]
) -> ModelResponse[Any]:
    """Return the response with the tokens of all calls that were made for it."""
    total: UsageMetadata | None = None
    for call in made:
        usage = _answer_of(call).usage_metadata
        total = add_usage(total, usage) if usage is not None else total
    message = _answer_of(response)
    if total is None or total == message.usage_metadata:
        return response
    changed = message.model_copy(update={"usage_metadata": total})
    result: list[BaseMessage] = [changed if m is message else m for m in response.result]
    return ModelResponse(result, response.structured_response)


def _noted(response: ModelResponse[Any], **remarks: Any) -> ModelResponse[Any]:
    message = _answer_of(response)
    noted = {**message.response_metadata.get("reasoning", {}), **remarks}
    metadata = {**message.response_metadata, "reasoning": noted}
    changed = message.model_copy(update={"response_metadata": metadata})
    result: list[BaseMessage] = [changed if m is message else m for m in response.result]
    return ModelResponse(result, response.structured_response)


def _without_thoughts(message: AnyMessage) -> AnyMessage:
    """Return an earlier answer without the thoughts that a template put there.

    A vendor's own reasoning blocks stay: some want them back in a tool loop.
    """
    if not isinstance(message, AIMessage) or isinstance(message.content, str):
        return message
    kept = [
        block
        for block in message.content
        if isinstance(block, str)
        or block.get("type") != "reasoning"
        or "template" not in (block.get("extras") or {})
    ]
    if len(kept) == len(message.content):
        return message
    if len(kept) == 1 and isinstance(kept[0], dict) and kept[0].get("type") == "text":
        return message.model_copy(update={"content": kept[0]["text"]})
    return message.model_copy(update={"content": kept})
