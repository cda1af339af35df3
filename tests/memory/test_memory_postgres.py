"""The memory on a real PostgreSQL server: the same promises as in a folder."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from langgraph.store.postgres import PostgresStore
from PIL import Image

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.errors import (
    EmbedderChangedError,
    MemoryStoreError,
    MemoryUsageError,
    NewerStoreError,
)
from mmagent_memory.postgres import PostgresMemoryStore
from mmagent_memory.rows import Picture, Put

TURNS = [
    ("My cat is called Miso and she loves tuna.", "Sam"),
    ("That is a lovely name!", "Mia"),
    ("We moved to Lisbon in the spring.", "Sam"),
    ("我上周去了杭州的西湖。", "Sam"),
    ("The landlord wants the rent on Friday.", "Sam"),
    ("Don't forget the red kettle.", "Mia"),
]
ZERO = dict.fromkeys(("words", "meaning", "picture", "conversation", "neighbours", "recency"), 0.0)
QUESTIONS = ["What is the cat called?", "西湖", "Where does Sam live now?", "don't forget", "rent"]


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def filled(store, user: str = "sam") -> LongTermMemory:
    memory = LongTermMemory(store, user=user, persona="mia")
    for number, (text, speaker) in enumerate(TURNS):
        at = datetime(2024, 5, 1 + number, tzinfo=UTC)
        memory.remember(text, speaker=speaker, at=at, thread="t", id=f"m{number}")
    shown = datetime(2024, 5, 15, tzinfo=UTC)
    pictures = {"images": [png("red")], "captions": ["a red bicycle"]}
    memory.remember("My bicycle", **pictures, id="bike", at=shown)
    return memory


def test_recall_is_that_of_a_folder(postgres, tmp_path):
    with FaissStore(tmp_path, HashEmbedder()) as folder:
        here, there = filled(postgres()), filled(folder)
        now = datetime(2024, 5, 20, tzinfo=UTC)
        for question in QUESTIONS:
            mine, theirs = (memory.recall(question, k=4, now=now) for memory in (here, there))
            assert [hit.id for hit in mine] == [hit.id for hit in theirs], question
            for one, other in zip(mine, theirs, strict=True):
                # Not what repeats another: a few thousandths, by whichever came first.
                parts, expected = ({**ZERO, **hit.explain["parts"]} for hit in (one, other))
                parts.pop("repetition", None)
                expected.pop("repetition", None)
                assert parts == pytest.approx(expected, abs=2e-3)
        assert here.recall("", images=[png("red")], k=1)[0].id == "bike"
        assert [hit.as_dict() for hit in here.list()] == [hit.as_dict() for hit in there.list()]


def test_pictures_are_kept_once_and_go_with_their_last_memory(postgres):
    store = postgres()
    memory = filled(store)
    memory.remember("Again my bicycle", images=[png("red")], id="again")
    assert memory.get("again").images[0].data() == png("red")
    stranger = LongTermMemory(store, user="eve", persona="mia")
    with pytest.raises(LookupError):
        stranger._loader(stranger._namespace, memory.get("bike").images[0].id)()
    with store.exclusive() as db:
        assert db.execute("SELECT count(*) AS n FROM store_images").fetchone()["n"] == 1
    assert memory.forget("bike")
    assert memory.get("again").images[0].data() == png("red")
    assert memory.forget("again")
    with store.exclusive() as db:
        assert db.execute("SELECT count(*) AS n FROM store_images").fetchone()["n"] == 0


def test_a_forgotten_turn_is_no_context_of_the_next(postgres):
    memory = filled(postgres())
    assert memory.recall("Miso", k=3)[1].id == "m1"
    memory.forget("m0")
    assert memory.get("m0") is None
    assert all("words" not in hit.explain["raw"] for hit in memory.recall("Miso"))


def test_erased_bytes_leave_the_tables(postgres, postgres_url):
    store = postgres()
    mine = filled(store)
    other = filled(store, user="samuel")
    mine.remember("The secret word is xylophonequark.", images=[png("navy")], id="s")
    receipt = mine.erase()
    assert (receipt.memories, receipt.images, receipt.complete) == (8, 2, False)
    assert len(receipt.notes) == 1
    assert "write-ahead log" in receipt.notes[0]
    assert mine.list() == []
    assert other.count() == 7
    assert other.recall("cat", k=1)[0].id == "m0"
    with store.exclusive() as db:
        db.execute("CHECKPOINT")
    data = Path(parse_qs(urlsplit(postgres_url).query)["host"][0])
    texts = [b"xylophonequark", png("navy")]
    for file in (data / "base").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(text in content for text in texts), file


def test_without_rewriting_the_receipt_says_so(postgres):
    memory = filled(postgres(rewrite_on_erase=False))
    assert "VACUUM FULL" in memory.erase().notes[0]


def test_what_postgresql_cannot_hold_is_held(postgres):
    store = postgres()
    odd = "NUL \x00, half \ud83d, mark \uf8fe0041, %_\\ 'quoted' \" 🦊 \u202eright"
    value = {odd: [odd, {"n": float("inf")}], "text": odd, "not": float("-inf")}
    namespace = (odd.replace("\x00", ""), "x")
    store.put(namespace, odd, value)
    assert store.get(namespace, odd).value == value
    assert store.search(namespace, filter={"text": odd})[0].key == odd
    assert store.list_namespaces() == [namespace]
    nan = {"n": float("nan")}
    store.put(("a",), "k", nan)
    assert str(store.get(("a",), "k").value) == str(nan)
    store.put(("a",), "long", {"text": "word " * 200_000 + "天地" * 1000})
    assert store.search(("a",), filter={"text": "nothing' OR 1=1 --"}) == []
    assert store.search(("a",), filter={"x' OR 1=1 --": 1}) == []


def test_a_long_text_is_found_by_words(postgres):
    memory = LongTermMemory(postgres(), user="sam")
    different = " ".join(f"word{number}" for number in range(30_000))
    memory.remember(f"needle {different}", id="long")
    assert memory.recall("needle")[0].id == "long"


def test_everything_of_a_write_or_nothing(postgres):
    store = postgres()
    broken = Picture(b"h", None, 1, 1, b"x")  # type: ignore[arg-type]
    with pytest.raises(MemoryStoreError):
        store.write([Put(("a",), "1", {"text": "x"}), Put(("a",), "2", {}, pictures=(broken,))])
    assert store.search(("a",)) == []
    with store.exclusive() as db:
        assert db.execute("SELECT count(*) AS n FROM store_vectors").fetchone()["n"] == 0


def test_filters_come_before_the_cut(postgres):
    store = postgres()
    store.batch([])
    for number in range(40):
        store.put(("f",), f"{number}", {"text": "tea", "n": number, "odd": number % 2 == 1})
    found = store.search(("f",), query="tea", filter={"n": {"$gte": 38}}, limit=5)
    assert sorted(item.value["n"] for item in found) == [38, 39]
    page = store.search(("f",), filter={"odd": True}, limit=3, offset=2)
    assert [item.value["n"] for item in page] == [5, 7, 9]


def test_an_update_embeds_anew_and_drops_old_fields(postgres):
    store = postgres()
    store.put(("u",), "k", {"text": "green tea", "more": "red kettle"}, index=["text", "more"])
    store.put(("u",), "k", {"text": "bicycle"}, index=["text", "more"])
    (item,) = store.search(("u",), query="red kettle")
    assert abs(item.score) < 0.3
    store.put(("u",), "k", {"text": "bicycle"}, index=False)
    assert store.search(("u",), query="bicycle")[0].score is None


def test_a_life_of_less_than_a_minute_is_renewed(postgres):
    store = postgres(ttl={"refresh_on_read": True})
    store.put(("t",), "k", {"x": 1}, ttl=0.5)
    with store.exclusive() as db:
        left = "SELECT extract(epoch FROM expires_at - now())::float8 AS s FROM store"
        db.execute("UPDATE store SET expires_at = expires_at - interval '20 seconds'")
        assert db.execute(left).fetchone()["s"] < 11
        assert store.get(("t",), "k") is not None
        assert db.execute(left).fetchone()["s"] > 25
        db.execute("UPDATE store SET expires_at = now() - interval '1 second'")
        assert store.get(("t",), "k") is None
        assert store.sweep_ttl() == 1
        assert store.sweep_ttl() == 0


def test_many_writers_lose_nothing(postgres):
    stores = [postgres(), postgres()]

    def write(number: int) -> None:
        memory = LongTermMemory(stores[number % 2], user="sam", persona="mia")
        memory.remember(f"memory number {number}", images=[png("red")], id=f"{number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(24)))
    memory = LongTermMemory(stores[0], user="sam")
    assert sorted(int(hit.id) for hit in memory.list()) == list(range(24))
    assert all(hit.images[0].data() == png("red") for hit in memory.list())


async def test_async_does_the_same(postgres):
    memory = LongTermMemory(postgres(), user="sam")
    await asyncio.gather(*(memory.aremember(f"tea {n}", id=f"{n}") for n in range(5)))
    assert await memory.acount() == 5
    assert (await memory.arecall("tea 3", k=1))[0].id == "3"
    await memory.aforget("3")
    assert (await memory.aerase()).memories == 4


def test_another_embedder_is_refused_until_everything_is_embedded_anew(postgres):
    memory = filled(postgres(HashEmbedder(64)))
    other = postgres(HashEmbedder(128))
    with pytest.raises(EmbedderChangedError, match="reembed"):
        other.search(("memory",), query="cat")
    assert other.reembed() == 7
    assert other.search(("memory",), query="cat")
    with pytest.raises(EmbedderChangedError, match="short while"):
        memory.remember("late")
    with pytest.raises(MemoryUsageError, match="without an embedder"):
        postgres(False).reembed()


def test_without_an_embedder_words_find(postgres):
    store = postgres(False)
    memory = filled(store)
    assert memory.recall("cat", k=1)[0].id == "m0"
    assert [item.key for item in store.search(("memory",), query="kettle")] == ["m5"]
    assert store.search(("memory",), query="kettle", filter={"speaker": "Sam"}) == []
    # An embedder later on begins with what is written from then.
    later = postgres(HashEmbedder())
    assert later.reembed() == 7
    assert LongTermMemory(later, user="sam").recall("cat", k=1)[0].explain["raw"]["meaning"] > 0


def test_the_tables_of_langgraphs_own_store_are_taken_over(postgres, postgres_url):
    embedder = HashEmbedder(64)
    postgres(embedder).close()  # makes the schema, which is dropped but for its name
    with psycopg.connect(postgres_url, autocommit=True) as db:
        schema = db.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test%' ORDER BY oid DESC LIMIT 1"
        ).fetchone()[0]
        db.execute(f"DROP SCHEMA {schema} CASCADE")
        db.execute(f"CREATE SCHEMA {schema}")
    index = {"dims": 64, "embed": embedder}
    options = f"{postgres_url}&options=-csearch_path%3D{schema},public"
    with PostgresStore.from_conn_string(options, index=index) as plain:
        plain.setup()
        plain.put(("a",), "k", {"text": "green tea"})
    store = postgres(embedder)
    (item,) = store.search(("a",), query="green tea")
    assert (item.key, item.value) == ("k", {"text": "green tea"})
    assert item.score > 0.4
    store.put(("a",), "k", {"text": "coffee"})
    assert store.get(("a",), "k").value == {"text": "coffee"}


def test_errors_name_the_remedy_and_no_password(postgres):
    with pytest.raises(MemoryStoreError, match="cannot be reached") as caught:
        PostgresMemoryStore("postgresql://sam:hushhush@127.0.0.1:1/db", HashEmbedder())
    assert "hushhush" not in str(caught.value)
    assert "postgresql://127.0.0.1/db" in str(caught.value)
    store = postgres()
    with store.exclusive() as db:
        db.execute("UPDATE store_meta SET value = '99' WHERE name = 'version'")
    with pytest.raises(NewerStoreError, match="upgrade"):
        postgres()
    store.close()
    with pytest.raises(MemoryStoreError, match="closed"):
        store.get(("a",), "k")


def test_several_programs_may_make_the_tables_at_once(postgres):
    opened: list[Callable[[], PostgresMemoryStore]] = [postgres] * 4
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda make: make(), opened))
    stores[0].put(("a",), "k", {"text": "tea"})
    assert all(store.get(("a",), "k") for store in stores)
