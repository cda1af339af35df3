"""One engine for each checkpoint of a process, however many chat models use it."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

from mmagent.engine.base import Engine

__all__ = ["EngineSpec", "engine_for"]


@dataclass(frozen=True)
class EngineSpec:
    """What decides how a checkpoint is loaded; see `TransformersEngine`."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    context_length: int | None = None
    cache_bytes: int = 512 * 1024 * 1024
    sanitize_control_tokens: bool = True
    max_batch: int = 16
    max_queue: int = 256
    quantization: str | None = None
    compile: bool = False


# Weak: weights go when the last chat model that uses them goes.
_ENGINES: weakref.WeakValueDictionary[EngineSpec, Engine] = weakref.WeakValueDictionary()
_LOADING: dict[EngineSpec, threading.Lock] = {}
_LOCK = threading.Lock()


def engine_for(spec: EngineSpec) -> Engine:
    """The engine of these settings; loaded now if nobody holds one.

    Raises:
        ModelNotFoundError: No such model.
        UsageError: A model that cannot be driven.
        DownloadError: The bundled model could not be fetched.
    """
    with _LOCK:
        engine = _ENGINES.get(spec)
        lock = _LOADING.setdefault(spec, threading.Lock())
    if engine is not None:
        return engine
    with lock:  # of this model alone: loading one does not hold up another
        with _LOCK:
            engine = _ENGINES.get(spec)
        if engine is None:
            engine = _load(spec)
            with _LOCK:
                _ENGINES[spec] = engine
    return engine


def _load(spec: EngineSpec) -> Engine:
    if spec.model == "echo":
        from mmagent.engine.echo import EchoEngine

        return EchoEngine(context_length=spec.context_length or 8192)
    from mmagent.engine.transformers_engine import TransformersEngine
    from mmagent.models import resolve_model

    return TransformersEngine(
        resolve_model(spec.model),
        name=spec.model,
        device=spec.device,
        dtype=spec.dtype,
        context_length=spec.context_length,
        cache_bytes=spec.cache_bytes,
        sanitize_control_tokens=spec.sanitize_control_tokens,
        max_batch=spec.max_batch,
        max_queue=spec.max_queue,
        quantization=spec.quantization,
        compile=spec.compile,
    )
