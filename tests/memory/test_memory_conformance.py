"""`FaissStore` passes the kit that ships with it, and the kit fails stores that are wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore

from mmagent_memory import FaissStore
from mmagent_memory.conformance import (
    EMBEDDER,
    check_async,
    check_expiry,
    check_store,
    reference,
)
from mmagent_memory.conformance_report import Subject, main, report, subjects, table
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.promises import PROMISES


@pytest.fixture
def make(tmp_path: Path):
    counter = itertools.count()
    return lambda: FaissStore(tmp_path / f"{next(counter)}", EMBEDDER)


def close(store: FaissStore) -> None:
    store.close()


def test_sync(make):
    check_store(make, close=close, examples=15, steps=10)


def test_through_the_index(make):
    def through_faiss() -> FaissStore:
        store = make()
        store.exact_limit = 0
        return store

    check_store(through_faiss, close=close, examples=8, steps=10)


def test_async(make):
    check_async(make, close=close, examples=8)


def test_expiry(make):
    check_expiry(make, close=close)


@pytest.fixture
def make_postgres(postgres):
    store = postgres(EMBEDDER)

    def emptied():
        with store.exclusive() as db:
            db.execute("DELETE FROM store")
        return store

    return emptied


def test_postgres(make_postgres):
    check_store(make_postgres, examples=8, steps=8)


def test_postgres_async(make_postgres):
    check_async(make_postgres, examples=4)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
def test_every_promise_is_kept(make, make_postgres, promise):
    with make() as store:
        promise.check(store)
    promise.check(make_postgres())


def test_the_model_passes_its_own_kit():
    check_store(reference, examples=10)


def test_the_plain_model_leaves_old_vectors():
    store = InMemoryStore(index={"dims": 64, "embed": EMBEDDER, "fields": ["$"]})
    with pytest.raises((AssertionError, ValueError)):
        check_store(lambda: InMemoryStore(index=store.index_config), examples=60, shorten=False)


class Forgetful(InMemoryStore):
    def batch(self, ops):
        return super().batch([op for op in ops if not isinstance(op, PutOp) or op.key != "🦊"])


def test_a_store_that_loses_items_fails():
    with pytest.raises((AssertionError, ValueError)):
        check_store(Forgetful, examples=60, shorten=False)


def test_a_store_that_shows_expired_items_fails():
    class Late(InMemoryStore):
        supports_ttl = True

    with pytest.raises(AssertionError, match="still seen"):
        check_expiry(Late)
    with pytest.raises(AssertionError, match="does not support"):
        check_expiry(InMemoryStore)


@pytest.mark.parametrize("ttl", [1e30, float("inf"), 5e10])
def test_an_endless_ttl_is_no_error(make, ttl):
    with make() as store:
        store.put(("a",), "k", {"x": 1}, ttl=ttl)
        assert store.get(("a",), "k")
        with pytest.raises(MemoryUsageError, match="NaN"):
            store.put(("a",), "k", {"x": 1}, ttl=float("nan"))
        store.put(("a",), "k", {"x": 1}, ttl=-1)
        assert store.get(("a",), "k") is None


def test_a_report_names_the_promises_that_are_broken():
    with subjects(["InMemoryStore", "SqliteStore"]) as (plain, sqlite):
        results = {one.name: report(one, examples=10) for one in (plain, sqlite)}
    said = results["InMemoryStore"]
    assert said["put, get and delete"] == "kept"
    assert "does not support a time to live" in said[PROMISES[14].name]
    embeds = next(promise for promise in PROMISES if promise.vectors)
    assert "the old text is still found" in said[embeds.name]
    text = table(results)
    assert "| put, get and delete | yes | yes |" in text
    assert "1. " in text
    # Where Python cannot load extensions, SqliteStore runs without vectors, and the table says so.
    assert ("Not run for SqliteStore" in text) == (sqlite.without_vectors is not None)


def test_the_command_runs_on_ones_own_store(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_store.py").write_text(
        "from mmagent_memory.conformance import reference as make\n"
    )
    out = tmp_path / "out.json"
    code = main(["own_store:make", "--examples", "2", "--json", str(out)])
    assert code == 1  # the model itself has no time to live
    assert "| any text" in capsys.readouterr().out
    assert "own_store:make" in out.read_text()


def test_an_error_is_an_outcome():
    def fail():
        raise RuntimeError("no store | today")

    said = report(Subject("broken", fail), examples=1)
    assert set(said.values()) == {"RuntimeError: no store / today"}
