"""How memories are kept: what every backend does, and the short loops that drive it.

A backend's methods are generators that yield what has to be done: a function to call, or a list
of store operations. `run` does it at once; `arun` does it without stopping the event loop. So
the logic is written once for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from langgraph.store.base import BaseStore, Op

from mmagent_memory.pictures import GivenPicture
from mmagent_memory.ranking import Signals
from mmagent_memory.records import EraseReceipt, Stored
from mmagent_memory.rows import Vectors

__all__ = ["Backend", "Candidate", "NewMemory", "Question", "Steps", "arun", "run"]

Result = TypeVar("Result")
Step = Callable[[], Any] | list[Op]
Steps = Generator[Step, Any, Result]
Namespace = tuple[str, ...]


@dataclass(frozen=True)
class NewMemory:
    """A memory to be kept: its key, its value (without `previous`) and its pictures.

    Attributes:
        vectors: Those of its texts and pictures, where they are known already.
    """

    key: str
    value: dict[str, Any]
    pictures: tuple[GivenPicture, ...] = ()
    vectors: Vectors | None = None


@dataclass(frozen=True)
class Question:
    """What recall is asked with: words, and pictures with their captions.

    Attributes:
        text: The question.
        pictures: Its pictures.
        parts: What it asks of at once, each to be looked for by itself too.
    """

    text: str
    pictures: tuple[GivenPicture, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def captions(self) -> list[str]:
        """The captions of the question's pictures."""
        return [picture.caption for picture in self.pictures if picture.caption]


@dataclass(frozen=True)
class Candidate:
    """A memory that may answer, and what is known of how well."""

    stored: Stored
    signals: Signals


class Backend(Protocol):
    """What `LongTermMemory` needs of a store."""

    def add(self, namespace: Namespace, memories: Sequence[NewMemory]) -> Steps[None]:
        """Keep memories; one whose key exists is left as it is."""
        ...

    def get(self, prefix: Namespace, key: str) -> Steps[Stored | None]:
        """Return the memory of a key in any namespace below a prefix."""
        ...

    def everything(self, prefix: Namespace) -> Steps[list[Stored]]:
        """Return all memories below a prefix, as they were written."""
        ...

    def count(self, prefix: Namespace) -> Steps[int]:
        """Return how many memories there are below a prefix."""
        ...

    def remove(self, stored: Stored) -> Steps[None]:
        """Forget a memory and every trace of it."""
        ...

    def change(
        self, namespace: Namespace, memories: Sequence[NewMemory], removed: Sequence[str] = ()
    ) -> Steps[None]:
        """Write memories over those of their keys and remove keys, all at once or not at all.

        This is how derived records change: they show no pictures and follow no turn. What is
        removed leaves no trace, as in `remove`.
        """
        ...

    def amend(self, stored: Stored, changes: Mapping[str, Any]) -> Steps[None]:
        """Change fields of a memory that it is not found by; everything else stays."""
        ...

    def erase(self, prefix: Namespace) -> Steps[EraseReceipt]:
        """Forget everything below a prefix and every trace of it."""
        ...

    def candidates(
        self, prefix: Namespace, question: Question, limit: int
    ) -> Steps[list[Candidate]]:
        """Return what may answer a question; `limit` for each way of finding."""
        ...

    def picture(self, namespace: Namespace, image_id: str) -> Steps[bytes | None]:
        """Return a picture's bytes."""
        ...

    def users(self) -> Steps[list[Namespace]]:
        """Return the namespaces that hold memories."""
        ...


def run(store: BaseStore, steps: Steps[Result]) -> Result:
    """Do the steps, and return what the generator returns."""
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            result: Result = done.value
            return result
        answer = store.batch(step) if isinstance(step, list) else step()


async def arun(store: BaseStore, steps: Steps[Result]) -> Result:
    """Do the steps without stopping the event loop."""
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            result: Result = done.value
            return result
        if isinstance(step, list):
            answer = await store.abatch(step)
        else:
            answer = await asyncio.to_thread(step)
