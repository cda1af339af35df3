"""What is kept in memory between reads never shows anything but what is stored."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory import kept as kept_module
from mmagent_memory.dots import dots
from mmagent_memory.errors import CorruptStoreError


@pytest.fixture
def store(tmp_path: Path):
    with FaissStore(tmp_path, HashEmbedder(dims=32)) as opened:
        yield opened


def values(store: FaissStore, limit: int) -> list:
    """Return the values of the nearest, no more than there are: else the rest is read too."""
    return [item.value for item in store.search(("u",), query="tea", limit=limit)]


def statements(store: FaissStore) -> list[str]:
    """Return the statements of every reading connection from now on."""
    found: list[str] = []
    with store.database.reading() as db:
        db.set_trace_callback(found.append)
    return found


def test_a_row_that_is_known_is_not_read_again(store: FaissStore):
    store.put(("u",), "1", {"text": "tea", "more": ["a"]})
    assert values(store, 1) == [{"text": "tea", "more": ["a"]}]
    found = statements(store)
    again = store.search(("u",), query="tea", limit=1)
    assert not any("SELECT" in statement for statement in found)
    assert again[0].value == {"text": "tea", "more": ["a"]}
    assert again[0].updated_at == store.get(("u",), "1").updated_at
    store.put(("v",), "2", {"text": "tea"})  # All else is still there, and not read again either.
    found.clear()
    assert values(store, 1) == [{"text": "tea", "more": ["a"]}]
    assert not any(".value" in statement for statement in found)


def test_what_a_caller_does_to_a_value_stays_with_them(store: FaissStore):
    store.put(("u",), "1", {"text": "tea", "more": ["a"]})
    for _ in range(3):
        value = values(store, 1)[0]
        assert value == {"text": "tea", "more": ["a"]}
        value["more"].append("b")
        value["text"] = "coffee"


def test_what_others_write_is_seen_at_once(store: FaissStore):
    for number in range(3):
        store.put(("u",), f"{number}", {"text": f"tea {number}"})
    assert len(values(store, 3)) == 3
    with FaissStore(store.path, HashEmbedder(dims=32)) as other:
        other.put(("u",), "0", {"text": "tea anew"})
        assert sorted(value["text"] for value in values(store, 3)) == ["tea 1", "tea 2", "tea anew"]
        other.delete(("u",), "1")
        assert sorted(value["text"] for value in values(store, 2)) == ["tea 2", "tea anew"]


def test_what_is_gone_or_expired_is_not_among_the_rows(store: FaissStore):
    for number in range(3):
        store.put(("u",), f"{number}", {"text": "tea"}, ttl=1 if number == 2 else None)
    with store.database.reading() as db:
        reader = store.reader(db)
        assert set(reader.rows([1, 2, 3, 4])) == {1, 2, 3}
        assert set(reader.shared_rows([3, 2])) == {2, 3}
        reader.now += 61 * 10**6  # Nothing was written meanwhile.
        assert set(reader.rows([1, 2, 3])) == {1, 2}
    with FaissStore(store.path, HashEmbedder(dims=32)) as other:
        other.delete(("u",), "0")
    with store.database.reading() as db:
        assert set(store.reader(db).rows([1, 2])) == {2}
        assert set(store.reader(db).rows(list(range(1, 1200)))) == {2, 3}


def test_a_new_time_to_live_is_seen(tmp_path: Path, monkeypatch):
    with FaissStore(tmp_path, HashEmbedder(dims=32), ttl={"refresh_on_read": True}) as store:
        store.put(("u",), "1", {"text": "tea"}, ttl=1)
        start = time.time_ns()
        for step in range(1, 5):
            monkeypatch.setattr(time, "time_ns", lambda now=start + step * 40 * 10**9: now)
            assert values(store, 1) == [{"text": "tea"}]
        monkeypatch.setattr(time, "time_ns", lambda: start + 500 * 10**9)
        assert values(store, 1) == []


def test_a_row_that_was_damaged_meanwhile_is_not_believed(store: FaissStore):
    store.put(("u",), "1", {"text": "tea"})
    values(store, 1)
    with store.database.writing() as db:
        db.execute("UPDATE items SET value = replace(value, 'tea', 'tee'), crc = crc + 1")
    with pytest.raises(CorruptStoreError, match="damaged"):
        values(store, 1)


def test_no_more_is_kept_than_the_budget(store: FaissStore, monkeypatch):
    monkeypatch.setattr(kept_module, "_BUDGET", 20_000)
    for number in range(60):
        store.put(("u",), f"{number}", {"text": f"tea {number}"})
    for number in range(60):
        assert len(store.search(("u",), query=f"tea {number}", limit=3)) == 3
    rows = store.blocks.rows
    assert 0 < len(rows._young) + len(rows._old) <= 40
    assert len(store.search(("u",), query="tea", limit=60)) == 60


def test_what_was_erased_elsewhere_is_forgotten_here(store: FaissStore):
    memory = LongTermMemory(store, user="sam")
    memory.remember("tea")
    memory.recall("tea")
    assert store.blocks.rows._young
    with FaissStore(store.path, HashEmbedder(dims=32)) as other:
        LongTermMemory(other, user="sam").erase()
        LongTermMemory(other, user="mia").remember("milk")
    assert LongTermMemory(store, user="sam").recall("tea") == []
    LongTermMemory(store, user="mia").recall("milk")
    kept = [*store.blocks.rows._young.values(), *store.blocks.rows._old.values()]
    assert [row.row.value["text"] for row in kept] == ["milk"]


def test_recall_follows_every_change(store: FaissStore):
    memory = LongTermMemory(store, user="sam", persona="mia")
    ids = [memory.remember(f"tea number {number}", thread="t") for number in range(5)]
    for gone in ids[:3]:
        assert gone in {hit.id for hit in memory.recall("tea number")}
        memory.forget(gone)
        assert gone not in {hit.id for hit in memory.recall("tea number")}
    assert len(memory.recall("tea number")) == 2


def test_products_are_those_of_numpy_and_need_no_company():
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((300, 384)).astype(np.float32)
    found = dots(matrix, matrix[7])
    assert np.allclose(found, matrix @ matrix[7], atol=1e-4)
    assert found[200] == dots(matrix[200:201], matrix[7])[0]
    assert dots(matrix[:0], matrix[7]).shape == (0,)
