"""CHARX files: a zip archive with `card.json` and the card's assets, read without unpacking it.

Nothing of the archive is ever written to disk, and a member is read only where its name stays
inside the archive and its size within the bounds, whatever the archive's directory claims.
Source: the Character Card V3 specification ("CHARX"). Files in the wild may have bytes (a JPEG)
before the archive, and spell the scheme of embedded assets `embeded://`, as the specification does.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from io import BytesIO
from pathlib import PurePosixPath

from mmagent.errors import PersonaError

__all__ = ["member_names", "read_card_json", "read_member", "write_charx"]

MAX_CARD_JSON = 16 * 1024 * 1024
MAX_MEMBER = 64 * 1024 * 1024
"""Largest asset after unpacking, in bytes."""
MAX_MEMBERS = 5_000
_CARD = "card.json"
# The oldest date that a zip can hold: the same card gives the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def _open(archive: bytes, source: str) -> zipfile.ZipFile:
    try:
        opened = zipfile.ZipFile(BytesIO(archive))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise PersonaError(f"{source} is a damaged archive; get the original file.") from error
    if len(opened.infolist()) > MAX_MEMBERS:
        raise PersonaError(f"{source} holds more than {MAX_MEMBERS:,} files; no card does.")
    return opened


def _is_safe(info: zipfile.ZipInfo) -> bool:
    name = info.filename
    path = PurePosixPath(name)
    is_link = stat.S_ISLNK(info.external_attr >> 16)
    outside = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    return not (is_link or outside)


def _read(opened: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, source: str) -> bytes:
    if info.flag_bits & 0x1:
        raise PersonaError(f"{source} is encrypted; export the card again without a password.")
    try:
        with opened.open(info) as member:
            data = member.read(most + 1)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:
        raise PersonaError(
            f"{source}: {info.filename!r} in it is damaged; get the original file."
        ) from error
    if len(data) > most:
        raise PersonaError(f"{source}: {info.filename!r} in it unpacks to over {most:,} bytes.")
    return data


def read_card_json(archive: bytes, source: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the card's JSON and remarks on members that are left alone.

    Raises:
        PersonaError: The archive is damaged or holds no `card.json`.
    """
    with _open(archive, source) as opened:
        unsafe = [info.filename for info in opened.infolist() if not _is_safe(info)]
        info = next((info for info in opened.infolist() if info.filename == _CARD), None)
        if info is None or not _is_safe(info):
            raise PersonaError(f"{source} is an archive without a card.json, so no CHARX card.")
        raw = _read(opened, info, MAX_CARD_JSON, source)
    return raw, tuple(f"{name!r} in the archive points outside it: never read." for name in unsafe)


def member_names(archive: bytes) -> list[str]:
    """Return the names of the files beside the card."""
    with _open(archive, "the archive") as opened:
        files = (info for info in opened.infolist() if not info.is_dir() and _is_safe(info))
        return [info.filename for info in files if info.filename != _CARD]


def read_member(archive: bytes, name: str, source: str) -> bytes:
    """Return one asset of the archive.

    Raises:
        PersonaError: It is not in it, is damaged or too large, or its name points outside.
    """
    with _open(archive, source) as opened:
        info = next((info for info in opened.infolist() if info.filename == name), None)
        if info is None or not _is_safe(info):
            raise PersonaError(f"{source} holds no asset {name!r}.")
        return _read(opened, info, MAX_MEMBER, source)


def write_charx(raw_json: bytes, archive: bytes | None = None) -> bytes:
    """Return a CHARX file with the JSON; every other member of the given archive is kept.

    Bytes before the archive are kept too.
    """
    if archive is None:
        return _zip([(zipfile.ZipInfo(_CARD, _EPOCH), raw_json)])
    with _open(archive, "the archive") as opened:
        infos = opened.infolist()
        members = [
            (info, raw_json if info.filename == _CARD else _read(opened, info, MAX_MEMBER, "it"))
            for info in infos
        ]
        start = min((info.header_offset for info in infos), default=0)
    return archive[:start] + _zip(members)


def _zip(members: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for info, data in members:
            copy = zipfile.ZipInfo(info.filename, info.date_time)
            copy.external_attr = info.external_attr
            copy.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(copy, data)
    return out.getvalue()
