"""Copying memories out and in: the steps of `export_jsonl` and `import_jsonl`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmagent_memory.backends import Backend, NewMemory, Steps
from mmagent_memory.names import derived_namespace, is_derived
from mmagent_memory.provenance import derived_value, extras_of
from mmagent_memory.records import hit_of
from mmagent_memory.transfer import LineWriter, line_of, read_lines

__all__ = ["export_steps", "import_steps"]

Namespace = tuple[str, ...]
Loader = Callable[[Namespace, str], Callable[[], bytes]]
_BATCH = 200


def export_steps(backend: Backend, prefix: Namespace, path: str | Path, load: Loader) -> Steps[int]:
    """Write every memory below a prefix to a file; return how many lines."""
    every = yield from backend.everything(prefix)
    writer: LineWriter = yield lambda: LineWriter(path)
    try:
        for stored in every:
            hit = hit_of(stored, load)
            pictures: dict[str, bytes | None] = {}
            for image in hit.images:
                if image.stored:
                    pictures[image.id] = yield from backend.picture(stored.namespace, image.id)
            line = line_of(hit, pictures)
            if is_derived(stored.namespace):
                line["derived"] = extras_of(stored.value)
            writer.write(line)
        yield writer.finish
    except BaseException:
        writer.abandon()
        raise
    return len(every)


def import_steps(
    backend: Backend,
    place_of: Callable[[str | None], Namespace],
    path: str | Path,
    new: Callable[..., NewMemory],
) -> Steps[int]:
    """Remember the lines of a file; return how many.

    Args:
        backend: Where.
        place_of: From the persona that a line names to the namespace it goes into.
        path: The file.
        new: Makes a memory of a turn from its line.
    """
    count = 0
    batch: dict[Namespace, list[NewMemory]] = {}
    for line in read_lines(path):
        place = place_of(line.pop("persona"))
        derived = line.pop("derived", None)
        if derived is None:
            memory = new(captions=(), **line)
        else:
            place = derived_namespace(place)
            memory = NewMemory(line["id"], derived_value(line, derived))
        batch.setdefault(place, []).append(memory)
        count += 1
        if count % _BATCH == 0:
            yield from _add(backend, batch)
            batch = {}
    yield from _add(backend, batch)
    return count


def _add(backend: Backend, batch: dict[Namespace, list[NewMemory]]) -> Steps[None]:
    for namespace, memories in batch.items():
        yield from backend.add(namespace, memories)
