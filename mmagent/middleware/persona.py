"""`PersonaMiddleware`: the agent speaks as a persona, with any chat model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware.types import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage

from mmagent.middleware.insertion import append_text
from mmagent.middleware.turns import is_user_turn
from mmagent.personas.persona import Persona
from mmagent.untrusted import display_name

__all__ = ["PersonaMiddleware"]


class PersonaMiddleware(AgentMiddleware[Any, Any, Any]):
    """Adds the persona to the system message, below what the developer wrote there.

    The persona's text is the same in every turn, so that a cached prefix stays good. Its
    post-history instructions follow the words of the user's last message, marked as what they
    are, since many models take no system message there. Nothing of it is stored.
    """

    def __init__(
        self,
        persona: Persona | str,
        *,
        user: str = "user",
        user_name: str | None = None,
        max_example_chars: int = 1500,
    ) -> None:
        """Set the persona.

        Args:
            persona: A persona, or what `Persona.load` takes.
            user: Whom it talks with.
            user_name: How the user is called; by default from `user`.
            max_example_chars: How much of its example conversations to show the model.

        Raises:
            PersonaError: There is no such persona, or it cannot be used.
        """
        super().__init__()
        self.persona = persona if isinstance(persona, Persona) else Persona.load(persona)
        self.user_name = user_name or display_name(user)
        self.max_example_chars = max_example_chars

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Call the model in the persona's voice."""
        return handler(self._in_character(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Call the model in the persona's voice."""
        return await handler(self._in_character(request))

    def _in_character(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        return request.override(
            system_message=self._system_message(request.system_message),
            messages=self._with_closing(request.messages),
        )

    def _system_message(self, given: SystemMessage | None) -> SystemMessage:
        developer = str(given.text).strip() if given is not None else ""
        text = self.persona.system_prompt(
            user=self.user_name, developer=developer, max_example_chars=self.max_example_chars
        )
        if given is None:
            return SystemMessage(content=text)
        if isinstance(given.content, str):
            return given.model_copy(update={"content": text})
        # Blocks may carry what only one provider knows (cache marks): they stay as they are.
        below = {"type": "text", "text": text.removeprefix(developer)}
        return given.model_copy(update={"content": [*given.content, below]})

    def _with_closing(self, messages: list[AnyMessage]) -> list[AnyMessage]:
        closing = self.persona.closing_instructions(user=self.user_name)
        place = next((i for i in reversed(range(len(messages))) if is_user_turn(messages[i])), None)
        if not closing or place is None:
            return messages
        last = messages[place]
        assert isinstance(last, HumanMessage)
        note = f"[Note for {self.persona.spoken_name}]\n{closing}\n[/Note]"
        return [*messages[:place], append_text(last, note), *messages[place + 1 :]]
