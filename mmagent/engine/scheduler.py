"""Who is served when: many requests of one model, on one thread.

    waiting (FIFO, bounded) ──> reading its prompt, piece by piece ──> decoding, all together

A round reads one piece of the prompt that has waited longest, then lets every decoding request
advance by one token: so requests join and leave between tokens, and a long prompt holds nobody up
for longer than one piece. What is produced is handed to the request at once and never waited for:
a consumer that is slow, or gone, stalls no other.

This module knows nothing of tensors. The thread lives while there is work and a little longer; it
keeps neither the engine nor the process alive.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from mmagent.errors import GenerationError, ModelBusyError

__all__ = ["Job", "Scheduler", "Worker"]

_LINGER = 5.0  # seconds that the thread waits for more work


class Job:
    """One request. Made by a caller, worked on by the scheduler's thread alone."""

    def __init__(self, *, timeout: float | None = None) -> None:
        """Begin the clock.

        Args:
            timeout: Seconds after which it fails, waiting included.
        """
        self.cancelled = False  # set by callers, looked at between steps
        self.finished = False  # set by the worker
        self.over = threading.Event()  # it has left, and what it computed is remembered
        self.timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self.reading = True

    def cancel(self) -> None:
        """The answer is not wanted any more; its place becomes free after the step at hand."""
        self.cancelled = True

    @property
    def late(self) -> bool:
        """The time is up."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def fail(self, error: BaseException) -> None:
        """Tell the consumer."""
        raise NotImplementedError


J = TypeVar("J", bound=Job)
J_contra = TypeVar("J_contra", bound=Job, contravariant=True)


class Worker(Protocol[J_contra]):
    """What does the work; called from the scheduler's thread only."""

    def read(self, job: J_contra, *, alone: bool, between: Callable[[], None]) -> bool:
        """Read a piece of the job's prompt; whether there is more to read.

        Args:
            job: The request.
            alone: Nobody is decoding, so the piece may be long.
            between: To be called now and then by work that cannot be cut into pieces.
        """

    def step(self, jobs: Sequence[J_contra]) -> None:
        """One token more for each; those that are done say so by `finished`."""

    def leave(self, job: J_contra) -> None:
        """The job ends, for whatever reason; called once."""


class _Shared:
    """What the thread looks at while it waits; holds neither scheduler nor model."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        self.thread: threading.Thread | None = None
        self.closing = False


class Scheduler(Generic[J]):
    """Serves jobs in the order they came, as many at once as there are rows."""

    def __init__(self, worker: Worker[J], *, rows: int, queue: int) -> None:
        """Make one; a thread is started when there is work.

        Args:
            worker: What does the work.
            rows: Most jobs that are worked on at once.
            queue: Most jobs that wait besides.
        """
        self._worker = worker
        self.rows = rows
        self.queue = queue
        self._shared = _Shared()
        _ALL.add(self._shared)

    def submit(self, job: J) -> None:
        """Put a job in the queue.

        Raises:
            ModelBusyError: The queue is full.
            GenerationError: The interpreter is ending.
        """
        shared = self._shared
        with shared.changed:
            if shared.closing:
                raise GenerationError("The program is ending; ask before that.")
            if len(shared.active) + len(shared.waiting) >= self.rows + self.queue:
                raise ModelBusyError(
                    f"The model is busy: {self.rows} answers are being written and {self.queue} "
                    "wait; ask again later, or raise max_queue."
                )
            shared.waiting.append(job)
            # A thread does not survive a fork.
            if shared.thread is None or not shared.thread.is_alive():
                shared.thread = threading.Thread(
                    target=_serve, args=(weakref.ref(self), shared), name="mmagent", daemon=True
                )
                shared.thread.start()
            shared.changed.notify_all()

    def state(self) -> dict[str, int]:
        """Jobs that are worked on and that wait, and how many may be."""
        with self._shared.changed:
            return {
                "active": len(self._shared.active),
                "waiting": len(self._shared.waiting),
                "max_batch": self.rows,
                "max_queue": self.queue,
            }

    # ---- on the thread ---------------------------------------------------------------------

    def _round(self) -> None:
        self._admit()
        active: list[J] = list(self._shared.active)  # type: ignore[arg-type]
        decoding = [job for job in active if not job.reading]
        first = next((job for job in active if job.reading), None)
        if first is not None:
            self._read(first, alone=not decoding)
        self._step()
        self._sweep()

    def _admit(self) -> None:
        shared = self._shared
        with shared.changed:
            gone = [job for job in shared.waiting if job.cancelled or job.late]
            for job in gone:
                shared.waiting.remove(job)
            while shared.waiting and len(shared.active) < self.rows:
                shared.active.append(shared.waiting.popleft())
        for job in gone:
            self._end(job)  # type: ignore[arg-type]
        self._sweep()

    def _read(self, job: J, *, alone: bool) -> None:
        try:
            job.reading = self._worker.read(job, alone=alone, between=self._between)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            job.fail(error)
            job.finished = True

    def _between(self) -> None:
        """In the middle of a long piece of work: let the others advance."""
        self._step()

    def _step(self) -> None:
        ready: list[J] = [
            job  # type: ignore[misc]
            for job in self._shared.active
            if not (job.reading or job.cancelled or job.finished)
        ]
        if not ready:
            return
        try:
            self._worker.step(ready)
        except BaseException as error:
            for job in ready:
                job.fail(error)
                job.finished = True

    def _sweep(self) -> None:
        """Let those go that are finished, cancelled or late."""
        ended: list[J] = [
            job  # type: ignore[misc]
            for job in self._shared.active
            if job.finished or job.cancelled or job.late
        ]
        for job in ended:
            try:
                self._worker.leave(job)
            finally:
                with self._shared.changed:
                    self._shared.active.remove(job)
                self._end(job)

    def _end(self, job: J) -> None:
        if job.late and not (job.finished or job.cancelled):
            job.fail(
                GenerationError(
                    f"The answer took longer than {job.timeout:g} seconds; "
                    "raise timeout, or lower max_tokens."
                )
            )
        job.over.set()


_ALL: weakref.WeakSet[_Shared] = weakref.WeakSet()


def _serve(reference: weakref.ref[Scheduler[Any]], shared: _Shared) -> None:
    while True:
        with shared.changed:
            while not (shared.waiting or shared.active or shared.closing):
                if not shared.changed.wait(_LINGER) and not shared.waiting:
                    shared.thread = None
                    return
        scheduler = reference()
        if scheduler is None or shared.closing:
            _abandon(shared, GenerationError("The model was let go before the answer was there."))
            return
        try:
            scheduler._round()
        except BaseException as error:  # a mistake here shall be heard of, not waited for
            _abandon(shared, error)
        del scheduler  # not kept alive while waiting


def _abandon(shared: _Shared, error: BaseException) -> None:
    """Whoever waits for one of these jobs would wait for ever."""
    with shared.changed:
        jobs = [*shared.active, *shared.waiting]
        shared.active.clear()
        shared.waiting.clear()
    for job in jobs:
        if not job.finished:
            job.fail(error)
        job.over.set()


@atexit.register
def _close_all() -> None:
    """No thread shall be inside the model while the interpreter is taken down."""
    threads = []
    for shared in list(_ALL):
        with shared.changed:
            shared.closing = True
            shared.changed.notify_all()
            threads.append(shared.thread)
    for thread in threads:
        if thread is not None:
            thread.join(timeout=5)
