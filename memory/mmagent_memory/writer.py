"""Writing items: everything that belongs to one goes into the same transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

from mmagent_memory.checksums import ITEM_COLUMNS, content_checksum, stamp_checksum
from mmagent_memory.rows import (
    BulkRows,
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

__all__ = ["Known", "PreparedPut", "Writer"]

_INSERT = f"INSERT OR IGNORE INTO items VALUES ({', '.join('?' * len(ITEM_COLUMNS))})"  # noqa: S608
# What the items of a bulk load share is a part of the statement.
_INSERT_BULK = (
    "INSERT OR IGNORE INTO items VALUES (?1, ?2, ?3, ?4, NULL, {now}, {now}, NULL, NULL, 0, ?5, "
    "nullif(?6, ''), iif(?6 = '', NULL, ''), iif(?6 = '', NULL, ''), iif(?6 = '', NULL, ''), "
    "?7, ?8)"
)
_SWEEP = 64
"""Most expired items removed along with a write."""
_WORDS_BEHIND = 64
"""Changes after which a write also takes words into full text."""
_WORDS_FAR_BEHIND = 4096
"""Changes after which that would take too long: they are taken in when nobody waits."""
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

    @classmethod
    def of_bulk(
        cls,
        path: bytes,
        key: bytes,
        value: str,
        body: str,
        kinds: bytes,
        vectors: bytes,
        content: int,
    ) -> PreparedPut:
        """Return an item of a bulk load as if it had been put alone; see `BulkRows`."""
        prepared = cls.__new__(cls)
        prepared.put = Put((), "", {})  # Nothing else was said of it.
        prepared.path, prepared.key, prepared.value = path, key, value
        prepared.fields, prepared.columns = None, FullText(body).columns()
        prepared.kinds, prepared.vectors, prepared.content = kinds, vectors, content
        return prepared

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


class Known:
    """What one transaction has learned of the store, for the next.

    It is believed only while nothing else was written: by another connection, which SQLite's
    `data_version` tells, or on this one, which its count of changes tells. The numbers of
    namespaces are believed while the store's own count of comings and goings is as it was.
    """

    def __init__(self) -> None:
        self.mark: tuple[sqlite3.Connection, int, int] | None = None
        self.seq = 0
        self.words = 0
        self.expiry: int | None = None
        self.version = -1
        self.numbers: dict[bytes, int] = {}


class Writer:
    """Writes into one open transaction.

    Args:
        db: The writing connection.
        known: What is known from earlier transactions.
    """

    def __init__(self, db: sqlite3.Connection, known: Known | None = None) -> None:
        self.db = db
        self.now = now_us()
        self._known = known = known or Known()
        self._data_version: int = db.execute("PRAGMA data_version").fetchone()[0]
        self.unchanged = known.mark == (db, self._data_version, db.total_changes)
        """Whether nothing was written since the transaction before, as far as is known."""
        known.mark = None  # Until this one is committed.
        if not self.unchanged:
            items, removed, known.words, version, known.expiry = db.execute(
                "SELECT (SELECT max(id) FROM items), (SELECT max(seq) FROM tombstones), "
                "(SELECT value FROM meta WHERE name = 'words'), "
                "(SELECT value FROM meta WHERE name = 'namespaces'), "
                "(SELECT min(expires) FROM items WHERE expires IS NOT NULL)"
            ).fetchone()
            known.seq = max(items or 0, removed or 0)
            if version != known.version or len(known.numbers) > _MANY_NAMESPACES:
                known.version = version
                known.numbers = {}
        self._seq, self._words, self._expiry = known.seq, known.words, known.expiry
        self._made: dict[bytes, int] = {}

    @property
    def newest(self) -> int:
        """The change sequence, what was written here included."""
        return self._seq

    def committed(self) -> None:
        """Remember what was written, now that it is there to stay."""
        known = self._known
        known.numbers.update(self._made)
        known.version += len(self._made)
        known.seq, known.words, known.expiry = self._seq, self._words, self._expiry
        known.mark = (self.db, self._data_version, self.db.total_changes)

    @property
    def words_due(self) -> bool:
        """Whether so many words wait for full text that it is no matter of one write."""
        return self._seq - self._words > _WORDS_FAR_BEHIND

    def apply(self, puts: Sequence[PreparedPut] | BulkRows) -> None:
        """Write and remove items, in order."""
        if isinstance(puts, BulkRows):
            self._insert_bulk(puts)
            return
        for removing, run in groupby(puts, key=_removes):
            if removing:
                for prepared in run:
                    self._delete(prepared)
            else:
                self._insert(list(run))

    def finish(self) -> None:
        """Do what is due along with a write: let expired items go, take words into full text."""
        if self._expiry is not None and self._expiry <= self.now:
            self.sweep(_SWEEP)
            (self._expiry,) = self.db.execute(
                "SELECT min(expires) FROM items WHERE expires IS NOT NULL"
            ).fetchone()
        if _WORDS_BEHIND < self._seq - self._words <= _WORDS_FAR_BEHIND:
            index_words(self.db)
            self._words = self._seq

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

    def remove(self, number: int, namespace: int, images: int | None = None) -> None:
        """Remove an item with its vectors, and its pictures if no other has them.

        Its words leave full text later, with those of others; it is not found by them any more.

        Args:
            number: The item.
            namespace: The number of its namespace.
            images: How many pictures it has, if that is known.
        """
        db = self.db
        if number <= self._words:
            db.execute(
                "INSERT INTO leaving SELECT id, body, about, caption, context FROM items "
                "WHERE id = ? AND body IS NOT NULL",
                (number,),
            )
        if images is None:
            (images,) = db.execute("SELECT images FROM items WHERE id = ?", (number,)).fetchone()
        if images:
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
            "SELECT id, images FROM items WHERE ns = ? AND key = ?", (namespace, prepared.key)
        ).fetchone()
        if found:
            self.remove(found[0], namespace, found[1])

    def _insert(self, puts: list[PreparedPut]) -> None:
        """Write items; those whose key exists take the place of what has it."""
        first = self._seq + 1
        rows = [self._row(prepared, self._next()) for prepared in puts]
        if self.db.executemany(_INSERT, rows).rowcount == len(rows):
            for number, prepared in enumerate(puts, first):
                if prepared.put.pictures:
                    self._show(number, prepared.put.pictures)
            return
        written = self._written(first) if len(puts) > 1 else set()
        for number, prepared in enumerate(puts, first):
            if number in written:
                self._show(number, prepared.put.pictures)
            else:
                self._replace(prepared)

    def _insert_bulk(self, puts: BulkRows) -> None:
        """Write the items of a bulk load, as `_insert` does."""
        first, now = self._seq + 1, self.now
        spaces = {path: self._namespace(path, make=True) for path in {row[0] for row in puts.rows}}
        rows = [
            (
                number,
                spaces[path],
                key,
                value,
                content ^ stamp_checksum(number, now, now, None, None, 0),
                body,
                kinds,
                vectors,
            )
            for number, (path, key, value, body, kinds, vectors, content) in enumerate(
                puts.rows, first
            )
        ]
        self._seq += len(rows)
        if self.db.executemany(_INSERT_BULK.format(now=now), rows).rowcount == len(rows):
            return
        written = self._written(first)
        for number, row in enumerate(puts.rows, first):
            if number not in written:
                self._replace(PreparedPut.of_bulk(*row))

    def _written(self, first: int) -> set[int]:
        """Return which items from a number on are there: the keys of the others existed."""
        rows = self.db.execute("SELECT id FROM items WHERE id BETWEEN ? AND ?", (first, self._seq))
        return {number for (number,) in rows}

    def _replace(self, prepared: PreparedPut) -> None:
        """Write an item in the place of the one that has its key."""
        put, created, inherited = prepared.put, prepared.put.created_us, 0
        namespace = self._namespace(prepared.path, make=True)
        assert namespace is not None
        old, first_created, expires, images = self.db.execute(
            "SELECT id, created, expires, images FROM items WHERE ns = ? AND key = ?",
            (namespace, prepared.key),
        ).fetchone()
        new = self._next()
        if expires is None or expires > self.now:
            if put.keep_existing:
                return
            created = created or first_created
            if put.pictures is None and images:
                # Before the old row goes, so that no picture is left without an item.
                inherited = self.db.execute(
                    "INSERT INTO item_images SELECT ?, hash FROM item_images WHERE item = ?",
                    (new, old),
                ).rowcount
        self.remove(old, namespace, images)
        self.db.execute(_INSERT, self._row(prepared, new, created, inherited))
        self._show(new, put.pictures)

    def _row(
        self, prepared: PreparedPut, number: int, created: int | None = None, inherited: int = 0
    ) -> tuple[object, ...]:
        """Return the columns of an item, as in `ITEM_COLUMNS`."""
        put, now = prepared.put, self.now
        ttl = None if put.ttl is None else ttl_us(put.ttl)
        expires = None if ttl is None else now + ttl
        if expires is not None and (self._expiry is None or expires < self._expiry):
            self._expiry = expires
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
