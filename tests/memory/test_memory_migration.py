"""A store of format 1 is brought to this one when it is opened, and keeps everything."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory import migration as migrating
from mmagent_memory.checking import verify
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.schema import APPLICATION_ID, VERSION

# As the first version made it.
FORMAT_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE namespaces (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    ns INTEGER NOT NULL REFERENCES namespaces (id),
    key BLOB NOT NULL,
    value TEXT NOT NULL,
    fields TEXT,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    ttl INTEGER,
    expires INTEGER,
    crc INTEGER NOT NULL,
    kinds BLOB NOT NULL,
    vectors BLOB NOT NULL,
    body TEXT, about TEXT, caption TEXT, context TEXT
);
CREATE UNIQUE INDEX items_by_key ON items (ns, key);
CREATE INDEX items_by_namespace ON items (ns);
CREATE INDEX items_by_expiry ON items (expires) WHERE expires IS NOT NULL;
CREATE TABLE tombstones (seq INTEGER PRIMARY KEY, item INTEGER NOT NULL, ns INTEGER NOT NULL);
CREATE INDEX tombstones_by_namespace ON tombstones (ns);
CREATE TABLE images (
    hash BLOB PRIMARY KEY, mime TEXT NOT NULL, width INTEGER, height INTEGER, data BLOB NOT NULL
);
CREATE TABLE item_images (
    item INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (item, hash)
) WITHOUT ROWID;
CREATE INDEX item_images_by_hash ON item_images (hash);
CREATE VIRTUAL TABLE full_text USING fts5(
    body, about, caption, context,
    content='items', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
);
"""
PICTURE = hashlib.sha256(b"picture").digest()
MICROSECONDS = 1_700_000_000_000_000


def crc_of(key: bytes, value: str, fields: str | None, words: tuple[str | None, ...]) -> int:
    crc = zlib.crc32(key)
    for part in (value, fields, *words):
        crc = zlib.crc32(b"\x00" if part is None else part.encode("utf-8", "replace"), crc)
    return crc


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a folder with a store of format 1: thirty items, some with pictures, some removed."""
    embedder = HashEmbedder(dims=64)
    db = sqlite3.connect(tmp_path / "memory.sqlite3", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(FORMAT_1)
    db.execute("INSERT INTO namespaces VALUES (1, ?)", (b"notes.sam.",))
    for name, value in (("store", "ab" * 16), ("embedder", embedder.fingerprint), ("dims", 64)):
        db.execute("INSERT INTO meta VALUES (?, ?)", (name, value))
    db.execute("INSERT INTO images VALUES (?, 'image/png', 1, 1, ?)", (PICTURE, b"picture"))
    for number in range(1, 31):
        text = f"note {number} about 陇西 and kettles"
        value, key = json.dumps({"text": text}), f"k{number}".encode()
        unit = np.asarray(embedder.embed_documents([text])[0], dtype="<f4")
        data, kinds = (unit / np.linalg.norm(unit)).tobytes(), b"\x00"
        words = (text, "", "", "") if number % 5 else (None,) * 4
        ttl = 60_000_000_000_000 if number % 2 else None
        db.execute(
            "INSERT INTO items VALUES (?, 1, ?, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                number,
                key,
                value,
                MICROSECONDS + number,
                MICROSECONDS + number,
                ttl,
                None if ttl is None else 2 * MICROSECONDS,
                crc_of(key, value, None, words),
                kinds,
                data + zlib.crc32(kinds + data).to_bytes(4, "little"),
                *words,
            ),
        )
        if words[0]:
            db.execute(
                "INSERT INTO full_text (rowid, body, about, caption, context) "
                "VALUES (?, ?, ?, ?, ?)",
                (number, *words),
            )
        if number % 10 == 0:
            db.execute("INSERT INTO item_images VALUES (?, ?)", (number, PICTURE))
    db.execute("INSERT INTO tombstones VALUES (31, 99, 1)")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
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
