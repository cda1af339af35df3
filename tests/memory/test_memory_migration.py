"""A store of format 1 is brought to this one when it is opened, and keeps everything."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest
from format_1 import add_item, make_store

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory import migration as migrating
from mmagent_memory.checking import verify
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.schema import VERSION

PICTURE = hashlib.sha256(b"picture").digest()
MICROSECONDS = 1_700_000_000_000_000


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a folder with a store of format 1: thirty items, some with pictures, some removed."""
    embedder = HashEmbedder(dims=64)
    db = make_store(
        tmp_path / "memory.sqlite3",
        fingerprint=embedder.fingerprint,
        dims=64,
        namespace=b"notes.sam.",
    )
    db.execute("INSERT INTO images VALUES (?, 'image/png', 1, 1, ?)", (PICTURE, b"picture"))
    for number in range(1, 31):
        text = f"note {number} about 陇西 and kettles"
        lives = number % 2 == 1
        add_item(
            db,
            number,
            f"k{number}".encode(),
            json.dumps({"text": text}),
            (text, "", "", "") if number % 5 else (None,) * 4,
            embedder.embed_documents([text])[0],
            at=MICROSECONDS + number,
            ttl=60_000_000_000_000 if lives else None,
            expires=2 * MICROSECONDS if lives else None,
        )
        if number % 10 == 0:
            db.execute("INSERT INTO item_images VALUES (?, ?)", (number, PICTURE))
    db.execute("INSERT INTO tombstones VALUES (31, 99, 1)")
    db.close()
    return tmp_path


def opened(folder: Path) -> FaissStore:
    return FaissStore(folder, HashEmbedder(dims=64))


def version_of(folder: Path) -> int:
    db = sqlite3.connect(folder / "memory.sqlite3")
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return version


def test_everything_is_kept(old: Path):
    with opened(old) as store:
        assert version_of(old) == VERSION
        item = store.get(("notes", "sam"), "k7")
        assert item.value == {"text": "note 7 about 陇西 and kettles"}
        assert item.created_at.timestamp() == pytest.approx(1_700_000_000.000007, abs=1e-6)
        assert len(store.search(("notes",), limit=100)) == 30
        best = store.search(("notes",), query="note 12 about 陇西 and kettles", limit=1)
        assert (best[0].key, round(best[0].score, 4)) == ("k12", 1.0)
        with store.database.reading() as db:
            assert len(store.reader(db).by_words((), ["kettles"], 100)) == 24
            columns = db.execute("SELECT ttl, expires, images FROM items WHERE id = 10").fetchone()
            assert columns == (None, None, 1)
            assert db.execute("SELECT ttl FROM items WHERE id = 11").fetchone()[0]
        store.put(("notes", "sam"), "new", {"text": "after"})
        store.delete(("notes", "sam"), "k3")
    assert verify(old).problems == []
    with FaissStore(old, embeddings=False) as store:
        found = store.search(("notes",), query="kettle", limit=100)
        assert len(found) == 23
        assert "k3" not in {item.key for item in found}


def test_a_kill_on_the_way_leaves_the_old_store(old: Path, monkeypatch):
    plain = migrating._to_version_2

    def killed(*arguments):
        plain(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(migrating, "_to_version_2", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(old)
    assert version_of(old) == 1
    monkeypatch.undo()
    with opened(old) as store:
        assert len(store.search(("notes",), limit=100)) == 30
    assert verify(old).whole


def test_damage_is_not_blessed(old: Path):
    db = sqlite3.connect(old / "memory.sqlite3")
    db.execute("UPDATE items SET value = replace(value, 'kettles', 'kettled') WHERE id = 7")
    db.commit()
    db.close()
    with opened(old) as store:
        assert store.get(("notes", "sam"), "k8")
        with pytest.raises(CorruptStoreError, match="k7"):
            store.get(("notes", "sam"), "k7")


COLUMNS = {
    "value": "replace(value, 'kettles', 'kettlez')",
    "fields": "'[]'",
    "created": "created + 1",
    "updated": "updated - 1",
    "ttl": "1",
    "expires": "NULL",
    "images": "images + 1",
    "body": "body || 'x'",
    "about": "'x'",
    "caption": "'x'",
    "context": "'x'",
    "kinds": "x'01'",
    "key": "CAST('kk' AS BLOB)",
}


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_covered(old: Path, column: str):
    opened(old).close()
    db = sqlite3.connect(old / "memory.sqlite3")
    db.execute(f"UPDATE items SET {column} = {COLUMNS[column]} WHERE id = 11")
    db.commit()
    db.close()
    with opened(old) as store, pytest.raises(CorruptStoreError):
        store.search(("notes",), limit=100)


def test_a_namespace_that_changed_its_name(old: Path):
    opened(old).close()
    db = sqlite3.connect(old / "memory.sqlite3")
    db.execute("UPDATE namespaces SET path = ?", (b"notes.kim.",))
    db.commit()
    db.close()
    with opened(old) as store, pytest.raises(CorruptStoreError):
        store.search(("notes", "kim"), limit=100)


def test_a_refreshed_item_keeps_its_checksum(tmp_path: Path):
    with FaissStore(tmp_path, False, ttl={"refresh_on_read": True}) as store:
        store.put(("a",), "k", {"n": 1}, ttl=5)
        with store.database.reading() as db:
            before = db.execute("SELECT expires FROM items").fetchone()
        assert store.get(("a",), "k")
        with store.database.reading() as db:
            assert db.execute("SELECT expires FROM items").fetchone() > before
        assert store.get(("a",), "k").value == {"n": 1}
    assert verify(tmp_path).whole
