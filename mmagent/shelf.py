"""What was loaded for earlier turns, so that a long conversation decodes each thing only once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from mmagent.attachments import Part, Transcribe, read_attachment
from mmagent.media import LoadedImage, MediaPolicy, load_image

__all__ = ["ImageShelf"]

_ATTACHMENTS = 8
"""Most PDFs, films and recordings remembered between turns."""


@dataclass
class ImageShelf:
    """Pictures that were loaded before, so that a long conversation decodes each only once.

    Holds what arrives inside messages or from hosts; files are read anew, since they change.
    """

    max_bytes: int = 256 * 1024 * 1024
    _images: OrderedDict[str, LoadedImage] = field(default_factory=OrderedDict)
    _attachments: OrderedDict[tuple[str, str, int, bool], list[Part]] = field(
        default_factory=OrderedDict
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, source: bytes | Path | str, policy: MediaPolicy) -> LoadedImage:
        """`load_image`, remembered."""
        remote = isinstance(source, str) and source[:5].lower() in ("data:", "http:", "https")
        if not isinstance(source, bytes) and not remote:
            return load_image(source, policy)
        raw = source if isinstance(source, bytes) else str(source).encode("utf-8", "replace")
        key = hashlib.sha256(raw).hexdigest()
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        image = load_image(source, policy)
        with self._lock:
            self._images[key] = image
            while len(self._images) > 1 and self._size() > self.max_bytes:
                self._images.popitem(last=False)
        return image

    def open(
        self,
        data: bytes,
        kind: str,
        policy: MediaPolicy,
        transcribe: Transcribe | None,
        *,
        hears: bool = False,
    ) -> list[Part]:
        """`read_attachment`, remembered: a film is not decoded anew in every turn."""
        key = (hashlib.sha256(data).hexdigest(), kind, id(transcribe), hears)
        with self._lock:
            if key in self._attachments:
                self._attachments.move_to_end(key)
                return self._attachments[key]
        parts = read_attachment(data, kind, policy, transcribe, hears=hears)
        with self._lock:
            self._attachments[key] = parts
            while len(self._attachments) > _ATTACHMENTS:
                self._attachments.popitem(last=False)
        return parts

    def _size(self) -> int:
        return sum(len(image.data) for image in self._images.values())
