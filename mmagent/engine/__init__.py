"""Engines: what answers a conversation. Loading one is the only heavy thing here."""

from __future__ import annotations

from mmagent.engine.base import Chunk, Engine, FinishReason, Modality, Sampling, Usage
from mmagent.engine.echo import EchoEngine

__all__ = ["Chunk", "EchoEngine", "Engine", "FinishReason", "Modality", "Sampling", "Usage"]
