"""Sound from outside: recordings that are known to decode, as samples at any rate.

Containers are told by their first bytes and opened with that one demuxer, since playlists and the
like can name other files and addresses. Decoding is bounded in seconds of what comes out, whatever
a header says. Needs PyAV: `pip install 'mmagent[media]'`.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmagent.errors import MediaError, MissingDependencyError
from mmagent.media import MediaPolicy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "INSTALL",
    "NO_SOUND",
    "SAMPLE_RATE",
    "LoadedSound",
    "decode_sound",
    "length_of",
    "load_sound",
    "open_container",
]

SAMPLE_RATE = 16_000
"""Of the sound that a transcriber is given, and that most models take, in samples a second."""
INSTALL = "pip install 'mmagent[media]'"
NO_SOUND = (
    "This model takes no sound; pass ChatMMAgent(transcriber=...) with a speech recognition "
    "checkpoint (Whisper, Moonshine or a folder), which turns it into text."
)
_SHORTEST = 0.1  # seconds; models whose tokens stand for 40 ms would make nothing of less
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
class LoadedSound:
    """One recording that is known to decode.

    Attributes:
        data: The encoded bytes, as they came.
        sha256: Hex digest of `data`; the recording's identity.
        seconds: How long it is.
    """

    data: bytes = field(repr=False)
    sha256: str
    seconds: float
    # Decoded while checking it, handed to the first caller of `samples` and then let go.
    _decoded: list[Any] = field(default_factory=list, repr=False, compare=False)

    def samples(self, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
        """Mono sound in -1…1, [samples] at `rate`; of 0.1 seconds at least, silence behind."""
        import numpy as np

        sound: NDArray[np.float32]
        try:
            found, sound = self._decoded.pop()
        except IndexError:
            found, sound = 0, np.empty(0, np.float32)
        if found != rate:
            sound = decode_sound(self.data, MediaPolicy(max_seconds=self.seconds + 1), rate)
        missing = int(_SHORTEST * rate) - sound.size
        return np.pad(sound, (0, missing)) if missing > 0 else sound


def load_sound(data: bytes, policy: MediaPolicy) -> LoadedSound:
    """Decode and check one recording, or the sound of a film.

    Raises:
        MediaError: It is damaged, too long, or of a format that is not read here.
        MissingDependencyError: PyAV is not installed.
    """
    sound = decode_sound(data, policy)
    return LoadedSound(
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        seconds=sound.size / SAMPLE_RATE,
        _decoded=[(SAMPLE_RATE, sound)],
    )


def decode_sound(data: bytes, policy: MediaPolicy, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Mono sound in -1…1, [samples] at `rate`; raises what `load_sound` raises."""
    import numpy as np

    too_long = MediaError(
        f"The recording is longer than {policy.max_seconds:.0f} seconds; cut it, "
        "or raise MediaPolicy(max_seconds=...)."
    )
    with open_container(data, "recording") as container:
        import av

        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise MediaError("The recording has no sound in it; send another file.")
        length_of(container, stream, policy)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        most, heard = int(policy.max_seconds * rate), 0
        pieces = []
        try:
            for frame in container.decode(stream):
                # Before it is resampled, which can make much of little.
                if heard + frame.samples * rate / max(frame.sample_rate, 1) > most + rate:
                    raise too_long
                for piece in resampler.resample(frame):
                    pieces.append(piece.to_ndarray().reshape(-1))
                    heard += pieces[-1].size
                if heard > most:  # A header can say anything.
                    raise too_long
            pieces += [piece.to_ndarray().reshape(-1) for piece in resampler.resample(None)]
        except MediaError:
            raise
        except (av.FFmpegError, ValueError, MemoryError):  # what was heard before stands
            if not pieces:
                raise MediaError(
                    "The recording is damaged and cannot be decoded; send it again."
                ) from None
    if not pieces:
        raise MediaError("The recording is empty; send another one.")
    sound = np.concatenate(pieces).astype(np.float32)
    # Samples may be written as floats, which may be no numbers.
    return np.nan_to_num(sound, copy=False, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)


def length_of(container: Any, stream: Any, policy: MediaPolicy) -> float:
    """Seconds of a stream, as its header tells them.

    Raises:
        MediaError: More than the policy allows.
    """
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


def open_container(data: bytes, what: str) -> Any:
    """Open a container with the one demuxer that its first bytes name.

    Raises:
        MediaError: It is damaged, or of a format that is not read here.
        MissingDependencyError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingDependencyError(f"Reading films and sound needs PyAV: {INSTALL}") from None
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
