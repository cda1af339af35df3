"""The command line: `mmagent --help`. Light at start; each command loads what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from mmagent.cli.root import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    if name == "app":
        from mmagent.cli.root import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 for success, 2 for a wrong call, 1 for other failures."""
    from mmagent.cli.failures import run
    from mmagent.cli.root import app

    run(app, arguments)
