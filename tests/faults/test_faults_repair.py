"""Damage is found, named, and what is whole is saved."""

from __future__ import annotations

import io
import json
import random
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.__main__ import main
from mmagent_memory.checking import repair, verify
from mmagent_memory.errors import CorruptStoreError, MemoryStoreError, MissingStoreError

DATABASE = "memory.sqlite3"


def picture() -> bytes:
    image = Image.frombytes("RGB", (48, 48), random.Random(3).randbytes(48 * 48 * 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with FaissStore(tmp_path, HashEmbedder(dims=64)) as store:
        memory = LongTermMemory(store, user="sam")
        for number in range(40):
            shown = [picture()] if number == 20 else []
            memory.remember(f"memory number {number} of a long list", shown, id=f"m{number}")
    return tmp_path


def texts(folder: Path) -> set[str]:
    with FaissStore(folder, HashEmbedder(dims=64)) as store:
        return {hit.text for hit in LongTermMemory(store, user="sam").list()}


def change(folder: Path, sql: str, *values: object) -> None:
    db = sqlite3.connect(folder / DATABASE)
    db.execute(sql, values)
    db.commit()
    db.close()


def test_a_whole_store(folder: Path, capsys):
    report = verify(folder)
    assert (report.whole, report.items, report.images) == (True, 40, 1)
    assert main(["verify", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["whole"]


def test_a_damaged_text_is_named_and_the_rest_saved(folder: Path, capsys):
    change(folder, "UPDATE items SET value = replace(value, 'long', 'lung') WHERE id = 7")
    assert main(["verify", str(folder)]) == 1
    assert json.loads(capsys.readouterr().out)["lost"] == ["m6 (number 7)"]
    report = repair(folder)
    assert (report.items, report.lost) == (39, ["m6 (number 7)"])
    assert Path(report.backup or "").exists()
    assert verify(folder).whole
    assert len(texts(folder)) == 39
    with FaissStore(folder, HashEmbedder(dims=64)) as store:
        memory = LongTermMemory(store, user="sam")
        assert memory.recall("number 33", k=1)[0].id == "m33"
        assert memory.get("m20").images[0].data() == picture()
        memory.remember("after the repair")


def test_an_item_of_which_only_the_key_is_left_is_named(folder: Path):
    """SQLite reads a garbled page as if its rows had never been."""
    index = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master WHERE name = ?"
    db = sqlite3.connect(folder / DATABASE, isolation_level=None)
    row = db.execute(index, ("items_by_key",)).fetchone()
    db.execute("PRAGMA writable_schema = ON")
    db.execute("DELETE FROM sqlite_master WHERE name = 'items_by_key'")
    db.close()
    change(folder, "DELETE FROM items WHERE id = 7")  # which leaves its entry in the index
    db = sqlite3.connect(folder / DATABASE, isolation_level=None)
    db.execute("PRAGMA writable_schema = ON")
    db.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)
    db.close()
    assert not verify(folder).whole
    report = repair(folder)
    assert (report.items, report.lost) == (39, ["m6 (number 7)"])
    assert "nothing else of it" in report.problems[0]
    assert len(texts(folder)) == 39
    assert verify(folder).whole


def test_damaged_vectors_are_made_anew(folder: Path):
    change(folder, "UPDATE items SET vectors = zeroblob(length(vectors)) WHERE id = 9")
    assert verify(folder).vectors == ["memory/sam/~/m8"]
    assert repair(folder).items == 40
    assert verify(folder).whole
    with FaissStore(folder, HashEmbedder(dims=64)) as store:
        assert store.reembed() == 40
        assert store.search(("memory",), query="memory number 8", limit=40)[0].score > 0.5


def test_a_damaged_picture(folder: Path):
    change(folder, "UPDATE images SET data = data || 'x'")
    report = repair(folder)
    assert (report.images, len(report.lost_images)) == (0, 1)
    assert len(texts(folder)) == 40


@pytest.mark.parametrize("seed", range(4))
def test_a_garbled_page_never_gives_garbage(folder: Path, seed: int):
    """The right answer or an error, whatever is overwritten; repair saves only what is right."""
    chance = random.Random(seed)
    file = folder / DATABASE
    data = bytearray(file.read_bytes())
    page = chance.randrange(1, len(data) // 4096)
    start = page * 4096 + chance.randrange(3000)
    data[start : start + 600] = chance.randbytes(600)
    file.write_bytes(data)
    right = {f"memory number {number} of a long list" for number in range(40)}
    with suppress(MemoryStoreError):
        assert texts(folder) <= right
    try:
        report = repair(folder)
    except MemoryStoreError:
        return
    assert texts(folder) <= right
    assert len(texts(folder)) == report.items
    assert report.items >= 20


def test_nothing_left(folder: Path, tmp_path: Path):
    (folder / DATABASE).write_bytes(b"\x00" * 10_000)
    with pytest.raises(CorruptStoreError, match="backup"):
        repair(folder)
    with pytest.raises(MissingStoreError):
        verify(tmp_path / "nowhere")
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
