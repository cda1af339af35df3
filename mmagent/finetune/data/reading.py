"""Files of rows, read one row at a time and within bounds.

A row that is too long or nested too deep is named and skipped over; it is never held in memory
nor given to the JSON parser.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmagent.errors import UsageError
from mmagent.finetune.data.rows import Problem

__all__ = ["MAX_DEPTH", "read_objects"]

MAX_DEPTH = 32
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\],]', re.DOTALL)
_OPEN, _CLOSE = b"{[", b"}]"


def read_objects(path: Path, max_bytes: int) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) for each row of a file, the value a `Problem` where it is unusable.

    Args:
        path: JSON lines, or one JSON list.
        max_bytes: The longest row that is read.

    Raises:
        UsageError: The file cannot be read or has no rows.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not head:
                raise UsageError(f"{path} is empty; give a file with one dialogue a row.")
            file.seek(0)
            if head.startswith(b"["):
                rows = _elements(file, path, max_bytes)
            else:
                rows = _lines(file, max_bytes)
            number = 0
            for number, (raw, reason) in enumerate(rows, start=1):
                where = f"{path.name}, row {number}"
                yield where, _parse(where, raw) if raw is not None else _bad(where, reason)
            if not number:
                raise UsageError(f"{path} has no rows; give a file with one dialogue a row.")
    except OSError as error:
        raise UsageError(
            f"The data {path} cannot be read: {error.strerror or error}. "
            "Name a .jsonl or .json file."
        ) from error


def _too_long(max_bytes: int) -> str:
    return (
        f"the row is longer than {max_bytes:,} bytes; keep pictures in files beside it, or raise "
        "max_row_bytes"
    )


def _lines(file: Any, max_bytes: int) -> Iterator[tuple[bytes | None, str]]:
    while line := file.readline(max_bytes + 2):
        if len(line.rstrip(b"\r\n")) > max_bytes:
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 20)
            yield None, _too_long(max_bytes)
        elif line.strip():
            yield line, ""


def _elements(file: Any, path: Path, max_bytes: int) -> Iterator[tuple[bytes | None, str]]:
    """The elements of a JSON list, found by its brackets alone."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        depth, start, ended = 0, 0, False
        for mark in _MARKS.finditer(data):
            byte = mark.group()[:1]
            if byte in _OPEN:
                depth += 1
                if depth == 1:
                    start = mark.end()
            elif byte in _CLOSE or byte == b",":
                if depth == 1:
                    if mark.start() - start > max_bytes:
                        yield None, _too_long(max_bytes)
                    elif raw := data[start : mark.start()].strip():
                        yield raw, ""
                    start = mark.end()
                if byte in _CLOSE:
                    depth -= 1
                    if depth == 0:
                        ended = True
                        break
        if not ended:
            raise UsageError(f"{path} ends in the middle of its list; it may have been cut off.")


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for mark in _MARKS.finditer(raw):
        byte = mark.group()[:1]
        if byte in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        elif byte in _CLOSE:
            depth -= 1
    return deepest


def _parse(where: str, raw: bytes) -> Any:
    if _depth(raw) > MAX_DEPTH:
        return _bad(where, f"the row is nested deeper than {MAX_DEPTH} levels; flatten it")
    try:
        found = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return _bad(where, "the row is not UTF-8 text; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return _bad(where, f"the row is not JSON ({error}); mend or remove it")
    if not isinstance(found, dict):
        return _bad(where, "the row is not a JSON object; write one object a dialogue")
    return found


def _bad(where: str, reason: str) -> Problem:
    return Problem(where, "unreadable row", f"{reason}.")
