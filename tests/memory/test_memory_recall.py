"""`LongTermMemory`: remembered unchanged, found by words, meaning and pictures, by nobody else."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from langgraph.store.memory import InMemoryStore
from PIL import Image

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory, list_users
from mmagent_memory.errors import MemoryUsageError

STORES = ["faiss", "faiss without vectors", "in memory", "in memory with vectors"]


@pytest.fixture(params=STORES)
def store(request, tmp_path: Path):
    if request.param == "in memory":
        yield InMemoryStore()
    elif request.param == "in memory with vectors":
        yield InMemoryStore(index={"dims": 256, "embed": HashEmbedder(), "fields": ["text"]})
    else:
        vectors = False if "without" in request.param else HashEmbedder()
        with FaissStore(tmp_path / "m", vectors) as opened:
            yield opened


@pytest.fixture
def full(tmp_path: Path):
    with FaissStore(tmp_path / "full", HashEmbedder()) as opened:
        yield opened


def texts(hits) -> list[str]:
    return [hit.text for hit in hits]


def test_remembered_as_it_was(store, picture):
    memory = LongTermMemory(store, user="sam", persona="mia")
    at = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    red = picture("red")
    name = memory.remember(
        "Look at my new kettle",
        [red],
        speaker="Sam",
        at=at,
        thread="t1",
        captions=["a red kettle"],
        importance=0.5,
    )
    hit = memory.get(name)
    assert (hit.id, hit.text, hit.speaker, hit.at, hit.thread) == (
        name,
        "Look at my new kettle",
        "Sam",
        at,
        "t1",
    )
    assert (hit.persona, hit.importance) == ("mia", 0.5)
    (image,) = hit.images
    assert (image.mime_type, image.width, image.height) == ("image/png", 64, 48)
    assert image.caption == "a red kettle"
    assert image.data() == red
    assert memory.get("nothing") is None
    assert json.loads(json.dumps(hit.as_dict()))["images"][0]["id"] == image.id


def test_found_by_words_captions_speaker_and_the_turn_before(store):
    memory = LongTermMemory(store, user="sam", persona="mia")
    memory.remember("My order number is A-17.", speaker="Sam", thread="a")
    memory.remember("Thank you, I wrote it down.", speaker="Mia", thread="a")
    memory.remember("See this", [None], captions=["a sleeping cat"], speaker="Sam", thread="b")
    memory.remember("The weather is fine", speaker="Sam", thread="b")
    memory.remember("Bonjour", speaker="Zoë", thread="c")
    memory.remember("我昨天吃了火锅", speaker="Sam", thread="c")
    assert texts(memory.recall("What was the order number?", k=2)) == [
        "My order number is A-17.",
        "Thank you, I wrote it down.",
    ]
    assert texts(memory.recall("cats", k=1)) == ["See this"]
    assert texts(memory.recall("What did Zoë say?", k=1)) == ["Bonjour"]
    assert texts(memory.recall("火锅", k=1)) == ["我昨天吃了火锅"]
    assert texts(memory.recall("你吃火锅了吗", k=1)) == ["我昨天吃了火锅"]


def test_nothing_asked_nothing_found(store):
    memory = LongTermMemory(store, user="sam")
    assert memory.recall("anything") == []
    memory.remember("something")
    assert memory.recall("") == []
    assert memory.recall("something", k=0) == []
    assert len(memory.recall("something", k=1000)) == 1
    with pytest.raises(MemoryUsageError, match="k must"):
        memory.recall("x", k=-1)


def test_the_same_id_again_changes_nothing(store):
    memory = LongTermMemory(store, user="sam")
    assert memory.remember("first", id="turn.1/x") == "turn.1/x"
    assert memory.remember("second", id="turn.1/x") == "turn.1/x"
    assert texts(memory.list()) == ["first"]


NAMES = [
    "sam",
    "sa.m",
    "sa%2Em",
    "Sam",
    "*",
    "%",
    "/",
    "..",
    "a/b",
    "李雷",
    "李",
    "o'Brien\"; --",
    "~",
    "\ud800",
    "sam ",
    "sam\x00",
]


def test_users_are_apart_whatever_their_names(store):
    for name in NAMES:
        LongTermMemory(store, user=name, persona="p.1").remember(f"secret {NAMES.index(name)}")
        LongTermMemory(store, user="x", persona=name).remember(f"persona {NAMES.index(name)}")
    for name in NAMES:
        mine = LongTermMemory(store, user=name, persona="p.1")
        assert texts(mine.recall("secret persona", k=50)) == [f"secret {NAMES.index(name)}"]
        theirs = LongTermMemory(store, user="x", persona=name)
        assert texts(theirs.list()) == [f"persona {NAMES.index(name)}"]
    assert set(list_users(store)) == {(n, "p.1") for n in NAMES} | {("x", n) for n in NAMES}
    everything = LongTermMemory(store, user="x")
    assert everything.count() == len(NAMES)
    LongTermMemory(store, user="sam", persona="p.1").erase()
    assert LongTermMemory(store, user="sam").count() == 0
    assert LongTermMemory(store, user="Sam").count() == 1


def test_a_picture_is_no_key_to_anothers_picture(store, picture):
    shared, own = picture("red"), picture("blue")
    sam, kim = (LongTermMemory(store, user=name, persona="p") for name in ("sam", "kim"))
    sam.remember("mine", [shared, own])
    kim.remember("also mine", [shared])
    name = sam.list()[0].images[1].id
    with pytest.raises(LookupError):
        kim._loader(kim._namespace, name)()
    sam.erase()
    assert kim.list()[0].images[0].data() == shared


def test_forgetting_takes_the_context_along(store):
    memory = LongTermMemory(store, user="sam")
    first = memory.remember("The password is xylophone", thread="t")
    memory.remember("Understood, it is safe with me", thread="t")
    memory.remember("Elephants are large animals", thread="t")
    assert len(memory.recall("xylophone")) >= 1
    assert memory.forget(first)
    assert not memory.forget(first)
    assert all("words" not in hit.explain["raw"] for hit in memory.recall("xylophone"))
    assert "Understood, it is safe with me" in texts(memory.list())


def test_list_pages_by_time(store):
    memory = LongTermMemory(store, user="sam")
    day = datetime(2024, 1, 1, tzinfo=UTC)
    for number in (2, 0, 1, 3):
        memory.remember(f"{number}", at=day + timedelta(days=number))
    assert texts(memory.list()) == ["3", "2", "1", "0"]
    assert texts(memory.list(newest_first=False)) == ["0", "1", "2", "3"]
    assert texts(memory.list(limit=2, offset=1)) == ["2", "1"]
    assert memory.count() == 4


def test_export_and_import(store, tmp_path: Path, picture):
    memory = LongTermMemory(store, user="sam", persona="mia")
    memory.remember("first", [picture("red")], speaker="Sam", captions=["red"], thread="t")
    memory.remember("second 猫 \ud800", speaker="Mia", importance=0.2)
    memory.remember("third", [None], captions=["only words"])
    assert memory.export_jsonl(tmp_path / "out.jsonl") == 3
    with FaissStore(tmp_path / "other", HashEmbedder()) as other:
        copy = LongTermMemory(other, user="someone")
        assert copy.import_jsonl(tmp_path / "out.jsonl") == 3
        assert copy.import_jsonl(tmp_path / "out.jsonl") == 3
        ours, theirs = memory.list(), copy.list()
        assert [hit.as_dict() for hit in ours] == [hit.as_dict() for hit in theirs]
        first = copy.list(newest_first=False)[0]
        assert first.images[0].data() == picture("red")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "Line 1"),
        ('{"other": 1}\n', "no export"),
        ('{"mmagent_memory": 99}\n', "newer"),
        ('{"mmagent_memory": 1}\n{"text": "no id"}\n', "Line 2"),
        ('{"mmagent_memory": 1}\n{"id": "1", "text": "x"}\nrubbish\n', "Line 3"),
        ('{"mmagent_memory": 1}\n' + "[" * 100_000 + "\n", "Line 2"),
        ('{"mmagent_memory": 1}\n{"id":"1","images":[{"data":"!"}]}\n', "Line 2"),
    ],
)
def test_a_bad_import_names_the_line(full, tmp_path: Path, content, words):
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(MemoryUsageError, match=words):
        LongTermMemory(full, user="sam").import_jsonl(tmp_path / "in.jsonl")


def test_bad_arguments(full, tmp_path: Path):
    memory = LongTermMemory(full, user="sam")
    (tmp_path / "text.png").write_text("no picture")
    for call, words in [
        (lambda: memory.remember(""), "nothing to remember"),
        (lambda: memory.remember(b"x"), "must be a string"),
        (lambda: memory.remember("x", [b"no picture"]), "cannot be read"),
        (lambda: memory.remember("x", [tmp_path / "text.png"]), "cannot be read"),
        (lambda: memory.remember("x", [tmp_path / "none.png"]), "No such file"),
        (lambda: memory.remember("x", [3]), "not int"),
        (lambda: memory.remember("x", importance=2), "between 0 and 1"),
        (lambda: LongTermMemory(full, user=""), "user"),
        (lambda: LongTermMemory(full, user="x" * 2000), "2000 characters"),
        (lambda: LongTermMemory(object(), user="x"), "LangGraph store"),
    ]:
        with pytest.raises(MemoryUsageError, match=words):
            call()
    assert memory.count() == 0


def test_pictures_find_pictures(full, picture):
    memory = LongTermMemory(full, user="sam")
    memory.remember("this one", [_gradient("red", "yellow")])
    memory.remember("that one", [_gradient("blue", "black")])
    hits = memory.recall("", [_gradient("red", "orange")], k=1)
    assert texts(hits) == ["this one"]
    assert hits[0].explain["raw"]["picture"] > 0.9


def _gradient(left: str, right: str) -> bytes:
    image = Image.new("RGB", (40, 20), left)
    image.paste(Image.new("RGB", (20, 20), right), (20, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_come_in_many_forms(full, picture, tmp_path: Path):
    memory = LongTermMemory(full, user="sam")
    red = picture("red")
    (tmp_path / "red.png").write_bytes(red)
    forms = [
        red,
        tmp_path / "red.png",
        str(tmp_path / "red.png"),
        Image.new("RGBA", (64, 48), "red"),
        {"data": red, "caption": "red"},
    ]
    for form in forms:
        name = memory.remember("x", [form])
        assert Image.open(io.BytesIO(memory.get(name).images[0].data())).size == (64, 48)
    again = memory.remember("again", memory.get(name).images)
    assert memory.get(again).images[0].caption == "red"
    assert memory.get(memory.remember("alone", red)).images[0].data() == red


def test_parts_add_up_to_the_score_and_order_is_by_score(store):
    memory = LongTermMemory(store, user="sam")
    for number in range(12):
        memory.remember(f"tea number {number} is {'green' if number % 2 else 'black'} tea")
    hits = memory.recall("green tea number 7", k=8)
    assert hits[0].text.startswith("tea number 7")
    for hit in hits:
        assert hit.score == pytest.approx(sum(hit.explain["parts"].values()))
        assert json.dumps(hit.explain)


def test_recency_and_importance_decide_between_equals(store):
    now = datetime(2024, 6, 1, tzinfo=UTC)
    memory = LongTermMemory(store, user="sam", clock=lambda: now)
    long_ago = now - timedelta(days=300)
    memory.remember("I like tea", at=long_ago, id="old", thread="1")
    memory.remember("I like tea", at=now - timedelta(days=1), id="new", thread="2")
    assert [hit.id for hit in memory.recall("tea")] == ["new", "old"]
    memory.remember("I like tea", at=long_ago, id="weighty", thread="3", importance=1.0)
    assert memory.recall("tea")[0].id == "weighty"


async def test_async_twins(store, picture, tmp_path: Path):
    memory = LongTermMemory(store, user="sam", persona="mia")
    name = await memory.aremember("a blue kettle", [picture("blue")], speaker="Sam")
    (hit,) = await memory.arecall("kettle")
    assert (hit.id, hit.text) == (name, "a blue kettle")
    assert await hit.images[0].adata() == picture("blue")
    assert (await memory.aget(name)).text == hit.text
    assert await memory.acount() == 1
    assert texts(await memory.alist()) == ["a blue kettle"]
    assert await memory.aexport_jsonl(tmp_path / "x.jsonl") == 1
    assert await memory.aforget(name)
    assert await memory.aimport_jsonl(tmp_path / "x.jsonl") == 1
    assert (await memory.aerase()).memories == 1
    assert await memory.acount() == 0


def test_another_process_is_seen_at_once(tmp_path: Path):
    one, two = (FaissStore(tmp_path, HashEmbedder()) for _ in range(2))
    first, second = (LongTermMemory(s, user="sam") for s in (one, two))
    name = first.remember("the green kettle", thread="t")
    assert texts(second.recall("kettle")) == ["the green kettle"]
    second.remember("it whistles", thread="t")
    assert len(first.recall("kettle whistles")) == 2
    second.forget(name)
    assert texts(first.recall("kettle whistles")) == ["it whistles"]
    one.close()
    two.close()
