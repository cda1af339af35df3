"""The command line: `mmagent --help`. Light at start; each command loads what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 for success, 2 for a wrong call, 1 for other failures."""
    from mmagent.cli.app import app
    from mmagent.cli.failures import run

    run(app, arguments)
