"""The FAISS index is a cache: right whatever happens to its snapshot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder
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
            assert store.index.ready(db, store.reader(db).moment, 32, 10**9)
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
