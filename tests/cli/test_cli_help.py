"""Help teaches, fits a narrow terminal, costs nothing, and is what the documentation shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Cli

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "",
    "chat",
    "demo",
    "pull",
    "doctor",
    "memory",
    "memory list",
    "memory search",
    "memory add",
    "memory forget",
    "memory erase",
    "memory export",
    "memory import",
    "memory stats",
    "memory verify",
    "memory repair",
    "memory migrate",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_forty_columns_without_colour(
    cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    result = cli(*command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    too_long = [line for line in result.out.splitlines() if len(line) > 40]
    assert too_long == []
    assert result.out.startswith("Usage: mmagent")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from mmagent.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = ('torch', 'transformers', 'faiss', 'langchain_core', 'langgraph', 'numpy', 'PIL',"
        " 'pydantic', 'httpx', 'rich')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    path = os.pathsep.join(str(ROOT / name) for name in (".", "memory", "prompts"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(cli: Cli) -> None:
    from mmagent import __version__

    assert cli("--version").out == f"mmagent {__version__}\n"


def test_the_documentation_shows_the_help_as_it_is(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    shown = re.findall(r"```console\n\$ mmagent ([a-z ]+) --help\n(.*?)```", text, re.DOTALL)
    blocks = dict(shown)
    for command in ("chat", "pull", "memory", "doctor"):
        assert blocks[command].strip() == cli(*command.split(), "--help").out.strip(), command
