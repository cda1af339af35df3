"""Erased is erased: no byte of it is left in any file of the store."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.backends import NewMemory, run
from mmagent_memory.checking import repair

SECRETS = ("Quetzalcoatl", "xylophonist", "zugzwangfigur", "陇西李氏族谱")


def on_disk(folder: Path) -> bytes:
    return b"\x00".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def traces(folder: Path, picture: bytes) -> list[str]:
    data = on_disk(folder)
    lower = data.lower()
    found = [word for word in SECRETS if word.lower().encode() in lower]
    # The full text index holds words in pieces, without what they share with their neighbours.
    parts = ("etzalcoat", "ophonist", "gzwangfigur", "族谱")
    found += [part for part in parts if part.encode() in lower]
    return found + (["picture"] if picture[40:120] in data else [])


@pytest.fixture
def store(tmp_path: Path):
    with FaissStore(tmp_path / "m", HashEmbedder()) as opened:
        yield opened


def remember_secrets(store, picture: bytes, user: str = "Quetzalcoatl") -> str:
    memory = LongTermMemory(store, user=user, persona="mia")
    name = memory.remember(
        "The xylophonist knows 陇西李氏族谱",
        [picture],
        speaker="Quetzalcoatl",
        captions=["a zugzwangfigur"],
        thread="t",
    )
    memory.remember("Yes, indeed.", thread="t")
    return name


def noise() -> bytes:
    import io

    from PIL import Image

    image = Image.frombytes("RGB", (40, 40), random.Random(7).randbytes(4800))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_erasing_a_user_leaves_nothing(store: FaissStore, tmp_path: Path):
    other = LongTermMemory(store, user="kim", persona="mia")
    for number in range(30):
        other.remember(f"Kim says number {number}")
    remember_secrets(store, noise())
    store.search(("memory",), query="xylophonist")
    assert len(traces(tmp_path, noise())) == 9  # The test can see what it looks for.
    receipt = LongTermMemory(store, user="Quetzalcoatl").erase()
    assert (receipt.memories, receipt.images, receipt.complete) == (2, 1, True)
    assert receipt.bytes_freed > 0
    assert traces(tmp_path, noise()) == []
    assert other.count() == 30
    assert other.recall("number 7", k=1)[0].text == "Kim says number 7"


def test_forgetting_one_memory_leaves_nothing_of_it(store: FaissStore, tmp_path: Path):
    name = remember_secrets(store, noise(), user="kim")
    memory = LongTermMemory(store, user="kim", persona="mia")
    assert memory.forget(name)
    assert traces(tmp_path, noise()) == []
    assert memory.count() == 1


def test_a_picture_that_another_memory_shows_stays(store: FaissStore):
    memory = LongTermMemory(store, user="kim")
    first, second = memory.remember("a", [noise()]), memory.remember("b", [noise()])
    memory.forget(first)
    assert memory.get(second).images[0].data() == noise()


def test_a_reader_elsewhere_is_told(store: FaissStore):
    remember_secrets(store, noise())
    with FaissStore(store.path, HashEmbedder()) as other, other.database.reading() as db:
        db.execute("SELECT count(*) FROM items").fetchone()
        receipt = LongTermMemory(store, user="Quetzalcoatl").erase()
        assert not receipt.complete
        assert "Another process" in receipt.notes[0]
    assert LongTermMemory(store, user="Quetzalcoatl").erase().complete


def test_the_store_goes_on_after_erasing(store: FaissStore):
    memory = LongTermMemory(store, user="kim")
    memory.remember("before")
    memory.erase()
    memory.remember("after")
    assert [hit.text for hit in memory.recall("after before")] == ["after"]


DENSE = HashEmbedder(dims=32)


def vectors_of(store: FaissStore) -> dict[str, bytes]:
    """The vectors as they are stored, by key."""
    with store.database.reading() as db:
        rows = db.execute("SELECT key, vectors FROM items").fetchall()
    assert all(len(blob) > 36 for _, blob in rows)
    return {key.decode(): blob[4:-4] for key, blob in rows}


def test_no_vector_is_left_in_rows_or_index(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.faiss_index._WORTH_SAVING", 1)
    texts = [f"number {n} of many words about {n * 7919} things" for n in range(60)]
    with FaissStore(tmp_path, DENSE, fields=("text",)) as store:
        for number, text in enumerate(texts):
            store.put(("memory", f"{number % 2}", "~"), f"{number}", {"text": text})
        vectors = vectors_of(store)
        store.exact_limit = 0
        store.search((), query="many words")
        store.wait_for_index()
    snapshots = [path for path in tmp_path.rglob("index/*") if path.is_file()]
    assert snapshots
    data = on_disk(tmp_path)
    assert all(vector in data for vector in vectors.values())
    with FaissStore(tmp_path, DENSE, fields=("text",)) as store:
        store.exact_limit = 0
        store.search((), query="many words")  # The index is loaded, and must not be saved again.
        receipt = LongTermMemory(store, user="1").erase()
        assert receipt.memories == 30
        assert f"index/{snapshots[0].name}" in receipt.files
        assert not any(path.exists() for path in snapshots)
        store.search((), query="many words")
        store.wait_for_index()
    data = on_disk(tmp_path)
    assert [key for key, vector in vectors.items() if vector in data] == [
        key for key in vectors if int(key) % 2 == 0
    ]


@pytest.mark.parametrize("seed", range(3))
def test_forgetting_here_and_there_leaves_nothing(tmp_path: Path, seed: int):
    """Long and short memories share pages, move between them, and grow apart again."""
    chance = random.Random(seed)
    said: dict[str, list[str]] = {}
    gone: list[str] = []
    with FaissStore(tmp_path, HashEmbedder(dims=16)) as store:
        memory = LongTermMemory(store, user="sam")
        for _ in range(3):
            for _ in range(30):
                words = [
                    "".join(chance.choices("bcdfghjklmnpqrstvwxz", k=14))
                    for _ in range(chance.choice((2, 6, 40, 200)))
                ]
                said[memory.remember(" ".join(words), thread=chance.choice("ab"))] = words
            for name in chance.sample(sorted(said), 4):
                assert memory.forget(name)
                gone += [name, *said.pop(name)]
        data = on_disk(tmp_path).lower()
        assert [word for word in gone if word.encode() in data] == []
        assert {hit.text for hit in memory.list()} == {" ".join(words) for words in said.values()}


def test_an_erasure_that_was_cut_off_is_finished_at_the_next_opening(tmp_path: Path, monkeypatch):
    class Cut(Exception):
        pass

    def cut(*arguments, **named):
        raise Cut

    with FaissStore(tmp_path, HashEmbedder()) as store:
        remember_secrets(store, noise())
        monkeypatch.setattr("mmagent_memory.erasing.scrub", cut)
        with pytest.raises(Cut):
            LongTermMemory(store, user="Quetzalcoatl").erase()
        monkeypatch.undo()
        assert traces(tmp_path, noise())
    with FaissStore(tmp_path, HashEmbedder()):
        assert traces(tmp_path, noise()) == []
        monkeypatch.setattr("mmagent_memory.erasing.scrub", cut)
    with FaissStore(tmp_path, HashEmbedder()):
        pass  # Nothing is owed any more.


def test_a_derived_record_withdrawn_by_a_killed_process_leaves_nothing(tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    def cut(*arguments, **named):
        raise Cut

    space = ("memory", "sam", "mia", "derived")
    with FaissStore(tmp_path, HashEmbedder()) as store:
        backend = LongTermMemory(store, user="sam", persona="mia")._backend
        fact = NewMemory("fact", {"text": "She breeds axolotls."})
        run(store, backend.change(space, [fact]))
        store.settle()  # Its words are in the full text index, which keeps them until merged.
        monkeypatch.setattr("mmagent_memory.native.scrub", cut)
        with pytest.raises(Cut):
            run(store, backend.change(space, [], ["fact"]))
        monkeypatch.undo()
        assert b"axolotls" in on_disk(tmp_path)
    with FaissStore(tmp_path, HashEmbedder()):
        assert b"axolotl" not in on_disk(tmp_path)


def test_what_a_reader_elsewhere_held_up_goes_at_the_next_opening(tmp_path: Path):
    with FaissStore(tmp_path, HashEmbedder()) as store:
        remember_secrets(store, noise())
        with FaissStore(tmp_path, HashEmbedder()) as other, other.database.reading() as db:
            before = db.execute("SELECT count(*) FROM items").fetchone()
            receipt = LongTermMemory(store, user="Quetzalcoatl").erase()
            assert (receipt.memories, receipt.complete) == (2, False)
            assert db.execute("SELECT count(*) FROM items").fetchone() == before  # Its moment.
        assert LongTermMemory(store, user="Quetzalcoatl").count() == 0
        with FaissStore(tmp_path, HashEmbedder()):
            assert traces(tmp_path, noise()) == []


def test_a_damaged_copy_that_repair_kept_is_erased_too(tmp_path: Path):
    with FaissStore(tmp_path, HashEmbedder()) as store:
        remember_secrets(store, noise())
        LongTermMemory(store, user="kim").remember("Kim's own")
    with closing(sqlite3.connect(tmp_path / "memory.sqlite3", isolation_level=None)) as db:
        db.execute("UPDATE items SET crc = crc + 1 WHERE value LIKE '%Kim%'")
    report = repair(tmp_path)
    assert Path(report.backup or "").exists()
    with FaissStore(tmp_path, HashEmbedder()) as store:
        receipt = LongTermMemory(store, user="Quetzalcoatl").erase()
        assert Path(report.backup or "").name in receipt.files
    assert not Path(report.backup or "").exists()
    assert traces(tmp_path, noise()) == []


def test_another_process_with_an_index_in_memory_does_not_write_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.faiss_index._WORTH_SAVING", 1)
    one, two = (FaissStore(tmp_path, DENSE, fields=("text",)) for _ in "ab")
    texts = [f"secret {n} about {n * 7919}" for n in range(20)]
    for number, text in enumerate(texts):
        one.put(("memory", "sam", "~"), f"{number}", {"text": text})
    vectors = vectors_of(one)
    for store in (one, two):
        store.exact_limit = 0
        store.search((), query="secret")
        store.wait_for_index()
    LongTermMemory(one, user="sam").erase()
    one.close()
    two.close()  # As it is: with everything in memory.
    data = on_disk(tmp_path)
    assert [key for key, vector in vectors.items() if vector in data] == []
    assert [text for text in texts if text.encode() in data] == []


@pytest.mark.parametrize("name", ["a", "a%", "a.b", "*", "'", "..", "a/b", "../a", "memory", "~"])
def test_erasing_one_user_leaves_those_with_a_like_name(store: FaissStore, name: str):
    others = ("ab", "a_", "a.", "b", "%", "**", "''", "...", "a/b/c", "memory2", "~~", "A")
    for user in (name, *others):
        LongTermMemory(store, user=user).remember(f"said by {user}")
    assert LongTermMemory(store, user=name).erase().memories == 1
    for user in others:
        assert [hit.text for hit in LongTermMemory(store, user=user).list()] == [f"said by {user}"]
    assert LongTermMemory(store, user=name).list() == []
