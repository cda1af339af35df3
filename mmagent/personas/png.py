"""Text chunks of PNG files, read and written without decoding the picture.

Character cards travel in them: the keyword is `chara` (V1, V2) or `ccv3` (V3), the text is
base64 of JSON. Source: PNG specification, third edition, §11.3.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from mmagent.errors import PersonaError

__all__ = ["MAX_TEXT", "PNG_SIGNATURE", "read_text_chunks", "write_text_chunks"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 16 * 1024 * 1024
"""Largest text of one chunk after inflation, in bytes; the biggest real cards stay below 8 MiB."""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, body) of every whole chunk up to IEND; a truncated tail ends the walk."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            return
        yield kind, data[position + 8 : end]
        if kind == b"IEND":
            return
        position = end + 4


def _inflate(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, MAX_TEXT + 1)
    except zlib.error as error:
        raise PersonaError(
            "A compressed text chunk of the PNG is damaged; get the card again."
        ) from error
    if len(text) > MAX_TEXT:
        raise PersonaError(f"A text chunk of the PNG unpacks to more than {MAX_TEXT:,} bytes.")
    return text


def _text_of(kind: bytes, body: bytes) -> tuple[str, bytes] | None:
    keyword, separator, rest = body.partition(b"\0")
    if not separator:
        return None
    if kind == b"zTXt":
        rest = _inflate(rest[1:])
    elif kind == b"iTXt":
        compressed, rest = rest[:1] == b"\x01", rest[2:]
        _language, _, rest = rest.partition(b"\0")
        _translated, _, rest = rest.partition(b"\0")
        rest = _inflate(rest) if compressed else rest
    if len(rest) > MAX_TEXT:
        raise PersonaError(f"A text chunk of the PNG is larger than {MAX_TEXT:,} bytes.")
    return keyword.decode("latin-1").lower(), rest


def read_text_chunks(data: bytes, keywords: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Return (keyword, text) of the tEXt, zTXt and iTXt chunks with one of the keywords, in order.

    Raises:
        PersonaError: One of them is damaged or larger than `MAX_TEXT`.
    """
    found = []
    for kind, body in _chunks(data):
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        if body.partition(b"\0")[0].decode("latin-1").lower() not in keywords:
            continue
        entry = _text_of(kind, body)
        if entry is not None:
            found.append(entry)
    return found


def write_text_chunks(data: bytes, texts: dict[str, bytes], drop: tuple[str, ...] = ()) -> bytes:
    """Return the PNG with one tEXt chunk for each keyword, in place of those it had.

    Texts under the keywords to drop go too; every other chunk is kept byte for byte.

    Raises:
        PersonaError: The file has no IEND chunk, so it is truncated.
    """
    out = [PNG_SIGNATURE]
    for kind, body in _chunks(data):
        keyword = body.partition(b"\0")[0].decode("latin-1").lower()
        if kind in (b"tEXt", b"zTXt", b"iTXt") and (keyword in texts or keyword in drop):
            continue
        if kind == b"IEND":
            out += [
                _chunk(b"tEXt", name.encode("latin-1") + b"\0" + text)
                for name, text in texts.items()
            ]
            out.append(_chunk(kind, body))
            return b"".join(out)
        out.append(_chunk(kind, body))
    raise PersonaError("The PNG is truncated; get the picture again.")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
