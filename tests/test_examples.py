"""Every example runs, as a user would copy it, with the echo model where it takes a model."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("MMAGENT_EMBEDDER", "hash")

    def run(name: str, *arguments: object) -> str:
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr("sys.argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_no_example_is_forgotten() -> None:
    tested = {"chat_model", "companion", "fine_tuning", "long_term_memory", "own_persona"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_chat_model(run: Callable[..., str], picture: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("blue"))
    out = run("chat_model", tmp_path / "a.png", "echo")
    assert out.startswith("You said: [picture 64x48 #0000ff] What is in this picture?\n")
    assert "'input_tokens': " in out


def test_companion(run: Callable[..., str], tmp_path: Path) -> None:
    out = run("companion", "echo", tmp_path / "memory")
    assert "(recalled: Sam: Hi Mia! I am learning to play the oboe.)" in out


def test_fine_tuning(run: Callable[..., str], tiny_llava: Path, tmp_path: Path) -> None:
    out = run("fine_tuning", tiny_llava, tmp_path, 1)
    assert "perplexity: " in out
    assert "Pip: " in out


def test_long_term_memory(run: Callable[..., str], tmp_path: Path) -> None:
    out = run("long_term_memory", tmp_path / "memory")
    assert "I am allergic to nuts." in out.partition("By picture:")[0].splitlines()[1]
    assert "This is my new ball.  picture " in out
    assert "Erased 3 memories and 1 pictures." in out


def test_own_persona(run: Callable[..., str], tmp_path: Path) -> None:
    out = run("own_persona", tmp_path)
    assert out.startswith("Ahoy, Sam!\nYou are Captain Bo, an old sailor.")
    assert (tmp_path / "bo.yaml").is_file()
