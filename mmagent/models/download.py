"""Fetch one file over HTTP so that a cut connection or a killed process costs little.

Bytes go to `NAME.part`; the next try asks the server for the rest. The caller checks the content
afterwards, so a server that lies about ranges costs a second download and nothing else.
"""

from __future__ import annotations

import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mmagent.errors import DownloadError
from mmagent.models.index import without_credentials

if TYPE_CHECKING:
    import httpx

__all__ = ["fetch"]

_CHUNK = 256 * 1024
_TRIES = 5


def fetch(
    url: str,
    to: Path,
    http: httpx.Client,
    *,
    max_bytes: int,
    report: Callable[[int, int | None], None] = lambda done, total: None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Bring `url` to the file `to`, going on where an earlier try ended.

    Args:
        url: An http, https or file address.
        to: The file; it appears when all of it is there.
        http: The client.
        max_bytes: More is refused.
        report: Called with the bytes that are there and the bytes in all, where known.
        pause: Waits between tries.

    Raises:
        DownloadError: It cannot be had; what has arrived is kept for the next time.
        OSError: It cannot be written.
    """
    import httpx

    part = to.with_name(f"{to.name}.part")
    if url.startswith("file:"):
        _copy(Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)), part, report)
        part.replace(to)
        return
    for attempt in range(_TRIES):
        try:
            _go_on(url, part, http, max_bytes, report)
            part.replace(to)
            return
        except httpx.TransportError as error:
            if attempt == _TRIES - 1:
                raise DownloadError(
                    f"the download from {_host(url)} keeps breaking off "
                    f"({type(error).__name__}); another try goes on where it stopped"
                ) from error
            pause(0.5 * 2**attempt)


def _go_on(
    url: str,
    part: Path,
    http: httpx.Client,
    max_bytes: int,
    report: Callable[[int, int | None], None],
) -> None:
    have = part.stat().st_size if part.exists() else 0
    # Without "identity" a proxy may compress, and the range would be one of compressed bytes.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with http.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416:  # nothing is left to send, or the file is another one
            total = answer.headers.get("content-range", "").rpartition("/")[2]
            if total == str(have):
                return
            part.unlink()
            _go_on(url, part, http, max_bytes, report)
            return
        if answer.status_code not in (200, 206):
            raise DownloadError(f"{_host(url)} answers {answer.status_code} to the download")
        resumed = answer.status_code == 206 and answer.headers.get("content-range", "").startswith(
            f"bytes {have}-"
        )
        done = have if resumed else 0
        length = answer.headers.get("content-length", "")
        total_bytes = done + int(length) if length.isdigit() else None
        with part.open("ab" if resumed else "wb") as file:
            for chunk in answer.iter_bytes(_CHUNK):
                done += len(chunk)
                if done > max_bytes:
                    break
                file.write(chunk)
                report(done, total_bytes)
    if done > max_bytes:
        part.unlink()
        raise DownloadError(
            f"{_host(url)} sends more than the {max_bytes:,} bytes that the file may have"
        )


def _copy(source: Path, part: Path, report: Callable[[int, int | None], None]) -> None:
    total = source.stat().st_size
    with source.open("rb") as reader, part.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
            report(writer.tell(), total)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(without_credentials(url)).netloc or "the index"
