"""Copying memories out and in: the steps of `export_jsonl` and `import_jsonl`."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore

from mmagent_memory.backends import Backend, NewMemory, Steps
from mmagent_memory.endpoints import Endpoint, FolderEndpoint, endpoint
from mmagent_memory.errors import EmbedderError, MemoryUsageError
from mmagent_memory.names import derived_namespace, is_derived
from mmagent_memory.provenance import derived_value, extras_of
from mmagent_memory.records import Stored, hit_of, image_entries
from mmagent_memory.rows import Vectors
from mmagent_memory.transfer import (
    Header,
    LineWriter,
    bad_line,
    read_header,
    read_lines,
    vectors_line,
)

__all__ = ["Progress", "Reading", "export_steps", "import_steps"]

Namespace = tuple[str, ...]
Progress = Callable[[int, int], None]
_BATCH = 200
_KNOWN = frozenset(("text", "speaker", "at", "thread", "importance", "images", "previous", "order"))
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """A file to be imported, and what its lines become.

    Attributes:
        path: The file.
        place_of: From the persona that a line names to the namespace it goes into.
        new: Makes a memory of a turn from its line.
    """

    path: str | Path
    place_of: Callable[[str | None], Namespace]
    new: Callable[..., NewMemory]

    def memories(self) -> Iterator[tuple[Namespace, NewMemory]]:
        """Yield what the lines become.

        Raises:
            MemoryUsageError: A line is no memory; the message names it.
        """
        for number, line in read_lines(self.path):
            try:
                yield self._memory(line)
            except MemoryUsageError as error:
                raise bad_line(Path(self.path), number, str(error).rstrip(".")) from error

    def _memory(self, line: dict[str, Any]) -> tuple[Namespace, NewMemory]:
        place = self.place_of(line.pop("persona"))
        derived, more, vectors = (line.pop(name) for name in ("derived", "more", "vectors"))
        if derived is None:
            memory = self.new(captions=(), **line)
        else:
            place = derived_namespace(place)
            memory = NewMemory(line["id"], derived_value(line, derived))
        value = {**{k: v for k, v in more.items() if k not in _KNOWN}, **memory.value}
        return place, replace(memory, value=value, vectors=vectors)


def export_steps(
    store: BaseStore,
    backend: Backend,
    prefix: Namespace,
    path: str | Path,
    progress: Progress | None = None,
) -> Steps[int]:
    """Write every memory below a prefix to a file; return how many lines."""
    source = _endpoint(store)
    every = yield from backend.everything(prefix)
    identity = (yield source.identity) if source else None
    writer: LineWriter = yield lambda: LineWriter(path, identity)
    try:
        for start in range(0, len(every), _BATCH):
            some = every[start : start + _BATCH]
            vectors: dict[int, Vectors] = {}
            if source is not None and identity is not None:
                vectors = yield _vectors_of(source, some)
            for stored in some:
                line = yield from _line(backend, stored)
                line["vectors"] = vectors_line(vectors.get(stored.order))
                writer.write(line)
            if progress:
                progress(start + len(some), len(every))
        yield writer.finish
    except BaseException:
        writer.abandon()
        raise
    return len(every)


def import_steps(
    store: BaseStore,
    backend: Backend,
    reading: Reading,
    progress: Progress | None = None,
    notify: Callable[[str], None] | None = None,
) -> Steps[int]:
    """Remember the lines of a file, once all of them were found sound; return how many."""
    header: Header = yield lambda: read_header(reading.path)
    total: int = yield lambda: sum(1 for _ in reading.memories())
    keep = yield lambda: _same_embedder(store, header, notify or _log.warning)
    count = 0
    batch: dict[Namespace, list[NewMemory]] = {}
    for place, memory in reading.memories():
        batch.setdefault(place, []).append(memory if keep else replace(memory, vectors=None))
        count += 1
        if count % _BATCH == 0 or count == total:
            for namespace, memories in batch.items():
                yield from backend.add(namespace, memories)
            batch = {}
            if progress:
                progress(count, total)
    return count


def _line(backend: Backend, stored: Stored) -> Steps[dict[str, Any]]:
    hit = hit_of(stored, lambda namespace, image_id: bytes)
    images = []
    for image, entry in zip(hit.images, image_entries(stored.value), strict=True):
        data = None
        if image.stored:
            data = yield from backend.picture(stored.namespace, image.id)
        shown = base64.b64encode(data).decode("ascii") if data is not None else None
        images.append({**entry, **image.as_dict(), "data": shown})
    extras = extras_of(stored.value)
    line: dict[str, Any] = {
        "id": hit.id,
        "text": hit.text,
        "speaker": hit.speaker,
        "at": hit.at.isoformat() if hit.at else None,
        "thread": hit.thread,
        "persona": hit.persona,
        "importance": hit.importance,
        "images": images,
    }
    if is_derived(stored.namespace):
        line["derived"] = extras
    else:
        extras = {}
    more = {
        name: value
        for name, value in stored.value.items()
        if name not in _KNOWN and name not in extras
    }
    if more:
        line["more"] = more
    return line


def _endpoint(store: BaseStore) -> Endpoint | None:
    try:
        return endpoint(store)
    except MemoryUsageError:
        return None  # Another store: its vectors are its own affair.


def _vectors_of(source: Endpoint, some: Sequence[Stored]) -> Callable[[], dict[int, Vectors]]:
    return lambda: source.vectors([stored.order for stored in some])


def _same_embedder(store: BaseStore, header: Header, notify: Callable[[str], None]) -> bool:
    """Whether the vectors of a file can be kept as they are."""
    if header.embedder is None or header.dims is None:
        return False
    place = _endpoint(store)
    if place is None:
        return False
    theirs = (header.embedder, header.dims)
    mine = place.identity() or _learn(place, theirs)
    if mine == theirs:
        return True
    if mine is not None:
        notify(
            f"The file's vectors are of {theirs[0]}, this memory's of {mine[0]}: every text and "
            "picture is embedded anew, which takes longer."
        )
    return False


def _learn(place: Endpoint, theirs: tuple[str, int]) -> tuple[str, int] | None:
    """Return whose vectors a store that has none yet is to hold."""
    if not isinstance(place, FolderEndpoint) or not place.store.vectorizer.enabled:
        return None
    try:
        place.store.vectorizer.query("dimension")
    except EmbedderError:
        # None is installed: the file's own then. Whoever brings one later must bring that one.
        with place.store.database.writing() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('embedder', ?)", (theirs[0],))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('dims', ?)", (theirs[1],))
    return place.identity()
