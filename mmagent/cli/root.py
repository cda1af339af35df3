"""The commands and their help."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Annotated

import typer

from mmagent.cli import chat, demo, doctor, memory, pull

__all__ = ["app"]

_EXAMPLES = """
Examples:

\b
  mmagent pull tiny
  mmagent chat --user sam
  mmagent chat --image cat.png \\
      --message "Look at my new cat"
  mmagent memory search "my cat"
  mmagent doctor

Errors are one line; MMAGENT_DEBUG=1 shows
the traceback. Exit codes: 0 success,
2 a call that cannot work, 1 a failure.
"""

# Plain help: no boxes that break in a narrow terminal, and no rich to import.
app = typer.Typer(
    name="mmagent",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from mmagent import __version__

        typer.echo(f"mmagent {__version__}")
        raise typer.Exit


@app.callback(epilog=_EXAMPLES)
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Talk with a persona that sees pictures and remembers, on your own machine."""


app.command("chat")(chat.chat)
app.command("demo")(demo.demo)
app.command("pull")(pull.pull)
app.add_typer(memory.app, name="memory")
app.command("doctor")(doctor.doctor)
for _name, _module in (("persona", "persona"), ("finetune", "finetune"), ("eval", "evaluate")):
    if importlib.util.find_spec(f"mmagent.cli.{_module}") is not None:
        app.add_typer(importlib.import_module(f"mmagent.cli.{_module}").app, name=_name)
