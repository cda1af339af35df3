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
from mmagent_memory.errors import MemoryUsageError


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
