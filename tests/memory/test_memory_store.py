"""`FaissStore` keeps what LangGraph's stores promise."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, PutOp, SearchOp

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory.errors import EmbeddingError, MemoryStoreError, MemoryUsageError


@pytest.fixture
def store(tmp_path: Path):
    with FaissStore(tmp_path / "m", HashEmbedder()) as opened:
        yield opened


def keys(items) -> list[str]:
    return [item.key for item in items]


def test_put_get_update_delete(store: FaissStore):
    assert store.get(("a",), "k") is None
    store.put(("a",), "k", {"n": 1})
    first = store.get(("a",), "k")
    assert first.value == {"n": 1}
    assert first.namespace == ("a",)
    store.put(("a",), "k", {"n": 2})
    second = store.get(("a",), "k")
    assert second.value == {"n": 2}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    store.delete(("a",), "k")
    store.delete(("a",), "never there")
    assert store.get(("a",), "k") is None
    assert store.search(("a",), query="n") == []


def test_survives_closing(tmp_path: Path):
    with FaissStore(tmp_path, HashEmbedder()) as store:
        store.put(("a",), "k", {"text": "the red kettle"})
    with FaissStore(tmp_path, HashEmbedder()) as store:
        assert keys(store.search(("a",), query="kettle")) == ["k"]
        assert store.search(("a",), query="kettle")[0].score > 0.2
    with pytest.raises(MemoryStoreError, match="closed"):
        store.get(("a",), "k")


def test_update_embeds_anew_and_delete_removes_the_vector(store: FaissStore):
    store.put(("a",), "k", {"text": "apples"})
    store.put(("a",), "other", {"text": "bananas"})
    assert keys(store.search(("a",), query="apples", limit=1)) == ["k"]
    store.put(("a",), "k", {"text": "pianos"})
    assert store.search(("a",), query="pianos")[0].key == "k"
    apples = {item.key: item.score for item in store.search(("a",), query="apples")}
    assert apples["k"] < 0.3
    store.delete(("a",), "k")
    assert keys(store.search(("a",), query="pianos")) == ["other"]


@pytest.mark.parametrize("how", ["update", "delete", "elsewhere"])
def test_what_is_gone_takes_no_place_among_the_nearest(store: FaissStore, how: str):
    for number in range(5):
        store.put(("g",), f"near {number}", {"text": f"apples and pears {number}"})
    store.put(("g",), "far", {"text": "apples"})
    assert len(store.search(("g",), query="apples and pears", limit=6)) == 6  # Fills the block.
    with FaissStore(store.path, HashEmbedder()) as other:
        for number in range(5):
            if how == "update":
                store.put(("g",), f"near {number}", {"text": "pianos"})
            else:
                (other if how == "elsewhere" else store).delete(("g",), f"near {number}")
    (found,) = store.search(("g",), query="apples and pears", limit=1)
    assert found.key == "far"
    assert found.score > 0.2
    with store.database.writing() as db:
        db.execute("INSERT INTO full_text (full_text, rank) VALUES ('integrity-check', 1)")


def test_deleted_bytes_are_overwritten(store: FaissStore):
    with store.database.exclusive() as db:
        assert db.execute("PRAGMA secure_delete").fetchone() == (1,)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_prefixes_end_at_labels(store: FaissStore):
    for namespace in (("a",), ("a", "b"), ("ab",), ("a", "bc"), ("%",), ("*",), ("a/b",), ("中",)):
        store.put(namespace, "k", {"at": list(namespace)})
    assert len(store.search(("a",))) == 3
    assert len(store.search(("a", "b"))) == 1
    assert len(store.search(())) == 8
    assert [item.namespace for item in store.search(("*",))] == [("*",)]
    assert [item.namespace for item in store.search(("中",))] == [("中",)]
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(("a.b",), "k", {})])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"n": 2}, "c"),
        ({"n": {"$eq": 2}}, "c"),
        ({"n": {"$ne": 2}}, "abde"),
        ({"n": {"$gt": 1}}, "c"),
        ({"n": {"$gte": 1}}, "bc"),
        ({"n": {"$lt": 1}}, "a"),
        ({"n": {"$lte": 1}}, "ab"),
        ({"n": {"$gt": 0, "$lt": 2}}, "b"),
        ({"tag": {"x": {"$gte": 5}}}, "d"),
        ({"tag": {"x": 5, "y": [1, 2]}}, "d"),
        ({"'; DROP TABLE items; --": 1}, ""),
        ({"n": None}, "de"),
        ({"day": {"$gt": "2024-01-31"}}, "e"),
    ],
)
def test_filters(store: FaissStore, condition, expected):
    for number, key in enumerate("abc"):
        store.put(("f",), key, {"n": number, "t": "word"})
    store.put(("f",), "d", {"tag": {"x": 5, "y": [1, 2]}})
    store.put(("f",), "e", {"day": "2024-02-01"})
    assert "".join(sorted(keys(store.search(("f",), filter=condition)))) == expected
    found = store.search(("f",), filter=condition, query="word")
    assert "".join(sorted(keys(found))) == expected


def test_an_unknown_operator_is_an_error_even_in_an_empty_store(store: FaissStore):
    with pytest.raises(MemoryUsageError, match=r"\$in"):
        store.search(("f",), filter={"n": {"$in": [1]}})


def test_the_filter_comes_before_the_cut(store: FaissStore):
    for number in range(60):
        store.put(("f",), f"{number}", {"text": "same words", "n": number})
    assert keys(store.search(("f",), query="same words", filter={"n": 59}, limit=1)) == ["59"]
    assert len(store.search(("f",), query="same words", limit=100)) == 60
    assert store.search(("f",), query="same words", limit=0) == []
    pages = [store.search(("f",), query="same words", limit=7, offset=o) for o in range(0, 60, 7)]
    assert len({item.key for page in pages for item in page}) == 60


def test_fields_and_items_without_vectors(store: FaissStore):
    store.put(("i",), "whole", {"a": "mountain", "b": "river"})
    store.put(("i",), "only b", {"a": "mountain", "b": "river"}, index=["b"])
    store.put(("i",), "each", {"list": [{"t": "ocean"}, {"t": "desert"}]}, index=["list[*].t"])
    store.put(("i",), "none", {"a": "mountain"}, index=False)
    scores = {item.key: item.score for item in store.search(("i",), query="mountain")}
    assert scores["none"] is None
    assert scores["only b"] < 0.2 < scores["whole"]
    found = store.search(("i",), query="desert")
    assert found[0].key == "each"
    assert found[0].score > 0.9
    assert found[-1].key == "none"


def test_expiry(tmp_path: Path, monkeypatch):
    now = [1_000_000_000_000_000]
    monkeypatch.setattr("mmagent_memory.store.now_us", lambda: now[0])
    monkeypatch.setattr("mmagent_memory.writer.now_us", lambda: now[0])
    store = FaissStore(tmp_path, HashEmbedder(), ttl={"default_ttl": 10, "refresh_on_read": True})
    minute = 60_000_000
    store.put(("t",), "default", {"x": "word"})
    store.put(("t",), "never", {"x": "word"}, ttl=None)
    store.put(("t",), "short", {"x": "word"}, ttl=1)
    now[0] += 5 * minute
    assert store.get(("t",), "short") is None
    assert sorted(keys(store.search(("t",)))) == ["default", "never"]  # refreshes "default"
    assert keys(store.search(("t",), query="word", refresh_ttl=False)) == ["default", "never"]
    now[0] += 9 * minute
    assert store.get(("t",), "default", refresh_ttl=False) is not None
    now[0] += 2 * minute
    assert store.get(("t",), "default") is None
    assert keys(store.search(("t",), query="word")) == ["never"]
    assert store.sweep_ttl() <= 2
    now[0] -= 60 * minute  # The clock is set back: what was swept stays away.
    assert keys(store.search(("t",))) == ["never"]
    store.put(("t",), "default", {"x": "anew"})
    assert store.get(("t",), "default").value == {"x": "anew"}
    store.close()


def test_an_expired_item_is_replaced_not_updated(tmp_path: Path, monkeypatch):
    now = [1_000_000_000_000_000]
    monkeypatch.setattr("mmagent_memory.store.now_us", lambda: now[0])
    monkeypatch.setattr("mmagent_memory.writer.now_us", lambda: now[0])
    with FaissStore(tmp_path, False) as store:
        store.put(("t",), "k", {"x": 1}, ttl=1)
        first = store.get(("t",), "k").created_at
        now[0] += 120_000_000
        store.put(("t",), "k", {"x": 2})
        assert store.get(("t",), "k").created_at > first


def test_list_namespaces(store: FaissStore):
    for namespace in (("a", "b", "c"), ("a", "b", "d", "e"), ("a", "b", "f"), ("a", "c", "f")):
        store.put(namespace, "k", {})
    assert store.list_namespaces(prefix=("a", "b"), max_depth=3) == [
        ("a", "b", "c"),
        ("a", "b", "d"),
        ("a", "b", "f"),
    ]
    assert store.list_namespaces(suffix=("f",)) == [("a", "b", "f"), ("a", "c", "f")]
    assert store.list_namespaces(prefix=("a", "*", "f")) == [("a", "b", "f"), ("a", "c", "f")]
    assert store.list_namespaces(limit=1, offset=1) == [("a", "b", "d", "e")]
    store.delete(("a", "c", "f"), "k")
    assert ("a", "c", "f") not in store.list_namespaces()


def test_batch_reads_first_and_the_last_put_counts(store: FaissStore):
    store.put(("b",), "k", {"n": 0})
    results = store.batch(
        [
            PutOp(("b",), "k", {"n": 1}),
            GetOp(("b",), "k"),
            PutOp(("b",), "k", {"n": 2}),
            SearchOp(("b",)),
        ]
    )
    assert results[0] is None
    assert results[1].value == {"n": 0}
    assert [item.value for item in results[3]] == [{"n": 0}]
    assert store.get(("b",), "k").value == {"n": 2}


def test_a_batch_is_all_or_nothing(store: FaissStore):
    with pytest.raises(MemoryUsageError, match="JSON"):
        store.batch([PutOp(("b",), "good", {"n": 1}), PutOp(("b",), "bad", {"n": object()})])
    assert store.search(("b",)) == []


def test_a_value_that_holds_itself_is_refused(store: FaissStore):
    value: dict = {"text": "round and round"}
    value["inner"] = [value]
    with pytest.raises(MemoryUsageError, match=r"'round'.*holds itself"):
        store.batch([PutOp(("b",), "good", {"n": 1}), PutOp(("b",), "round", value)])
    with pytest.raises(MemoryUsageError, match=r"'round'.*JSON"):
        store.put(("b",), "round", value, index=False)
    assert store.search(("b",)) == []


STRANGE = [
    "\ud800 half a pair",
    "NUL \x00 inside",
    "🦊🐻‍❄️",
    "שלום עולם",
    "我的猫叫小白",
    "quote ' \" ; --",
    "x" * 1_000_000,
    "",
    "{}[]()*^:",
]


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
def test_strange_texts_and_keys(store: FaissStore, text: str):
    key = text[:50]
    store.put(("s", "x"), key, {"text": text, text[:20]: 1})
    assert store.get(("s", "x"), key).value == {"text": text, text[:20]: 1}
    store.search(("s",), query=text)
    store.delete(("s", "x"), key)
    assert store.search(("s",)) == []


class Broken(HashEmbedder):
    fingerprint = ""

    def __init__(self, spoil):
        super().__init__()
        self.fingerprint = "broken"
        self.spoil = spoil

    def embed_documents(self, texts):
        return self.spoil(super().embed_documents(texts))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: [[float("nan")] * 256 for _ in rows], "NaN"),
        (lambda rows: [[float("inf")] * 256 for _ in rows], "NaN or infinity"),
        (lambda rows: [row[:10] for row in rows], "10 numbers"),
        (lambda rows: rows[:-1], "shape"),
        (lambda rows: 1 / 0, "failed: division by zero"),
    ],
)
def test_a_bad_vector_is_refused_and_nothing_is_written(tmp_path: Path, spoil, words):
    with FaissStore(tmp_path, Broken(spoil)) as store:
        with pytest.raises(EmbeddingError, match=words):
            store.put(("a",), "k", {"text": "hello"})
        assert store.search(("a",)) == []


def test_a_zero_vector_is_found_last(tmp_path: Path):
    with FaissStore(tmp_path, Broken(lambda rows: [[0.0] * 256 for _ in rows])) as store:
        store.put(("a",), "k", {"text": "hello"})
        assert store.search(("a",), query="hello")[0].score == 0.0


def test_without_embeddings_search_goes_by_words(tmp_path: Path):
    with FaissStore(tmp_path, embeddings=False) as store:
        store.put(("w",), "cats", {"text": "Cats were sleeping", "n": 1})
        store.put(("w",), "dogs", {"text": "Dogs bark"})
        store.put(("w",), "猫", {"text": "小猫在睡觉"})
        assert keys(store.search(("w",), query="a sleeping cat")) == ["cats"]
        assert keys(store.search(("w",), query="猫")) == ["猫"]
        assert keys(store.search(("w",), query="睡觉")) == ["猫"]
        assert store.search(("w",), query="cat", filter={"n": 2}) == []


def test_a_function_may_be_the_embedder(tmp_path: Path):
    with FaissStore(tmp_path, embed) as store:
        store.put(("a",), "k", {"text": "hello"})
        assert store.search(("a",), query="hello")[0].score == pytest.approx(1.0)


def embed(texts):
    return [[1.0] * 8 for _ in texts]


async def test_async_twins_do_not_stop_the_loop(store: FaissStore):
    await asyncio.gather(*(store.aput(("a",), f"{n}", {"n": n}) for n in range(20)))
    found = await store.asearch(("a",), limit=50)
    assert sorted(item.value["n"] for item in found) == list(range(20))
    assert (await store.aget(("a",), "3")).value == {"n": 3}
    await store.adelete(("a",), "3")
    assert await store.aget(("a",), "3") is None


def test_threads_share_one_store(store: FaissStore):
    failures = []

    def work(name: int):
        try:
            for number in range(15):
                store.put(("t", f"{name}"), f"{number}", {"text": f"thread {name} says {number}"})
                assert store.search(("t", f"{name}"), query=f"says {number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.search(("t",), limit=100)) == 60


def _write_many(path: str, name: str, count: int) -> None:
    with FaissStore(path, HashEmbedder()) as store:
        for number in range(count):
            store.put(("p", name), f"{number}", {"text": f"{name} {number}"})


def test_processes_see_each_others_writes(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    with FaissStore(tmp_path, HashEmbedder()) as store:
        store.put(("p", "me"), "0", {"text": "mine"})
        assert len(store.search(("p",), query="mine")) == 1  # Fills the caches.
        workers = [context.Process(target=_write_many, args=(tmp_path, n, 25)) for n in "ab"]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            store.search(("p",), query="a 1")
            time.sleep(0.02)
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        found = store.search(("p",), query="a 7", limit=100)
        assert len(found) == 51
        assert all(item.score is not None for item in found)
        assert store.search(("p", "a"), query="a 7", limit=1)[0].value == {"text": "a 7"}


def test_a_fork_has_connections_of_its_own(tmp_path: Path):
    store = FaissStore(tmp_path, False)
    store.put(("f",), "parent", {})
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Forking with threads, from 3.12.
        child = os.fork()
    if child == 0:
        try:
            store.put(("f",), "child", {})
            os._exit(0 if store.get(("f",), "parent") else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    store.put(("f",), "parent again", {})
    assert sorted(keys(store.search(("f",)))) == ["child", "parent", "parent again"]
    store.close()
