"""mmagent: a local multimodal chat model for LangChain with memory, personas and reasoning.

Everything public is imported from here; each name loads its module on first use, so that
`import mmagent` itself loads neither torch nor transformers nor faiss.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmagent.agents import create_companion
    from mmagent.chat_model import ChatMMAgent
    from mmagent.middleware.memory import MemoryMiddleware
    from mmagent.middleware.persona import PersonaMiddleware
    from mmagent.middleware.reasoning import ReasoningMiddleware
    from mmagent.personas.persona import Persona
    from mmagent.reasoning.templates import Reasoning
    from mmagent_memory import FaissStore, LongTermMemory

__version__ = "0.1.0"

_HOME_OF = {
    "ChatMMAgent": "mmagent.chat_model",
    "FaissStore": "mmagent_memory",
    "LongTermMemory": "mmagent_memory",
    "MemoryMiddleware": "mmagent.middleware.memory",
    "Persona": "mmagent.personas.persona",
    "PersonaMiddleware": "mmagent.middleware.persona",
    "Reasoning": "mmagent.reasoning.templates",
    "ReasoningMiddleware": "mmagent.middleware.reasoning",
    "create_companion": "mmagent.agents",
}

__all__ = [
    "ChatMMAgent",
    "FaissStore",
    "LongTermMemory",
    "MemoryMiddleware",
    "Persona",
    "PersonaMiddleware",
    "Reasoning",
    "ReasoningMiddleware",
    "__version__",
    "create_companion",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
