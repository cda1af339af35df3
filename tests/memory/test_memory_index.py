"""The FAISS index is a cache: right whatever happens to its snapshot."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from langgraph.store.base import PutOp

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory.erasing import erase
from mmagent_memory.errors import CorruptStoreError

SNAPSHOT = Path("index") / "vectors.faiss"


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr("mmagent_memory.faiss_index._WORTH_SAVING", 1)


def opened(path: Path) -> FaissStore:
    store = FaissStore(path, HashEmbedder(dims=32))
    store.exact_limit = 0
    return store


def fill(store: FaissStore, start: int, stop: int) -> None:
    for number in range(start, stop):
        store.put(
            ("i", f"{number % 3}"),
            f"{number}",
            {"list": [f"word{number} common", f"other{number}"], "n": number},
            index=["list[*]"],
        )


def answers(store: FaissStore, query: str = "word7 common", **about) -> list:
    """Return what is found by the index, once it is made."""
    if store.exact_limit == 0:
        store.search(("i",), query=query)
        store.wait_for_index()
        with store.database.reading() as db:
            assert store.index.seen == store.reader(db).moment.newest
    found = store.search(("i",), query=query, limit=8, **about)
    return [(item.key, round(item.score, 5)) for item in found]


def exact(store: FaissStore, query: str = "word7 common", **about) -> list:
    store.exact_limit = 10**9
    found = answers(store, query, **about)
    store.exact_limit = 0
    return found


def same(one: list, two: list) -> bool:
    return [score for _, score in one] == pytest.approx([score for _, score in two], abs=1e-4)


def test_it_answers_as_the_exact_search(tmp_path: Path):
    with opened(tmp_path) as store:
        fill(store, 0, 40)
        assert same(answers(store), exact(store))
        assert answers(store)[0][0] == "7"
        condition = {"n": {"$gte": 20}}
        assert same(answers(store, filter=condition), exact(store, filter=condition))
        assert all(int(key) >= 20 for key, _ in answers(store, filter=condition))
        in_scope = store.search(("i", "1"), query="word7", limit=50)
        assert {item.namespace for item in in_scope} == {("i", "1")}
        store.delete(("i", "1"), "7")
        store.put(("i", "2"), "8", {"list": ["nothing alike"]}, index=["list[*]"])
        assert same(answers(store), exact(store))
        assert "7" not in dict(answers(store))


def test_a_snapshot_is_used_and_caught_up(tmp_path: Path, monkeypatch):
    with opened(tmp_path) as store:
        fill(store, 0, 20)
        answers(store)
    assert (tmp_path / SNAPSHOT).exists()
    with opened(tmp_path) as store:
        fill(store, 20, 30)
        store.delete(("i", "1"), "7")
        added = []
        from mmagent_memory import faiss_index

        plain = faiss_index._take
        monkeypatch.setattr(faiss_index, "_take", lambda *a: added.append(a[1].seen) or plain(*a))
        assert same(answers(store), exact(store))
        assert min(added) == 20  # What the snapshot had was not taken in again.


@pytest.mark.parametrize("damage", ["cut", "flipped", "deleted", "garbled", "header", "empty"])
def test_a_damaged_snapshot_is_made_anew(tmp_path: Path, damage: str):
    with opened(tmp_path) as store:
        fill(store, 0, 20)
        expected = answers(store)
    file = tmp_path / SNAPSHOT
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        for place in range(len(data) // 4, len(data) // 2):  # In the vectors themselves.
            data[place] ^= 0x10
        file.write_bytes(data)
    elif damage == "deleted":
        file.unlink()
    elif damage == "garbled":
        file.write_bytes(bytes(len(data)))
    elif damage == "header":
        file.write_bytes(data.replace(b'"seen": 20', b'"seen": 99'))
    else:
        file.write_bytes(b"")
    with opened(tmp_path) as store:
        assert answers(store) == expected


def test_a_snapshot_of_another_store_is_not_believed(tmp_path: Path):
    for name in "ab":
        with opened(tmp_path / name) as store:
            fill(store, 0 if name == "a" else 5, 20)
            answers(store)
    shutil.copy(tmp_path / "a" / SNAPSHOT, tmp_path / "b" / SNAPSHOT)
    with opened(tmp_path / "b") as store:
        assert same(answers(store), exact(store))


def test_a_database_put_back_from_a_backup(tmp_path: Path):
    with opened(tmp_path / "m") as store:
        fill(store, 0, 10)
    shutil.copy(tmp_path / "m" / "memory.sqlite3", tmp_path / "backup")
    with opened(tmp_path / "m") as store:
        fill(store, 10, 20)
        answers(store)
    shutil.copy(tmp_path / "backup", tmp_path / "m" / "memory.sqlite3")
    with pytest.raises(CorruptStoreError, match="lacks its last 10 changes"):
        opened(tmp_path / "m")
    (tmp_path / "m" / "newest.bin").unlink()  # It was meant: the folder's own is put back too.
    with opened(tmp_path / "m") as store:
        assert same(answers(store), exact(store))
    with opened(tmp_path / "m") as store:
        fill(store, 30, 45)  # Another history, longer than the snapshot's.
        assert same(answers(store, "word35"), exact(store, "word35"))


def test_erasing_removes_the_snapshot(tmp_path: Path):
    from mmagent_memory import LongTermMemory

    with opened(tmp_path) as store:
        memory = LongTermMemory(store, user="sam")
        memory.remember("one thing")
        store.search(("memory",), query="thing")
    assert (tmp_path / SNAPSHOT).exists()
    with opened(tmp_path) as store:
        receipt = LongTermMemory(store, user="sam").erase()
        assert str(SNAPSHOT) in receipt.files
        assert not (tmp_path / SNAPSHOT).exists()
        assert store.search(("memory",), query="thing") == []


def test_another_process_is_caught_up(tmp_path: Path):
    with opened(tmp_path) as one, opened(tmp_path) as two:
        fill(one, 0, 10)
        assert same(answers(two), exact(one))
        fill(two, 10, 20)
        two.delete(("i", "0"), "3")
        assert same(answers(one), exact(two))


def clustered(count: int, dims: int = 64, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dims))
    found = centres[rng.integers(0, 20, count)] + 1.3 * rng.standard_normal((count, dims))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


class Numbered(HashEmbedder):
    """Gives vectors by number, so that a test knows them."""

    fingerprint = "numbered"

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__(dims=matrix.shape[1])
        self.matrix = matrix

    def embed_documents(self, texts):
        return [self.matrix[int(text)] for text in texts]

    def embed_query(self, text):
        return self.matrix[int(text)] if text.isdigit() else self.matrix[0]


@pytest.fixture
def large(tmp_path: Path):
    """Return a store that is large by its own measure, and its vectors."""
    matrix = clustered(3000)
    store = FaissStore(tmp_path, Numbered(matrix), fields=["n"])
    store.exact_limit = 500
    items = ((("u", f"{n % 10}"), f"{n}", {"n": str(n), "even": n % 2 == 0}) for n in range(3000))
    store.bulk(items, vectors=matrix)
    store.search(("u",), query="1")
    store.wait_for_index()
    yield store, matrix
    store.close()


def nearest_of(matrix: np.ndarray, query: int, allowed: list[int], k: int = 10) -> set[str]:
    order = np.argsort(-(matrix[allowed] @ matrix[query]), kind="stable")[:k]
    return {str(allowed[place]) for place in order}


def indexed(store: FaissStore, prefix: tuple[str, ...], query: int, **about) -> list:
    """Search, and see that it was the index that answered."""
    asked = []
    plain = store.index.search
    store.index.search = lambda *a: asked.append(plain(*a)) or asked[-1]  # type: ignore[method-assign]
    try:
        found = store.search(prefix, query=str(query), limit=10, **about)
    finally:
        del store.index.search
    assert asked
    assert asked[-1] is not None
    return found


def test_a_large_store_is_searched_by_the_index(large):
    store, matrix = large
    right = 0
    for query in range(0, 100, 2):
        found = indexed(store, ("u",), query)
        truth = nearest_of(matrix, query, list(range(3000)))
        right += len({item.key for item in found} & truth)
        assert found[0].score == pytest.approx(1.0, abs=1e-5)
        scores = [float(matrix[int(item.key)] @ matrix[query]) for item in found]
        assert [item.score for item in found] == pytest.approx(scores, abs=1e-5)
    assert right / 500 >= 0.98


def test_the_index_never_finds_what_is_gone_expired_or_elsewhere(large, monkeypatch):
    store, matrix = large
    gone = {item.key for item in indexed(store, ("u",), 8)}
    for key in sorted(gone):
        store.delete(("u", f"{int(key) % 10}"), key)
    for number in range(3):  # Updates and an item that expires, all alike the question.
        store.put(("u", "new"), f"new {number}", {"n": "8"}, ttl=0.0001 if number == 2 else None)
    time.sleep(0.02)
    found = indexed(store, ("u",), 8)
    assert not gone & {item.key for item in found}
    assert {"new 0", "new 1"} <= {item.key for item in found}
    assert "new 2" not in {item.key for item in found}
    left = [n for n in range(3000) if str(n) not in gone]
    truth = nearest_of(matrix, 8, left, 8)
    assert len({item.key for item in found} & truth) >= 7
    even = indexed(store, ("u",), 11, filter={"even": True})
    assert len(even) == 10
    assert all(item.value["even"] for item in even)
    theirs = store.search(("u", "3"), query="11", limit=10)
    assert {item.namespace for item in theirs} == {("u", "3")}
    assert len(store.search(("u",), query="11", filter={"n": "17"}, limit=10)) == 1


def test_a_write_is_found_at_once_by_a_large_store(large):
    store, _ = large
    with FaissStore(store.path, Numbered(large[1]), fields=["n"]) as other:
        other.put(("u", "x"), "elsewhere", {"n": "4"})
    store.put(("u", "x"), "here", {"n": "4"})
    assert {"here", "elsewhere"} <= {item.key for item in indexed(store, ("u",), 4)}


def test_the_index_is_made_beside_the_writes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.indexer._DUE", 200)
    monkeypatch.setattr("mmagent_memory.faiss_index._BATCH", 64)
    matrix = clustered(1500)
    with FaissStore(tmp_path, Numbered(matrix), fields=["n"]) as store:
        store.exact_limit = 100
        items = [(("u", f"{n % 5}"), f"{n}", {"n": str(n)}) for n in range(1500)]
        for start in range(0, 1500, 100):
            store.bulk(items[start : start + 100], vectors=matrix[start : start + 100])
            found = store.search(("u",), query=str(start + 50), limit=3)
            assert found[0].key == str(start + 50)
        store.wait_for_index()
        assert store.index.seen > 1000  # Nobody waited for it.
        assert indexed(store, ("u",), 7)[0].key == "7"
    with FaissStore(tmp_path, Numbered(matrix), fields=["n"]) as store:
        store.exact_limit = 100
        assert indexed(store, ("u",), 7)[0].key == "7"  # By the snapshot, from the first.


def test_the_first_search_takes_in_what_the_index_lacks(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.store._BEHIND", 50)
    matrix = clustered(1500)
    items = [(("u", f"{n % 5}"), f"{n}", {"n": str(n)}) for n in range(1500)]
    known = []
    for upto in (900, 1500):
        with FaissStore(tmp_path, Numbered(matrix), fields=["n"]) as store:
            store.exact_limit = 10**9  # So that nothing is made beside the writes.
            store.bulk(items[upto - 600 : upto], vectors=matrix[upto - 600 : upto])
        with FaissStore(tmp_path, Numbered(matrix), fields=["n"]) as store:
            store.exact_limit = 100
            with store.database.reading() as db:
                store.index.load(db, 64)
            known.append(store.index.seen)
            assert indexed(store, (), upto - 10)[0].key == f"{upto - 10}"
            assert not store.blocks._blocks  # Everything was not read into memory for it.
            store.wait_for_index()
    assert known == [0, 600]  # The snapshot of the first was the start of the second.


def test_an_index_that_was_interrupted_is_made_anew(large, monkeypatch):
    store, _ = large
    store.put(("u", "x"), "new", {"n": "4"})

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mmagent_memory.faiss_index.np.concatenate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.search(("u",), query="4", limit=3)
    store.put(("u", "x"), "newer", {"n": "4"})
    assert {"new", "newer", "4"} == {item.key for item in indexed(store, ("u",), 4)[:3]}
    assert store.index._codes.index.ntotal == len(store.index._codes.items)


def test_a_fork_does_not_wait_for_a_thread_that_it_lacks(large):
    store, _ = large
    locked, done = threading.Event(), threading.Event()

    def work():
        with store.index._lock:
            locked.set()
            done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    locked.wait()
    child = os.fork()
    if not child:
        signal.alarm(30)  # It would wait for good.
        os._exit(0 if store.search(("u",), query="7", limit=3)[0].key == "7" else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_what_was_erased_is_not_in_a_later_snapshot(large):
    store, _ = large
    with FaissStore(store.path, Numbered(large[1]), fields=["n"]) as other:
        erase(other.database, ("u", "3"))
    assert not (store.path / SNAPSHOT).exists()
    assert all(item.namespace != ("u", "3") for item in indexed(store, ("u",), 13))
    store.wait_for_index()
    store.close()
    with FaissStore(store.path, Numbered(large[1]), fields=["n"]) as again:
        again.exact_limit = 100
        again.search(("u",), query="13")
        again.wait_for_index()
        assert again.index._codes is not None
        assert len(again.index._codes.items) == 2700


def test_many_removals_make_the_index_anew(large):
    store, _ = large
    store.batch([PutOp(("u", f"{n % 10}"), f"{n}", None) for n in range(2000)])
    assert int(indexed(store, ("u",), 2500)[0].key) == 2500
    indexed(store, ("u",), 2500)  # Now that it knows, it has the index made anew meanwhile.
    store.wait_for_index()
    assert store.index._codes is not None
    assert len(store.index._codes.items) == 1000
    assert int(indexed(store, ("u",), 2500)[0].key) == 2500


def test_vectors_without_any_structure_are_compared_one_by_one(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.faiss_index._MOST_READ", 64)
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((2000, 64)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    with FaissStore(tmp_path, Numbered(matrix), fields=["n"]) as store:
        store.exact_limit = 100
        store.bulk(((("u",), f"{n}", {"n": str(n)}) for n in range(1900)), vectors=matrix[:1900])
        store.search((), query="1")
        store.wait_for_index()
        right, gave_up = 0, False
        for query in range(1900, 1990):
            found = {item.key for item in store.search((), query=str(query), limit=10)}
            right += len(found & nearest_of(matrix, query, list(range(1900))))
            gave_up |= store.index._unsure > 0
        assert right / 900 >= 0.98
        assert gave_up
