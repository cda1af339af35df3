"""PNG files with text chunks, made by hand."""

import base64
import json
import struct
import zlib
from typing import Any


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(picture: bytes, *chunks: bytes) -> bytes:
    head, tail = picture[:33], picture[33:]
    return head + b"".join(chunks) + tail


def packed(card: dict[str, Any]) -> bytes:
    return base64.b64encode(json.dumps(card).encode())
