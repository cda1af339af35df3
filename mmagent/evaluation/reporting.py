"""Reports: JSON and Markdown on disk, and a plot where matplotlib is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmagent.errors import MissingDependencyError

__all__ = ["load_pyplot", "markdown", "write_report"]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_report(folder: Path, name: str, report: dict[str, Any], table: str) -> list[Path]:
    """Write `name.json` and `name.md` into a folder, which is made; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{name}.json", folder / f"{name}.md"
    data.write_text(json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")
    page.write_text(table, "utf-8")
    return [data, page]


def load_pyplot() -> Any:
    """Return matplotlib's pyplot, drawing to files.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError(
            "The plot needs matplotlib: pip install 'mmagent[train]' (the report is written "
            "without it)."
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
