"""The command line by its front door, in this process: arguments in, output and exit code out."""

from __future__ import annotations

import io
from typing import Any

import pytest
from cli_runner import Cli, Result

from mmagent.cli import main


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run `mmagent ARGUMENTS`; `stdin` is what is piped into it."""
    monkeypatch.setenv("MMAGENT_EMBEDDER", "hash")
    monkeypatch.delenv("MMAGENT_DEBUG", raising=False)

    def run(*arguments: Any, stdin: str = "") -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run
