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


def test_the_limits_of_reuse_and_what_a_model_keeps(
    cli: Cli, tmp_path: Path, tiny_llava: Path
) -> None:
    result = cli("doctor", "--memory", tmp_path / "m", "--model", tiny_llava, "--json")
    assert result.code == 0
    findings = {finding["what"]: finding["detail"] for finding in json.loads(result.out)}
    assert "512 MiB" in findings["reuse and requests"]
    assert "16 answers at once" in findings["reuse and requests"]
    told = findings[f"model {tiny_llava}"]
    assert told.startswith("llava, ")
    assert "reuses what it read; answers share steps" in told
    assert "conversations 0 MiB of 448 MiB, pictures 0 MiB of 64 MiB" in told
    missing = cli("doctor", "--memory", tmp_path / "m", "--model", tmp_path / "nowhere")
    assert missing.code == 1
    assert "!! model " in missing.out
    assert "nowhere" in missing.out
