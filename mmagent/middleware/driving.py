"""Runs logic without I/O: a generator that yields what it asks for and is sent what it gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

__all__ = ["adrive", "drive"]

Asked = TypeVar("Asked")
Got = TypeVar("Got")
Result = TypeVar("Result")


def drive(logic: Generator[Asked, Got, Result], answer: Callable[[Asked], Got]) -> Result:
    """Answer all that the logic asks for, and return what it returns."""
    try:
        asked = next(logic)
        while True:
            asked = logic.send(answer(asked))
    except StopIteration as finished:
        result: Result = finished.value
        return result


async def adrive(
    logic: Generator[Asked, Got, Result], answer: Callable[[Asked], Awaitable[Got]]
) -> Result:
    """Answer all that the logic asks for without stopping the event loop."""
    try:
        asked = next(logic)
        while True:
            asked = logic.send(await answer(asked))
    except StopIteration as finished:
        result: Result = finished.value
        return result
