"""Several LoRA adapters on one base: loaded once, switched between steps, mixed where PEFT can."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from mmagent.engine.loading import Checkpoint, attach_adapter

__all__ = ["AdapterRack"]

_UNKNOWN = "unknown"  # which adapter is active: loading one may have changed it
_BASE = "__base__"  # PEFT's name for no adapter


class AdapterRack:
    """The adapters of one model. The caller holds `lock` while the model runs."""

    def __init__(self, checkpoint: Checkpoint, lock: threading.RLock) -> None:
        self._checkpoint = checkpoint
        self._lock = lock
        self._names: dict[str, str] = {}  # path of an adapter to its name in the model
        self._sees: dict[str, bool] = {}  # whether an adapter changes how pictures are seen
        self._active: str | None = None
        self._mixes = True  # until PEFT refuses

    @property
    def paths(self) -> list[str]:
        """Those that are loaded."""
        return sorted(self._names)

    def name_of(self, path: str | None) -> str | None:
        """An adapter's name in the model; it is loaded if it is not yet.

        Raises:
            ModelNotFoundError: No adapter there.
            UsageError: An adapter of another model.
        """
        if path is None:
            return None
        with self._lock:
            if path not in self._names:
                name = f"adapter{len(self._names)}"
                self._active = _UNKNOWN
                attach_adapter(self._checkpoint, path, name)
                self._names[path] = name
                self._sees[name] = any(
                    f".{name}." in parameter and "language_model" not in parameter
                    for parameter, _ in self._checkpoint.model.named_parameters()
                )
            return self._names[path]

    def sight(self, name: str | None) -> str | None:
        """The adapter, if it changes how pictures are seen."""
        return name if name is not None and self._sees[name] else None

    def activate(self, name: str | None) -> None:
        """Switch to one adapter, or to none."""
        if name == self._active or not self._names:
            return
        peft_model = self._checkpoint.model._mmagent_peft
        self._active = _UNKNOWN
        if name is None:
            peft_model.base_model.disable_adapter_layers()
        else:
            peft_model.base_model.enable_adapter_layers()
            peft_model.set_adapter(name)
        self._active = name

    def can_mix(self, names: Sequence[str | None]) -> bool:
        """Whether these may share one step."""
        return self._mixes or len(set(names)) == 1

    def refuse_mixing(self) -> None:
        """PEFT could not (DoRA, say): group by adapter from now on."""
        self._mixes = False

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Row by row, with the adapter of each."""
        if len(set(names)) == 1:
            self.activate(names[0])
            yield
            return
        if self._active is None or self._active == _UNKNOWN:
            self.activate(next(name for name in names if name is not None))
        base = self._checkpoint.model._mmagent_peft.base_model
        with base._enable_peft_forward_hooks(adapter_names=[name or _BASE for name in names]):
            yield
