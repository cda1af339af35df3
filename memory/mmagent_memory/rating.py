"""Ratings of answers: the part of `LongTermMemory` that fine-tuning learns from."""

from __future__ import annotations

from langgraph.store.base import BaseStore

from mmagent_memory.backends import Backend, Steps, arun, run
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.records import TURN, kind_of

__all__ = ["RatedMemory"]


class RatedMemory:
    """Answers that somebody found good or bad."""

    store: BaseStore
    user: str
    _backend: Backend
    _prefix: tuple[str, ...]

    def rate(self, id: str, rating: int | None) -> None:
        """Say of a remembered answer that it was good or bad.

        The memory stays as it was said, and is found as before.

        Args:
            id: The memory's id.
            rating: 1 for good, -1 for bad, None to take a rating back.

        Raises:
            MemoryUsageError: There is no such memory, or no such rating.
        """
        run(self.store, self._rate(id, rating))

    async def arate(self, id: str, rating: int | None) -> None:
        """Say of a remembered answer that it was good or bad; see `rate`."""
        await arun(self.store, self._rate(id, rating))

    def _rate(self, id: str, rating: int | None) -> Steps[None]:
        if isinstance(rating, bool) or rating not in (1, -1, None):
            raise MemoryUsageError(f"A rating is 1 (good), -1 (bad) or None, not {rating!r}.")
        stored = yield from self._backend.get(self._prefix, id)
        if stored is None or kind_of(stored.value) != TURN:
            raise MemoryUsageError(
                f"{self.user} has no memory {id!r} to rate; `mmagent memory list` shows ids."
            )
        yield from self._backend.amend(stored, {"rating": rating})
