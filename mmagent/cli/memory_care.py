"""`mmagent memory stats | verify | repair`: how large a memory is, and whether it is whole."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmagent.cli.memory_options import Json, Place, examples, open_store, place_of, progress
from mmagent.cli.screen import print_json, printable

if TYPE_CHECKING:
    from mmagent_memory.checking import Report

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("mmagent memory stats --json"))(stats)
    app.command(epilog=examples("mmagent memory verify --memory ./mem"))(verify)
    app.command(epilog=examples("mmagent memory verify", "mmagent memory repair"))(repair)


def stats(place: Place = None, as_json: Json = False) -> None:
    """Show whose memories a folder holds, and how large it is."""
    from mmagent_memory import LongTermMemory, list_users

    users: dict[str, dict[str, Any]] = {}
    with closing(open_store(place)) as store:
        for user, persona in list_users(store):
            hits = LongTermMemory(store, user=user, persona=persona).list()
            about = users.setdefault(user, {"memories": 0, "pictures": 0, "personas": []})
            about["memories"] += len(hits)
            about["pictures"] += len({image.id for hit in hits for image in hit.images})
            about["personas"] += [persona] if persona else []
        where, size = _where_and_size(store)
    if as_json:
        print_json({"folder": where, "bytes": size, "users": users})
        return
    typer.echo(f"{printable(where)}: {size / 1e6:.1f} MB")
    for user, about in users.items():
        personas = ", ".join(about["personas"]) or "no persona"
        typer.echo(
            f"  {printable(user)}: {about['memories']} memories, {about['pictures']} pictures "
            f"({printable(personas)})"
        )


def verify(place: Place = None, as_json: Json = False) -> None:
    """Read everything in a memory and say what is damaged.

    Nothing is changed. The exit code is 0 if all is whole, else 1.
    """
    from mmagent_memory.checking import verify as check

    with progress("Reading") as step:
        report = check(_folder(place), step)
    _say(report, as_json)
    if not report.whole:
        if not as_json:
            typer.echo("`mmagent memory repair` saves what is whole.")
        raise typer.Exit(1)


def repair(place: Place = None, as_json: Json = False) -> None:
    """Save what is whole of a damaged memory.

    The old database stays beside the new one, under another name.
    Close other programs that use the memory first.
    """
    from mmagent_memory.checking import repair as mend

    with progress("Saving") as step:
        report = mend(_folder(place), step)
    _say(report, as_json)
    if report.backup and not as_json:
        typer.echo(f"The old database is kept: {printable(report.backup)}")


def _say(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    typer.echo(f"Whole: {report.items} items and {report.images} pictures.")
    for problem in report.problems:
        typer.echo(printable(problem))
    for what, names in (("Lost", report.lost), ("Lost picture", report.lost_images)):
        for name in names:
            typer.echo(f"{what}: {printable(str(name))}")


def _folder(place: str | None) -> Path:
    from mmagent.errors import UsageError
    from mmagent_memory.migrate import is_postgres

    where = place_of(place)
    if is_postgres(where):
        raise UsageError(
            "A database is checked and repaired by its own tools (pg_amcheck, backups); `mmagent "
            "memory migrate` copies it to a folder and counts."
        )
    return Path(where).expanduser()


def _where_and_size(store: Any) -> tuple[str, int]:
    path = getattr(store, "path", None)
    if path is None:
        return store.where, store.size()
    return str(path), sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
