"""Writing items: everything that belongs to one goes into the same transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Literal

from mmagent_memory.checksums import ITEM_COLUMNS, content_checksum, stamp_checksum
from mmagent_memory.rows import (
    FullText,
    Picture,
    Put,
    Vectors,
    bytes_of,
    now_us,
    pack_vectors,
    path_of,
    to_json,
    ttl_us,
)
from mmagent_memory.words import index_words, words_upto

__all__ = ["PreparedPut", "Writer"]

_INSERT = f"INSERT INTO items VALUES ({', '.join('?' * len(ITEM_COLUMNS))})"  # noqa: S608
_SWEEP = 64
"""Most expired items removed along with a write."""
_WORDS_BEHIND = 64
"""Changes after which a write also takes words into full text."""


class PreparedPut:
    """A put with everything slow done: JSON, vectors, checksums."""

    __slots__ = (
        "columns",
        "content",
        "fields",
        "key",
        "kinds",
        "path",
        "put",
        "value",
        "vectors",
    )

    def __init__(self, put: Put, texts: FullText) -> None:
        self.put = put
        self.path = path_of(put.namespace)
        self.key = bytes_of(put.key)
        if put.value is None:
            return
        self.value = to_json(put.value, put.key)
        self.fields = _fields_to_json(put.index)
        self.columns = texts.columns()
        self.with_vectors(None)

    def with_vectors(self, vectors: Vectors | None) -> PreparedPut:
        """Add the vectors, which are made last: a value that cannot be stored is not embedded."""
        if self.put.value is not None:
            self.kinds, self.vectors = pack_vectors(vectors)
            self.content = content_checksum(
                self.path,
                self.key,
                self.value,
                self.fields,
                self.columns,
                self.kinds,
            )
        return self


def _fields_to_json(index: Literal[False] | list[str] | None) -> str | None:
    return None if index is None else json.dumps(index)


class Writer:
    """Writes into one open transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.now = now_us()
        self._namespaces: dict[bytes, int] = {}
        items, removed = db.execute(
            "SELECT (SELECT max(id) FROM items), (SELECT max(seq) FROM tombstones)"
        ).fetchone()
        self._seq = max(items or 0, removed or 0)

    def apply(self, puts: Sequence[PreparedPut]) -> None:
        """Write and remove items, in order."""
        for prepared in puts:
            self._apply(prepared)
        self.sweep(_SWEEP)
        if self._seq - words_upto(self.db) > _WORDS_BEHIND:
            index_words(self.db)

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` expired items; return how many went."""
        expired = self.db.execute(
            "SELECT id, ns FROM items WHERE expires <= ? LIMIT ?", (self.now, limit)
        ).fetchall()
        for number, namespace in expired:
            self.remove(number, namespace)
        return len(expired)

    def refresh(self, numbers: Sequence[int]) -> None:
        """Let items that were read live for another full term."""
        for number in numbers:
            found = self.db.execute(
                "SELECT id, created, updated, ttl, expires, images, crc FROM items "
                "WHERE id = ? AND expires > ?",
                (number, self.now),
            ).fetchone()
            if found:
                _, created, updated, ttl, expires, images, crc = found
                crc ^= stamp_checksum(number, created, updated, ttl, expires, images)
                expires = self.now + ttl
                crc ^= stamp_checksum(number, created, updated, ttl, expires, images)
                self.db.execute(
                    "UPDATE items SET expires = ?, crc = ? WHERE id = ?", (expires, crc, number)
                )

    def remove(self, number: int, namespace: int) -> None:
        """Remove an item with its words, its vectors, and its pictures if no other has them."""
        db = self.db
        words = db.execute(
            "SELECT body, about, caption, context FROM items WHERE id = ?", (number,)
        ).fetchone()
        if words[0] is not None and number <= words_upto(db):
            db.execute(
                "INSERT INTO full_text (full_text, rowid, body, about, caption, context) "
                "VALUES ('delete', ?, ?, ?, ?, ?)",
                (number, *words),
            )
        hashes = db.execute("SELECT hash FROM item_images WHERE item = ?", (number,)).fetchall()
        if hashes:
            db.execute("DELETE FROM item_images WHERE item = ?", (number,))
            db.executemany(
                "DELETE FROM images WHERE hash = ?1 "
                "AND NOT EXISTS (SELECT 1 FROM item_images WHERE hash = ?1)",
                hashes,
            )
        db.execute("DELETE FROM items WHERE id = ?", (number,))
        db.execute("INSERT INTO tombstones VALUES (?, ?, ?)", (self._next(), number, namespace))

    def _apply(self, prepared: PreparedPut) -> None:
        put = prepared.put
        namespace = self._namespace(prepared.path, make=put.value is not None)
        if namespace is None:
            return
        found = self.db.execute(
            "SELECT id, created, expires FROM items WHERE ns = ? AND key = ?",
            (namespace, prepared.key),
        ).fetchone()
        created, inherited = put.created_us or self.now, 0
        new = self._next()
        if found:
            old, first_created, expires = found
            alive = expires is None or expires > self.now
            if alive and put.keep_existing:
                return
            if alive and put.value is not None:
                created = put.created_us or first_created
                if put.pictures is None:
                    # Before the old row goes, so that no picture is left without an item.
                    inherited = self.db.execute(
                        "INSERT INTO item_images SELECT ?, hash FROM item_images WHERE item = ?",
                        (new, old),
                    ).rowcount
            self.remove(old, namespace)
        if put.value is None:
            return
        ttl = None if put.ttl is None else ttl_us(put.ttl)
        expires = None if ttl is None else self.now + ttl
        images = self._show(new, put.pictures, inherited)
        stamp = stamp_checksum(new, created, self.now, ttl, expires, images)
        self.db.execute(
            _INSERT,
            (
                new,
                namespace,
                prepared.key,
                prepared.value,
                prepared.fields,
                created,
                self.now,
                ttl,
                expires,
                images,
                prepared.content ^ stamp,
                *prepared.columns,
                prepared.kinds,
                prepared.vectors,
            ),
        )

    def _show(self, number: int, pictures: Sequence[Picture] | None, inherited: int) -> int:
        """Store the pictures of an item; return how many it has."""
        if not pictures:
            return inherited
        for picture in pictures:
            self.db.execute(
                "INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)",
                (picture.hash, picture.mime_type, picture.width, picture.height, picture.data),
            )
            self.db.execute(
                "INSERT OR IGNORE INTO item_images VALUES (?, ?)", (number, picture.hash)
            )
        return len({picture.hash for picture in pictures})

    def _namespace(self, path: bytes, *, make: bool) -> int | None:
        known = self._namespaces.get(path)
        if known is not None:
            return known
        found = self.db.execute("SELECT id FROM namespaces WHERE path = ?", (path,)).fetchone()
        if found is None:
            if not make:
                return None
            number = self.db.execute("INSERT INTO namespaces (path) VALUES (?)", (path,)).lastrowid
        else:
            number = found[0]
        self._namespaces[path] = int(number or 0)
        return self._namespaces[path]

    def _next(self) -> int:
        self._seq += 1
        return self._seq
