"""Engines: what answers a conversation. Loading one is the only heavy thing here."""

from __future__ import annotations

from mmagent.engine.base import (
    CallPiece,
    Chunk,
    Engine,
    FinishReason,
    Form,
    Modality,
    Sampling,
    TokenChance,
    Usage,
)
from mmagent.engine.echo import EchoEngine

__all__ = [
    "CallPiece",
    "Chunk",
    "EchoEngine",
    "Engine",
    "FinishReason",
    "Form",
    "Modality",
    "Sampling",
    "TokenChance",
    "Usage",
]
