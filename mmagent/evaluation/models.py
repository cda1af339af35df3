"""Any chat model by a name that fits on a command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from mmagent.errors import UsageError

__all__ = ["open_model"]

_PROVIDER = re.compile(r"[a-z][a-z_0-9]+:[^/\\].*")


def open_model(name: str, *, max_tokens: int, adapter: str | None = None) -> BaseChatModel:
    """Return the chat model of a name, which answers with the likeliest words.

    Args:
        name: What `ChatMMAgent` takes ("tiny", "echo", a folder, a hub name), or
            "provider:model" as LangChain's `init_chat_model` takes it.
        max_tokens: Most tokens of an answer.
        adapter: A folder with a fine-tuned adapter, for our own models.

    Raises:
        ModelNotFoundError: There is no such model.
        UsageError: The provider's package is not installed, or the name is none of its.
    """
    if _PROVIDER.fullmatch(name) and not Path(name).exists():
        from langchain.chat_models import init_chat_model

        settings: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}
        try:
            hosted: BaseChatModel = init_chat_model(name, **settings)
            return hosted
        except (ImportError, ValueError) as error:
            raise UsageError(f"The model {name!r} cannot be used: {error}") from error
    from mmagent.chat_model import ChatMMAgent
    from mmagent.models import resolve_model

    resolve_model(name)
    return ChatMMAgent(model=name, adapter=adapter, max_tokens=max_tokens, temperature=0)
