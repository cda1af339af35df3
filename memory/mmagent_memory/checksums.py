"""The checksum of a stored item: what stands between a flipped bit and a false memory.

It covers everything that an item says and is: its namespace, key, value, words, times, and which
vectors and how many pictures it has. The vectors themselves carry a checksum of their own, since
they are read without the rest and can be made anew; pictures are stored by the hash of their
bytes.

    crc = content(namespace, key, value, fields, words, kinds) ^ stamp(id, times, images)

The two parts are joined by exclusive or, so that a new time of expiry needs no look at the
content.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

__all__ = ["ITEM_COLUMNS", "content_checksum", "item_checksum", "stamp_checksum"]

ITEM_COLUMNS = (
    "id",
    "ns",
    "key",
    "value",
    "fields",
    "created",
    "updated",
    "ttl",
    "expires",
    "images",
    "crc",
    "body",
    "about",
    "caption",
    "context",
    "kinds",
    "vectors",
)
"""The columns of the table `items`, in order."""

_NONE = -(1 << 63)
_LENGTHS = struct.Struct("<9q")
_NUMBERS = struct.Struct("<6q")


def content_checksum(
    path: bytes,
    key: bytes,
    value: str,
    fields: str | None,
    words: Sequence[str | None],
    kinds: bytes,
) -> int:
    """Return the checksum of what an item says.

    Args:
        path: Its namespace as stored.
        key: Its key as stored.
        value: Its value as JSON.
        fields: The paths that were embedded, as JSON.
        words: The four columns of full text.
        kinds: The kinds of its vectors.
    """
    body, about, caption, context = words
    body, about, caption, context = body or "", about or "", caption or "", context or ""
    said = "".join((value, fields or "", body, about, caption, context))
    lengths = _LENGTHS.pack(
        # No fields and no words are not the same as empty ones.
        (fields is None) + 2 * (words[0] is None),
        len(path),
        len(key),
        len(kinds),
        len(value),
        len(fields or ""),
        len(body),
        len(about),
        len(caption),
    )
    return zlib.crc32(b"".join((lengths, path, key, kinds, said.encode("utf-8", "surrogatepass"))))


def stamp_checksum(
    number: int, created: int, updated: int, ttl: int | None, expires: int | None, images: int
) -> int:
    """Return the checksum of an item's number, its times, and how many pictures it has."""
    return zlib.crc32(
        _NUMBERS.pack(
            number,
            created,
            updated,
            _NONE if ttl is None else ttl,
            _NONE if expires is None else expires,
            images,
        )
    )


def item_checksum(path: bytes, columns: Sequence[Any]) -> int | None:
    """Return what the `crc` of a row must be, None where the row cannot be right at all.

    Args:
        path: The namespace of the row, from the table `namespaces`.
        columns: The row as read with `ITEM_COLUMNS`.
    """
    number, _, key, value, fields, created, updated, ttl, expires, images, _ = columns[:11]
    words, kinds = columns[11:15], columns[15]
    try:
        return content_checksum(path, key, value, fields, words, kinds) ^ stamp_checksum(
            number, created, updated, ttl, expires, images
        )
    except (TypeError, AttributeError, struct.error):
        # A number where a text should be, or the like.
        return None
