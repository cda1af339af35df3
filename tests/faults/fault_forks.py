"""Work done in a forked child, which may be killed at any time or at a chosen step.

A fork of a process that has imported everything costs a few milliseconds, so that hundreds of
kills fit in a minute. The process that forks must have no threads: run it by itself, with
`OMP_NUM_THREADS=1`, as `benchmarks/faults.py` does.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sqlite3
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Child", "Ended", "ask", "die_at_step", "start"]

for _name in ("faiss", "PIL.PngImagePlugin", "mmagent_memory.native", "langgraph.store.base"):
    importlib.import_module(_name)  # Here once, instead of in every child.

Tell = Callable[[Any], None]
PATIENCE = 60.0
"""Seconds after which a child that neither ends nor speaks counts as hanging."""


@dataclass
class Ended:
    """How a child ended.

    Attributes:
        told: What it told, in order; each one was whole.
        status: Its exit code, or minus the signal that ended it.
        hung: Whether it had to be killed because it took too long.
    """

    told: list[Any] = field(default_factory=list)
    status: int = 0
    hung: bool = False

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it, as was intended."""
        return self.status == -signal.SIGKILL and not self.hung


class Child:
    """A forked process that tells its parent what it has done."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self._rest = b""
        self._told: list[Any] = []

    def wait_for(self, count: int, patience: float = PATIENCE) -> None:
        """Wait until it has told that many things, or has ended."""
        deadline = time.monotonic() + patience
        while len(self._told) < count and self._read(deadline):
            pass

    def kill(self) -> None:
        """End it with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self, patience: float = PATIENCE) -> Ended:
        """Wait for its end and return everything it told."""
        deadline = time.monotonic() + patience
        while self._read(deadline):
            pass
        hung = time.monotonic() > deadline
        if hung:
            self.kill()
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pipe)
        return Ended(self._told, os.waitstatus_to_exitcode(status), hung)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        data = os.read(self._pipe, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._told += [json.loads(line) for line in lines]
        return bool(data)


def start(work: Callable[[Tell], None]) -> Child:
    """Fork, and let the child do the work; it is given what tells the parent something."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    try:
        os.close(reading)

        def tell(what: Any) -> None:
            line = json.dumps(what).encode("ascii") + b"\n"
            while line:
                line = line[os.write(writing, line) :]

        try:
            work(tell)
        except BaseException as error:
            tell({"error": type(error).__name__, "words": str(error)})
            tell({"trace": traceback.format_exc()[-3000:]})
            os._exit(70)
        os._exit(0)
    finally:
        os._exit(71)


def ask(question: Callable[[], Any], patience: float = PATIENCE) -> tuple[Any, str | None]:
    """Return what a function gives in a child of its own, and what went wrong there if anything.

    An exception is "Name: its words"; a crash is "signal 11"; a hang is "hung".
    """
    ended = start(lambda tell: tell({"answer": question()})).end(patience)
    if ended.hung:
        return None, "hung"
    if ended.status < 0:
        return None, f"signal {-ended.status}"
    if ended.status:
        told = next((one for one in ended.told if "error" in one), {"error": "?", "words": ""})
        return None, f"{told['error']}: {told['words']}"
    return ended.told[-1]["answer"], None


def die_at_step(number: int, *, after: bool) -> None:
    """Let this process kill itself at a step: a statement of SQL, a rename, a sync, a removal.

    Args:
        number: Which one, counted from 1.
        after: Just after it was done, not just before.
    """
    count = 0

    def step(action: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            mine = count == number
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = action(*arguments, **named)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return stepping

    connect = sqlite3.connect

    def connecting(*arguments: Any, **named: Any) -> sqlite3.Connection:
        kind = named.pop("factory", sqlite3.Connection)
        methods = {name: step(getattr(kind, name)) for name in ("execute", "executemany", "close")}
        return connect(*arguments, factory=type("Connection", (kind,), methods), **named)

    sqlite3.connect = connecting  # type: ignore[assignment]
    for owner, name in (
        (Path, "replace"),
        (Path, "rename"),
        (Path, "unlink"),
        (Path, "mkdir"),
        (os, "replace"),
        (os, "fsync"),
        (os, "truncate"),
    ):
        setattr(owner, name, step(getattr(owner, name)))
