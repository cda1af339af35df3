"""`PersonaMiddleware`: the agent speaks as a persona, with any chat model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
)
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langgraph.types import Command

from mmagent.middleware.insertion import append_text
from mmagent.middleware.system import mark_examples
from mmagent.middleware.turns import is_user_turn, thread_id, words_of
from mmagent.personas.lore_engine import LoreClock, activate, estimate_tokens
from mmagent.personas.macros import MacroContext
from mmagent.personas.persona import Persona
from mmagent.personas.prompt import render
from mmagent.untrusted import display_name

__all__ = ["PersonaMiddleware", "PersonaState"]


class PersonaState(AgentState[Any]):
    """The agent's state with the times at which lore awoke, kept with the thread."""

    lore_clock: NotRequired[Annotated[dict[str, int], PrivateStateAttr]]


class PersonaMiddleware(AgentMiddleware[PersonaState, Any, Any]):
    """Adds the persona to the system message, below what the developer wrote there.

    The system message is the same in every turn of a thread, so that a cached prefix stays good
    (unless the persona itself asks for the time). What changes with the turn follows the words
    of a late message of the user, marked as what it is, since many models take no second system
    message: lore that the conversation woke, and the persona's post-history instructions.
    Nothing of it is stored.
    """

    state_schema = PersonaState

    def __init__(
        self,
        persona: Persona | str,
        *,
        user: str = "user",
        user_name: str | None = None,
        max_example_chars: int = 1500,
        max_lore_tokens: int = 400,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        """Set the persona.

        Args:
            persona: A persona, or what `Persona.load` takes.
            user: Whom it talks with.
            user_name: How the user is called; by default from `user`.
            max_example_chars: How much of its example conversations to show the model.
            max_lore_tokens: How much of its lore to show, beyond what is always said.
            clock: What time it is for the user.

        Raises:
            PersonaError: There is no such persona, or it cannot be used.
        """
        super().__init__()
        self.persona = persona if isinstance(persona, Persona) else Persona.load(persona)
        self.user_name = user_name or display_name(user)
        self.max_example_chars = max_example_chars
        self.max_lore_tokens = max_lore_tokens
        self.clock = clock
        book = self.persona.lore_for(self.user_name)
        # What never changes stands in the system message already.
        spoken = tuple(entry for entry in book.entries if not entry.is_static)
        self._book = type(book)(spoken, book.scan_depth, book.token_budget, book.recursive)

    @property
    def reserve(self) -> int:
        """How many tokens its lore and notes may add to the messages, about."""
        notes = sum(estimate_tokens(text) + 12 for _, text in self._fixed_notes(MacroContext()))
        return notes + (self.max_lore_tokens if self._book.entries else 0)

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model in the persona's voice."""
        request, clock = self._in_character(request)
        return _with_clock(handler(request), clock)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model in the persona's voice."""
        request, clock = self._in_character(request)
        return _with_clock(await handler(request), clock)

    def _in_character(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], LoreClock]:
        said = request.messages
        macros = MacroContext(
            seed=thread_id() or "",
            turn=sum(map(is_user_turn, said)),
            now=self.clock(),
        )
        found = request.state.get("lore_clock")
        before: LoreClock = found if isinstance(found, dict) else {}
        notes, clock = self._lore(said, before, macros)
        notes += self._fixed_notes(macros)
        changed = request.override(
            model_settings=self._settings(request),
            system_message=self._system_message(request.system_message, macros),
            messages=_with_notes(said, notes),
        )
        return changed, clock

    def _settings(self, request: ModelRequest[Any]) -> dict[str, Any]:
        """Return the call's settings, with the persona's adapter where it has a say.

        Only our model has adapters to switch, and one that it was given outright stays. A card
        cannot name an adapter; only our YAML can.
        """
        ours = request.model._llm_type.startswith("mmagent")
        if not self.persona.adapter or not ours or getattr(request.model, "adapter", None):
            return request.model_settings
        return {"adapter": self.persona.adapter_path, **request.model_settings}

    def _system_message(self, given: SystemMessage | None, macros: MacroContext) -> SystemMessage:
        developer = str(given.text).strip() if given is not None else ""
        text, bare = (
            self.persona.system_prompt(
                user=self.user_name,
                developer=developer,
                max_example_chars=chars,
                macros=MacroContext(seed=macros.seed, now=macros.now),
            )
            for chars in (self.max_example_chars, 0)
        )
        examples = text.removeprefix(bare).strip() if text.startswith(bare) else ""
        if given is None:
            return mark_examples(SystemMessage(content=text), examples)
        if isinstance(given.content, str):
            return mark_examples(given.model_copy(update={"content": text}), examples)
        # Blocks may carry what only one provider knows (cache marks): they stay as they are.
        below = {"type": "text", "text": text.removeprefix(developer)}
        changed = given.model_copy(update={"content": [*given.content, below]})
        return mark_examples(changed, examples)

    def _lore(
        self, said: Sequence[AnyMessage], before: LoreClock, macros: MacroContext
    ) -> tuple[list[tuple[int, str]], LoreClock]:
        """Return (depth, text) of the lore that the conversation woke."""
        if not self._book.entries:
            return [], before
        spoken = [m for m in said if is_user_turn(m) or isinstance(m, AIMessage)]
        texts = [(words_of(m), isinstance(m, AIMessage)) for m in spoken]
        result = activate(
            self._book,
            [text for text, _ in texts if text],
            answers=sum(is_answer for text, is_answer in texts if text),
            clock=before,
            seed=macros.seed,
            budget=self.max_lore_tokens,
        )
        notes = []
        for entry in result.entries:
            text = self._render(entry.content, macros)
            if text:
                depth = entry.depth if entry.place == "depth" else 0
                notes.append((depth, text if entry.role == "user" else f"[Lore]\n{text}\n[/Lore]"))
        return notes, result.clock

    def _fixed_notes(self, macros: MacroContext) -> list[tuple[int, str]]:
        """Return (depth, text) of the notes that stand in every turn."""
        name = self.persona.spoken_name
        notes = []
        # SillyTavern's and, by now, everybody's: a reminder some messages above the end.
        deep = self.persona.extensions.get("depth_prompt")
        if isinstance(deep, dict) and isinstance(deep.get("prompt"), str):
            depth = deep.get("depth", 4)
            text = self._render(deep["prompt"], macros)
            if text:
                notes.append((depth if isinstance(depth, int) else 4, _note(name, text)))
        closing = self.persona.closing_instructions(user=self.user_name, macros=macros)
        if closing:
            notes.append((0, _note(name, closing)))
        return notes

    def _render(self, text: str, macros: MacroContext) -> str:
        return render(text, self.persona.spoken_name, self.user_name, macros)


def _note(name: str, text: str) -> str:
    return f"[Note for {name}]\n{text}\n[/Note]"


def _with_notes(
    messages: Sequence[AnyMessage], notes: Sequence[tuple[int, str]]
) -> list[AnyMessage]:
    """Append each note to the user's message that is nearest above its depth."""
    changed = list(messages)
    places = [number for number, message in enumerate(messages) if is_user_turn(message)]
    for depth, text in notes if places else ():
        wanted = len(messages) - 1 - max(0, depth)
        place = max((number for number in places if number <= wanted), default=places[0])
        message = changed[place]
        assert isinstance(message, HumanMessage)
        changed[place] = append_text(message, text)
    return changed


def _with_clock(
    response: ModelResponse[Any], clock: LoreClock
) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    if not clock:
        return response
    return ExtendedModelResponse(response, Command(update={"lore_clock": dict(clock)}))
