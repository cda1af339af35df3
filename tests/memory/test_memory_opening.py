"""A folder that cannot be used ends in one clear sentence that says what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory.errors import (
    CorruptStoreError,
    EmbedderChangedError,
    EmbeddingError,
    MemoryStoreError,
    MissingStoreError,
    NewerStoreError,
    NoEmbedderError,
    ReadOnlyStoreError,
)

DATABASE = "memory.sqlite3"


def made(path: Path, **values: str) -> Path:
    with FaissStore(path, HashEmbedder()) as store:
        for key, text in (values or {"k": "hello"}).items():
            store.put(("a",), key, {"text": text})
    return path


def test_a_newer_version(tmp_path: Path):
    made(tmp_path)
    db = sqlite3.connect(tmp_path / DATABASE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(NewerStoreError, match="pip install --upgrade"):
        FaissStore(tmp_path, HashEmbedder())
    assert (tmp_path / DATABASE).read_bytes() == before


def test_another_programs_database(tmp_path: Path):
    db = sqlite3.connect(tmp_path / DATABASE)
    db.execute("CREATE TABLE mine (x)")
    db.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(CorruptStoreError, match="another program"):
        FaissStore(tmp_path, HashEmbedder())
    assert (tmp_path / DATABASE).read_bytes() == before


def read_all(path: Path) -> None:
    with FaissStore(path, HashEmbedder()) as store:
        for number in range(40):
            store.get(("a",), f"k{number}")
        store.search(("a",), query="hello", limit=100)


@pytest.mark.parametrize("damage", ["garbled", "emptied", "deleted", "cut"])
def test_a_damaged_database_is_never_an_empty_store(tmp_path: Path, damage: str):
    made(tmp_path, **{f"k{n}": "hello there " * 50 for n in range(40)})
    file = tmp_path / DATABASE
    if damage == "garbled":
        file.write_bytes(b"\x5a" * file.stat().st_size)
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "deleted":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CorruptStoreError, match=r"backup|repair"):
        read_all(tmp_path)


def test_a_flipped_bit_is_noticed(tmp_path: Path):
    made(tmp_path, k="remarkable sentence")
    file = tmp_path / DATABASE
    data = bytearray(file.read_bytes())
    place = data.find(b'{"text":"remarkable')
    data[place + 10] ^= 1
    file.write_bytes(data)
    with (
        FaissStore(tmp_path, HashEmbedder()) as store,
        pytest.raises(CorruptStoreError, match=r"'k'.*verify"),
    ):
        store.get(("a",), "k")


def test_a_flipped_bit_in_a_vector_is_noticed(tmp_path: Path):
    made(tmp_path)
    db = sqlite3.connect(tmp_path / DATABASE)
    (blob,) = db.execute("SELECT vectors FROM items").fetchone()
    db.execute("UPDATE items SET vectors = ?", (bytes([blob[0] ^ 1]) + blob[1:],))
    db.commit()
    db.close()
    with FaissStore(tmp_path, HashEmbedder()) as store:
        assert store.get(("a",), "k").value == {"text": "hello"}
        with pytest.raises(CorruptStoreError, match="vectors"):
            store.search(("a",), query="hello")


READ_ONLY = """
import os, sys
sys.path[:0] = [{source!r}]
from mmagent_memory import FaissStore
from mmagent_memory.errors import ReadOnlyStoreError
if os.geteuid() == 0:  # Nothing is read-only for root.
    os.setuid(65534)
for folder in {folders!r}:
    try:
        FaissStore(folder, False)
    except ReadOnlyStoreError as error:
        print(error)
"""


def test_read_only_folders():
    source = str(Path(__file__).parents[2] / "memory")
    folder = Path(tempfile.mkdtemp())  # Not tmp_path, which other users cannot reach.
    try:
        empty, existing = folder / "empty", made(folder / "existing")
        empty.mkdir()
        (existing / DATABASE).chmod(0o444)
        for place in (empty, existing):
            place.chmod(0o555)
        folder.chmod(0o755)
        code = READ_ONLY.format(source=source, folders=[str(empty), str(existing)])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        lines = done.stdout.splitlines()
        assert len(lines) == 2, done.stderr
        assert all("writable" in line or "can write" in line for line in lines)
    finally:
        for place in (empty, existing):
            place.chmod(0o755)
        shutil.rmtree(folder)


def test_a_file_where_the_folder_should_be(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReadOnlyStoreError, match="choose a folder"):
        FaissStore(tmp_path / "file")


def test_a_missing_store_is_not_made_for_reading(tmp_path: Path):
    with pytest.raises(MissingStoreError, match="no memory in"):
        FaissStore(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_changed_embedder(tmp_path: Path):
    made(tmp_path)
    with FaissStore(tmp_path, HashEmbedder(dims=64)) as store:
        assert store.get(("a",), "k").value == {"text": "hello"}  # Reading needs no embedder.
        with pytest.raises(EmbedderChangedError, match=r"hash-embedder-1:256.*reembed"):
            store.search(("a",), query="hello")
        with pytest.raises(EmbedderChangedError):
            store.put(("a",), "new", {"text": "hello"})
        assert store.reembed() == 1
        assert store.search(("a",), query="hello")[0].score > 0.2
    with FaissStore(tmp_path, HashEmbedder(dims=64)) as store:
        assert store.search(("a",), query="hello")[0].score > 0.2


def test_an_embedder_without_a_fingerprint_is_known_by_its_vectors(tmp_path: Path):
    with FaissStore(tmp_path, ones) as store:
        store.put(("a",), "k", {"text": "hello"})
    with FaissStore(tmp_path, ones) as store:
        assert store.search(("a",), query="x")
    with FaissStore(tmp_path, Unnamed()) as store, pytest.raises(EmbedderChangedError):
        store.search(("a",), query="x")


def ones(texts):
    return [[1.0] * 8 for _ in texts]


class Unnamed:
    def embed_documents(self, texts):
        return [[1.0, -1.0] for _ in texts]

    def embed_query(self, text):
        return [1.0, -1.0]


def test_a_process_with_the_old_embedder_cannot_write_after_reembedding(tmp_path: Path):
    made(tmp_path)
    old = FaissStore(tmp_path, HashEmbedder())
    old.put(("a",), "k2", {"text": "x"})
    with FaissStore(tmp_path, HashEmbedder(dims=64)) as new:
        assert new.reembed() == 2
        with pytest.raises(MemoryStoreError, match="no longer"):
            old.put(("a",), "k3", {"text": "x"})
        assert len(new.search(("a",), query="x")) == 2
    old.close()


def test_no_default_embedder(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.embedding.entry_points", lambda **_: [])
    with FaissStore(tmp_path) as store:
        store.put(("a",), "k", {"text": "hello"}, index=False)
        assert store.get(("a",), "k")
        with pytest.raises(NoEmbedderError, match="HashEmbedder"):
            store.put(("a",), "k", {"text": "hello"})
    with pytest.raises(Exception, match="no embedder"), FaissStore(tmp_path, 7) as store:
        store.search(("a",), query="x")


def test_wrong_length_of_a_question(tmp_path: Path):
    class Moody(HashEmbedder):
        def embed_query(self, text):
            return super().embed_query(text)[: 8 if text == "short" else None]

    with FaissStore(tmp_path, Moody()) as store:
        store.put(("a",), "k", {"text": "hello"})
        with pytest.raises(EmbeddingError, match="8 numbers"):
            store.search(("a",), query="short")
