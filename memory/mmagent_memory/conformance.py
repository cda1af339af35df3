"""A test kit for LangGraph stores: is a store what `BaseStore` promises?

Random operations are carried out on a store and on a plain model of the contract side by side,
and every answer is compared. Run it on a store of your own, for example in pytest:

    from mmagent_memory.conformance import check_store

    def test_my_store():
        check_store(lambda: MyStore(...), close=lambda store: store.close())

The model is LangGraph's `InMemoryStore`, made right where it does not keep the contract: an
update takes the vectors of the old value away, a text that stands twice is embedded for both,
and a namespace without items is not listed. The kit needs `hypothesis`, which finds a
failing sequence and shortens it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from typing import Any, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from mmagent_memory.hash_embedder import HashEmbedder

__all__ = ["EMBEDDER", "check_async", "check_expiry", "check_store", "reference"]

EMBEDDER = HashEmbedder(dims=64)
"""The embedder to give to a store under test, so that its vectors are the model's."""

Make = Callable[[], BaseStore]
Close = Callable[[BaseStore], None]
_LABELS = ("a", "b", "ab", "a-b", "%", "*", "_", "'", "中文", "langgraphs")
_KEYS = ("k", "K", "k.1", "*", "%", "'; --", "键", "🦊", " ")
_WORDS = ("tea", "green tea", "coffee", "the red kettle", "a red bicycle", "小猫", "")
_OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")


class _Model(InMemoryStore):
    """`InMemoryStore` as the contract has it."""

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        every = list(ops)
        results: list[Result] = [None] * len(every)
        for place, op in enumerate(every):
            if not isinstance(op, PutOp):
                (results[place],) = super().batch([op])
                self._drop_empty()
        for op in every:
            if isinstance(op, PutOp):
                self._vectors[op.namespace].pop(op.key, None)
                super().batch([op])
                self._drop_empty()
        return results

    def _drop_empty(self) -> None:
        # Even asking for an item makes its namespace.
        for namespace in [name for name, items in self._data.items() if not items]:
            del self._data[namespace]

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return self.batch(ops)

    def _insertinmem_store(self, to_embed: Any, embeddings: list[list[float]]) -> None:
        for places, embedding in zip(to_embed.values(), embeddings, strict=True):
            for namespace, key, path in places:
                self._vectors[namespace][key][path] = embedding


def reference() -> InMemoryStore:
    """Return the model that stores are compared with."""
    return _Model(index={"dims": 64, "embed": EMBEDDER, "fields": ["$"]})


def check_store(
    make: Make,
    *,
    close: Close = lambda store: None,
    examples: int = 60,
    steps: int = 25,
    shorten: bool = True,
) -> None:
    """Compare a store with the model over random sequences of batches.

    Args:
        make: Opens a fresh, empty store that embeds whole values with `EMBEDDER`.
        close: Closes it.
        examples: How many sequences.
        steps: How many batches in the longest one.
        shorten: Whether to look for the shortest failing sequence, which may take minutes.

    Raises:
        AssertionError: An answer differs; the message has the shortest sequence found.
    """
    from hypothesis import HealthCheck, Phase, given, settings

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=list(Phase) if shorten else [Phase.generate],
    )
    @given(_sequences(steps))
    def compare(batches: list[list[Op]]) -> None:
        store, model = make(), reference()
        try:
            for batch in batches:
                _same(batch, store.batch(batch), model.batch(batch))
        finally:
            close(store)

    compare()


def check_async(make: Make, *, close: Close = lambda store: None, examples: int = 20) -> None:
    """Compare a store's async methods with the model, as `check_store` does the sync ones."""
    from hypothesis import HealthCheck, given, settings

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(_sequences(10))
    def compare(batches: list[list[Op]]) -> None:
        async def drive() -> None:
            store, model = make(), reference()
            try:
                for batch in batches:
                    _same(batch, await store.abatch(batch), await model.abatch(batch))
            finally:
                result = cast("Any", close)(store)
                if inspect.isawaitable(result):
                    await _awaited(result)

        asyncio.run(drive())

    compare()


def check_expiry(make: Make, *, close: Close = lambda store: None) -> None:
    """Check that expired items are invisible at once to every way of reading.

    Args:
        make: Opens a fresh, empty store that supports TTL.
        close: Closes it.
    """
    store = make()
    try:
        if not store.supports_ttl:
            raise AssertionError("The store says that it does not support TTL.")
        store.put(("t",), "short", {"text": "tea"}, ttl=0.3 / 60)
        store.put(("t",), "kept", {"text": "tea"}, ttl=60)
        store.put(("u",), "short", {"text": "tea"}, ttl=0.3 / 60)
        if store.get(("t",), "short", refresh_ttl=False) is None:
            raise AssertionError("An item expired at once.")
        time.sleep(0.5)
        seen = {
            "get": store.get(("t",), "short"),
            "search": [i for i in store.search(("t",)) if i.key == "short"],
            "query": [i for i in store.search(("t",), query="tea") if i.key == "short"],
            "list_namespaces": [n for n in store.list_namespaces() if n == ("u",)],
        }
        for way, found in seen.items():
            if found:
                raise AssertionError(f"An expired item is still seen by {way}.")
        if store.get(("t",), "kept") is None:
            raise AssertionError("An item went before its time.")
    finally:
        close(store)


async def _awaited(result: Awaitable[Any]) -> None:
    await result


def _sequences(steps: int) -> Any:
    """Return a strategy for sequences of batches."""
    from hypothesis import strategies as st

    label = st.sampled_from(_LABELS)
    namespace = st.lists(label, min_size=1, max_size=3).map(tuple)
    key = st.sampled_from(_KEYS)
    scalar = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.floats(-5, 5, allow_nan=False),
        st.sampled_from(_WORDS),
    )
    value = st.fixed_dictionaries(
        {"text": st.sampled_from(_WORDS), "n": st.integers(-5, 5)},
        optional={
            "list": st.lists(scalar, max_size=3),
            "deep": st.fixed_dictionaries({"x": scalar}),
            "o'b": scalar,
        },
    )
    index = st.one_of(st.none(), st.just(False), st.just(["text"]), st.just(["list[*]", "deep.x"]))
    number = st.integers(-5, 5)
    comparison = st.dictionaries(st.sampled_from(_OPERATORS), number, min_size=1, max_size=2)
    condition = st.one_of(
        st.none(),
        st.fixed_dictionaries({"n": st.one_of(number, comparison)}),
        st.fixed_dictionaries({"text": st.sampled_from(_WORDS)}),
        st.fixed_dictionaries({"deep": st.fixed_dictionaries({"x": scalar})}),
        st.fixed_dictionaries({"o'b": scalar}),
        st.fixed_dictionaries({"list": st.lists(scalar, max_size=2)}),
    )
    path = st.lists(st.one_of(label, st.just("*")), min_size=1, max_size=2).map(tuple)
    match = st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), path)
    put = st.builds(
        PutOp, namespace, key, st.one_of(st.none(), value, value, value), index, st.none()
    )
    get = st.builds(GetOp, namespace, key)
    # Everything at once: where items tie, the order and so a page of them is the store's choice.
    search = st.builds(
        SearchOp,
        st.lists(label, max_size=2).map(tuple),
        condition,
        st.just(1000),
        st.just(0),
        st.one_of(st.none(), st.sampled_from([word for word in _WORDS if word])),
    )
    listing = st.builds(
        ListNamespacesOp,
        st.one_of(st.none(), st.lists(match, max_size=2).map(tuple)),
        st.one_of(st.none(), st.integers(1, 3)),
        st.integers(1, 20),
        st.integers(0, 3),
    )
    # Puts come last: whether a batch reads before it writes is not in the contract.
    reads = st.lists(st.one_of(get, search, listing), max_size=3)
    writes = st.lists(put, max_size=4)
    batch = st.builds(lambda r, w: [*r, *w], reads, writes)
    return st.lists(batch, min_size=1, max_size=steps)


def _same(batch: list[Op], found: list[Any], expected: list[Any]) -> None:
    if len(found) != len(batch):
        raise AssertionError(f"{len(batch)} operations gave {len(found)} results.")
    for op, mine, theirs in zip(batch, found, expected, strict=True):
        if isinstance(op, GetOp):
            _same_items(op, [mine] if mine else [], [theirs] if theirs else [])
        elif isinstance(op, SearchOp):
            _same_items(op, mine, theirs)
            _ranked(op, mine)
        elif isinstance(op, ListNamespacesOp):
            if [tuple(namespace) for namespace in mine] != theirs:
                raise AssertionError(f"{op} gave {mine}, not {theirs}.")
        elif mine is not None:
            raise AssertionError(f"{op} gave {mine!r}, not None.")


def _same_items(op: Op, found: list[Any], expected: list[Any]) -> None:
    mine, theirs = ({_name(item): item for item in items} for items in (found, expected))
    if len(mine) != len(found):
        raise AssertionError(f"{op} gave an item twice.")
    if mine.keys() != theirs.keys():
        raise AssertionError(f"{op} gave {sorted(mine)}, not {sorted(theirs)}.")
    for name, item in mine.items():
        other = theirs[name]
        if item.value != other.value:
            raise AssertionError(f"{op}: {name} has the value {item.value}, not {other.value}.")
        if isinstance(item, SearchItem):
            _same_score(op, item, other)


def _same_score(op: Op, item: SearchItem, other: SearchItem) -> None:
    if (item.score is None) != (other.score is None):
        raise AssertionError(f"{op}: {_name(item)} has the score {item.score}, not {other.score}.")
    if item.score is not None and abs(item.score - (other.score or 0.0)) > 1e-3:
        raise AssertionError(f"{op}: {_name(item)} has the score {item.score}, not {other.score}.")


def _ranked(op: Op, found: list[SearchItem]) -> None:
    scores = [-2.0 if item.score is None else item.score for item in found]
    if any(second > first + 1e-6 for first, second in pairwise(scores)):
        raise AssertionError(f"{op} is not ranked best first: {scores}.")


def _name(item: Item) -> tuple[tuple[str, ...], str]:
    return (tuple(item.namespace), item.key)


def _main() -> int:
    # As a module of its own name: what runs as __main__ is another copy of it.
    from mmagent_memory.conformance_report import main

    return main()


if __name__ == "__main__":
    import sys

    sys.exit(_main())
