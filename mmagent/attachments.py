"""Files that are more than one picture: PDFs by their pages, films by frames, speech by its words.

`read_attachment` turns the bytes of one into parts of a message: texts and pictures in order,
each marked with where it is from ("[page 2 of 3]", "[film at 0:04]", "[speech: ...]"). What a
decoder may do is bounded before it runs: pages, pixels, seconds, frames. Containers are told by
their first bytes and opened with that one demuxer, since playlists and the like can name other
files and addresses.

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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["SAMPLE_RATE", "Part", "Transcribe", "read_attachment"]

SAMPLE_RATE = 16_000
"""Of the sound that a transcriber is given, in samples a second."""
Transcribe = Callable[["NDArray[np.float32]"], str]
"""From mono sound, [samples] at SAMPLE_RATE in -1…1, to its words."""
_PAGE_SIDE = 1024
_DECODED_FRAMES = 2_000
_INSTALL = "pip install 'mmagent[media]'"
_CONTAINERS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (8, b"WAVE", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    (0, b"\xff\xfb", "mp3"),
    (0, b"\xff\xf3", "mp3"),
    (0, b"\xff\xf2", "mp3"),
)


@dataclass(frozen=True)
class Part:
    """A text or an encoded picture; one of them is None."""

    text: str | None = None
    picture: bytes | None = None


def read_attachment(
    data: bytes, kind: str, policy: MediaPolicy, transcribe: Transcribe | None
) -> list[Part]:
    """Turn a file into parts of a message.

    Args:
        data: The whole file.
        kind: "pdf", "video" or "audio".
        policy: The bounds.
        transcribe: Turns speech into text; films stay silent without it.

    Raises:
        MediaError: The file is damaged, too long or too large, or of a format not read here; or
            speech comes without a transcriber.
        MissingDependencyError: The library that reads such files is not installed.
    """
    if kind == "pdf":
        return list(_pages(data, policy))
    if kind == "video":
        return [*_frames(data, policy), *_speech_of_film(data, policy, transcribe)]
    if transcribe is None:
        raise MediaError(
            "This model takes no sound; pass ChatMMAgent(transcriber=...) with a speech "
            "recognition checkpoint (Whisper, Moonshine or a folder), which turns it into text."
        )
    return [_transcribed(data, policy, transcribe)]


def _transcribed(data: bytes, policy: MediaPolicy, transcribe: Transcribe) -> Part:
    words = transcribe(_sound(data, policy)).strip()
    return Part(text=f"[speech, transcribed: {words or 'nothing was understood'}]")


def _speech_of_film(
    data: bytes, policy: MediaPolicy, transcribe: Transcribe | None
) -> Iterator[Part]:
    if transcribe is None or data[:3] == b"GIF" or data[8:12] == b"WEBP":
        return
    with _opened(data, "film") as container:
        if not container.streams.audio:
            return
    yield _transcribed(data, policy, transcribe)


def _pages(data: bytes, policy: MediaPolicy) -> Iterator[Part]:
    """Every page as a picture whose longer side is 1,024 pixels."""
    try:
        import pypdfium2
    except ImportError:
        raise MissingDependencyError(f"Reading a PDF needs pypdfium2: {_INSTALL}") from None
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
    with _opened(data, "film") as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise MediaError("The film has no pictures in it; send another file.")
        if stream.width * stream.height > policy.max_pixels:
            raise MediaError(
                f"The film's pictures have more than {policy.max_pixels:,} pixels; make it "
                "smaller, or raise MediaPolicy(max_pixels=...)."
            )
        seconds = _length_of(container, stream, policy)
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


def _length_of(container: Any, stream: Any, policy: MediaPolicy) -> float:
    if stream.duration is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = float(container.duration or 0) / 1e6
    if seconds > policy.max_seconds:
        raise MediaError(
            f"The recording is {seconds:.0f} seconds long, more than {policy.max_seconds:.0f}; "
            "cut it, or raise MediaPolicy(max_seconds=...)."
        )
    return max(0.0, seconds)


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


def _sound(data: bytes, policy: MediaPolicy) -> NDArray[np.float32]:
    """Return mono sound, [samples] at SAMPLE_RATE."""
    import numpy as np

    with _opened(data, "recording") as container:
        import av

        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise MediaError("The recording has no sound in it; send another file.")
        _length_of(container, stream, policy)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        most, heard = int(policy.max_seconds * SAMPLE_RATE), 0
        pieces = []
        try:
            for frame in container.decode(stream):
                for piece in resampler.resample(frame):
                    pieces.append(piece.to_ndarray().reshape(-1))
                    heard += pieces[-1].size
                if heard > most:  # A header can say anything.
                    raise MediaError(
                        f"The recording is longer than {policy.max_seconds:.0f} seconds; cut it, "
                        "or raise MediaPolicy(max_seconds=...)."
                    )
            pieces += [piece.to_ndarray().reshape(-1) for piece in resampler.resample(None)]
        except av.FFmpegError:
            if not pieces:
                raise MediaError(
                    "The recording is damaged and cannot be decoded; send it again."
                ) from None
    if not pieces:
        raise MediaError("The recording is empty; send another one.")
    return np.concatenate(pieces).astype(np.float32)


def _opened(data: bytes, what: str) -> Any:
    """Open a container with the one demuxer that its first bytes name."""
    try:
        import av
    except ImportError:
        raise MissingDependencyError(f"Reading films and sound needs PyAV: {_INSTALL}") from None
    demuxer = next(
        (name for at, mark, name in _CONTAINERS if data[at : at + len(mark)] == mark), None
    )
    if demuxer is None:
        raise MediaError(
            f"The {what} is in a format that is not read here; convert it to MP4, WebM, WAV, "
            "MP3, Ogg or FLAC."
        )
    try:
        return av.open(io.BytesIO(data), format=demuxer)
    except av.FFmpegError:
        raise MediaError(f"The {what} is damaged and cannot be opened; send it again.") from None


def _encoded(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.convert("RGB").save(target, format="PNG", compress_level=1)
    return target.getvalue()
