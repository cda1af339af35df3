"""Pictures as they come in: bytes, paths, PIL images, and pictures recalled before."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.records import StoredImage
from mmagent_memory.rows import Picture

__all__ = ["GivenPicture", "read_picture"]

_MAX_BYTES = 50 * 1024 * 1024
_MIME = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}


@dataclass(frozen=True)
class GivenPicture:
    """A picture with its caption; `picture` is None where only the caption is known."""

    picture: Picture | None
    caption: str | None

    @property
    def id(self) -> str:
        """The picture's id: the hash of its bytes, or of its caption if there are none."""
        if self.picture is not None:
            return self.picture.hash.hex()
        caption = (self.caption or "").encode("utf-8", "surrogatepass")
        return hashlib.sha256(b"caption:" + caption).hexdigest()

    def entry(self) -> dict[str, Any]:
        """Return what a memory's value says of the picture."""
        entry: dict[str, Any] = {"id": self.id, "caption": self.caption}
        if self.picture is None:
            return {**entry, "stored": False}
        return {
            **entry,
            "mime_type": self.picture.mime_type,
            "width": self.picture.width,
            "height": self.picture.height,
        }


def read_picture(source: Any, caption: str | None = None) -> GivenPicture:
    """Read a picture: encoded bytes, a path, a PIL image, a `StoredImage`, or None for a caption.

    Also a mapping with `data` and `caption`, and any object with `data` and `mime_type`.

    Raises:
        MemoryUsageError: It is no picture, too large, or cannot be read.
    """
    if isinstance(source, Mapping):
        caption = caption or source.get("caption")
        source = source.get("data")
    elif isinstance(source, StoredImage):
        caption = caption or source.caption
        source = source.data() if source.stored else None
    if source is None:
        if not caption:
            raise MemoryUsageError("A picture needs its bytes, or at least a caption.")
        return GivenPicture(None, caption)
    return GivenPicture(_decode(_bytes_of(source)), caption)


def _bytes_of(source: Any) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | Path):
        path = Path(source)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise MemoryUsageError(f"The picture {path} is larger than 50 MB; make it smaller.")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MemoryUsageError(
                f"The picture {str(path)[:200]!r} cannot be read: {reason}."
            ) from error
    if hasattr(source, "save") and hasattr(source, "getbands"):
        buffer = io.BytesIO()
        source.convert("RGBA" if "A" in source.getbands() else "RGB").save(buffer, "PNG")
        return buffer.getvalue()
    data = getattr(source, "data", None)
    data = data() if callable(data) else data
    if isinstance(data, bytes):
        return data
    raise MemoryUsageError(
        f"A picture must be bytes, a path or a PIL image, not {type(source).__name__}."
    )


def _decode(data: bytes) -> Picture:
    if len(data) > _MAX_BYTES:
        raise MemoryUsageError("A picture has more than 50 MB; make it smaller.")
    from PIL import Image

    Image.init()
    formats = [name for name in _MIME if name in Image.OPEN]
    try:
        # Only the header is read: no pixel is decoded here, whatever the size.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                kind, (width, height) = image.format or "", image.size
    except Image.DecompressionBombError as error:
        raise MemoryUsageError(
            "A picture has too many pixels to be decoded safely; make it smaller."
        ) from error
    except Exception as error:
        raise MemoryUsageError(
            "A picture cannot be read; give PNG, JPEG, GIF, WebP, BMP, TIFF or AVIF."
        ) from error
    return Picture(hashlib.sha256(data).digest(), _MIME[kind], width, height, data)
