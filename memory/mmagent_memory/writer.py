"""Writing items: everything that belongs to one goes into the same transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
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
from mmagent_memory.words import index_words

__all__ = ["NamespaceNumbers", "PreparedPut", "Writer"]

_INSERT = f"INSERT OR IGNORE INTO items VALUES ({', '.join('?' * len(ITEM_COLUMNS))})"  # noqa: S608
_SWEEP = 64
"""Most expired items removed along with a write."""
_WORDS_BEHIND = 64
"""Changes after which a write also takes words into full text."""
_MANY_NAMESPACES = 100_000


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

    def with_vectors(self, vectors: Vectors | None) -> PreparedPut:
        """Add the vectors, which are made last: a value that cannot be stored is not embedded."""
        if self.put.value is not None:
            self.kinds, self.vectors = pack_vectors(vectors)
            self.content = content_checksum(
                self.path, self.key, self.value, self.fields, self.columns, self.kinds
            )
        return self


def _fields_to_json(index: Literal[False] | list[str] | None) -> str | None:
    return None if index is None else json.dumps(index)


class NamespaceNumbers:
    """The numbers of namespaces, remembered between transactions.

    They are believed only while the store's own count of comings and goings is as it was.
    """

    def __init__(self) -> None:
        self.version = -1
        self.numbers: dict[bytes, int] = {}


class Writer:
    """Writes into one open transaction.

    Args:
        db: The writing connection.
        namespaces: What is known of namespaces from earlier transactions.
    """

    def __init__(self, db: sqlite3.Connection, namespaces: NamespaceNumbers | None = None) -> None:
        self.db = db
        self.now = now_us()
        self._known = namespaces or NamespaceNumbers()
        items, removed, self._words, version = db.execute(
            "SELECT (SELECT max(id) FROM items), (SELECT max(seq) FROM tombstones), "
            "(SELECT value FROM meta WHERE name = 'words'), "
            "(SELECT value FROM meta WHERE name = 'namespaces')"
        ).fetchone()
        self._seq = max(items or 0, removed or 0)
        if version != self._known.version or len(self._known.numbers) > _MANY_NAMESPACES:
            self._known.version = version
            self._known.numbers = {}
        self._made: dict[bytes, int] = {}

    @property
    def newest(self) -> int:
        """The change sequence, what was written here included."""
        return self._seq

    def committed(self) -> None:
        """Remember the namespaces that were made, now that they are there to stay."""
        self._known.numbers.update(self._made)
        self._known.version += len(self._made)

    def apply(self, puts: Sequence[PreparedPut]) -> None:
        """Write and remove items, in order."""
        for removing, run in groupby(puts, key=_removes):
            if removing:
                for prepared in run:
                    self._delete(prepared)
            else:
                self._insert(list(run))

    def finish(self) -> None:
        """Do what is due along with a write: let expired items go, take words into full text."""
        self.sweep(_SWEEP)
        if self._seq - self._words > _WORDS_BEHIND:
            index_words(self.db)

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` expired items; return how many went."""
        expired = self.db.execute(
            "SELECT id, ns FROM items WHERE expires <= ? LIMIT ?", (self.now, limit)
        ).fetchall()
        for number, namespace in expired:
            self.remove(number, namespace)
        return len(expired)

    def refresh(self, numbers: Iterable[int]) -> None:
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
        """Remove an item with its vectors, and its pictures if no other has them.

        Its words leave full text later, with those of others; it is not found by them any more.
        """
        db = self.db
        if number <= self._words:
            db.execute(
                "INSERT INTO leaving SELECT id, body, about, caption, context FROM items "
                "WHERE id = ? AND body IS NOT NULL",
                (number,),
            )
        (shows,) = db.execute("SELECT images FROM items WHERE id = ?", (number,)).fetchone()
        if shows:
            hashes = db.execute("SELECT hash FROM item_images WHERE item = ?", (number,)).fetchall()
            db.execute("DELETE FROM item_images WHERE item = ?", (number,))
            db.executemany(
                "DELETE FROM images WHERE hash = ?1 "
                "AND NOT EXISTS (SELECT 1 FROM item_images WHERE hash = ?1)",
                hashes,
            )
        db.execute("DELETE FROM items WHERE id = ?", (number,))
        db.execute("INSERT INTO tombstones VALUES (?, ?, ?)", (self._next(), number, namespace))

    def _delete(self, prepared: PreparedPut) -> None:
        namespace = self._namespace(prepared.path, make=False)
        if namespace is None:
            return
        found = self.db.execute(
            "SELECT id FROM items WHERE ns = ? AND key = ?", (namespace, prepared.key)
        ).fetchone()
        if found:
            self.remove(found[0], namespace)

    def _insert(self, puts: list[PreparedPut]) -> None:
        """Write items; those whose key exists take the place of what has it."""
        first = self._seq + 1
        rows = [self._row(prepared, self._next()) for prepared in puts]
        if self.db.executemany(_INSERT, rows).rowcount == len(rows):
            for number, prepared in enumerate(puts, first):
                self._show(number, prepared.put.pictures)
            return
        written = {
            number
            for (number,) in self.db.execute(
                "SELECT id FROM items WHERE id BETWEEN ? AND ?", (first, self._seq)
            )
        }
        for number, prepared in enumerate(puts, first):
            if number in written:
                self._show(number, prepared.put.pictures)
            else:
                self._replace(prepared)

    def _replace(self, prepared: PreparedPut) -> None:
        """Write an item in the place of the one that has its key."""
        put, created, inherited = prepared.put, prepared.put.created_us, 0
        namespace = self._namespace(prepared.path, make=True)
        assert namespace is not None
        old, first_created, expires = self.db.execute(
            "SELECT id, created, expires FROM items WHERE ns = ? AND key = ?",
            (namespace, prepared.key),
        ).fetchone()
        new = self._next()
        if expires is None or expires > self.now:
            if put.keep_existing:
                return
            created = created or first_created
            if put.pictures is None:
                # Before the old row goes, so that no picture is left without an item.
                inherited = self.db.execute(
                    "INSERT INTO item_images SELECT ?, hash FROM item_images WHERE item = ?",
                    (new, old),
                ).rowcount
        self.remove(old, namespace)
        self.db.execute(_INSERT, self._row(prepared, new, created, inherited))
        self._show(new, put.pictures)

    def _row(
        self, prepared: PreparedPut, number: int, created: int | None = None, inherited: int = 0
    ) -> tuple[object, ...]:
        """Return the columns of an item, as in `ITEM_COLUMNS`."""
        put, now = prepared.put, self.now
        ttl = None if put.ttl is None else ttl_us(put.ttl)
        expires = None if ttl is None else now + ttl
        created = created or put.created_us or now
        images = len({picture.hash for picture in put.pictures}) if put.pictures else inherited
        stamp = stamp_checksum(number, created, now, ttl, expires, images)
        return (
            number,
            self._namespace(prepared.path, make=True),
            prepared.key,
            prepared.value,
            prepared.fields,
            created,
            now,
            ttl,
            expires,
            images,
            prepared.content ^ stamp,
            *prepared.columns,
            prepared.kinds,
            prepared.vectors,
        )

    def _show(self, number: int, pictures: Sequence[Picture] | None) -> None:
        """Store the pictures of an item."""
        for picture in pictures or ():
            self.db.execute(
                "INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)",
                (picture.hash, picture.mime_type, picture.width, picture.height, picture.data),
            )
            self.db.execute(
                "INSERT OR IGNORE INTO item_images VALUES (?, ?)", (number, picture.hash)
            )

    def _namespace(self, path: bytes, *, make: bool) -> int | None:
        known = self._known.numbers.get(path) or self._made.get(path)
        if known is not None:
            return known
        found = self.db.execute("SELECT id FROM namespaces WHERE path = ?", (path,)).fetchone()
        if found is not None:
            self._known.numbers[path] = int(found[0])
            return self._known.numbers[path]
        if not make:
            return None
        made = self.db.execute("INSERT INTO namespaces (path) VALUES (?)", (path,)).lastrowid
        self._made[path] = int(made or 0)
        return self._made[path]

    def _next(self) -> int:
        self._seq += 1
        return self._seq


def _removes(prepared: PreparedPut) -> bool:
    return prepared.put.value is None
