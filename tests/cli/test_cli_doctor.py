"""`mmagent doctor` looks, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Cli


def test_it_says_what_is_there_and_what_to_do(cli: Cli, tmp_path: Path) -> None:
    result = cli("doctor", "--memory", tmp_path / "m", "--json")
    assert result.code == 0
    findings = {finding["what"]: finding for finding in json.loads(result.out)}
    assert findings["torch"]["state"] == "ok"
    assert findings["device"]["detail"].startswith(("cpu", "cuda", "mps"))
    assert findings["model tiny"]["remedy"] == "mmagent pull tiny"
    assert findings["memory"]["state"] == "missing"
    assert not (tmp_path / "m").exists()


def test_a_broken_memory_is_found(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file where a folder should be")
    result = cli("doctor", "--memory", tmp_path / "m")
    assert result.code == 1
    assert "!! memory: " in result.out
    assert "\x1b" not in result.out


def test_a_home_that_cannot_be_written_is_found(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMAGENT_HOME", str(tmp_path / "file"))
    result = cli("doctor", "--memory", tmp_path / "m", "--json")
    assert result.code == 1
    findings = {finding["what"]: finding for finding in json.loads(result.out)}
    assert "set MMAGENT_HOME" in findings["model tiny"]["detail"]
