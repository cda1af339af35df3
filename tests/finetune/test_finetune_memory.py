"""Learning from what was said: consent, ratings, private details, conversations kept whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mmagent.errors import UsageError
from mmagent.finetune.config import MemorySettings
from mmagent.finetune.data.from_memory import dialogues_of, read_memory
from mmagent_memory import FaissStore, LongTermMemory
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.hash_embedder import HashEmbedder

AT = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


@pytest.fixture
def lived(tmp_path: Path, picture: Callable[..., bytes]) -> Any:
    """Two conversations of Sam with Mia, and the ids of her answers."""
    with closing(FaissStore(tmp_path / "memory", HashEmbedder())) as store:
        memory = LongTermMemory(store, user="sam", persona="mia")
        said = [
            ("t1", "Sam", "Look, my cat! Write to sam@example.org", [picture("red")]),
            ("t1", "Mia", "What a lovely red cat, Sam!", []),
            ("t1", "Sam", "She is called Luna.", []),
            ("t1", "Mia", "Luna suits her.", []),
            ("t2", "Sam", "Good morning.", []),
            ("t2", "Mia", "I am a robot.", []),
        ]
        ids = [
            memory.remember(
                text, images, speaker=speaker, thread=thread, at=AT + timedelta(minutes=n)
            )
            for n, (thread, speaker, text, images) in enumerate(said)
        ]
        other = LongTermMemory(store, user="eve", persona="mia")
        other.remember("I am Eve.", speaker="Eve", thread="t9")
        other.remember("Hello Eve.", speaker="Mia", thread="t9")
        yield memory, ids


def settings(**changes: Any) -> MemorySettings:
    return MemorySettings(folder=Path("x"), user="sam", consent=True, **changes)


def words(lived: Any, **changes: Any) -> list[list[tuple[str, str, bool]]]:
    found = dialogues_of(lived[0], settings(**changes))
    return [
        [(t.role, t.text, t.trained) for t in row.turns if t.role != "system"]
        for row in found.dialogues
    ]


def test_conversations_become_dialogues_of_this_user_alone(lived: Any) -> None:
    one, two = words(lived)
    assert [role for role, _, _ in one] == ["user", "assistant"] * 2
    assert two[0][1] == "Good morning."
    assert "Eve" not in str([one, two])
    rows = dialogues_of(lived[0], settings()).dialogues
    assert len(rows[0].pictures) == 1
    assert [row.conversation for row in rows] == ["mia/t1", "mia/t2"]
    assert rows[0].turns[0].role == "system"  # Mia is in the catalogue
    assert "Mia" in rows[0].turns[0].text


def test_private_details_go_and_can_be_kept(lived: Any) -> None:
    one, _ = words(lived)
    assert one[0][1] == "Look, my cat! Write to [EMAIL]"
    assert one[1][1] == "What a lovely red cat, [NAME]!"
    assert dialogues_of(lived[0], settings()).redacted == {"EMAIL": 1, "NAME": 1}
    assert words(lived, names=["Luna"])[0][3][1] == "[NAME] suits her."
    assert words(lived, redact=False)[0][0][1].endswith("sam@example.org")


def test_bad_answers_are_context_and_never_learned(lived: Any) -> None:
    memory, ids = lived
    memory.rate(ids[1], -1)
    memory.rate(ids[5], -1)
    (one,) = words(lived)  # nothing is left to learn in the second conversation
    assert [trained for _, _, trained in one] == [True, False, True, True]


def test_rated_only_learns_from_good_answers(lived: Any) -> None:
    memory, ids = lived
    with pytest.raises(UsageError, match="no answers that were rated good"):
        words(lived, rated_only=True)
    memory.rate(ids[3], 1)
    (one,) = words(lived, rated_only=True)
    assert [text for _, text, trained in one if trained] == [
        "She is called Luna.", "Luna suits her.", "Look, my cat! Write to [EMAIL]"
    ] or [text for role, text, trained in one if trained and role == "assistant"] == [
        "Luna suits her."
    ]  # fmt: skip
    assert dialogues_of(memory, settings(rated_only=True)).rated == 1


def test_a_rating_leaves_the_memory_as_it_was(lived: Any) -> None:
    memory, ids = lived
    before = [hit.as_dict() for hit in memory.list()]
    memory.rate(ids[0], 1)
    assert memory.get(ids[0]).rating == 1
    assert [{**hit.as_dict(), "rating": None} for hit in memory.list()] == [
        {**hit, "rating": None} for hit in before
    ]
    assert memory.get(ids[0]).images[0].data()
    assert memory.recall("cat")
    with pytest.raises(MemoryUsageError, match="has no memory 'nonsense'"):
        memory.rate("nonsense", 1)
    with pytest.raises(MemoryUsageError, match="good"):
        memory.rate(ids[0], 3)


def test_nothing_is_read_without_consent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"If they have agreed .* --consent"):
        read_memory(MemorySettings(folder=tmp_path, user="sam"))
    assert not list(tmp_path.iterdir())


def test_somebody_elses_name_for_the_assistant(lived: Any) -> None:
    with pytest.raises(UsageError, match="name who answers"):
        words(lived, assistant="Zoe")
    rows = words(lived, assistant="Sam")
    assert [text for role, text, _ in rows[0] if role == "assistant"] == ["She is called Luna."]


def test_long_conversations_become_rows_of_one_conversation(tmp_path: Path) -> None:
    with closing(FaissStore(tmp_path / "memory", HashEmbedder())) as store:
        memory = LongTermMemory(store, user="sam", persona="mia")
        for n in range(40):
            at = AT + timedelta(minutes=n)
            memory.remember(f"turn {n}", speaker="Mia" if n % 2 else "Sam", thread="t", at=at)
        rows = dialogues_of(memory, settings()).dialogues
    assert len(rows) == 3
    assert {row.conversation for row in rows} == {"mia/t"}
    said = [t.text for row in rows for t in row.turns if t.role != "system"]
    assert said == [f"turn {n}" for n in range(40)]
