"""What a memory derives from its turns: the part of `LongTermMemory` that is about that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from langgraph.store.base import BaseStore

from mmagent_memory.backends import Backend, Steps, arun, run
from mmagent_memory.deriving import WHAT, DeriveReport, derive_steps
from mmagent_memory.facts import is_valid
from mmagent_memory.rating import RatedMemory
from mmagent_memory.records import FACT, SUMMARY, MemoryHit, hit_of, kind_of

if TYPE_CHECKING:
    Loader = Callable[[tuple[str, ...], str], Callable[[], bytes]]

__all__ = ["DerivedMemory"]

SETTLED = timedelta(minutes=30)
"""How long a session must have been quiet before it is summarised."""


class DerivedMemory(RatedMemory):
    """Facts, summaries and captions; each names the turns it is from and goes with them."""

    store: BaseStore
    clock: Callable[[], datetime]
    _backend: Backend
    _prefix: tuple[str, ...]
    _loader: Loader

    def derive(
        self,
        model: Any,
        what: Sequence[str] = WHAT,
        *,
        settled: timedelta = SETTLED,
        now: datetime | None = None,
    ) -> DeriveReport:
        """Let a chat model read what is new, and keep what it derives; return what was done.

        Turns are never changed. What was read is not read again; what was cut off goes on next
        time. An answer of the model that is not what was asked for changes nothing and is among
        the report's `failures`. Run it where nobody waits for it: it takes the model's time.

        Args:
            model: Any LangChain chat model; for captions one that sees pictures.
            what: Which of "facts", "summaries" and "captions".
            settled: How long a session must have been quiet before it is summarised.
            now: By default the memory's clock.

        Raises:
            MemoryUsageError: There is nothing of that name to derive, or `model` is none.
        """
        return run(self.store, self._derive(model, what, settled, now))

    async def aderive(
        self,
        model: Any,
        what: Sequence[str] = WHAT,
        *,
        settled: timedelta = SETTLED,
        now: datetime | None = None,
    ) -> DeriveReport:
        """Let a chat model read what is new, in a thread; see `derive`."""
        return await arun(self.store, self._derive(model, what, settled, now))

    def facts(self, at: datetime | None = None, *, every: bool = False) -> list[MemoryHit]:
        """Return the facts that hold, oldest first.

        Args:
            at: When they are to hold; by default now.
            every: Those that do not hold any more too.
        """
        return run(self.store, self._facts(at, every))

    async def afacts(self, at: datetime | None = None, *, every: bool = False) -> list[MemoryHit]:
        """Return the facts that hold; see `facts`."""
        return await arun(self.store, self._facts(at, every))

    def summaries(self) -> list[MemoryHit]:
        """Return the summaries of sessions, oldest first."""
        return run(self.store, self._derived_hits(SUMMARY))

    async def asummaries(self) -> list[MemoryHit]:
        """Return the summaries of sessions, oldest first."""
        return await arun(self.store, self._derived_hits(SUMMARY))

    def _derive(
        self, model: Any, what: Sequence[str], settled: timedelta, now: datetime | None
    ) -> Steps[DeriveReport]:
        moment = now or self.clock()
        return derive_steps(self._backend, self._prefix, model, what, moment, settled)

    def _facts(self, at: datetime | None, every: bool) -> Steps[list[MemoryHit]]:
        moment = at or self.clock()
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        shown = moment.astimezone(UTC).isoformat()
        hits = yield from self._derived_hits(FACT, None if every else shown)
        return hits

    def _derived_hits(self, kind: str, moment: str | None = None) -> Steps[list[MemoryHit]]:
        everything = yield from self._backend.everything(self._prefix)
        found = [
            stored
            for stored in everything
            if kind_of(stored.value) == kind and (moment is None or is_valid(stored.value, moment))
        ]
        found.sort(key=lambda stored: (stored.value.get("at") or "", stored.order))
        return [hit_of(stored, self._loader) for stored in found]
