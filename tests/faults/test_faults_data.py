"""Bad input to the store: refused with a clear error, or kept exactly; never another user's."""

from __future__ import annotations

import math
import random
import sqlite3
import unicodedata
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from langgraph.store.base import PutOp

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory, list_users
from mmagent_memory.checking import repair, verify
from mmagent_memory.errors import CorruptStoreError, EmbeddingError, MemoryUsageError

EMBEDDER = HashEmbedder(dims=32)


@pytest.fixture
def store(tmp_path: Path):
    with FaissStore(tmp_path / "m", EMBEDDER, fields=("text",)) as opened:
        yield opened


class Given(HashEmbedder):
    """An embedder that returns what it is told to."""

    def __init__(self, question=None, text=None):
        super().__init__(dims=32)
        self.question, self.text = question, text

    def embed_query(self, text):
        return super().embed_query(text) if self.question is None else self.question

    def embed_documents(self, texts):
        plain = super().embed_documents(texts)
        return plain if self.text is None else [self.text for _ in texts]


BAD_VECTORS = {
    "nan": [math.nan] * 32,
    "one nan": [0.0] * 31 + [math.nan],
    "infinity": [math.inf] + [0.0] * 31,
    "short": [0.1] * 31,
    "long": [0.1] * 33,
    "empty": [],
    "text": ["x"] * 32,
    "nested": [[0.1]] * 32,
}


@pytest.mark.parametrize("name", BAD_VECTORS)
def test_a_bad_vector_of_a_question_or_a_text_is_refused(tmp_path: Path, name: str):
    with FaissStore(tmp_path, EMBEDDER, fields=("text",)) as store:
        store.put(("a",), "k", {"text": "hello there"})
    for limit in (10**9, 0):
        with FaissStore(tmp_path, Given(question=BAD_VECTORS[name]), fields=("text",)) as store:
            store.exact_limit = limit
            with pytest.raises(EmbeddingError):
                store.search(("a",), query="hello")
            with pytest.raises(EmbeddingError):
                LongTermMemory(store, user="a").recall("hello")
    with FaissStore(tmp_path, Given(text=BAD_VECTORS[name]), fields=("text",)) as store:
        with pytest.raises(EmbeddingError):
            store.put(("a",), "k", {"text": "other"})
        assert store.get(("a",), "k").value == {"text": "hello there"}
    with FaissStore(tmp_path, EMBEDDER, fields=("text",)) as store:
        assert store.search(("a",), query="hello there")[0].score > 0.9


def test_extreme_vectors_do_not_disturb_the_others(tmp_path: Path):
    """Zeros, and numbers whose squares overflow or vanish."""
    for name, vector in (("zero", [0.0] * 32), ("huge", [3e38] * 32), ("tiny", [1e-40] * 32)):
        with FaissStore(tmp_path, Given(text=vector), fields=("text",)) as store:
            store.put(("a",), name, {"text": name})
    with FaissStore(tmp_path, EMBEDDER, fields=("text",)) as store:
        store.put(("a",), "plain", {"text": "the red kettle"})
        for limit in (10**9, 0):
            store.exact_limit = limit
            found = store.search(("a",), query="the red kettle")
            assert found[0].key == "plain"
            assert len(found) == 4
            assert all(item.score is None or math.isfinite(item.score) for item in found)
        question = Given(question=[0.0] * 32)
    with FaissStore(tmp_path, question, fields=("text",)) as store:
        assert len(store.search(("a",), query="nothing", limit=3)) == 3
    assert verify(tmp_path).whole


@pytest.mark.parametrize("limit", [10**9, 0])
def test_how_many_is_anything(store: FaissStore, limit: int):
    store.exact_limit = limit
    assert store.search(("a",), query="nothing here", limit=5) == []
    memory = LongTermMemory(store, user="a")
    assert memory.recall("nothing here") == []
    for number in range(3):
        store.put(("a",), f"{number}", {"text": f"number {number}"})
        memory.remember(f"number {number}")
    assert store.search(("a",), query="number", limit=0) == []
    assert len(store.search(("a",), query="number", limit=10**6)) == 3
    assert store.search(("a",), query="number", limit=5, offset=10**6) == []
    assert memory.recall("number", k=0) == []
    assert len(memory.recall("number", k=10**4)) == 3
    with pytest.raises(MemoryUsageError, match="k must be"):
        memory.recall("number", k=-1)


def test_a_key_given_twice_is_one_item(store: FaissStore):
    store.batch([PutOp(("a",), "k", {"text": f"version {n}"}) for n in range(5)])
    assert [item.value for item in store.search(("a",))] == [{"text": "version 4"}]
    memory = LongTermMemory(store, user="sam")
    assert memory.remember("first", id="same") == memory.remember("second", id="same")
    assert [hit.text for hit in memory.list()] == ["first"]
    composed = unicodedata.normalize("NFC", "é")
    store.put(("n",), composed, {"text": "one"})
    store.put(("n",), unicodedata.normalize("NFD", "é"), {"text": "two"})
    assert len(store.search(("n",))) == 2  # Keys are what they are.


STRANGE = {
    "lone surrogate": "cut \ud83d here",
    "reversed pair": "\udc00\ud800",
    "nul": "before\x00after",
    "controls": "".join(map(chr, range(1, 32))),
    "long": "word " * 40_000,
    "one long word": "x" * 1_000_000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🫠",
    "right to left": "مرحبا \u202eabc\u202c שלום",
    "chinese": "我的猫叫小白它喜欢在窗台上睡觉" * 20,
    "combining": "e" + "\u0301" * 500,
    "quotes": "'; DROP TABLE items; -- \" ` \\ %s {0} ${x}",
    "fts": '" OR body:* NEAR(a b) ^x -y {col}: z*',
    "bom": "\ufeffbegin",
    "noncharacters": "\ufffe\uffff\U0010ffff",
    "only spaces": " \t\n\u3000",
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_text_comes_back_as_it_went_in(tmp_path: Path, name: str):
    text = STRANGE[name]
    with FaissStore(tmp_path, EMBEDDER) as store:
        memory = LongTermMemory(store, user="sam")
        memory.remember("something else")
        kept = text if text.strip() else text + "."
        memory.remember(
            kept, id="strange", speaker=kept[:50], thread=kept[:50], captions=[kept[:2000]]
        )
    with FaissStore(tmp_path, EMBEDDER) as store:
        memory = LongTermMemory(store, user="sam")
        hit = memory.get("strange")
        assert (hit.text, hit.speaker, hit.thread) == (kept, kept[:50], kept[:50])
        assert hit.images[0].caption == kept[:2000]
        memory.recall(text, k=2)
        memory.export_jsonl(tmp_path / "out.jsonl")
        copy = LongTermMemory(store, user="copy")
        copy.import_jsonl(tmp_path / "out.jsonl")
        assert kept in [one.text for one in copy.list()]
        assert memory.forget("strange")
        assert [one.text for one in memory.list()] == ["something else"]
    assert verify(tmp_path).whole


NAMES = [
    "a", "ab", "a.", "a.b", ".a", "..", "../a", "a/b", "/", "a%", "%", "%41", "%2E", "*", "a*", "_",
    "a_", "'", "''", '"', "a'--", "a;b", "~", "memory", "A", " a", "a ", "ä", "á", "a\u0301", "名",
    "名字", "😀", "\x00", "a\x00", "\ud800", "\u202e", "a\n", "langgraph", "a" * 1000,
]  # fmt: skip


def test_names_never_meet(store: FaissStore):
    """Users and personas with names that other stores mistake for each other, or for SQL."""
    for name in NAMES:
        LongTermMemory(store, user=name).remember(f"the secret of user {name!r}")
        LongTermMemory(store, user="one", persona=name).remember(f"with persona {name!r}")
    for name in NAMES:
        memory = LongTermMemory(store, user=name)
        assert [hit.text for hit in memory.list()] == [f"the secret of user {name!r}"]
        hits = memory.recall("the secret of user", k=50)
        assert {hit.text for hit in hits} == {f"the secret of user {name!r}"}
        with_persona = LongTermMemory(store, user="one", persona=name)
        assert [hit.text for hit in with_persona.recall("persona", k=50)] == [
            f"with persona {name!r}"
        ]
    assert {user for user, _ in list_users(store)} == {*NAMES, "one"}
    assert LongTermMemory(store, user="one").count() == len(NAMES)


LABELS = ["a", "ab", "a/b", "a'b", "%", "_", "*", "a%", "[a]", "名", "/", "~"]


def test_namespaces_are_not_prefixes_of_others_names(store: FaissStore):
    for label in LABELS:
        store.put((label,), "k", {"text": f"in {label!r}"})
        store.put((label, "below"), "k", {"text": f"below {label!r}"})
    for label in LABELS:
        expected = {f"in {label!r}", f"below {label!r}"}
        for limit in (10**9, 0):
            store.exact_limit = limit
            found = store.search((label,), query="in below", limit=100)
            assert {item.value["text"] for item in found} == expected
        assert {item.value["text"] for item in store.search((label,), limit=100)} == expected
        assert len(store.list_namespaces(prefix=(label,))) >= 2 if label != "*" else True


KEYS = [
    "'; DROP TABLE items; --", "') OR 1=1 --", "a' OR 'a'='a", '$."a"', "$.a", "a.b", "a[0]", "%",
    "*", "/", "..", "$eq", "名", "\x00", "\ud800", "a\"b", "\\", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("with_query", [False, True])
def test_filter_keys_are_data(store: FaissStore, with_query: bool):
    """SQL in the keys of filters has reached the database elsewhere (CVE-2025-8709)."""
    for number, key in enumerate(KEYS):
        if key != "$eq":
            store.put(("f",), f"{number}", {key: number, "text": "word"})
    about = {"query": "word"} if with_query else {}
    for number, key in enumerate(KEYS):
        for condition in ({key: number}, {key: {"$eq": number}}, {key: {"$gte": number}}):
            if key == "$eq":
                continue
            found = store.search(("f",), filter=condition, limit=100, **about)
            assert [item.key for item in found] == [f"{number}"]
        assert store.search(("f",), filter={key: "' OR 1=1 --"}, limit=100, **about) == []
    assert len(store.search(("f",), limit=100)) == len(KEYS) - 1


@pytest.mark.parametrize("how", ["repair", "reembed", "index", "expiry"])
def test_what_is_gone_stays_gone(tmp_path: Path, how: str, monkeypatch):
    """Deleted, expired and replaced items do not come back by making anything anew."""
    monkeypatch.setattr("mmagent_memory.faiss_index._WORTH_SAVING", 1)
    folder = tmp_path / "m"
    with FaissStore(folder, EMBEDDER, fields=("text",)) as store:
        for number in range(30):
            store.put(("a",), f"{number}", {"text": f"first version {number}"})
        store.exact_limit = 0
        store.search((), query="version")
        store.wait_for_index()
        for number in range(0, 30, 3):
            store.delete(("a",), f"{number}")
            store.put(("a",), f"{number + 1}", {"text": f"second version {number + 1}"})
        store.put(("a",), "short", {"text": "a short version"}, ttl=1e-9)
    with closing(sqlite3.connect(folder / "memory.sqlite3", isolation_level=None)) as db:
        if how == "repair":
            db.execute("UPDATE items SET crc = crc + 1 WHERE key = ?", (b"2",))
    if how == "repair":
        assert len(repair(folder).lost) == 1
    with FaissStore(folder, EMBEDDER, fields=("text",)) as store:
        if how == "reembed":
            store.reembed()
        elif how == "expiry":
            store.sweep_ttl()
        for limit in (10**9, 0):
            store.exact_limit = limit
            if not limit:
                store.search((), query="version")
                store.wait_for_index()
            found = {
                item.key: item.value["text"] for item in store.search((), query="version", limit=99)
            }
            for number in range(30):
                if number % 3 == 0:
                    assert f"{number}" not in found
                elif how != "repair" or number != 2:
                    which = "second" if number % 3 == 1 else "first"
                    assert found[f"{number}"] == f"{which} version {number}"
            assert "short" not in found
        assert store.get(("a",), "short") is None
        assert store.get(("a",), "0") is None


def test_the_clock_set_back_loses_nothing(tmp_path: Path, monkeypatch):
    """Times say when; what is newer is decided by a counter, not by a clock."""
    now = [2_000_000_000_000_000]
    for module in ("store", "writer"):
        monkeypatch.setattr(f"mmagent_memory.{module}.now_us", lambda: now[0])
    with FaissStore(tmp_path, EMBEDDER, fields=("text",)) as store:
        store.put(("a",), "k", {"text": "before"})
        store.put(("a",), "timed", {"text": "timed"}, ttl=10)
        store.search(("a",), query="before")
        now[0] -= 86_400_000_000 * 365
        store.put(("a",), "k", {"text": "after the clock was set back"})
        store.put(("a",), "new", {"text": "new and timed"}, ttl=10)
        assert store.get(("a",), "k").value == {"text": "after the clock was set back"}
        found = store.search(("a",), query="after the clock was set back", refresh_ttl=False)
        assert found[0].value == {"text": "after the clock was set back"}
        assert {item.key for item in found} == {"k", "timed", "new"}
        now[0] += 11 * 60_000_000
        assert store.get(("a",), "new") is None
        assert store.get(("a",), "timed") is not None  # Its time has not come by any clock.
        memory = LongTermMemory(store, user="sam", clock=lambda: datetime(2024, 5, 2, tzinfo=UTC))
        memory.remember("second of May", id="2")
        memory.clock = lambda: datetime(2024, 5, 1, tzinfo=UTC)
        memory.remember("first of May", id="1")
        assert [hit.id for hit in memory.list()] == ["2", "1"]
        assert {hit.id for hit in memory.recall("May")} == {"1", "2"}
        far = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
        memory.remember("the end of time", at=far, id="far")
        memory.remember("the beginning", at=datetime.min.replace(tzinfo=UTC), id="old")
        assert {hit.id for hit in memory.recall("time beginning May", k=9)} >= {"far", "old"}
    assert verify(tmp_path).whole


COLUMNS = [
    "id", "ns", "key", "value", "fields", "created", "updated", "ttl", "expires", "images", "crc",
    "body", "about", "caption", "context", "kinds", "vectors",
]  # fmt: skip


@pytest.mark.parametrize("column", COLUMNS)
def test_a_flipped_bit_in_any_column_is_noticed(tmp_path: Path, column: str):
    """Whatever is read of that row: its value, its neighbours in a search, a listing."""
    chance = random.Random(column)
    with FaissStore(tmp_path, EMBEDDER) as store:
        memory = LongTermMemory(store, user="sam")
        memory.remember("nothing is wrong here", id="whole")
        memory.remember("the red kettle", id="hurt", speaker="Sam", captions=["a kettle"])
        store.put(("memory", "sam", "~"), "timed", {"text": "a timed thing"}, ttl=1000)
    key = b"timed" if column in ("ttl", "expires") else b"hurt"
    with closing(sqlite3.connect(tmp_path / "memory.sqlite3", isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        (value,) = db.execute(f"SELECT {column} FROM items WHERE key = ?", (key,)).fetchone()
        db.execute(f"UPDATE items SET {column} = ? WHERE key = ?", (flipped(value, chance), key))
    assert not verify(tmp_path).whole
    noticed = 0
    with FaissStore(tmp_path, EMBEDDER) as store:
        memory = LongTermMemory(store, user="sam")
        readings = [
            lambda: memory.get("hurt"),
            memory.list,
            lambda: memory.recall("the red kettle"),
            lambda: store.search(("memory",), query="the red kettle"),
            lambda: store.get(("memory", "sam", "~"), "timed"),
        ]
        for read in readings:
            try:
                read()
            except CorruptStoreError:
                noticed += 1
        assert memory.get("whole").text == "nothing is wrong here"
    # A row in no namespace, or with a lost key, is found by nobody; `verify` names it.
    assert noticed or column == "ns"


def flipped(value: object, chance: random.Random) -> object:
    if isinstance(value, int):
        return value ^ 1 << chance.randrange(16)
    if isinstance(value, bytes) and value:
        place = chance.randrange(len(value))
        return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
    if isinstance(value, str) and value:
        place = chance.randrange(len(value))
        return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
    return "x"
