"""A rating is kept with the answer, which is found as before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.memory import InMemoryStore

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.errors import MemoryUsageError

QUESTION = "What is the code of the garage door?"


@pytest.fixture(params=["faiss", "postgres", "generic"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LongTermMemory]:
    if request.param == "postgres":
        yield LongTermMemory(request.getfixturevalue("postgres")(), user="sam", persona="mia")
    elif request.param == "faiss":
        with FaissStore(tmp_path / "m", HashEmbedder()) as store:
            yield LongTermMemory(store, user="sam", persona="mia")
    else:
        embeds: Any = {"embed": HashEmbedder(), "dims": HashEmbedder().dims}
        yield LongTermMemory(InMemoryStore(index=embeds), user="sam", persona="mia")


def scores(memory: LongTermMemory) -> list[tuple[str, Any]]:
    now = memory.list()[0].at
    assert now is not None
    memory.clock = lambda: now
    hits = memory.recall("garage door code", k=2)
    # PostgreSQL draws how much to trust vectors from a sample.
    return [(hit.id, pytest.approx(hit.score, abs=0.01)) for hit in hits]


def test_a_rated_answer_is_found_as_before(
    memory: LongTermMemory, picture: Callable[..., bytes]
) -> None:
    memory.remember(QUESTION, speaker="Sam", thread="t", id="asked")
    answer = memory.remember("It is 4711.", [picture("red")], speaker="Mia", thread="t", id="said")
    for number in range(12):
        memory.remember(f"Something else, number {number}.", speaker="Sam", thread="u")
    before, listed = scores(memory), [hit.id for hit in memory.list()]
    memory.rate(answer, 1)
    assert memory.get(answer).rating == 1  # type: ignore[union-attr]
    assert memory.get(answer).as_dict()["rating"] == 1  # type: ignore[union-attr]
    assert scores(memory) == before
    assert [hit.id for hit in memory.list()] == listed
    assert memory.get(answer).images[0].data() == picture("red")  # type: ignore[union-attr]
    asyncio.run(memory.arate(answer, -1))
    assert [h.rating for h in memory.list() if h.id == answer] == [-1]
    memory.rate(answer, None)
    assert memory.get(answer).rating is None  # type: ignore[union-attr]
    assert "rating" not in memory.get("asked").as_dict()  # type: ignore[union-attr]


def test_a_rated_turn_is_not_the_last_one_said(memory: LongTermMemory) -> None:
    for number in range(3):
        memory.remember(f"Turn {number}.", speaker="Sam", thread="t", id=f"turn {number}")
    memory.rate("turn 0", 1)
    memory.remember("The next one.", speaker="Sam", thread="t", id="next")
    stored = memory.store.get(("memory", "sam", "mia"), "next")
    assert stored is not None
    assert stored.value["previous"] == "turn 2"


def test_ratings_that_cannot_be_given(memory: LongTermMemory) -> None:
    memory.remember("Hello.", id="a")
    with pytest.raises(MemoryUsageError, match="sam has no memory 'b' to rate"):
        memory.rate("b", 1)
    for rating in (3, 0, True, "good"):
        with pytest.raises(MemoryUsageError, match=r"A rating is 1 \(good\)"):
            memory.rate("a", rating)  # type: ignore[arg-type]
    other = LongTermMemory(memory.store, user="eve", persona="mia")
    with pytest.raises(MemoryUsageError, match="eve has no memory"):
        other.rate("a", 1)


def test_a_rating_outlives_an_export(memory: LongTermMemory, tmp_path: Path) -> None:
    memory.remember("Hello.", id="a")
    memory.rate("a", -1)
    memory.export_jsonl(tmp_path / "memory.jsonl")
    other = LongTermMemory(memory.store, user="eve", persona="mia")
    other.import_jsonl(tmp_path / "memory.jsonl")
    assert [hit.rating for hit in other.list()] == [-1]
