"""What a LangGraph store promises, one by one, each as a check that takes a fresh store.

`conformance` compares whole random histories, which finds what nobody thought of; these say in
words which promise is broken. `conformance_report` runs both and writes a table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph.store.base import BaseStore, GetOp, PutOp, SearchOp

__all__ = ["PROMISES", "Promise"]

_SHORT = 0.3 / 60
"""A time to live of 0.3 s, in minutes."""


@dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        name: In words.
        check: Raises AssertionError, or anything else, if a store does not keep it.
        vectors: Whether the store must embed.
    """

    name: str
    check: Callable[[BaseStore], None]
    vectors: bool = False


PROMISES: list[Promise] = []


def _promise(
    name: str, *, vectors: bool = False
) -> Callable[[Callable[[BaseStore], None]], Callable[[BaseStore], None]]:
    def add(check: Callable[[BaseStore], None]) -> Callable[[BaseStore], None]:
        PROMISES.append(Promise(name, check, vectors))
        return check

    return add


def _expect(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _keys(found: Any) -> list[str]:
    return sorted(item.key for item in found)


@_promise("put, get and delete")
def _put_get_delete(store: BaseStore) -> None:
    value = {"text": "茶 🦊", "n": 1.5, "deep": {"list": [1, None, True, {"x": []}]}}
    store.put(("a", "b"), "k.1 '%", value)
    item = store.get(("a", "b"), "k.1 '%")
    _expect(item is not None and item.value == value, "the value came back changed")
    _expect(item is not None and tuple(item.namespace) == ("a", "b"), "the namespace changed")
    store.delete(("a", "b"), "k.1 '%")
    _expect(store.get(("a", "b"), "k.1 '%") is None, "a deleted item is still there")
    store.delete(("a", "b"), "never there")


@_promise("any text: NUL, half a surrogate pair, right to left")
def _any_text(store: BaseStore) -> None:
    odd = "NUL \x00, half \ud83d, \u202eleft"
    store.put(("a",), "odd", {"text": odd}, index=False)
    item = store.get(("a",), "odd")
    _expect(item is not None and item.value == {"text": odd}, "the text came back changed")


@_promise("an update replaces the value and keeps the time of creation")
def _update(store: BaseStore) -> None:
    store.put(("a",), "k", {"x": 1})
    first = store.get(("a",), "k")
    time.sleep(0.02)
    store.put(("a",), "k", {"y": 2})
    second = store.get(("a",), "k")
    _expect(second is not None and second.value == {"y": 2}, "the old value is still there")
    _expect(first and second and second.created_at == first.created_at, "created_at changed")
    _expect(first and second and second.updated_at > first.updated_at, "updated_at did not change")


@_promise("an update embeds anew, and old fields are no longer found", vectors=True)
def _update_embeds(store: BaseStore) -> None:
    store.put(("a",), "k", {"one": "green tea", "two": "bicycle"}, index=["one", "two"])
    store.put(("a",), "k", {"one": "red kettle"}, index=["one", "two"])
    (found,) = store.search(("a",), query="bicycle")
    _expect((found.score or 0.0) < 0.3, f"the old text is still found (score {found.score:.2f})")
    (found,) = store.search(("a",), query="red kettle")
    _expect((found.score or 0.0) > 0.9, "the new text is not found")


@_promise("a deleted item is found no more, nor its vector", vectors=True)
def _delete_vector(store: BaseStore) -> None:
    store.put(("a",), "k", {"text": "green tea"})
    store.delete(("a",), "k")
    _expect(not store.search(("a",), query="green tea"), "a deleted item is found")
    store.put(("a",), "k", {"text": "green tea"}, index=False)
    scores = [item.score for item in store.search(("a",), query="green tea")]
    _expect(scores in ([None], []), f"the deleted vector gave a score: {scores}")


@_promise("namespace prefixes by whole labels, whatever is in them")
def _prefixes(store: BaseStore) -> None:
    for namespace in (("a",), ("a", "b"), ("ab",), ("a_", "x"), ("aX", "x"), ("a%",), ("*",)):
        store.put(namespace, "/".join(namespace), {"x": 1})
    for prefix, wanted in (
        (("a",), ["a", "a/b"]),
        (("a_",), ["a_/x"]),
        (("a%",), ["a%"]),
        (("*",), ["*"]),
        ((), ["*", "a", "a%", "a/b", "aX/x", "a_/x", "ab"]),
    ):
        found = _keys(store.search(prefix, limit=100))
        _expect(found == sorted(wanted), f"below {prefix} are {found}")


@_promise("six filter operators; numbers are compared as numbers")
def _operators(store: BaseStore) -> None:
    for number in (2, 10, 9.5, -3):
        store.put(("a",), f"{number}", {"n": number, "s": f"w{number}"})
    for conditions, wanted in (
        ({"n": 10}, ["10"]),
        ({"n": {"$eq": 9.5}}, ["9.5"]),
        ({"n": {"$ne": 2}}, ["-3", "10", "9.5"]),
        ({"n": {"$gt": 2}}, ["10", "9.5"]),
        ({"n": {"$gte": 2}}, ["10", "2", "9.5"]),
        ({"n": {"$lt": 9.5}}, ["-3", "2"]),
        ({"n": {"$lte": 9.5}}, ["-3", "2", "9.5"]),
        ({"n": {"$gt": -5, "$lt": 5}}, ["-3", "2"]),
        ({"s": "w2"}, ["2"]),
    ):
        found = _keys(store.search(("a",), filter=conditions, limit=100))
        _expect(found == wanted, f"{conditions} gave {found}")


@_promise("filters on nested values")
def _nested_filters(store: BaseStore) -> None:
    store.put(("a",), "1", {"deep": {"x": 1, "y": 2}})
    store.put(("a",), "2", {"deep": {"x": 2}})
    found = _keys(store.search(("a",), filter={"deep": {"x": 1}}))
    _expect(found == ["1"], f"the nested filter gave {found}")


@_promise("filters on keys with quotes in them, hostile ones too")
def _quoted_filters(store: BaseStore) -> None:
    store.put(("a",), "1", {"o'b": "q"})
    store.put(("a",), "2", {"b": "q"})
    found = _keys(store.search(("a",), filter={"o'b": "q"}))
    _expect(found == ["1"], f"the quoted key gave {found}")
    found = _keys(store.search(("a",), filter={"x' OR '1'='1": "z"}))
    _expect(found == [], f"a hostile key gave {found}")


@_promise("filters before the cut to the limit", vectors=True)
def _filter_before_cut(store: BaseStore) -> None:
    store.batch(
        [
            PutOp(("a",), f"{n}", {"text": "green tea" if n < 30 else "tea", "late": n > 37})
            for n in range(40)
        ]
    )
    found = store.search(("a",), query="green tea", filter={"late": True}, limit=2)
    _expect(_keys(found) == ["38", "39"], f"2 of 40 fulfil it, found were {_keys(found)}")


@_promise("index=False stores without a vector", vectors=True)
def _no_index(store: BaseStore) -> None:
    store.put(("a",), "k", {"text": "green tea"}, index=False)
    _expect(store.get(("a",), "k"), "it was not stored")
    scores = [item.score for item in store.search(("a",), query="green tea")]
    _expect(scores in ([None], []), f"it has a score: {scores}")


@_promise("lists of fields: each is embedded by itself, and nothing else", vectors=True)
def _fields(store: BaseStore) -> None:
    value = {"one": "green tea", "two": ["bicycle", "red kettle"], "three": "coffee"}
    store.put(("a",), "k", value, index=["one", "two[*]"])
    for text, wanted in (("green tea", 0.9), ("red kettle", 0.9), ("coffee", -2.0)):
        (found,) = store.search(("a",), query=text)
        score = found.score or 0.0
        _expect(score > wanted and (wanted > 0 or score < 0.5), f"{text!r} has score {score:.2f}")


@_promise("ranked best first, each item once, scores are cosines", vectors=True)
def _ranked(store: BaseStore) -> None:
    for text in ("green tea", "tea", "a bicycle", "green"):
        store.put(("a",), text, {"text": text}, index=["text"])
    found = store.search(("a",), query="green tea", limit=10)
    scores = [item.score or 0.0 for item in found]
    _expect(len(found) == len({item.key for item in found}) == 4, "an item is missing or twice")
    _expect(found[0].key == "green tea", f"the best is {found[0].key!r}")
    _expect(scores == sorted(scores, reverse=True), f"the order is {scores}")
    _expect(abs(scores[0] - 1.0) < 1e-3, f"an equal text has the score {scores[0]:.3f}")


@_promise("pages of limit and offset cover everything once")
def _pages(store: BaseStore) -> None:
    for number in range(7):
        store.put(("a",), f"{number}", {"n": number})
    found = [item.key for at in range(0, 9, 3) for item in store.search(("a",), limit=3, offset=at)]
    _expect(sorted(found) == [f"{n}" for n in range(7)], f"the pages have {found}")


@_promise("an expired item is invisible at once to every way of reading")
def _expired(store: BaseStore) -> None:
    _expect(store.supports_ttl, "the store does not support a time to live")
    store.put(("t",), "short", {"text": "tea"}, ttl=_SHORT)
    store.put(("t",), "long", {"text": "tea"}, ttl=60)
    store.put(("u",), "short", {"text": "tea"}, ttl=_SHORT)
    time.sleep(0.5)
    seen = {
        "get": store.get(("t",), "short", refresh_ttl=False),
        "search": [i for i in store.search(("t",), refresh_ttl=False) if i.key == "short"],
        "list_namespaces": [n for n in store.list_namespaces() if tuple(n) == ("u",)],
    }
    ways = [way for way, found in seen.items() if found]
    _expect(not ways, f"still seen by {', '.join(ways)}")
    _expect(store.get(("t",), "long"), "an item went before its time")


@_promise("reading refreshes the time to live, and refresh_ttl=False does not")
def _refresh(store: BaseStore) -> None:
    _expect(store.supports_ttl, "the store does not support a time to live")
    for seconds in (1.0, 4.0, 16.0):  # longer where the machine is too busy to be in time
        started = time.monotonic()
        store.put(("t",), "read", {"x": 1}, ttl=seconds / 60)
        store.put(("t",), "left", {"x": 1}, ttl=seconds / 60)
        time.sleep(0.6 * seconds)
        read = store.get(("t",), "read", refresh_ttl=True)
        store.get(("t",), "left", refresh_ttl=False)
        late = time.monotonic() - started > 0.9 * seconds
        time.sleep(0.6 * seconds)
        again = store.get(("t",), "read", refresh_ttl=False)
        if not late and time.monotonic() - started < 1.5 * seconds:
            break
    _expect(read, "it went before its time")
    _expect(again, "the item that was read went all the same")
    _expect(not store.get(("t",), "left", refresh_ttl=False), "the other one did not go")


@_promise("sweep_ttl removes what has expired and says how much")
def _sweep(store: BaseStore) -> None:
    sweep: Any = getattr(store, "sweep_ttl", None)
    _expect(sweep is not None, "there is no sweep_ttl")
    store.put(("t",), "short", {"x": 1}, ttl=_SHORT)
    time.sleep(0.5)
    count = sweep()
    _expect(count == 1, f"it says {count}, not 1")


@_promise("list_namespaces: prefix, suffix, *, depth, pages; none that is empty")
def _namespaces(store: BaseStore) -> None:
    for namespace in (("a", "b", "c"), ("a", "x", "c"), ("b",), ("aa", "c"), ("gone",)):
        store.put(namespace, "k", {"x": 1})
    store.delete(("gone",), "k")

    def listed(**options: Any) -> list[tuple[str, ...]]:
        return sorted(tuple(namespace) for namespace in store.list_namespaces(**options))

    every = [("a", "b", "c"), ("a", "x", "c"), ("aa", "c"), ("b",)]
    for options, wanted in (
        ({}, every),
        ({"prefix": ("a",)}, every[:2]),
        ({"prefix": ("a", "*", "c")}, every[:2]),
        ({"suffix": ("c",)}, every[:3]),
        ({"suffix": ("b", "c")}, every[:1]),
        ({"max_depth": 1}, [("a",), ("aa",), ("b",)]),
        ({"limit": 2, "offset": 1}, every[1:3]),
    ):
        found = listed(**options)
        _expect(found == wanted, f"{options} gave {found}")


@_promise("a batch answers in order; of two puts to a key the last counts")
def _batch(store: BaseStore) -> None:
    store.put(("a",), "k", {"x": 0})
    found = store.batch(
        [GetOp(("a",), "no"), SearchOp(("a",), limit=5), GetOp(("a",), "k"), PutOp(("b",), "n", {})]
    )
    _expect(found[0] is None and len(found) == 4 and found[3] is None, f"the answers are {found}")
    _expect(_keys(found[1]) == ["k"], "the search stands in another place")
    store.batch([PutOp(("a",), "k", {"x": 1}), PutOp(("a",), "k", {"x": 2})])
    item = store.get(("a",), "k")
    _expect(item is not None and item.value == {"x": 2}, "the first put counted")


@_promise("async does the same")
def _async(store: BaseStore) -> None:
    async def drive() -> None:
        await store.aput(("a",), "k", {"n": 1})
        item = await store.aget(("a",), "k")
        _expect(item is not None and item.value == {"n": 1}, "aget does not give it")
        _expect(_keys(await store.asearch(("a",), filter={"n": 1})) == ["k"], "asearch misses it")
        _expect([tuple(n) for n in await store.alist_namespaces()] == [("a",)], "not listed")
        await asyncio.gather(*(store.aput(("b",), f"{n}", {"n": n}) for n in range(9)))
        _expect(len(await store.asearch(("b",), limit=50)) == 9, "writes at once were lost")
        await store.adelete(("a",), "k")
        _expect(await store.aget(("a",), "k") is None, "adelete does not remove it")

    asyncio.run(drive())
