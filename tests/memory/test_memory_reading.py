"""What is kept in memory between reads never shows anything but what is stored."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory import kept as kept_module
from mmagent_memory.blocks import View
from mmagent_memory.coarse import Coarse
from mmagent_memory.dots import dots
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.scoring import nearest


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


def vectors(count: int, dims: int = 48, seed: int = 3) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((count, dims)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def view(matrix: np.ndarray, coarse: Coarse | None) -> View:
    items = np.arange(1, len(matrix) + 1)
    return View(items, np.zeros(len(items), dtype=np.uint8), matrix, coarse)


@pytest.fixture
def early(monkeypatch):
    """Make bytes of small blocks, from the first search on."""
    monkeypatch.setattr("mmagent_memory.coarse._FROM", 64)
    monkeypatch.setattr("mmagent_memory.coarse._ASKED", 0)


@pytest.mark.parametrize("kind", ["plain", "spiked", "ties", "zeros", "alike"])
def test_the_nearest_by_bytes_are_the_nearest(early, kind: str):
    matrix = vectors(1200)
    if kind == "spiked":  # One large number makes all others coarse.
        matrix[5] = 0
        matrix[5, 3] = 1
    elif kind == "ties":
        matrix[300:600] = matrix[:300]
    elif kind == "zeros":
        matrix[::3] = 0
    elif kind == "alike":
        matrix = vectors(1)[[0] * 1200] + 1e-5 * vectors(1200)
    coarse = Coarse()
    for query in [*matrix[:20], *vectors(20, seed=4), np.zeros(48, dtype=np.float32)]:
        plain = nearest([view(matrix, None)], query, limit=10)
        assert list(nearest([view(matrix, coarse)], query, limit=10).items()) == list(plain.items())
        found = coarse.nearest(matrix, query, 10, 50)
        if found is not None:
            places, above = found
            rest = np.setdiff1d(np.arange(len(matrix)), places)
            assert (matrix[rest] @ query).max() <= above
    assert coarse.nbytes == matrix.size


def test_what_rounding_takes_from_the_question_counts(early):
    query = np.full(48, 0.49 / 127, dtype=np.float32)  # All but the first is rounded to nothing.
    query[0] = 1.0
    matrix = np.zeros((300, 48), dtype=np.float32)
    matrix[:, 0] = 0.02
    matrix[200, 0], matrix[200, 1:] = 0.0, 1 / np.sqrt(47)
    places, above = Coarse().nearest(matrix, query, 10, 50) or ([], 0.0)
    assert 200 not in places
    assert matrix[200] @ query <= above
    assert next(iter(nearest([view(matrix, Coarse())], query, limit=5))) == 201


def test_bytes_follow_what_is_added(early):
    matrix, coarse = vectors(2000), Coarse()
    matrix[1500] = 0
    matrix[1500, 7] = 1.0  # Larger than all before it: the bytes are made anew.
    for count in (300, 301, 1400, 1501, 2000, 700):  # At last by one who has seen less.
        query = matrix[count - 1]
        found = nearest([view(matrix[:count], coarse)], query, limit=5)
        assert next(iter(found)) == count
        assert found == nearest([view(matrix[:count], None)], query, limit=5)
        assert coarse.nbytes == max(matrix[:count].size, coarse.nbytes)


def test_bytes_are_made_where_they_help_and_there_is_room(monkeypatch):
    monkeypatch.setattr("mmagent_memory.coarse._FROM", 64)
    matrix, coarse, small = vectors(400), Coarse(), Coarse()
    made = []
    for _ in range(4):
        coarse.nearest(matrix, matrix[0], 10, 20)
        small.nearest(matrix[:70], matrix[0], 10, 20)
        made.append(coarse.nbytes > 0)
    assert made == [False, False, True, True]
    assert not small.nbytes
    refused = Coarse()
    refused.allowed = False
    assert [refused.nearest(matrix, matrix[0], 10, 20) for _ in range(4)] == [None] * 4


def test_a_store_answers_by_bytes_as_without_them(early, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.blocks._COARSE_BUDGET", 250_000)
    made = vectors(1300, dims=32)

    def embed(texts):
        return [made[int(text)] if text.isdigit() else made[0] for text in texts]

    with FaissStore(tmp_path, embed, fields=["n"]) as store:
        items = ((("u", f"{n % 2}"), f"{n}", {"n": f"{n}"}) for n in range(1200))
        store.bulk(items, vectors=made[:1200])

        def keys(query: int, prefix: tuple[str, ...] = ("u",)) -> list[str]:
            return [item.key for item in store.search(prefix, query=f"{query}", limit=5)]

        for query in range(1200, 1210):
            order = np.argsort(-(made[:1200] @ made[query]), kind="stable")
            assert keys(query) == [f"{n}" for n in order[:5]]
            assert keys(query, ("u", "1")) == [f"{n}" for n in order if n % 2][:5]
        assert store.blocks._blocks[b"u."].coarse.nbytes
        assert not store.blocks._blocks[b"u.1."].coarse.nbytes  # No room for these too.
        best = keys(1250)
        store.delete(("u", f"{int(best[0]) % 2}"), best[0])
        assert keys(1250)[:4] == best[1:]
        store.put(("u", "0"), "new", {"n": "1250"})
        assert keys(1250)[:4] == ["new", *best[1:4]]
        for key in best[1:]:
            store.delete(("u", f"{int(key) % 2}"), key)
        assert keys(1250)[0] == "new"
        assert not set(best) & set(keys(1250))


def test_threads_that_search_one_block_do_not_disturb_each_other(early):
    matrix, coarse = vectors(4000, dims=64), Coarse()

    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        right = True
        for _ in range(40):
            count = int(rng.integers(300, 4000))
            query = matrix[rng.integers(0, count)]
            found = nearest([view(matrix[:count], coarse)], query, limit=5)
            right &= found == nearest([view(matrix[:count], None)], query, limit=5)
        return right

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_nobody_adds_to_bytes_that_are_being_searched(early):
    class Slow:
        ntotal, d, inside, most = 0, 64, 0, 0

        def search(self, _, width):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.01)
            self.inside -= 1
            return np.zeros((1, width), np.float32), np.zeros((1, width), np.int64)

    matrix, coarse, slow = vectors(400, dims=64), Coarse(), Slow()
    coarse.nearest(matrix, matrix[0], 10, 20)
    slow.ntotal, coarse._index = 400, slow
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: coarse.nearest(matrix, matrix[n], 10, 20), range(8)))
    assert slow.most == 1
