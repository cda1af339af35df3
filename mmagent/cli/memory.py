"""`mmagent memory`: look into a memory, change it, move it, check it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmagent.cli import memory_care, memory_files
from mmagent.cli.memory_options import (
    Json,
    MemoryId,
    PersonaName,
    Place,
    User,
    examples,
    find,
    open_store,
    opened,
    shown,
)
from mmagent.cli.screen import is_terminal, print_json, printable

if TYPE_CHECKING:
    from mmagent_memory import MemoryHit

__all__ = ["app", "find", "open_store", "opened", "shown"]

app = typer.Typer(
    help="Look into a memory, change it, move it, and check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=examples(
        "mmagent memory add \\",
        '    "I like green tea" --speaker Sam',
        'mmagent memory search "drink"',
        "mmagent memory export sam.jsonl",
        "mmagent memory erase --user sam",
    ),
)

Images = Annotated[
    list[Path] | None, typer.Option("--image", help="A picture to look for; repeatable.")
]


def _print(hits: list[MemoryHit], as_json: bool, *, scored: bool = False) -> None:
    for hit in hits:
        if as_json:
            print_json(hit.as_dict())
        else:
            typer.echo(shown(hit, scored=scored))


@app.command(
    "list",
    epilog=examples(
        "mmagent memory list -k 20",
        "mmagent memory list --json \\",
        "    | grep nuts",
    ),
)
def list_(
    place: Place = None,
    user: User = "user",
    persona: PersonaName = None,
    limit: Annotated[int | None, typer.Option("-k", "--limit", min=1, help="Most shown.")] = None,
    as_json: Json = False,
) -> None:
    """Show memories, newest first; pictures by their ids."""
    with opened(place, user, persona) as memory:
        hits = memory.list(limit)
    _print(hits, as_json)
    if not hits and not as_json:
        typer.echo(f"Nothing is remembered of {printable(user)} yet.")


@app.command(
    epilog=examples(
        'mmagent memory search "last week"',
        "mmagent memory search --image a.png",
        'mmagent memory search "my cat" \\',
        "    --explain",
    )
)
def search(
    question: Annotated[str, typer.Argument(help="What to look for, in words.")] = "",
    image: Images = None,
    place: Place = None,
    user: User = "user",
    persona: PersonaName = None,
    limit: Annotated[int, typer.Option("-k", "--limit", min=1, help="Most memories shown.")] = 5,
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
    with opened(place, user, persona) as memory:
        hits = memory.recall(question, images=pictures, k=limit)
    if explain and not as_json:
        for hit in hits:
            typer.echo(shown(hit, scored=True))
            typer.echo(_explained(hit))
        return
    _print(hits, as_json, scored=True)
    if not hits and not as_json:
        typer.echo("Nothing fits.")


_RAW = {"words": "BM25", "meaning": "cos", "picture": "cos"}


def _explained(hit: MemoryHit) -> str:
    """A score's parts as a table, each with a bar and with the figure behind it."""
    parts: dict[str, float] = hit.explain.get("parts", {})
    raw: dict[str, float] = hit.explain.get("raw", {})
    most = max((abs(part) for part in parts.values()), default=1.0) or 1.0
    lines = []
    for name, part in sorted(parts.items(), key=lambda pair: -pair[1]):
        bar = "#" * round(6 * abs(part) / most)
        figure = ""
        if name in raw and name in _RAW:
            figure = f"{_RAW[name]} {raw[name]:.3g}"
        elif name == "recency" and "age_days" in raw:
            figure = f"{raw['age_days']:.0f} days"
        lines.append(f"    {name:<12} {part:5.2f} {bar:<6} {figure}".rstrip())
    lines.append(f"    {'= score':<12} {hit.score:5.2f}")
    return "\n".join(lines)


@app.command(
    epilog=examples(
        'mmagent memory add "I like tea"',
        'mmagent memory add "My cat" \\',
        "    --image cat.png --speaker Sam",
    )
)
def add(
    text: Annotated[str, typer.Argument(help="What to remember.")] = "",
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture of it; repeatable.")
    ] = None,
    speaker: Annotated[str | None, typer.Option("--speaker", help="Who said it.")] = None,
    place: Place = None,
    user: User = "user",
    persona: Annotated[str | None, typer.Option("--persona", help="With which persona.")] = "mia",
    as_json: Json = False,
) -> None:
    """Remember a text or pictures."""
    from mmagent.cli.pictures import load_pictures

    pictures = [picture.data for picture in load_pictures(image or [])]
    with opened(place, user, persona, create=True) as memory:
        id_ = memory.remember(text, images=pictures, speaker=speaker)
    if as_json:
        print_json({"id": id_})
    else:
        typer.echo(id_)


@app.command(epilog=examples("mmagent memory list", "mmagent memory forget 3fa9"))
def forget(
    id_: MemoryId,
    place: Place = None,
    user: User = "user",
    persona: PersonaName = None,
    as_json: Json = False,
) -> None:
    """Remove one memory and every trace of it."""
    with opened(place, user, persona) as memory:
        whole = find(memory, id_)
        memory.forget(whole)
    if as_json:
        print_json({"forgotten": whole})
    else:
        typer.echo(f"Forgotten: {whole}")


@app.command(
    epilog=examples(
        "mmagent memory erase --user sam",
        "mmagent memory erase --user sam \\",
        "    --yes --json > receipt.json",
    )
)
def erase(
    place: Place = None,
    user: User = "user",
    persona: PersonaName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove everything that is remembered of a user; print a receipt."""
    from mmagent.errors import UsageError

    with opened(place, user, persona) as memory:
        count = memory.count()
        if not yes:
            if not is_terminal(sys.stdin):
                raise UsageError(
                    f"This would erase {count} memories of {user} for good: add --yes to do it."
                )
            question = f"Erase {count} memories of {printable(user)} for good?"
            typer.confirm(question, abort=True, err=True)
        receipt = memory.erase()
    if as_json:
        print_json(receipt.as_dict())
        return
    name = printable(user)
    typer.echo(f"Erased {receipt.memories} memories and {receipt.images} pictures of {name}.")
    for text in receipt.notes:
        typer.echo(text)


memory_files.register(app)
memory_care.register(app)
