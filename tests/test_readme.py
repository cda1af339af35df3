"""The README cannot drift: its Python blocks run, its commands exist, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.bundled
def test_python_blocks_run(bundled_home: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={**os.environ, "MMAGENT_HOME": str(bundled_home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "eight legs" in done.stdout
    assert "allergic to nuts" in done.stdout


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
