"""`mmagent persona`: see, check, bring in, take out and write personas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmagent.cli.screen import print_json, printable

if TYPE_CHECKING:
    from mmagent.personas.persona import Persona

__all__ = ["app"]

app = typer.Typer(
    help="See, check, bring in, take out and write personas.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="PERSONA", help="A name, or the path of a file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def _say(text: str = "") -> None:
    # A card may hold anything; it must not steer the terminal.
    typer.echo(printable(text))


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Show the personas that can be named: the catalogue's and your own."""
    from mmagent.errors import PersonaError
    from mmagent.personas.persona import Persona
    from mmagent.personas.shelf import shelf_names

    names = [(name, "catalogue") for name in Persona.catalogue()]
    names += [(name, "own") for name in shelf_names()]
    for name, origin in names:
        row: dict[str, Any] = {"name": name, "origin": origin}
        try:
            persona = Persona.load(name)
        except PersonaError as error:
            row["error"] = str(error)
        else:
            row |= {
                "full_name": persona.name,
                "language": persona.language,
                "tags": persona.tags,
            }
        if as_json:
            print_json(row)
        elif "error" in row:
            _say(f"{name:14} cannot be used: {row['error']}")
        else:
            mine = " (own)" if origin == "own" else ""
            _say(f"{name:14} {row['full_name']}{mine}: {', '.join(row['tags']) or '-'}")


@app.command()
def show(
    persona: Name,
    user: Annotated[str, typer.Option("--user", help="Whom it talks with.")] = "user",
    as_json: Json = False,
) -> None:
    """Show what a model reads of a persona, and what else it holds."""
    from mmagent.personas.persona import Persona

    found = Persona.load(persona)
    prompt = found.system_prompt(user=user)
    greetings = found.first_messages(user=user)
    report = found.import_report
    if as_json:
        print_json(
            {
                "persona": found.model_dump(),
                "key": found.key,
                "system_prompt": prompt,
                "greetings": greetings,
                "examples": found.example_dialogues(user=user),
                "lore_entries": len(found.lore.entries),
                "import_report": report.as_dict() if report is not None else None,
            }
        )
        return
    _say(f"{found.name} ({found.language})")
    for title, text in (
        ("System prompt", prompt),
        ("Greetings", "\n\n".join(greetings)),
        ("After the history", found.closing_instructions(user=user)),
    ):
        if text:
            _say(f"\n{title}:")
            _say("\n".join(f"  {line}" for line in text.splitlines()))
    _say()
    _say(f"Example conversations: {len(found.example_dialogues(user=user))}")
    _say(f"Lore entries: {len(found.lore.entries)}")
    _print_report(found)


def _print_report(persona: Persona) -> None:
    report = persona.import_report
    if report is None:
        return
    dialect = {"spec": "", "sillytavern": ", SillyTavern's dialect", "risu": ", Risu's dialect"}
    _say(f"Card: {report.spec.upper()} in {report.container.upper()}{dialect[report.dialect]}")
    _say(f"  read: {', '.join(report.read)}")
    for kind, remarks in (("guessed", report.guessed), ("no effect", report.ignored)):
        for remark in remarks:
            _say(f"  {kind}: {remark}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A card or a YAML file.")],
    name: Annotated[str | None, typer.Option("--name", help="What to call it here.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Keep a card or YAML file among your own personas, to be loaded by name."""
    from mmagent.personas.persona import Persona
    from mmagent.personas.reading import read_file
    from mmagent.personas.shelf import put_on_shelf, shelf_name

    data = read_file(file)
    persona = Persona.from_bytes(data, source=file.name)
    chosen = name or shelf_name(persona.name)
    report = persona.import_report
    suffix = f".{report.container}" if report and report.container != "object" else ".yaml"
    put_on_shelf(data, chosen, suffix, replace=force)
    if as_json:
        print_json({"name": chosen, "import_report": report.as_dict() if report else None})
        return
    _say(f"{persona.name} is now {chosen!r}. Talk with: mmagent chat --persona {chosen}")
    _print_report(persona)


@app.command()
def export(
    persona: Name,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Ends in .yaml, .json, .png or .charx.")
    ],
    picture: Annotated[
        Path | None, typer.Option("--picture", help="The PNG to put a card into.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a persona to a file: our YAML, or a character card."""
    from mmagent.errors import PersonaError
    from mmagent.personas.persona import Persona
    from mmagent.personas.reading import read_file

    found = Persona.load(persona)
    if file.exists() and not force:
        raise PersonaError(f"{file} exists; choose another name, or add --force to replace it.")
    found.export(file, picture=read_file(picture) if picture is not None else None)
    _say(f"Wrote {file}.")


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(metavar="PERSONA...", help="Names or files.")],
    as_json: Json = False,
) -> None:
    """Check personas; exit with 2 if one of them cannot be used."""
    from mmagent.errors import PersonaError
    from mmagent.personas.persona import Persona

    failed = 0
    for name in files:
        row: dict[str, Any] = {"persona": name, "ok": True}
        try:
            persona = Persona.load(name)
            persona.system_prompt(user="user")
            report = persona.import_report
            row["remarks"] = [*report.guessed, *report.ignored] if report is not None else []
        except PersonaError as error:
            failed += 1
            row |= {"ok": False, "error": str(error)}
        if as_json:
            print_json(row)
        elif row["ok"]:
            _say(f"{name}: good")
            for remark in row["remarks"]:
                _say(f"  {remark}")
        else:
            _say(f"{name}: {row['error']}")
    if failed:
        raise PersonaError(f"{failed} of {len(files)} cannot be used; see above.")


@app.command()
def new(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to write it [default: its name].")
    ] = None,
    force: Force = False,
) -> None:
    """Ask who the persona is, and write a YAML file to go on from."""
    from mmagent.errors import PersonaError
    from mmagent.personas.persona import Persona
    from mmagent.personas.shelf import shelf_name

    name = typer.prompt("Name")
    instructions = typer.prompt(
        "What does it do, and how does it talk? ({{char}} is its name, {{user}} the user's)",
        default="You are {{char}}. Talk with {{user}} and stay in character.",
    )
    answers = {
        "name": name,
        "language": typer.prompt("Language", default="en"),
        "instructions": instructions,
        "description": typer.prompt("Who is it? (may be empty)", default="", show_default=False),
        "personality": typer.prompt("A few traits (may be empty)", default="", show_default=False),
        "greeting": typer.prompt("Its first words", default="Hello {{user}}!"),
    }
    persona = Persona(**answers)
    target = file or Path(f"{shelf_name(name) or 'persona'}.yaml")
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise PersonaError(f"{target.name}: name a file that ends in .yaml.")
    if target.exists() and not force:
        raise PersonaError(f"{target} exists; choose another name, or add --force to replace it.")
    persona.export(target)
    _say(f"Wrote {target}. Talk with: mmagent chat --persona {target}")
    if not target.is_absolute() and len(target.parts) == 1:
        _say(f"Keep it by name: mmagent persona import {target}")
