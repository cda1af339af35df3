"""Ctrl-C while an answer is on its way: the first ends the answer, the second the program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmagent.cli.session import Asking

__all__ = ["ctrl_c_stops"]


@contextmanager
def ctrl_c_stops(asking: Asking) -> Iterator[None]:
    """Let Ctrl-C stop `asking` at its next token while the block runs.

    An exception in the middle of anything could leave a half-written conversation behind; so the
    first Ctrl-C raises nothing and only asks to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    presses = 0

    def pressed(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        asking.stop()
        if presses > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
