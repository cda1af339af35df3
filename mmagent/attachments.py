"""Files that are more than one picture: PDFs by their pages, films by frames, and recordings.

`read_attachment` turns the bytes of one into parts of a message: texts, pictures and sounds in
order, each marked with where it is from ("[page 2 of 3]", "[film at 0:04]", "[speech: ...]").
Sound stays sound for a model that hears; for others its words are written down. What a decoder
may do is bounded before it runs: pages, pixels, seconds, frames.

PDFs need pypdfium2; films and sound need PyAV (both: `pip install 'mmagent[media]'`).
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmagent.errors import MediaError, MissingDependencyError
from mmagent.media import MediaPolicy
from mmagent.sounds import (
    INSTALL,
    NO_SOUND,
    SAMPLE_RATE,
    LoadedSound,
    decode_sound,
    length_of,
    load_sound,
    open_container,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["SAMPLE_RATE", "Part", "Transcribe", "read_attachment"]

Transcribe = Callable[["NDArray[np.float32]"], str]
"""From mono sound, [samples] at SAMPLE_RATE in -1…1, to its words."""
_PAGE_SIDE = 1024
_DECODED_FRAMES = 2_000


@dataclass(frozen=True)
class Part:
    """A text, an encoded picture or a sound; the others are None."""

    text: str | None = None
    picture: bytes | None = None
    sound: LoadedSound | None = None


def read_attachment(
    data: bytes,
    kind: str,
    policy: MediaPolicy,
    transcribe: Transcribe | None,
    *,
    hears: bool = False,
) -> list[Part]:
    """Turn a file into parts of a message.

    Args:
        data: The whole file.
        kind: "pdf", "video" or "audio".
        policy: The bounds.
        transcribe: Turns speech into text; without it, and for a model that does not hear,
            films stay silent.
        hears: The model takes sound itself.

    Raises:
        MediaError: The file is damaged, too long or too large, or of a format not read here; or
            speech comes without a transcriber.
        MissingDependencyError: The library that reads such files is not installed.
    """
    if kind == "pdf":
        return list(_pages(data, policy))
    if kind == "video":
        return [*_frames(data, policy), *_sound_of_film(data, policy, transcribe, hears=hears)]
    if hears:
        return [Part(sound=load_sound(data, policy))]
    if transcribe is None:
        raise MediaError(NO_SOUND)
    return [_transcribed(data, policy, transcribe)]


def _transcribed(data: bytes, policy: MediaPolicy, transcribe: Transcribe) -> Part:
    words = transcribe(decode_sound(data, policy)).strip()
    return Part(text=f"[speech, transcribed: {words or 'nothing was understood'}]")


def _sound_of_film(
    data: bytes, policy: MediaPolicy, transcribe: Transcribe | None, *, hears: bool
) -> Iterator[Part]:
    if not (hears or transcribe) or data[:3] == b"GIF" or data[8:12] == b"WEBP":
        return
    with open_container(data, "film") as container:
        if not container.streams.audio:
            return
    if hears:
        yield Part(text="[the film's sound]")
        yield Part(sound=load_sound(data, policy))
    elif transcribe is not None:
        yield _transcribed(data, policy, transcribe)


def _pages(data: bytes, policy: MediaPolicy) -> Iterator[Part]:
    """Every page as a picture whose longer side is 1,024 pixels."""
    try:
        import pypdfium2
    except ImportError:
        raise MissingDependencyError(f"Reading a PDF needs pypdfium2: {INSTALL}") from None
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise MediaError(
            "The PDF is locked with a password; send it unlocked."
            if locked
            else "The file is no PDF, or damaged; send it again or save it anew."
        ) from None
    try:
        count = len(document)
        if count > policy.max_pages:
            raise MediaError(
                f"The PDF has {count} pages, more than {policy.max_pages}; send fewer, or raise "
                "MediaPolicy(max_pages=...)."
            )
        for number in range(count):
            try:
                page = document[number]
                longer = max(page.get_size())
                picture = page.render(scale=_PAGE_SIDE / max(longer, 1.0)).to_pil()
            except (pypdfium2.PdfiumError, ValueError, MemoryError):
                raise MediaError(
                    f"Page {number + 1} of the PDF is damaged; save the file anew, or send the "
                    "page as a picture."
                ) from None
            yield Part(text=f"[page {number + 1} of {count}]")
            yield Part(picture=_encoded(picture))
    finally:
        document.close()


def _frames(data: bytes, policy: MediaPolicy) -> Iterator[Part]:
    """Frames at equal distances, the first and nearly the last among them."""
    if data[:3] == b"GIF" or data[8:12] == b"WEBP":
        yield from _animation(data, policy)
        return
    until = time.monotonic() + policy.timeout
    with open_container(data, "film") as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise MediaError("The film has no pictures in it; send another file.")
        if stream.width * stream.height > policy.max_pixels:
            raise MediaError(
                f"The film's pictures have more than {policy.max_pixels:,} pixels; make it "
                "smaller, or raise MediaPolicy(max_pixels=...)."
            )
        seconds = length_of(container, stream, policy)
        wanted = [seconds * (place + 0.5) / policy.max_frames for place in range(policy.max_frames)]
        shown: set[int] = set()
        for moment in wanted:
            frame = _frame_at(container, stream, moment, until)
            if frame is None or frame.pts in shown:
                continue
            shown.add(frame.pts)
            at = float(frame.time or 0.0)
            yield Part(text=f"[film at {int(at) // 60}:{int(at) % 60:02d}]")
            yield Part(picture=_encoded(frame.to_image()))
        if not shown:
            raise MediaError("No picture of the film could be decoded; send it again.")


def _frame_at(container: Any, stream: Any, moment: float, until: float) -> Any:
    """Return the frame shown at a moment: from the key frame before it, decoded forwards."""
    import av

    start = stream.start_time or 0
    target = start + int(moment / stream.time_base)
    last = None
    try:
        container.seek(target, stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            if time.monotonic() > until or number > _DECODED_FRAMES:
                raise MediaError(
                    "Decoding the film takes too long; send a shorter one, or raise "
                    "MediaPolicy(timeout=...)."
                )
            if frame.pts is not None and frame.pts > target and last is not None:
                return last
            last = frame
    except av.FFmpegError:
        return last  # Cut off here; what was read before stands.
    return last


def _animation(data: bytes, policy: MediaPolicy) -> Iterator[Part]:
    """Frames of an animated picture, which Pillow reads by itself."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("GIF", "WEBP")) as picture:
            if picture.width * picture.height > policy.max_pixels:
                raise MediaError(
                    f"The film's pictures have more than {policy.max_pixels:,} pixels; make it "
                    "smaller, or raise MediaPolicy(max_pixels=...)."
                )
            count = int(getattr(picture, "n_frames", 1))
            chosen = sorted(
                {count * (2 * n + 1) // (2 * policy.max_frames) for n in range(policy.max_frames)}
            )
            for number in chosen:
                picture.seek(number)
                yield Part(text=f"[film, frame {number + 1} of {count}]")
                yield Part(picture=_encoded(picture.convert("RGB")))
    except MediaError:
        raise
    except Exception:  # Pillow's decoders raise a zoo
        raise MediaError("The animated picture is damaged or cut off; send it again.") from None


def _encoded(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.convert("RGB").save(target, format="PNG", compress_level=1)
    return target.getvalue()
