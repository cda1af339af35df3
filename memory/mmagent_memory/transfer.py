"""Memories as JSON lines: one object a memory, pictures and vectors inside in base64.

    {"mmagent_memory": 2, "embedder": …, "dims": …}     first line: what the file is
    {"id": …, "text": …, "images": [{…, "data": …}], "vectors": {"kinds": …, "data": …}, …}
    {"mmagent_memory_end": 1234}                         last line: how many memories there are

A memory also has `speaker`, `at`, `thread`, `persona` and `importance`. What was derived from turns
has `derived`: its kind, the ids of those turns and what else is known of it. `more` is whatever
else its value says. Files of version 1 have neither vectors nor a last line.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mmagent_memory.errors import MemoryStoreError, MemoryUsageError, StoreFullError
from mmagent_memory.rows import MAX_VECTORS, Vectors

__all__ = [
    "FORMAT",
    "Header",
    "LineWriter",
    "bad_line",
    "read_header",
    "read_lines",
    "vectors_line",
]

FORMAT = 2
_HEADER, _END = "mmagent_memory", "mmagent_memory_end"
_MAX_LINE = 512 * 1024 * 1024


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its version, and whose vectors it has."""

    version: int
    embedder: str | None = None
    dims: int | None = None


class LineWriter:
    """Writes a file that is there whole or not at all, for nobody else to read."""

    def __init__(self, path: str | Path, identity: tuple[str, int] | None = None) -> None:
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._count = 0
        try:
            number = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(number, "w", encoding="utf-8")
        except OSError as error:
            raise _unusable(self.path, error) from error
        about = {"embedder": identity[0], "dims": identity[1]} if identity else {}
        self._write({_HEADER: FORMAT, **about})

    def write(self, line: dict[str, Any]) -> None:
        """Write one memory."""
        self._write(line)
        self._count += 1

    def finish(self) -> None:
        """Put the file in its place, on disk."""
        self._write({_END: self._count})
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self.path)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def abandon(self) -> None:
        """Leave no half file behind."""
        with suppress(OSError):  # What it could not write is to go anyway.
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _unusable(self.path, error) from error


def vectors_line(vectors: Vectors | None) -> dict[str, str] | None:
    """Return vectors for a line."""
    if vectors is None or not vectors.kinds:
        return None
    data = np.ascontiguousarray(vectors.matrix, dtype="<f4").tobytes()
    return {
        "kinds": base64.b64encode(vectors.kinds).decode("ascii"),
        "data": base64.b64encode(data).decode("ascii"),
    }


def read_header(path: str | Path) -> Header:
    """Return what a file says of itself.

    Raises:
        MemoryUsageError: It cannot be read or is no export.
    """
    place = Path(path)
    try:
        with place.open("rb") as file:
            return _header(place, file.readline(_MAX_LINE))
    except OSError as error:
        raise _unusable(place, error) from error


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the memories of a file with their line numbers, everything in them decoded.

    Raises:
        MemoryUsageError: It cannot be read, is no such file or is cut off; the message names the
            line.
    """
    place = Path(path)
    count, end = 0, None
    try:
        with place.open("rb") as file:
            header = _header(place, file.readline(_MAX_LINE))
            number = 1
            while line := file.readline(_MAX_LINE):
                number += 1
                if not line.strip():
                    continue
                if end is not None:
                    raise bad_line(place, number, "something follows the last line")
                found = _object(place, number, line)
                if header.version > 1 and _END in found:
                    end = found[_END]
                    continue
                count += 1
                yield number, _memory(place, number, found, header)
    except OSError as error:
        raise _unusable(place, error) from error
    if header.version > 1 and end != count:
        said = "its last line is missing" if end is None else f"it should have {end} memories"
        raise MemoryUsageError(
            f"{place} is cut off after line {number}: {said}, and {count} were found. Nothing was "
            "imported; export or copy it again."
        )


def bad_line(path: Path, number: int, reason: str) -> MemoryUsageError:
    """Return the error of a line that is no memory."""
    return MemoryUsageError(
        f"Line {number} of {path} is no memory ({reason}). Nothing was imported; mend or remove "
        "that line, or export again."
    )


def _header(path: Path, line: bytes) -> Header:
    try:
        found = json.loads(line)
        version = found[_HEADER]
        embedder, dims = found.get("embedder"), found.get("dims")
        if version not in (1, FORMAT) or not isinstance(embedder, str | None):
            raise ValueError(version)
        if (embedder is None) != (dims is None) or (dims is not None and not 0 < int(dims) < 2**16):
            raise ValueError(dims)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MemoryUsageError(
            f"Line 1 of {path}: this is no export of memories, or a newer version's; it must begin "
            f'with {{"{_HEADER}": {FORMAT}, …}}.'
        ) from error
    return Header(version, embedder, dims)


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_line(path, number, str(error)) from error
    if not isinstance(found, dict):
        raise bad_line(path, number, "it is no object")
    return found


def _memory(path: Path, number: int, line: dict[str, Any], header: Header) -> dict[str, Any]:
    try:
        at = _of(line, "at", str)
        return {
            "id": _required(line["id"], str),
            "text": _of(line, "text", str) or "",
            "images": [_image(entry) for entry in _of(line, "images", list) or ()],
            "speaker": _of(line, "speaker", str),
            "at": datetime.fromisoformat(at) if at else None,
            "thread": _of(line, "thread", str),
            "importance": _of(line, "importance", int | float),
            "persona": _of(line, "persona", str),
            "derived": _of(line, "derived", dict),
            "more": _of(line, "more", dict) or {},
            "vectors": _vectors(_of(line, "vectors", dict), header.dims),
        }
    except MemoryStoreError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise bad_line(path, number, reason) from error


def _of(line: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = line.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise TypeError(f"{name} is a {type(value).__name__}")
    return value


def _required(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or not value:
        raise TypeError(f"its id is {value!r}")
    return value


def _image(entry: Any) -> dict[str, Any]:
    data = base64.b64decode(entry["data"], validate=True) if entry.get("data") else None
    if data is not None and hashlib.sha256(data).hexdigest() != entry.get("id"):
        raise ValueError("a picture's bytes do not match its id")
    if data is None and not isinstance(entry.get("caption"), str):
        raise ValueError("a picture has neither bytes nor a caption")
    return {**entry, "data": data}


def _vectors(entry: Mapping[str, str] | None, dims: int | None) -> Vectors | None:
    if entry is None or dims is None:
        return None
    kinds = base64.b64decode(entry["kinds"], validate=True)
    data = base64.b64decode(entry["data"], validate=True)
    if (
        not 0 < len(kinds) <= MAX_VECTORS
        or set(kinds) > {0, 1}
        or len(data) != 4 * dims * len(kinds)
    ):
        raise ValueError("its vectors are of another length than the first line says")
    matrix = np.frombuffer(data, dtype="<f4").reshape(len(kinds), dims).astype(np.float32)
    if not np.isfinite(matrix).all() or (np.linalg.norm(matrix, axis=1) > 1.001).any():
        raise ValueError("its vectors are no unit vectors")
    return Vectors(kinds, matrix)


def _unusable(path: Path, error: OSError) -> MemoryStoreError:
    reason = error.strerror or error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFullError(f"{path} could not be written: {reason}. Make room and try again.")
    return MemoryUsageError(f"The file {path} cannot be used: {reason}.")
