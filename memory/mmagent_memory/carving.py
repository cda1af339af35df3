"""Reading the rows of a broken database page by page, without its tables' trees.

Where SQLite's way to a row is damaged, the row itself may be whole. Every page that looks like
a leaf is read, every cell in it that looks like a record is decoded, and what it is a record of
is seen by its shape. Nothing is believed here: items are held to their checksums and pictures to
their hashes by whoever asks.

Format: https://www.sqlite.org/fileformat2.html#b_tree_pages
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmagent_memory.checksums import ITEM_COLUMNS

__all__ = ["Carved", "carve", "page_size_of"]

_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_SIZES = (2048, 4096)
"""The sizes of pages that stores have been made with."""
_MOST = 1 << 30
_SERIAL_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


@dataclass
class Carved:
    """What was found, unchecked; of several finds for one name every one is kept.

    Attributes:
        items: By number, rows as `ITEM_COLUMNS`.
        images: By hash, rows of `images`.
        namespaces: By number, paths.
        tombstones: Numbers of removed items.
        newest: The highest change that left a trace.
        links: Pairs of item and hash.
        meta: By name.
    """

    items: dict[int, list[tuple[Any, ...]]] = field(default_factory=dict)
    images: dict[bytes, list[tuple[Any, ...]]] = field(default_factory=dict)
    namespaces: dict[int, list[bytes]] = field(default_factory=dict)
    tombstones: set[int] = field(default_factory=set)
    newest: int = 0
    links: set[tuple[int, bytes]] = field(default_factory=set)
    meta: dict[str, Any] = field(default_factory=dict)


def page_size_of(data: Any) -> int:
    """Return the page size of a database: as its header says, or as its pages look."""
    stated = int.from_bytes(data[16:18], "big")
    if bytes(data[:16]) == b"SQLite format 3\x00" and stated in _SIZES:
        return stated

    def leaves(size: int) -> int:
        kinds = (_TABLE_LEAF, _INDEX_LEAF)
        return sum(data[start] in kinds for start in range(size, len(data), size)) * size

    return max(_SIZES, key=leaves)


def carve(file: Path) -> Carved:
    """Read every record that can be found in a database file."""
    found = Carved()
    with file.open("rb") as opened:
        if not file.stat().st_size:
            return found
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size = page_size_of(data)
            pages = _Pages(data, size)
            for number in range(1, len(data) // size + 1):
                for rowid, record in pages.records(number):
                    _sort(found, rowid, record)
    return found


def _sort(found: Carved, rowid: int | None, record: tuple[Any, ...]) -> None:
    """Put a record where it belongs by its shape."""
    if rowid is not None and len(record) == len(ITEM_COLUMNS):
        found.items.setdefault(rowid, []).append((rowid, *record[1:]))
        found.newest = max(found.newest, rowid)
    elif rowid is not None and len(record) == 5 and _is_hash(record[0]):
        found.images.setdefault(record[0], []).append(record)
    elif rowid is not None and len(record) == 3 and record[0] is None:
        if isinstance(record[1], int) and isinstance(record[2], int):
            found.tombstones.add(record[1])
            found.newest = max(found.newest, rowid)
    elif len(record) == 2:
        first, second = record
        if rowid is not None:
            if first is None and isinstance(second, bytes) and second.endswith(b"."):
                found.namespaces.setdefault(rowid, []).append(second)
        elif isinstance(first, str):
            found.meta[first] = second
        elif isinstance(first, int) and _is_hash(second):
            found.links.add((first, second))
        elif isinstance(first, bytes) and first.endswith(b".") and isinstance(second, int):
            found.namespaces.setdefault(second, []).append(first)


def _is_hash(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 32


class _Pages:
    """The pages of one database, which may say anything."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data, self.size = data, size

    def records(self, number: int) -> Iterator[tuple[int | None, tuple[Any, ...]]]:
        """Yield the records of a page with their rowids; None where a record has none."""
        page = self._page(number)
        start = 100 if number == 1 else 0
        kind = page[start]
        if kind not in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR):
            return
        head = start + (12 if kind == _INDEX_INTERIOR else 8)
        (count,) = struct.unpack_from(">H", page, start + 3)
        for place in range(min(count, (self.size - head) // 2)):
            (at,) = struct.unpack_from(">H", page, head + 2 * place)
            try:
                yield self._cell(page, kind, at)
            except (ValueError, IndexError, struct.error, UnicodeDecodeError):
                continue

    def _page(self, number: int) -> bytes:
        return self.data[(number - 1) * self.size : number * self.size]

    def _cell(self, page: bytes, kind: int, at: int) -> tuple[int | None, tuple[Any, ...]]:
        if kind == _INDEX_INTERIOR:
            at += 4
        length, at = _varint(page, at)
        rowid = None
        if kind == _TABLE_LEAF:
            rowid, at = _varint(page, at)
        if not 0 < length < _MOST:
            raise ValueError("no length")
        most = self.size - 35 if kind == _TABLE_LEAF else (self.size - 12) * 64 // 255 - 23
        if length <= most:
            return rowid, _record(page[at : at + length], length)
        least = (self.size - 12) * 32 // 255 - 23
        local = least + (length - least) % (self.size - 4)
        local = local if local <= most else least
        parts = [page[at : at + local]]
        (following,) = struct.unpack_from(">I", page, at + local)
        missing = length - local
        while missing > 0 and following:
            more = self._page(following)
            parts.append(more[4 : 4 + missing])
            missing -= self.size - 4
            (following,) = struct.unpack_from(">I", more)
        return rowid, _record(b"".join(parts), length)


def _record(data: bytes, length: int) -> tuple[Any, ...]:
    if len(data) < length:
        raise ValueError("a part is missing")
    end, at = _varint(data, 0)
    place = end
    values: list[Any] = []
    while at < end:
        kind, at = _varint(data, at)
        size = _SERIAL_SIZES[kind] if kind < 10 else (kind - 12) // 2
        if kind in (10, 11) or place + size > len(data):
            raise ValueError("no such type")
        part = data[place : place + size]
        place += size
        values.append(_value(kind, part))
    if place != len(data):
        raise ValueError("too much")
    return tuple(values)


def _value(kind: int, part: bytes) -> Any:
    if kind == 0:
        return None
    if kind <= 6:
        return int.from_bytes(part, "big", signed=True)
    if kind == 7:
        return struct.unpack(">d", part)[0]
    if kind in (8, 9):
        return kind - 8
    return part.decode("utf-8") if kind & 1 else part


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        byte = data[at + place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    return value << 8 | data[at + 8], at + 9
