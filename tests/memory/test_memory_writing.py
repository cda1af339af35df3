"""Writers that come together share a commit; bulk loads; words taken in behind the writes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from langgraph.store.base import PutOp

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory import committing as committing_module
from mmagent_memory.checking import verify
from mmagent_memory.erasing import erase
from mmagent_memory.errors import EmbeddingError, MemoryUsageError
from mmagent_memory.writer import Writer


@pytest.fixture
def store(tmp_path: Path):
    with FaissStore(tmp_path / "m", HashEmbedder(dims=32)) as opened:
        opened.search(("g",), query="finds the embedder, which is written down")
        yield opened


def together(store: FaissStore, works: list) -> list:
    """Run each in a thread of its own while the store is held; return what each raised."""
    errors: list = [None] * len(works)

    def work(place: int) -> None:
        try:
            works[place]()
        except BaseException as error:
            errors[place] = error

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(works))]
    with store.database.held():
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while len(store._committer._queue) < len(works) and time.monotonic() < until:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    return errors


def counted(monkeypatch) -> list[int]:
    """Return a list that grows by the size of each transaction."""
    sizes: list[int] = []
    plain = committing_module.Committer._write
    monkeypatch.setattr(
        committing_module.Committer,
        "_write",
        lambda self, works: sizes.append(len(works)) or plain(self, works),
    )
    return sizes


def test_writers_that_wait_share_a_transaction(store: FaissStore, monkeypatch):
    sizes = counted(monkeypatch)
    works = [lambda n=n: store.put(("g", f"{n % 3}"), f"{n}", {"n": n}) for n in range(8)]
    assert together(store, works) == [None] * 8
    assert sizes == [8]
    assert len(store.search(("g",), limit=20)) == 8
    assert verify(store.path).whole


def test_the_failure_of_one_is_its_own(store: FaissStore, monkeypatch):
    sizes = counted(monkeypatch)
    plain = committing_module.Writer.apply

    def apply(self, puts):
        if puts[0].put.key == "bad":
            plain(self, puts)  # What it wrote before it failed must not stay.
            raise ValueError("this one cannot be written")
        plain(self, puts)

    monkeypatch.setattr(committing_module.Writer, "apply", apply)
    works = [
        lambda name=name: store.put(("g", name), name, {"n": name})
        for name in ("one", "bad", "two", "three")
    ]
    errors = together(store, works)
    assert [str(error) for error in errors if error] == ["this one cannot be written"]
    assert sorted(sizes) == [1, 1, 1, 1, 4]
    assert {item.key for item in store.search(("g",), limit=9)} == {"one", "two", "three"}
    # A namespace that was made by the failed transaction is not taken for made.
    store.put(("g", "bad"), "good", {"n": 1})
    assert store.get(("g", "bad"), "good")
    assert verify(store.path).whole


def test_an_interrupted_writer_leaves_the_others_theirs(store: FaissStore, monkeypatch):
    plain = committing_module.Writer.apply
    struck: list[int] = []

    def apply(self, puts):
        if not struck:
            struck.append(1)
            raise KeyboardInterrupt
        plain(self, puts)

    monkeypatch.setattr(committing_module.Writer, "apply", apply)
    works = [lambda n=n: store.put(("g",), f"{n}", {"n": n}) for n in range(5)]
    errors = together(store, works)
    failed = [place for place, error in enumerate(errors) if error is not None]
    assert len(failed) == 1
    there = {int(item.key) for item in store.search(("g",), limit=9)}
    assert there == set(range(5)) - set(failed)


def test_a_fork_does_not_write_the_parents_work(tmp_path: Path):
    import warnings

    store = FaissStore(tmp_path, False)
    store.put(("f",), "parent", {})
    store._committer._queue.append(object())  # As if a thread of the parent waited.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            store.put(("f",), "child", {})
            os._exit(0)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    store._committer._queue.clear()
    assert {item.key for item in store.search(("f",))} == {"parent", "child"}
    store.close()


def test_a_batch_with_new_old_and_repeated_keys(store: FaissStore):
    store.batch([PutOp(("b",), f"{n}", {"n": n}) for n in range(10)])
    first = store.get(("b",), "3")
    ops = [PutOp(("b",), f"{n}", {"n": n + 100}) for n in range(5, 15)]
    ops += [PutOp(("b",), "3", {"n": 103}), PutOp(("b",), "4", None), PutOp(("c",), "x", {})]
    store.batch(ops)
    found = {item.key: item.value["n"] for item in store.search(("b",), limit=50)}
    assert found == {
        **{str(n): n for n in (0, 1, 2)},
        "3": 103,
        **{str(n): n + 100 for n in range(5, 15)},
    }
    assert store.get(("b",), "3").created_at == first.created_at
    assert verify(store.path).whole


def test_a_bulk_load_with_ready_vectors(store: FaissStore, monkeypatch):
    monkeypatch.setattr("mmagent_memory.loading.BULK", 40)
    texts = [f"text number {n}" for n in range(100)]
    made = np.asarray(HashEmbedder(dims=32).embed_documents(texts))
    heard: list[int] = []
    items = ((("u", f"{n % 4}"), f"{n}", {"text": text}) for n, text in enumerate(texts))
    asked: list[str] = []
    monkeypatch.setattr(HashEmbedder, "embed_documents", lambda self, texts: asked.extend(texts))
    assert store.bulk(items, vectors=made, progress=heard.append) == 100
    assert heard == [40, 80, 100]
    assert asked == []
    (best,) = store.search(("u",), query="text number 7", limit=1)
    assert best.key == "7"
    assert len(store.search(("u", "1"), limit=100)) == 25
    assert verify(store.path).whole
    with pytest.raises(EmbeddingError, match="31 numbers"):
        store.bulk([(("u",), "k", {})], vectors=np.ones((1, 31)))
    with pytest.raises(EmbeddingError, match="NaN"):
        store.bulk([(("u",), "k", {})], vectors=np.full((1, 32), np.nan))
    with pytest.raises(EmbeddingError, match="shape"):
        store.bulk([(("u",), "k", {}), (("u",), "l", {})], vectors=np.ones((1, 32)))
    assert store.get(("u",), "k") is None


def test_a_bulk_load_that_embeds(tmp_path: Path):
    with FaissStore(tmp_path, HashEmbedder(dims=32)) as store:
        assert store.bulk((("u",), f"{n}", {"text": f"word{n}"}) for n in range(10)) == 10
        assert store.search(("u",), query="word3", limit=1)[0].key == "3"
    with (
        FaissStore(tmp_path, False) as store,
        pytest.raises(MemoryUsageError, match="without an embedder"),
    ):
        store.bulk([(("u",), "k", {})], vectors=np.ones((1, 32)))


def test_a_bulk_load_over_what_is_there(store: FaissStore, monkeypatch):
    monkeypatch.setattr("mmagent_memory.loading.BULK", 7)
    store.put(("u",), "3", {"text": "old kettle"})
    store.put(("u",), "gone", {"text": "soon expired"}, ttl=-1)
    first = store.get(("u",), "3").created_at
    values: list[dict] = [
        {"text": "nothing"},
        {},
        {"n": 1, "deep": [{"text": "a teapot"}, ("x", {"y": "spoon"})]},
        {"text": "new kettle"},
        {"text": "红茶 \ud800 \x00"},
    ]
    items = [(("u",), f"{n}", value) for n, value in enumerate(values)]
    items += [(("u",), "gone", {"text": "back again"}), (("u",), "0", {"text": "twice"})]
    assert store.bulk([*items, (("v", "w"), "0", {"text": "twice"}), *items[:2]]) == 10
    assert store.get(("u",), "3").created_at == first
    assert store.get(("u",), "0").value == {"text": "nothing"}
    assert store.get(("u",), "4").value == values[4]
    assert len(store.search(("u",), limit=20)) == 6
    found = {word: len(words(store, word)) for word in ("kettle", "teapot", "spoon", "红茶", "old")}
    assert found == {"kettle": 1, "teapot": 1, "spoon": 1, "红茶": 1, "old": 0}
    assert store.search(("u",), query="back again", limit=1)[0].key == "gone"
    with store.database.reading() as db:
        query = "SELECT body, about, caption, context FROM items WHERE key = ? ORDER BY id"
        assert db.execute(query, (b"3",)).fetchone() == ("new kettle", "", "", "")
        assert db.execute(query, (b"1",)).fetchone() == (None,) * 4
    assert verify(store.path).whole


def test_a_bulk_load_that_fails_keeps_the_batches_before(store: FaissStore, monkeypatch):
    monkeypatch.setattr("mmagent_memory.loading.BULK", 10)
    heard: list[int] = []
    items = [(("u",), f"{n}", {"n": object() if n == 25 else n}) for n in range(40)]
    with pytest.raises(MemoryUsageError, match="'25'"):
        store.bulk(items, progress=heard.append)
    assert heard == [10, 20]
    assert len(store.search(("u",), limit=99)) == 20
    plain = committing_module.Writer.apply

    def apply(self, puts):
        plain(self, puts)
        if len(puts.rows) == 4:
            raise ValueError("this one cannot be written")

    monkeypatch.setattr(committing_module.Writer, "apply", apply)
    with pytest.raises(ValueError, match="cannot be written"):
        store.bulk([(("v",), f"{n}", {"n": n}) for n in range(24)], progress=heard.append)
    assert heard == [10, 20, 10, 20]
    assert len(store.search(("v",), limit=99)) == 20
    assert verify(store.path).whole


def test_what_follows_a_bulk_load(store: FaissStore, monkeypatch):
    monkeypatch.setattr("mmagent_memory.writer._WORDS_FAR_BEHIND", 64)
    monkeypatch.setattr("mmagent_memory.indexer._WORDS", 30)

    def log() -> tuple[int, ...]:
        db = store.database.writer()
        pages = db.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
        return pages, db.execute("PRAGMA journal_size_limit").fetchone()[0]

    usual = log()
    with store._indexer.held():  # Nothing is done behind it while another load goes on.
        store.bulk((("u",), f"{n}", {"text": f"kettle {n}"}) for n in range(100))
        assert behind(store) == (100, 0)
        assert log()[0] > 10 * usual[0]
        assert log()[1] > 10 * usual[1]
        store.put(("u",), "more", {"text": "kettle"})
        assert behind(store) == (101, 0)
        assert len(words(store, "kettle")) == 101
        assert behind(store) == (0, 0)
        store.bulk((("v",), f"{n}", {"text": f"teapot {n}"}) for n in range(100))
    store.wait_for_index()
    assert behind(store) == (0, 0)
    assert log() == usual
    db = store.database.writer()
    _, written, folded = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert written == folded
    assert len(words(store, "teapot")) == 100
    assert verify(store.path).whole


def test_what_is_known_of_a_store_is_looked_up_anew_when_others_wrote(store: FaissStore):
    store.put(("a",), "1", {"text": "one"})
    with FaissStore(store.path, HashEmbedder(dims=32)) as other:
        other.put(("b",), "1", {"text": "two"})
        store.put(("b",), "2", {"text": "three"})
        erase(other.database, ("b",))
        store.put(("b",), "3", {"text": "four"})
        other.put(("b",), "4", {"text": "five"}, ttl=-1)
        store.put(("a",), "2", {"text": "six"})  # What has expired goes along with it.
    with store.database.writing() as db:  # On its own connection, but not by a put.
        Writer(db).remove(1, 1)
        gone = db.execute("SELECT count(*) FROM tombstones WHERE item = 1").fetchone()[0]
    assert gone == 1
    store.put(("a",), "3", {"text": "seven"})
    store.put(("a",), "3", {"text": "eight"})
    with store.database.reading() as db:
        there = db.execute("SELECT ns, key FROM items ORDER BY id").fetchall()
        paths = dict(db.execute("SELECT id, path FROM namespaces"))
        twice = db.execute("SELECT count(*) FROM items JOIN tombstones ON id = seq").fetchone()[0]
    assert [(paths[ns], key) for ns, key in there] == [(b"b.", b"3"), (b"a.", b"2"), (b"a.", b"3")]
    assert twice == 0
    assert verify(store.path).whole


def test_an_expiry_that_a_write_brings_is_known_to_the_next(store: FaissStore):
    store.put(("a",), "1", {"text": "one"})
    store.put(("a",), "2", {"text": "two"}, ttl=0.0005)
    time.sleep(0.05)
    store.put(("a",), "3", {"text": "three"})
    with store.database.reading() as db:
        assert db.execute("SELECT key FROM items ORDER BY id").fetchall() == [(b"1",), (b"3",)]


def words(store: FaissStore, *wanted: str) -> set[int]:
    with store.database.reading() as db:
        return set(store.reader(db).by_words((), list(wanted), 1000))


def behind(store: FaissStore) -> tuple[int, int]:
    with store.database.reading() as db:
        return db.execute(
            "SELECT (SELECT count(*) FROM items WHERE id > (SELECT value FROM meta "
            "WHERE name = 'words')), (SELECT count(*) FROM leaving)"
        ).fetchone()


def test_words_are_taken_in_behind_the_writes_and_found_at_once(store: FaissStore):
    for number in range(10):
        store.put(("w",), f"{number}", {"text": f"kettle word{number}"})
    assert behind(store) == (10, 0)
    assert len(words(store, "kettle")) == 10
    assert behind(store) == (0, 0)
    store.delete(("w",), "3")
    store.put(("w",), "4", {"text": "teapot"})
    assert behind(store) == (1, 2)
    assert len(words(store, "kettle")) == 8
    assert words(store, "word3", "word4") == set()
    assert len(words(store, "teapot")) == 1
    assert behind(store) == (0, 0)
    store.put(("w",), "5", {"text": "never taken in"})
    store.delete(("w",), "5")
    with store.database.writing() as db:
        db.execute("INSERT INTO full_text (full_text, rank) VALUES ('integrity-check', 1)")
    assert verify(store.path).whole


def test_many_writes_take_words_in_by_themselves(store: FaissStore):
    for number in range(200):
        store.put(("w",), f"{number % 90}", {"text": f"kettle {number}"})
    assert max(behind(store)) <= 70
    assert len(words(store, "kettle")) == 90


def test_another_process_s_words_are_found(store: FaissStore):
    with FaissStore(store.path, False) as other:
        other.put(("w",), "k", {"text": "a kettle"})
        assert len(words(store, "kettle")) == 1
        other.delete(("w",), "k")
        assert words(store, "kettle") == set()


def test_new_words_are_found_while_another_process_holds_the_store(store: FaissStore, monkeypatch):
    monkeypatch.setattr("mmagent_memory.store._SETTLE_MS", 20)
    for number in range(5):
        store.put(("w",), f"old {number}", {"text": f"kettle number{number} 红茶"})
    assert len(words(store, "kettle")) == 5
    store.put(("w",), "new", {"text": "a shiny kettles 红茶"})
    store.put(("v",), "other", {"text": "kettle"})
    store.delete(("w",), "old 1")
    with FaissStore(store.path, False) as other, other.database.writing():
        assert len(words(store, "kettle")) == 6
        assert len(words(store, "shiny")) == 1
        assert len(words(store, "红茶")) == 5
        assert words(store, "number1") == set()
        assert behind(store) == (2, 1)
    with store.database.held():  # Another thread of this process.
        found: list = []
        thread = threading.Thread(target=lambda: found.append(words(store, "shiny")))
        thread.start()
        thread.join(20)
        assert len(found[0]) == 1
    assert len(words(store, "kettle")) == 6
    assert behind(store) == (0, 0)


def test_reading_does_not_wait_for_a_writer(store: FaissStore):
    store.put(("r",), "k", {"text": "x"})
    found: list = []
    with store.database.held():
        thread = threading.Thread(target=lambda: found.append(store.search(("r",), query="x")))
        thread.start()
        thread.join(20)
    assert len(found[0]) == 1
