"""`mmagent eval`: measure a model with what this package puts around it."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Measure templates of thought, personas and more.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Measure templates of thought, personas and more."""
