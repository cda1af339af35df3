"""Pictures from outside: where they may come from, and how they are decoded within bounds.

`load_image` is the one door. It takes bytes, a path, or a `data:`, `file:`, `http:` or `https:`
address, and either returns a `LoadedImage` that is known to decode or raises `MediaError`. The
default `MediaPolicy` allows what carries its own data and nothing else: no path and no host.

Decoding is bounded twice: in bytes while reading, and in pixels before a single one is decoded
(the header says how many there are). Messages of errors repeat neither data nor addresses, since
they may travel back to whoever sent them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmagent.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LoadedImage", "MediaPolicy", "load_image"]

_MIME_OF = {
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # opened as JPEG; what many phones write, more pictures behind the first
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
}
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class MediaPolicy:
    """Where pictures may come from and how large they may be.

    Attributes:
        allowed_roots: Folders below which files may be read; symbolic links are followed first.
        allowed_hosts: Hosts that http(s) addresses may name, as `"example.org"` or, for one
            port alone, `"example.org:8443"`. An IP address or `localhost` written here may be
            private; a name that resolves to a private address is refused.
        allowed_private_hosts: Names that may resolve to private addresses (your intranet).
        max_bytes: Most bytes of one encoded picture.
        max_pixels: Most pixels of one picture, checked before decoding.
        max_images: Most pictures of one request.
        max_sounds: Most recordings of one request that a model is given as sound.
        max_pages: Most pages of one PDF.
        max_frames: Most frames that a film is shown by, at equal distances.
        max_seconds: Most seconds of one recording of sound or film.
        max_redirects: Redirects followed, each checked like the first address.
        timeout: Seconds for one download, all redirects together.
        formats: Names of Pillow's decoders that may run.
        file_resolver: Turns the `file_id` of a content block into bytes or a path.
    """

    allowed_roots: tuple[str | Path, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_private_hosts: tuple[str, ...] = ()
    max_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_images: int = 64
    max_sounds: int = 16
    max_pages: int = 32
    max_frames: int = 8
    max_seconds: float = 600.0
    max_redirects: int = 3
    timeout: float = 20.0
    formats: tuple[str, ...] = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
    file_resolver: Callable[[str], bytes | Path] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class LoadedImage:
    """One picture that is known to decode.

    Attributes:
        data: The encoded bytes, as they came.
        mime_type: By content, whatever the sender said.
        sha256: Hex digest of `data`; the picture's identity.
        width: In pixels, after the EXIF rotation.
        height: In pixels, after the EXIF rotation.
    """

    data: bytes = field(repr=False)
    mime_type: str
    sha256: str
    width: int
    height: int
    # The picture decoded while checking it, handed to the first caller of `pil` and then let go:
    # twenty megapixels are sixty megabytes.
    _decoded: list[Any] = field(default_factory=list, repr=False, compare=False)

    def pil(self) -> Image.Image:
        """The picture in RGB: first frame, upright, transparency on white."""
        try:
            decoded: Image.Image = self._decoded.pop()
        except IndexError:
            return _decode(self.data, MediaPolicy(max_pixels=self.width * self.height))[0]
        return decoded


def load_image(
    source: bytes | bytearray | memoryview | Path | str, policy: MediaPolicy | None = None
) -> LoadedImage:
    """Read and check one picture.

    Args:
        source: Bytes; a path; or a string that is a path or a `data:`, `file:`, `http:` or
            `https:` address.
        policy: What is allowed; by default bytes and `data:` alone.

    Raises:
        MediaError: The source is not allowed, is too large, or is not a picture we can read.
    """
    from mmagent import media_sources

    policy = policy or MediaPolicy()
    data = media_sources.read(source, policy)
    if not data:
        raise MediaError("The picture is empty (0 bytes); send the whole file.")
    picture, mime_type = _decode(data, policy)
    return LoadedImage(
        data=data,
        mime_type=mime_type,
        sha256=hashlib.sha256(data).hexdigest(),
        width=picture.width,
        height=picture.height,
        _decoded=[picture],
    )


def _decode(data: bytes, policy: MediaPolicy) -> tuple[Image.Image, str]:
    """Decode the first frame to upright RGB; every failure of Pillow becomes a `MediaError`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    allowed = [name for name in policy.formats if name in _MIME_OF and name != "MPO"]
    too_large = MediaError(
        f"The picture has more than {policy.max_pixels:,} pixels; make it smaller, "
        "or raise MediaPolicy(max_pixels=...)."
    )
    try:
        with Image.open(io.BytesIO(data), formats=allowed) as picture:
            # Before `load`: the header alone has been read up to here.
            if picture.width * picture.height > policy.max_pixels:
                raise too_large
            mime_type = _MIME_OF[picture.format or ""]
            picture.seek(0)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            return _to_rgb(upright), mime_type
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except UnidentifiedImageError:
        raise MediaError(
            f"The data is not a picture in a format that is allowed here ({', '.join(allowed)}); "
            "convert it to one of these."
        ) from None
    except MemoryError:
        raise MediaError("There is not enough memory to decode the picture.") from None
    except Exception as error:  # Pillow's decoders raise a zoo: OSError, SyntaxError, struct.error
        raise MediaError(
            "The picture is damaged or cut off and cannot be decoded; send it again, "
            f"or save it anew in another program ({type(error).__name__})."
        ) from None


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB: 16 bits scaled rather than clipped, transparency put on white."""
    from PIL import Image

    if picture.mode == "RGB":
        return picture.copy()
    if picture.mode in (*_SIXTEEN_BIT, "I", "F"):
        return _scaled_to_8_bits(picture).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        paper = Image.new("RGBA", with_alpha.size, "white")
        return Image.alpha_composite(paper, with_alpha).convert("RGB")
    return picture.convert("RGB")


def _scaled_to_8_bits(picture: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits to 8, without Pillow's clipping at 255."""
    import numpy as np
    from PIL import Image

    values = np.asarray(picture).astype("float32")  # (height, width)
    if picture.mode in _SIXTEEN_BIT:
        low, high = 0.0, 65535.0
    else:  # 32-bit integers and floats have no agreed white: stretch what is there
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if picture.mode == "I" and low >= 0 and high <= 65535:
            low, high = 0.0, 65535.0 if high > 255 else 255.0
    span = max(high - low, 1e-12)
    scaled = np.nan_to_num((values - low) / span).clip(0.0, 1.0) * 255.0
    return Image.fromarray(scaled.round().astype("uint8"))
