"""Training: adapters for any model, and the programs that made the bundled one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmagent.finetune.config import ChatSettings
    from mmagent.finetune.data.example import make_example
    from mmagent.finetune.training import Run, finetune_chat

__all__ = ["ChatSettings", "Run", "finetune_chat", "make_example"]

_HOME_OF = {
    "ChatSettings": "config",
    "Run": "training",
    "finetune_chat": "training",
    "make_example": "data.example",
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
