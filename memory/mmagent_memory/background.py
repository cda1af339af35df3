"""Deriving beside the conversation: a thread that reads what is new, so that no answer waits."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from mmagent_memory.derived import DerivedMemory
from mmagent_memory.deriving import WHAT, DeriveReport

__all__ = ["BackgroundDeriver"]

_log = logging.getLogger(__name__)
_AT_EXIT_SECONDS = 10.0


class BackgroundDeriver:
    """Derives in a thread of its own whenever it was told that there is something new.

    Several notices that come while it works are one. What is not done when the program ends is
    done by the next one: deriving goes on where it was.

    Args:
        memory: What is derived from, and into.
        model: Any LangChain chat model.
        what: As in `LongTermMemory.derive`.
        on_report: Told of each derivation, in the thread.
    """

    def __init__(
        self,
        memory: DerivedMemory,
        model: Any,
        what: Sequence[str] = WHAT,
        *,
        on_report: Callable[[DeriveReport], None] | None = None,
    ) -> None:
        self._memory = memory
        self._model = model
        self._what = tuple(what)
        self._on_report = on_report
        self._changed = threading.Condition()
        self._noticed = 0
        self._done = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        """Say that there is something new; returns at once."""
        with self._changed:
            if self._closed:
                return
            self._noticed += 1
            if self._thread is None:
                # A daemon: a model that hangs must not keep the program from ending.
                self._thread = threading.Thread(
                    target=self._work, name="mmagent-memory-derive", daemon=True
                )
                self._thread.start()
                _close_at_exit(self)
            self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything noticed so far has been read; False if it took too long."""
        with self._changed:
            wanted = self._noticed
            return self._changed.wait_for(lambda: self._done >= wanted, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Finish what was noticed and end the thread; False if it took too long."""
        finished = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and finished:
            self._thread.join(timeout)
        return finished

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._noticed > self._done)
                if self._closed:
                    return
                upto = self._noticed
            try:
                report = self._memory.derive(self._model, self._what)
                for failure in report.failures:
                    _log.warning("A model's answer was not used for memory: %s", failure)
                if self._on_report is not None:
                    self._on_report(report)
            except Exception:
                _log.warning("Deriving from memory failed; it goes on next time.", exc_info=True)
            with self._changed:
                self._done = upto
                self._changed.notify_all()


def _close_at_exit(deriver: BackgroundDeriver) -> None:
    # Weakly: being asked to end it must not keep it alive.
    reference = weakref.ref(deriver)

    def close() -> None:
        known = reference()
        if known is not None:
            known.close(_AT_EXIT_SECONDS)

    atexit.register(close)
