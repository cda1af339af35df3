"""`mmagent memory`: look into a memory, and change it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmagent.cli.screen import print_json, printable

if TYPE_CHECKING:
    from mmagent_memory import FaissStore, LongTermMemory, MemoryHit

__all__ = ["app", "find", "open_store", "opened", "shown"]

app = typer.Typer(
    help="Look into a memory: list, search, add, forget, erase, export, import, stats.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path | None,
    typer.Option("--memory", metavar="FOLDER", help="The memory folder [default: your own]."),
]
User = Annotated[str, typer.Option("--user", help="Whose memory it is.")]
PersonaName = Annotated[
    str | None,
    typer.Option("--persona", help="Only what was said with this persona [default: all]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one value a line.")]
Count = Annotated[int, typer.Option("-k", "--limit", min=1, help="Most memories shown.")]
MemoryId = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")]


@contextmanager
def opened(
    folder: Path | None, user: str, persona: str | None, *, create: bool = False
) -> Iterator[LongTermMemory]:
    """The memory in a folder, by default only one that is there; closed after the block."""
    from mmagent_memory import LongTermMemory

    with closing(open_store(folder, create=create)) as store:
        yield LongTermMemory(store, user=user, persona=persona)


def open_store(folder: Path | None, *, create: bool = False) -> FaissStore:
    """The store in a folder, or in the person's own."""
    from mmagent.embedders import default_embedder
    from mmagent.home import default_memory_folder
    from mmagent_memory import FaissStore

    return FaissStore(folder or default_memory_folder(), default_embedder(), create=create)


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


def shown(hit: MemoryHit, *, scored: bool = False) -> str:
    """One memory for a person."""
    about = [hit.id[:12]]
    if scored:
        about.append(f"{hit.score:.2f}")
    if hit.at is not None:
        about.append(hit.at.astimezone().strftime("%Y-%m-%d %H:%M"))
    if hit.speaker:
        about.append(hit.speaker)
    pictures = "".join(f" [picture {image.id[:12]}]" for image in hit.images)
    text = textwrap.indent(printable(hit.text + pictures), "    ")
    return f"{printable('  '.join(about))}\n{text}"


def _print(hits: list[MemoryHit], as_json: bool, *, scored: bool = False) -> None:
    for hit in hits:
        if as_json:
            print_json(hit.as_dict())
        else:
            typer.echo(shown(hit, scored=scored))


@app.command("list")
def list_(
    folder: Folder = None,
    user: User = "user",
    persona: PersonaName = None,
    limit: Annotated[int | None, typer.Option("-k", "--limit", min=1, help="Most shown.")] = None,
    as_json: Json = False,
) -> None:
    """Show memories, newest first; pictures by their ids."""
    with opened(folder, user, persona) as memory:
        hits = memory.list(limit)
    _print(hits, as_json)
    if not hits and not as_json:
        typer.echo(f"Nothing is remembered of {user} yet.")


@app.command()
def search(
    question: Annotated[str, typer.Argument(help="What to look for, in words.")] = "",
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture to look for; repeatable.")
    ] = None,
    folder: Folder = None,
    user: User = "user",
    persona: PersonaName = None,
    limit: Count = 5,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what the scores are made of.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find memories by words, by meaning, and by pictures; best first."""
    from mmagent.cli.pictures import load_pictures
    from mmagent.errors import UsageError

    pictures = [picture.data for picture in load_pictures(image or [])]
    if not question.strip() and not pictures:
        raise UsageError("Say what to look for: words, or --image FILE.")
    with opened(folder, user, persona) as memory:
        hits = memory.recall(question, images=pictures, k=limit)
    if explain and not as_json:
        for hit in hits:
            parts = hit.explain.get("parts", hit.explain)
            typer.echo(shown(hit, scored=True))
            typer.echo("    " + ", ".join(f"{name} {part:.3f}" for name, part in parts.items()))
        return
    _print(hits, as_json, scored=True)
    if not hits and not as_json:
        typer.echo("Nothing fits.")


@app.command()
def add(
    text: Annotated[str, typer.Argument(help="What to remember.")] = "",
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture of it; repeatable.")
    ] = None,
    speaker: Annotated[str | None, typer.Option("--speaker", help="Who said it.")] = None,
    folder: Folder = None,
    user: User = "user",
    persona: Annotated[str | None, typer.Option("--persona", help="With which persona.")] = "mia",
    as_json: Json = False,
) -> None:
    """Remember a text or pictures."""
    from mmagent.cli.pictures import load_pictures

    pictures = [picture.data for picture in load_pictures(image or [])]
    with opened(folder, user, persona, create=True) as memory:
        id_ = memory.remember(text, images=pictures, speaker=speaker)
    if as_json:
        print_json({"id": id_})
    else:
        typer.echo(id_)


@app.command()
def forget(
    id_: MemoryId,
    folder: Folder = None,
    user: User = "user",
    persona: PersonaName = None,
    as_json: Json = False,
) -> None:
    """Remove one memory and every trace of it."""
    with opened(folder, user, persona) as memory:
        whole = find(memory, id_)
        memory.forget(whole)
    if as_json:
        print_json({"forgotten": whole})
    else:
        typer.echo(f"Forgotten: {whole}")


@app.command()
def erase(
    folder: Folder = None,
    user: User = "user",
    persona: PersonaName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove everything that is remembered of a user; print a receipt."""
    import sys

    from mmagent.cli.screen import is_terminal
    from mmagent.errors import UsageError

    with opened(folder, user, persona) as memory:
        count = memory.count()
        if not yes:
            if not is_terminal(sys.stdin):
                raise UsageError(
                    f"This would erase {count} memories of {user} for good: add --yes to do it."
                )
            typer.confirm(f"Erase {count} memories of {user} for good?", abort=True, err=True)
        receipt = memory.erase()
    if as_json:
        print_json(receipt.as_dict())
        return
    typer.echo(f"Erased {receipt.memories} memories and {receipt.images} pictures of {user}.")
    for text in receipt.notes:
        typer.echo(text)


@app.command("export")
def export_(
    file: Annotated[Path, typer.Argument(help="The file to write (JSON lines).")],
    folder: Folder = None,
    user: User = "user",
    persona: PersonaName = None,
    as_json: Json = False,
) -> None:
    """Write a user's memories with their pictures to a file."""
    with opened(folder, user, persona) as memory:
        count = memory.export_jsonl(file)
    _say_count("exported", count, str(file), as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that export wrote.")],
    folder: Folder = None,
    user: User = "user",
    persona: PersonaName = None,
    as_json: Json = False,
) -> None:
    """Read memories from a file; what is there already is left as it is."""
    with opened(folder, user, persona, create=True) as memory:
        count = memory.import_jsonl(file)
    _say_count("imported", count, str(file), as_json)


def _say_count(what: str, count: int, file: str, as_json: bool) -> None:
    if as_json:
        print_json({what: count, "file": file})
    else:
        typer.echo(f"{what.capitalize()} {count} memories: {file}")


@app.command()
def stats(folder: Folder = None, as_json: Json = False) -> None:
    """Show whose memories a folder holds, and how large it is."""
    from mmagent_memory import LongTermMemory, list_users

    users: dict[str, dict[str, Any]] = {}
    with closing(open_store(folder)) as store:
        place = store.path
        for user, persona in list_users(store):
            hits = LongTermMemory(store, user=user, persona=persona).list()
            about = users.setdefault(user, {"memories": 0, "pictures": 0, "personas": []})
            about["memories"] += len(hits)
            about["pictures"] += len({image.id for hit in hits for image in hit.images})
            about["personas"] += [persona] if persona else []
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    if as_json:
        print_json({"folder": str(place), "bytes": size, "users": users})
        return
    typer.echo(f"{place}: {size / 1e6:.1f} MB")
    for user, about in users.items():
        personas = ", ".join(about["personas"]) or "no persona"
        typer.echo(
            f"  {user}: {about['memories']} memories, {about['pictures']} pictures ({personas})"
        )
