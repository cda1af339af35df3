"""What is written into a row, and how it is read back: JSON, vectors, times, checksums."""

from __future__ import annotations

import json
import math
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmagent_memory.checksums import content_checksum, stamp_checksum
from mmagent_memory.embedding import Matrix
from mmagent_memory.errors import CorruptStoreError, MemoryUsageError

__all__ = [
    "IMAGE",
    "MAX_VECTORS",
    "TEXT",
    "BulkRows",
    "FullText",
    "Picture",
    "Put",
    "Row",
    "Vectors",
    "bytes_of",
    "labels_of",
    "now_us",
    "pack_each",
    "pack_vectors",
    "path_of",
    "to_json",
    "ttl_us",
    "unpack_many",
    "unpack_vectors",
]

TEXT, IMAGE = 0, 1
"""Kinds of vectors: of a text, of a picture."""

MAX_VECTORS = 1024
"""Most vectors of one item."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODE: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)  # Not frozen, which makes them three times as slow to make.
class FullText:
    """The words by which an item is found; the columns of the full text table.

    Attributes:
        body: What was said.
        about: Who said it, and when.
        caption: What its pictures show.
        context: What was said before it.
    """

    body: str = ""
    about: str = ""
    caption: str = ""
    context: str = ""

    def __bool__(self) -> bool:
        return bool(self.body or self.about or self.caption or self.context)

    def columns(self) -> tuple[str | None, ...]:
        """Return the columns, all None where there are no words."""
        return (self.body, self.about, self.caption, self.context) if self else (None,) * 4


@dataclass(frozen=True)
class Picture:
    """A picture to be stored: its SHA-256, its kind, its size in pixels if known, its bytes."""

    hash: bytes
    mime_type: str
    width: int | None
    height: int | None
    data: bytes = field(repr=False)


@dataclass(slots=True)
class Vectors:
    """Unit vectors of one item: `kinds` [n] (TEXT or IMAGE) and `matrix` [n, dims]."""

    kinds: bytes
    matrix: Matrix


@dataclass(slots=True)
class Put:
    """One item to be written, or removed where `value` is None.

    Attributes:
        index: As in LangGraph: None for the store's fields, False for none, or a list of paths.
        ttl: Minutes until the item expires.
        texts: The words to be found by; None for those at the indexed fields.
        pictures: Pictures that belong to the item; None for those it already has.
        keep_existing: Leave an item of the same key alone.
        vectors: Vectors known already, as on import.
        created_us: When it was first stored, if not now.
    """

    namespace: tuple[str, ...]
    key: str
    value: Mapping[str, Any] | None
    index: Literal[False] | list[str] | None = None
    ttl: float | None = None
    texts: FullText | None = None
    pictures: tuple[Picture, ...] | None = None
    keep_existing: bool = False
    vectors: Vectors | None = None
    created_us: int | None = None


@dataclass(slots=True)
class BulkRows:
    """Items of a bulk load, ready to be written.

    Attributes:
        rows: (path, key, JSON of the value, words, kinds, vectors, checksum of the content) each.
    """

    rows: list[tuple[bytes, bytes, str, str, bytes, bytes, int]]


@dataclass(slots=True)
class Row:
    """One item as read."""

    id: int
    namespace: tuple[str, ...]
    key: str
    value: dict[str, Any]
    created: datetime
    updated: datetime
    has_ttl: bool = False

    # In the order of `from_columns`.
    COLUMNS = (
        "items.id, namespaces.path, items.key, items.value, items.fields, items.created, "
        "items.updated, items.ttl, items.expires, items.images, items.crc, items.body, "
        "items.about, items.caption, items.context, items.kinds"
    )

    # With the number of the namespace, where its path is known.
    COLUMNS_WITHOUT_PATH = COLUMNS.replace("namespaces.path", "items.ns")

    @classmethod
    def from_columns(cls, columns: Sequence[Any], path: bytes | None = None) -> Row:
        """Return the row that was read with `COLUMNS`.

        Args:
            columns: What was read.
            path: The namespace, if it was read with `COLUMNS_WITHOUT_PATH`.

        Raises:
            CorruptStoreError: It does not match its checksum.
        """
        number, its, key, value, fields, created, updated, ttl, expires, images, crc = columns[:11]
        path = its if path is None else path
        words, kinds = columns[11:15], columns[15]
        try:
            whole = crc == content_checksum(
                path, key, value, fields, words, kinds
            ) ^ stamp_checksum(number, created, updated, ttl, expires, images)
        except (TypeError, AttributeError, struct.error):
            whole = False  # A number where a text should be, or the like.
        if not whole:
            name = (
                repr(key.decode("utf-8", "replace"))
                if isinstance(key, bytes)
                else f"number {number}"
            )
            raise CorruptStoreError(
                f"The memory {name} is damaged on disk; `python -m mmagent_memory verify FOLDER` "
                "lists what is hurt, and `repair` saves what is whole."
            )
        first = _moment(created)
        return cls(
            id=number,
            namespace=labels_of(path),
            key=_readable(key),
            value=_DECODE(value, 0)[0],
            created=first,
            updated=first if updated == created else _moment(updated),
            has_ttl=ttl is not None,
        )


def now_us() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def ttl_us(minutes: float) -> int:
    """Return a time to live in microseconds; beyond some thousand years it makes no difference.

    Raises:
        MemoryUsageError: It is no number.
    """
    if math.isnan(minutes):
        raise MemoryUsageError("The ttl of an item is NaN; give minutes, or None for no end.")
    return int(max(-1e9, min(minutes, 1e9)) * 60e6)


def bytes_of(text: str) -> bytes:
    """Return a key or label as it is stored; lone surrogates survive."""
    return text.encode("utf-8", "surrogatepass")


def _readable(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def path_of(namespace: Sequence[str]) -> bytes:
    """Return a namespace as it is stored: so that a prefix of labels is a prefix of bytes."""
    return _path_of(tuple(namespace))


@lru_cache(maxsize=4096)
def _path_of(namespace: tuple[str, ...]) -> bytes:
    return b"".join(bytes_of(label) + b"." for label in namespace)


@lru_cache(maxsize=4096)
def labels_of(path: bytes) -> tuple[str, ...]:
    """Return the labels of a stored namespace."""
    return tuple(_readable(path).split(".")[:-1])


def _encoding() -> Callable[[Any], str]:
    """Return what makes JSON, made once: `JSONEncoder.encode` makes it anew for every value.

    A value that holds itself is a RecursionError then, not a ValueError.
    """
    make = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:
        return _ENCODER.encode
    pieces = make(
        None, _ENCODER.default, json.encoder.encode_basestring, None, ":", ",", False, False, True
    )  # fmt: skip
    return lambda value: "".join(pieces(value, 0))


_ENCODE = _encoding()


def to_json(value: Mapping[str, Any], key: str) -> str:
    """Return a value as JSON.

    Raises:
        MemoryUsageError: It holds something that JSON cannot.
    """
    try:
        text = _ENCODE(value if type(value) is dict else dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise MemoryUsageError(
            f"The value of {key!r} cannot be stored as JSON ({error}); store strings, numbers, "
            "lists and mappings."
        ) from error
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Half of a surrogate pair, as cut text has; JSON can spell it in ASCII.
        return json.dumps(dict(value), separators=(",", ":"))
    return text


def pack_vectors(vectors: Vectors | None) -> tuple[bytes, bytes]:
    """Return kinds and numbers as stored: little-endian float32, then their CRC-32."""
    if vectors is None or not vectors.kinds:
        return b"", b""
    if len(vectors.kinds) > MAX_VECTORS:
        raise MemoryUsageError(
            f"One item would have {len(vectors.kinds)} vectors; index fewer fields, up to "
            f"{MAX_VECTORS}."
        )
    data = vectors.matrix.astype("<f4", copy=False).tobytes()
    crc = zlib.crc32(data, zlib.crc32(vectors.kinds))
    return vectors.kinds, data + crc.to_bytes(4, "little")


def pack_each(matrix: Matrix) -> list[bytes]:
    """Return the numbers of items that have one vector each, of a text, as `pack_vectors` does."""
    data = matrix.astype("<f4", copy=False).tobytes()
    size, begun = 4 * matrix.shape[1], zlib.crc32(bytes([TEXT]))
    parts = [data[place : place + size] for place in range(0, len(data), size)]
    return [part + zlib.crc32(part, begun).to_bytes(4, "little") for part in parts]


def unpack_vectors(number: int, kinds: bytes, blob: bytes, dims: int) -> Matrix:
    """Return the vectors of an item, [n, dims].

    Raises:
        CorruptStoreError: They do not match their checksum.
    """
    data = blob[:-4]
    whole = zlib.crc32(kinds + data) == int.from_bytes(blob[-4:], "little")
    if not whole or len(data) != 4 * dims * len(kinds):
        raise CorruptStoreError(
            f"The vectors of memory number {number} are damaged on disk; run `python -m "
            "mmagent_memory repair FOLDER`, then reembed() on the store to make them anew."
        )
    numbers: NDArray[np.float32] = np.frombuffer(data, dtype="<f4")
    return numbers.reshape(len(kinds), dims)


def unpack_many(
    rows: Sequence[tuple[int, bytes, bytes, Any]], dims: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8], Matrix]:
    """Return the vectors of many items: items [n], kinds [n], matrix [n, dims].

    Args:
        rows: (id, kinds, vectors, anything) of each item; those without vectors are left out.
        dims: Length of a vector.

    Raises:
        CorruptStoreError: Some do not match their checksum.
    """
    whole = [row for row in rows if row[1]]
    parts = []
    for number, kinds, blob, *_ in whole:
        crc = int.from_bytes(blob[-4:], "little")
        if zlib.crc32(memoryview(blob)[:-4], zlib.crc32(kinds)) != crc or len(
            blob
        ) != 4 + 4 * dims * len(kinds):
            unpack_vectors(number, kinds, blob, dims)  # Says what is wrong.
        parts.append(blob[:-4])
    numbers = np.fromiter((row[0] for row in whole), dtype=np.int64, count=len(whole))
    every = b"".join([row[1] for row in whole])
    if len(every) != len(whole):
        numbers = np.repeat(numbers, [len(row[1]) for row in whole])
    matrix = np.frombuffer(b"".join(parts), dtype="<f4").reshape(len(every), dims)
    return numbers, np.frombuffer(every, dtype=np.uint8), matrix
