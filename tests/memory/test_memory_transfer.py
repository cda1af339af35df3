"""Memories in a file and back: everything in it, and no file is trusted."""

from __future__ import annotations

import base64
import errno
import io
import json
import stat
from datetime import UTC, datetime

import pytest
from langgraph.store.memory import InMemoryStore
from PIL import Image

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.endpoints import endpoint
from mmagent_memory.errors import MemoryUsageError, StoreFullError


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


class Counting(HashEmbedder):
    """Counts what it embeds."""

    def __init__(self, dims: int = 64) -> None:
        super().__init__(dims)
        self.texts: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.texts += texts
        return super().embed_documents(texts)


@pytest.fixture
def opened(tmp_path):
    stores = []

    def opened(name: str, embedder=None):
        stores.append(FaissStore(tmp_path / name, embedder or HashEmbedder(64)))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    store = opened("from")
    memory = LongTermMemory(store, user="sam", persona="mia")
    for number in range(5):
        memory.remember(
            f"turn {number}: 西湖 🦊",
            speaker="Sam",
            at=datetime(2024, 5, 1 + number, tzinfo=UTC),
            thread="t",
            id=f"{number}",
            importance=0.25,
        )
    memory.remember("my bicycle", images=[png("red"), None], captions=["red", "only words"], id="b")
    LongTermMemory(store, user="sam").remember("without a persona", id="alone")
    return store


@pytest.fixture
def file(store, tmp_path):
    path = tmp_path / "导出 all.jsonl"
    assert LongTermMemory(store, user="sam").export_jsonl(path) == 7
    return path


def seen(store):
    memory = LongTermMemory(store, user="sam")
    hits = memory.list()
    return (
        [hit.as_dict() for hit in hits],
        [image.data() for hit in hits for image in hit.images if image.stored],
        [hit.id for hit in memory.recall("turn 3", k=3, now=datetime(2024, 6, 1, tzinfo=UTC))],
        {
            (put.namespace, put.key): (put.value, put.texts, put.vectors.matrix.tobytes())
            for puts in endpoint(store).batches(100)
            for put in puts
        },
    )


def test_everything_comes_back_and_nothing_is_embedded(store, file, opened):
    embedder = Counting()
    fresh = opened("to", embedder)
    embedder.embed_query("x")  # which counts not
    said = []
    done = []
    memory = LongTermMemory(fresh, user="sam")
    count = memory.import_jsonl(file, notify=said.append, progress=lambda *n: done.append(n))
    assert (count, said, done) == (7, [], [(7, 7)])
    assert embedder.texts == []
    assert seen(fresh) == seen(store)
    assert LongTermMemory(fresh, user="sam").import_jsonl(file) == 7
    assert seen(fresh) == seen(store)


def test_into_postgresql_and_back(store, file, postgres, opened, tmp_path):
    there = postgres(HashEmbedder(64))
    memory = LongTermMemory(there, user="sam")
    assert memory.import_jsonl(file) == 7
    assert memory.export_jsonl(tmp_path / "again.jsonl") == 7
    back = opened("back")
    LongTermMemory(back, user="sam").import_jsonl(tmp_path / "again.jsonl")
    assert seen(back) == seen(store)


def test_without_any_embedder_the_files_own_vectors_are_kept(store, file, opened, monkeypatch):
    from mmagent_memory.errors import NoEmbedderError

    def none():
        raise NoEmbedderError("none is installed")

    with monkeypatch.context() as patch:
        patch.setattr("mmagent_memory.vectorizer.default_embedder", none)
        bare = FaissStore(file.parent / "bare")
        assert LongTermMemory(bare, user="sam").import_jsonl(file) == 7
        bare.close()
    assert seen(opened("bare")) == seen(store)


async def test_another_embedder_is_named_and_everything_embedded_anew(file, opened, caplog):
    embedder = Counting(32)
    fresh = opened("to", embedder)
    said = []
    memory = LongTermMemory(fresh, user="sam")
    assert await memory.aimport_jsonl(file, notify=said.append) == 7
    assert len(said) == 1
    assert "hash-embedder-1:64, this memory's of hash-embedder-1:32" in said[0]
    assert "my bicycle" in embedder.texts
    assert memory.recall("bicycle", k=1)[0].explain["raw"]["meaning"] > 0
    memory.import_jsonl(file)
    assert "embedded anew" in caplog.text


def test_other_stores_take_and_give_memories_too(file, opened, tmp_path, store):
    memory = LongTermMemory(InMemoryStore(), user="sam")
    assert memory.import_jsonl(file) == 7
    memory.export_jsonl(tmp_path / "again.jsonl")
    back = opened("back")
    LongTermMemory(back, user="sam").import_jsonl(tmp_path / "again.jsonl")
    assert seen(back)[:3] == seen(store)[:3]


def test_derived_records_and_free_fields_survive(opened, tmp_path):
    one, other = opened("one"), opened("other")
    namespace = ("memory", "sam", "mia", "derived")
    fact = {
        "text": "Sam likes tea",
        "kind": "fact",
        "sources": ["0"],
        "evidence": [{"text": "Sam likes tea", "sources": ["0"]}],
        "valid_from": "2024-05-01T00:00:00+00:00",
        "valid_to": "2024-06-01T00:00:00+00:00",
        "at": "2024-05-01T00:00:00+00:00",
        "images": [],
        "custom": {"deep": [1, {"x": None}]},
    }
    one.put(namespace, "f", fact, index=["text"])
    one.put(("memory", "sam", "mia"), "t", {"text": "hi", "images": [], "mood": "glad"})
    LongTermMemory(one, user="sam").export_jsonl(tmp_path / "f.jsonl")
    LongTermMemory(other, user="sam").import_jsonl(tmp_path / "f.jsonl")
    back = other.get(namespace, "f").value
    assert {name: back[name] for name in fact} == fact
    assert other.get(("memory", "sam", "mia"), "t").value["mood"] == "glad"


def lines_of(file):
    return file.read_text("utf-8").splitlines(keepends=True)


def refused(file, opened, match):
    fresh = LongTermMemory(opened("refused"), user="sam")
    with pytest.raises(MemoryUsageError, match=match):
        fresh.import_jsonl(file)
    assert fresh.count() == 0


def test_a_file_that_is_cut_off_is_noticed_wherever_it_is(file, opened):
    whole = file.read_bytes()
    lines = lines_of(file)
    for end in (len(whole) - 2, len(whole) // 2, len(lines[0].encode()) + 5):
        file.write_bytes(whole[:end])
        refused(file, opened, "Nothing was imported")
    file.write_text("".join(lines[:-1]), "utf-8")
    refused(file, opened, "cut off after line 8: its last line is missing, and 7 were found")
    file.write_text("".join([*lines[:3], *lines[4:]]), "utf-8")
    refused(file, opened, "should have 7 memories, and 6 were found")
    file.write_text("".join([*lines, lines[1]]), "utf-8")
    refused(file, opened, "Line 10 .*something follows")


PICTURE = base64.b64encode(png("blue")).decode()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"id": ""}, "its id is ''"),
        ({"id": 7}, "its id is 7"),
        ({"text": ["x"]}, "text is a list"),
        ({"speaker": {"a": 1}}, "speaker is a dict"),
        ({"importance": 3}, "between 0 and 1"),
        ({"importance": True}, "importance is a bool"),
        ({"at": "yesterday"}, "yesterday"),
        ({"text": "", "images": []}, "nothing to remember"),
        ({"images": [{"id": "0" * 64, "data": PICTURE}]}, "do not match its id"),
        ({"images": [{"id": "0", "data": "%%%"}]}, "base64"),
        ({"images": ["x"]}, "no memory"),
        ({"images": [{"id": "0"}]}, "neither bytes nor a caption"),
        ({"derived": {"kind": "fact"}}, "derived, but not from what"),
        ({"vectors": {"kinds": "AA==", "data": "AAAA"}}, "another length"),
        ({"vectors": {"kinds": "AA==", "data": base64.b64encode(b"\xff" * 256).decode()}}, "unit"),
        ({"vectors": {"kinds": "AA=="}}, "'data' is missing"),
    ],
)
def test_a_hostile_line_is_named_and_nothing_is_imported(file, opened, change, match):
    lines = lines_of(file)
    lines[3] = json.dumps({**json.loads(lines[3]), **change}) + "\n"
    file.write_text("".join(lines), "utf-8")
    refused(file, opened, f"(?s)Line 4 of .*{match}")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1]\n", b'{"mmagent_memory": 99}\n', b"[" * 100_000, b'{"a": 1}\n'],
)
def test_what_is_no_export_is_refused(file, opened, content):
    file.write_bytes(content)
    refused(file, opened, "Line 1 of .* is no export of memories")


def test_a_deep_line_is_refused(file, opened):
    lines = lines_of(file)
    lines[2] = "[" * 100_000 + "\n"
    file.write_text("".join(lines), "utf-8")
    refused(file, opened, "Line 3")


def test_files_of_version_1_are_read(opened, tmp_path):
    line = {"id": "x", "text": "tea", "at": "2024-05-01T00:00:00+00:00", "persona": "mia"}
    (tmp_path / "old.jsonl").write_text(f'{{"mmagent_memory": 1}}\n{json.dumps(line)}\n')
    memory = LongTermMemory(opened("to"), user="sam")
    assert memory.import_jsonl(tmp_path / "old.jsonl") == 1
    assert memory.get("x").persona == "mia"


def test_an_export_is_there_whole_or_not_at_all(store, tmp_path, monkeypatch):
    memory = LongTermMemory(store, user="sam")
    path = tmp_path / "out" / "x.jsonl"
    with pytest.raises(MemoryUsageError, match="No such file"):
        memory.export_jsonl(path)
    path.parent.mkdir()
    path.write_text("before")

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mmagent_memory.transfer.os.fsync", full)
        with pytest.raises(StoreFullError, match="Make room"):
            memory.export_jsonl(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["x.jsonl"]
    assert path.read_text() == "before"
    memory.export_jsonl(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
