"""What is whole in a damaged database.

It is read through its tables where they can be read, and page by page where they cannot; what
is found is held to checksums and hashes either way.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmagent_memory.carving import Carved, carve
from mmagent_memory.checksums import ITEM_COLUMNS, item_checksum
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.rows import labels_of, unpack_vectors

__all__ = ["UNREADABLE", "Found", "Item", "Progress", "find_whole"]

Progress = Callable[[int, int], None]
"""Called with how many items have been looked at, and of how many."""

# Python cannot read every message of SQLite about a broken database.
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
_COLUMNS = ", ".join(ITEM_COLUMNS)
_NS, _KEY, _VALUE = (ITEM_COLUMNS.index(name) for name in ("ns", "key", "value"))
_CRC, _KINDS, _VECTORS = (ITEM_COLUMNS.index(name) for name in ("crc", "kinds", "vectors"))
_SAMPLE = 40


@dataclass
class Item:
    """A whole item: its namespace and its row; `no_vectors` where those were damaged."""

    path: bytes
    row: list[Any]
    no_vectors: bool = False

    @property
    def name(self) -> str:
        """How it is called in a report."""
        return f"{'/'.join(labels_of(self.path))}/{_shown(self.row[_KEY])}"


@dataclass
class Found:
    """What is in a database, and what was.

    Attributes:
        numbers: The items that there are, whole or not.
        lost: Names of damaged items.
        lost_images: Hashes of damaged pictures, in hex.
        vectors: Names of items whose vectors are damaged.
        problems: Everything that is wrong, in words.
        dims: The length of the vectors.
        meta: What is known of the store.
        removed: Items that were removed and may not come back.
        newest: The newest change that left a trace.
        keys: The keys of items as the index of keys has them: a table's page that is garbled may
            be read as if its rows had never been.
    """

    db: sqlite3.Connection | None
    numbers: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    lost_images: list[str] = field(default_factory=list)
    vectors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dims: int = 0
    meta: dict[str, Any] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    newest: int = 0
    keys: dict[int, bytes] = field(default_factory=dict)
    carved: Carved | None = None
    _names: dict[int, list[bytes]] = field(default_factory=dict)

    def items(self, progress: Progress | None = None) -> Iterator[Item]:
        """Yield the items that match their checksums."""
        for place, number in enumerate(self.numbers, start=1):
            item, reason = self._item(number)
            if item is not None:
                if item.no_vectors:
                    self.vectors.append(item.name)
                    self.problems.append(f"The vectors of {item.name} are damaged.")
                yield item
            elif reason:
                name = self._name(number)
                self.lost.append(name)
                self.problems.append(f"The item {name} is damaged: {reason}.")
            if progress:
                progress(place, len(self.numbers))

    def images(self) -> Iterator[tuple[Any, ...]]:
        """Yield the pictures that match their hash, as rows of `images`."""
        seen = set()
        for (digest,) in self._read("SELECT hash FROM images"):
            image, reason = None, "it does not match its hash"
            try:
                image = self._one("SELECT * FROM images WHERE hash = ?", digest)
            except UNREADABLE as error:
                reason = str(error)
            for one in (image, *self._carved_images(digest)):
                if one is not None and _matches(one):
                    seen.add(digest)
                    yield one
                    break
            else:
                name = digest.hex() if isinstance(digest, bytes) else repr(digest)
                self.lost_images.append(name)
                self.problems.append(f"The picture {name[:16]} is damaged: {reason}.")
        for digest in self.carved.images if self.carved else ():
            if digest not in seen and digest.hex() not in self.lost_images:
                whole = [one for one in self._carved_images(digest) if _matches(one)]
                if whole:
                    yield whole[0]

    def links(self) -> Iterator[tuple[int, bytes]]:
        """Yield which item shows which picture, as far as that can be read."""
        yield from self._read("SELECT item, hash FROM item_images")
        yield from self.carved.links if self.carved else ()

    def _read(self, query: str) -> Iterator[Any]:
        """Yield rows until one cannot be read."""
        if self.db is None:
            return
        try:
            yield from self.db.execute(query)
        except UNREADABLE as error:
            words = f"SQLite: {error}"
            if words not in self.problems:
                self.problems.append(words)

    def _one(self, query: str, *values: Any) -> Any:
        return self.db.execute(query, values).fetchone() if self.db else None

    def _carved_images(self, digest: bytes) -> list[tuple[Any, ...]]:
        return self.carved.images.get(digest, []) if self.carved else []

    def _item(self, number: int) -> tuple[Item | None, str]:
        item, reason = self.item_as_it_is(number)
        if item is not None and number in self.removed:
            return None, "there is a note of its removal"
        return (self._with_vectors(item) if item else None), reason

    def item_as_it_is(self, number: int) -> tuple[Item | None, str]:
        """Return an item that matches its checksum, or why there is none."""
        rows, reason = [], ""
        try:
            row = self._one(f"SELECT {_COLUMNS} FROM items WHERE id = ?", number)  # noqa: S608
            rows += [row] if row else []
        except UNREADABLE as error:
            reason = str(error)
        if self.carved:
            rows += self.carved.items.get(number, [])
        if not rows and not reason and number in self.keys:
            reason = "its key is there, but nothing else of it"
        for row in rows:
            for path in self._names.get(row[_NS], ()):
                crc = item_checksum(path, row)
                if crc is not None and crc == row[_CRC] and _is_json(row[_VALUE]):
                    return Item(path, list(row)), ""
            known = row[_NS] in self._names
            reason = "it does not match its checksum" if known else "its namespace is lost"
        return None, reason

    def _with_vectors(self, item: Item) -> Item:
        row = item.row
        if row[_KINDS] and not _unpacks(row, self.dims):
            row[_KINDS], row[_VECTORS] = b"", b""
            row[_CRC] = item_checksum(item.path, row)
            item.no_vectors = True
        return item

    def _name(self, number: int) -> str:
        with suppress(*UNREADABLE):
            found = self._one("SELECT key FROM items WHERE id = ?", number)
            if found and isinstance(found[0], bytes):
                return f"{_shown(found[0])} (number {number})"
        if number in self.keys:
            return f"{_shown(self.keys[number])} (number {number})"
        return f"number {number}"


def find_whole(db: sqlite3.Connection | None, pages: Path | None = None) -> Found:
    """Look through a database.

    Args:
        db: A connection to it, if it can be opened.
        pages: Its file, to be read page by page too.
    """
    found = Found(db)
    if db is None:
        found.problems.append("SQLite cannot open the database; its pages were read one by one.")
    for name, value in found._read("SELECT name, value FROM meta"):
        found.meta[name] = value
    for number, path in found._read("SELECT id, path FROM namespaces"):
        found._names.setdefault(number, []).append(path)
    numbers: set[int] = set()
    try:
        if db is not None:
            numbers = {n for (n,) in db.execute("SELECT id FROM items NOT INDEXED")}
    except UNREADABLE as error:
        found.problems.append(f"SQLite: {error}")
        numbers = _every_number(found)
    stored = set(numbers)
    for number, namespace, key in found._read(
        "SELECT id, ns, key FROM items INDEXED BY items_by_key"
    ):
        if namespace in found._names and isinstance(key, bytes):
            found.keys[number] = key
    numbers |= set(found.keys)
    found.removed = {item for (item,) in found._read("SELECT item FROM tombstones")}
    for (newest,) in found._read("SELECT max(seq) FROM tombstones"):
        found.newest = newest or 0
    if pages is not None:
        carved = found.carved = carve(pages)
        numbers |= set(carved.items)
        found.removed |= carved.tombstones
        found.newest = max(found.newest, carved.newest)
        found.meta = {**carved.meta, **found.meta}
        for number, paths in carved.namespaces.items():
            names = found._names.setdefault(number, [])
            names += [path for path in paths if path not in names]
    # What only the pages hold may be a trace of what was removed.
    found.numbers = sorted(stored | (numbers - found.removed))
    found.newest = max([found.newest, *found.numbers[-1:]])
    found.dims = _dims(found)
    return found


def _every_number(found: Found) -> set[int]:
    """Return every number there may be, where the table itself cannot be walked."""
    highest = 0
    for query in ("SELECT max(id) FROM items", "SELECT max(rowid) FROM full_text_docsize"):
        with suppress(*UNREADABLE):
            highest = max(highest, (found._one(query) or (0,))[0] or 0)
    return set(range(1, highest + 1))


def _dims(found: Found) -> int:
    """Return the length of the vectors: as the store says, or as they are if that is wrong."""
    stated = found.meta.get("dims")
    stated = stated if isinstance(stated, int) and 0 < stated < 1 << 20 else 0
    rows = []
    for number in found.numbers[:: max(1, len(found.numbers) // _SAMPLE)]:
        item, _ = found.item_as_it_is(number)
        if item is not None and item.row[_KINDS]:
            rows.append(item.row)
    choices = {stated}
    for row in rows:
        size = (len(row[_VECTORS]) - 4) // len(row[_KINDS])
        choices |= {size // 4, size // 2}
    right = {dims: sum(_unpacks(row, dims) for row in rows) for dims in sorted(choices)}
    return max(right, key=lambda dims: (right[dims], dims == stated)) if right else stated


def _unpacks(row: list[Any], dims: int) -> bool:
    try:
        unpack_vectors(row[0], row[_KINDS], row[_VECTORS], dims)
    except (CorruptStoreError, TypeError, ValueError):
        return False
    return True


def _matches(image: tuple[Any, ...]) -> bool:
    data = image[4]
    return isinstance(data, bytes) and hashlib.sha256(data).digest() == image[0]


def _is_json(value: Any) -> bool:
    try:
        json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _shown(key: bytes) -> str:
    return key.decode("utf-8", "replace")
