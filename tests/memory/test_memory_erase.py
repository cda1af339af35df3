"""Erased is erased: no byte of it is left in any file of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory

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
    import random

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
