"""`mmagent memory export | import | migrate`: a memory in a file, from a file, elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmagent.cli.memory_options import (
    Json,
    PersonaName,
    Place,
    User,
    examples,
    opened,
    place_of,
    progress,
)
from mmagent.cli.screen import note, print_json, printable

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export", epilog=examples("mmagent memory export sam.jsonl"))(_export)
    app.command(
        "import",
        epilog=examples(
            "mmagent memory import sam.jsonl",
            "mmagent memory import old_faiss/",
        ),
    )(_import)
    app.command(
        epilog=examples(
            "mmagent memory migrate \\",
            "    --to postgresql://me@host/db",
            "mmagent memory migrate \\",
            "    --memory postgresql://host/db \\",
            "    --to ./copy",
        )
    )(migrate)


def _export(
    file: Annotated[Path, typer.Argument(help="The file to write (JSON lines).")],
    place: Place = None,
    user: User = "user",
    persona: PersonaName = None,
    as_json: Json = False,
) -> None:
    """Write a user's memories with their pictures to a file.

    Vectors are in it too, so that a memory with the same embedder
    takes it in without embedding anything.
    """
    with opened(place, user, persona) as memory, progress("Exporting") as step:
        count = memory.export_jsonl(file, progress=step)
    _say_count("exported", count, file, as_json)


def _import(
    file: Annotated[
        Path, typer.Argument(help="A file that export wrote, or an old LangChain FAISS folder.")
    ],
    place: Place = None,
    user: User = "user",
    persona: PersonaName = None,
    as_json: Json = False,
) -> None:
    """Read memories from a file; what is there already stays as it is.

    The file is checked to its end first. After an interruption the
    same command goes on where it stopped.
    """
    notes: list[str] = []
    with opened(place, user, persona, create=True) as memory, progress("Importing") as step:
        if file.is_dir():
            from mmagent_memory.langchain_faiss import import_langchain_faiss

            count = import_langchain_faiss(memory, file, step)
        else:
            count = memory.import_jsonl(file, progress=step, notify=notes.append)
    for text in notes:
        note(text)
    _say_count("imported", count, file, as_json)


def migrate(
    to: Annotated[str, typer.Option("--to", metavar="PLACE", help="postgresql://… or a folder.")],
    place: Place = None,
    schema: Annotated[
        str, typer.Option("--schema", help="In which schema of the database.")
    ] = "public",
    as_json: Json = False,
) -> None:
    """Copy a whole memory to PostgreSQL, or back to a folder.

    Every user's memories with words, vectors and pictures; no model is
    needed. The source stays as it is. After an interruption the same
    command goes on where it stopped. At the end both are read again
    and counted.
    """
    from mmagent_memory.migrate import migrate as copy
    from mmagent_memory.migrate import open_for_copying

    with (
        open_for_copying(place_of(place), schema=schema) as source,
        open_for_copying(to, like=source, schema=schema) as destination,
        progress("Copying") as step,
    ):
        report = copy(source, destination, step)
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo(
            f"{report.items} items, {report.vectors} vectors and {report.pictures} pictures are "
            f"there now: {report.copied} copied, {report.already} had been there."
        )
        for name in report.different:
            typer.echo(f"Left as it is there, with another value: {printable(name)}")
    if report.different:
        raise typer.Exit(1)


def _say_count(what: str, count: int, file: Path, as_json: bool) -> None:
    if as_json:
        print_json({what: count, "file": str(file)})
    else:
        typer.echo(f"{what.capitalize()} {count} memories: {printable(str(file))}")
