"""The README cannot drift: its Python blocks run, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.bundled
def test_python_blocks_run(bundled_home: Path, run_page: Callable[[str], str]) -> None:
    assert README.count("```python\n") >= 4
    said = run_page(README)
    assert "blue" in said
    assert "allergic to nuts" in said


def test_commands_exist() -> None:
    from click import Context
    from typer.main import get_command

    from mmagent.cli import app

    root = get_command(app)
    for line in re.findall(r"^\$ mmagent (.*)$", README, re.MULTILINE):
        command = root
        for word in line.split():
            if word.startswith("-") or not hasattr(command, "get_command"):
                break
            # Some groups import a command only when it is asked for.
            found = command.get_command(Context(command), word)
            assert found is not None, line
            command = found
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for option in re.findall(r"(?<=\s)--[a-z-]+", " " + line):
            assert option in known, f"{option} in: {line}"
    make = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^\$ make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", make, re.MULTILINE), target


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
