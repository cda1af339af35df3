"""Short personal dialogues: does memory put the line that tells it first?

Used by `benchmarks/recall.py`; the dialogues are in `short_dialogues.yaml`. Every turn is a memory
of its own, as `MemoryMiddleware` keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from mmagent_memory import LongTermMemory

__all__ = ["FILE", "Place", "places", "table"]

FILE = Path(__file__).with_suffix(".yaml")
_LINE = re.compile(r"([^:]+): (.*?)(?:\s*\[shows: (.*)\])?$")
_BEGIN = datetime(2026, 3, 2, 18, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """Where the line that answers a question was ranked; None where it was not found."""

    dialogue: str
    fold: str
    question: str
    place: int | None
    first: str


def places(open_memory: Callable[[str, str | None], LongTermMemory]) -> list[Place]:
    """Return the place of every answer; `open_memory` gives the memory of a user and persona."""
    found = []
    for number, dialogue in enumerate(yaml.safe_load(FILE.read_text("utf-8"))):
        user = f"{dialogue['user']}"
        memory = open_memory(user, dialogue["persona"])
        end = _remember(memory, dialogue, number)
        for question in dialogue["questions"]:
            hits = memory.recall(question["ask"], k=10, now=end)
            wanted = {str(line) for line in question["lines"]}
            order = [hit.id for hit in hits]
            ranks = [order.index(line) + 1 for line in wanted if line in order]
            found.append(
                Place(
                    dialogue["name"],
                    dialogue["fold"],
                    question["ask"],
                    min(ranks, default=None),
                    hits[0].text if hits else "",
                )
            )
    return found


def _remember(memory: LongTermMemory, dialogue: dict[str, Any], number: int) -> datetime:
    at, day, line = _BEGIN + timedelta(days=7 * number), 0, 0
    for spoken in dialogue["lines"]:
        if spoken == "--":
            day, at = day + 1, at + timedelta(days=1)
            continue
        line, at = line + 1, at + timedelta(minutes=1)
        match = _LINE.match(spoken)
        assert match is not None, spoken
        memory.remember(
            match[2],
            [None] if match[3] else [],
            captions=[match[3]] if match[3] else [],
            speaker=match[1],
            at=at,
            thread=f"{day}",
            id=f"{line}",
        )
    return at + timedelta(days=2)


def table(found: list[Place]) -> dict[str, dict[str, float]]:
    """Return, by fold, how often the line comes first, and among the first three and five."""
    rows = {}
    for fold in sorted({place.fold for place in found}):
        ranks = [place.place for place in found if place.fold == fold]
        rows[fold] = {"questions": float(len(ranks))} | {
            f"@{cut}": sum(rank is not None and rank <= cut for rank in ranks) / len(ranks)
            for cut in (1, 3, 5)
        }
    return rows
