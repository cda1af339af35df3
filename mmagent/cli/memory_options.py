"""What the commands of `mmagent memory` share: options, opening, finding, showing."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmagent.cli.screen import is_terminal, printable

if TYPE_CHECKING:
    from mmagent_memory import FaissStore, LongTermMemory, MemoryHit
    from mmagent_memory.postgres import PostgresMemoryStore

__all__ = [
    "Json",
    "MemoryId",
    "PersonaName",
    "Place",
    "User",
    "examples",
    "find",
    "head",
    "open_store",
    "opened",
    "place_of",
    "progress",
    "shown",
]

Place = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="FOLDER",
        help="The memory's folder, or postgresql://… [default: your own].",
    ),
]
User = Annotated[str, typer.Option("--user", help="Whose memory it is.")]
PersonaName = Annotated[
    str | None,
    typer.Option("--persona", help="Only what was said with this persona [default: all]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one value a line.")]
MemoryId = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")]


def examples(*lines: str) -> str:
    """The end of a help text: commands to copy, which are not set anew."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@contextmanager
def opened(
    place: str | Path | None, user: str, persona: str | None, *, create: bool = False
) -> Iterator[LongTermMemory]:
    """The memory in a folder or database, by default only one that is there; closed after."""
    from mmagent_memory import LongTermMemory

    with closing(open_store(place, create=create)) as store:
        yield LongTermMemory(store, user=user, persona=persona)


def open_store(
    place: str | Path | None, *, create: bool = False
) -> FaissStore | PostgresMemoryStore:
    """The store in a folder or database, or in the person's own folder."""
    from mmagent.embedders import default_embedder
    from mmagent_memory import FaissStore
    from mmagent_memory.migrate import is_postgres

    where = place_of(place)
    if is_postgres(where):
        from mmagent_memory.postgres import PostgresMemoryStore

        return PostgresMemoryStore(where, default_embedder())
    return FaissStore(where, default_embedder(), create=create)


def place_of(place: str | Path | None) -> str:
    """Where the memory is: as given, or the person's own folder."""
    from mmagent.home import default_memory_folder

    return str(place or default_memory_folder())


def find(memory: LongTermMemory, wanted: str) -> str:
    """The id that `wanted` is, or is the beginning of.

    Raises:
        UsageError: No memory has such an id, or several have.
    """
    from mmagent.errors import UsageError

    if memory.get(wanted) is not None:
        return wanted
    found = [hit.id for hit in memory.list() if wanted and hit.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} memories have an id that begins with {wanted}: give more.")
    raise UsageError(
        f"{memory.user} has no memory {wanted!r}: `mmagent memory list` shows what there is."
    )


def head(hit: MemoryHit, *, scored: bool = False) -> str:
    """The first line of a memory: which, how well it fits, when, who."""
    about = [hit.id[:12]]
    if scored:
        about.append(f"{hit.score:.2f}")
    if hit.at is not None:
        about.append(hit.at.astimezone().strftime("%Y-%m-%d %H:%M"))
    if hit.speaker:
        about.append(hit.speaker)
    return printable("  ".join(about))


def shown(hit: MemoryHit, *, scored: bool = False) -> str:
    """One memory for a person."""
    pictures = "".join(f" [picture {image.id[:12]}]" for image in hit.images)
    text = textwrap.indent(printable(hit.text + pictures), "    ")
    return f"{head(hit, scored=scored)}\n{text}"


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and nothing where nobody looks; told (done, of how many)."""
    if not is_terminal(sys.stderr):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar: Any = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
