"""Put a measured table into a page, between the marks that name it.

    python docs/tables.py docs/reasoning.md reasoning report/reasoning.md

A page holds `<!-- table NAME -->` and `<!-- /table -->`; what stands between them is replaced.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def put(page: str, name: str, table: str) -> str:
    """The page with the table in its place."""
    marks = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- /table -->)", re.DOTALL)
    if not marks.search(page):
        raise SystemExit(f"The page has no place <!-- table {name} -->.")
    return marks.sub(lambda match: f"{match[1]}{table.strip()}\n{match[2]}", page)


def main() -> None:
    """Replace the table of a page."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    path = Path(sys.argv[1])
    table = Path(sys.argv[3]).read_text("utf-8")
    path.write_text(put(path.read_text("utf-8"), sys.argv[2], table), "utf-8")


if __name__ == "__main__":
    main()
