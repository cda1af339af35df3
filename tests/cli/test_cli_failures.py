"""Bad input: one clear line on stderr, the right exit code, no traceback, nothing lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Cli

from mmagent.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]) -> Path:
    """A folder of things that are not what their names say."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("bad") / "bad things"
    folder.mkdir()
    (folder / "text.png").write_text("I am no picture.")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(picture(size=(300, 300))[:60])
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    (folder / "field.yaml").write_text("name: Bo\nfavourite_food: soup\n")
    (folder / "broken.yaml").write_text("name: [Bo\n")
    (folder / "card.json").write_text('{"spec": "chara_card_v2"')
    (folder / "script.yaml").write_text("turns:\n  - shout: Hi\n")
    (folder / "model").mkdir()
    (folder / "a-file").write_text("in the way")
    return folder


def assert_one_line(err: str, says: str) -> None:
    assert err.endswith("\n")
    (line,) = err.splitlines()
    assert line.startswith("mmagent: ")
    assert says in line
    assert "Traceback" not in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--image", "nosuch.png"], 2, "nosuch.png: There is no picture file"),
        (["--image", "{}"], 2, "bad things: "),
        (["--image", "{}/text.png"], 2, "is not a picture"),
        (["--image", "{}/empty.png"], 2, "empty (0 bytes)"),
        (["--image", "{}/cut.png"], 2, "damaged or cut off"),
        (["--image", "{}/huge.png"], 2, "more than 50,000,000 pixels"),
        (["--model", "/no/such/model"], 2, "The model folder /no/such/model is not there"),
        (["--model", "{}/model"], 2, "has no config.json"),
        (["--model", "tinny"], 2, "There is no model 'tinny'"),
        (["--adapter", "/no/such/adapter"], 2, "no adapter folder"),
        (["--persona", "{}/field.yaml"], 2, "favourite_food"),
        (["--persona", "{}/broken.yaml"], 2, "broken.yaml"),
        (["--persona", "{}/card.json"], 2, "card.json"),
        (["--persona", "nobody"], 2, "mia"),
        (["--user", ""], 2, "user"),
        (["--memory", "{}/a-file"], 1, "a-file"),
        (["--memory", "{}/a-file/below"], 1, "a-file"),
        (["--memory", "/proc/mmagent"], 1, "/proc/mmagent"),
        (["--temperature", "-1"], 2, "temperature must be 0 or more"),
        (["--top-p", "7"], 2, "top_p must be above 0"),
        (["--max-tokens", "0"], 2, "max_tokens must be at least 1"),
        (["--recall", "-1"], 2, "--recall"),
        (["--script", "{}/script.yaml"], 2, "--script has its own messages"),
        (["--bogus"], 2, "--bogus"),
    ],
)
def test_chat(
    cli: Cli, files: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    filled = [argument.replace("{}", str(files)) for argument in arguments]
    fixed = ["--model", "echo", "--memory", tmp_path / "memory", "--message", "Hi"]
    given = [a for pair in zip(fixed[::2], fixed[1::2], strict=True) if pair[0] not in filled
             for a in pair]  # fmt: skip
    result = cli("chat", *given, *filled)
    assert result.code == code, result.err
    assert result.out == ""
    assert_one_line(result.err, says)
    assert not (tmp_path / "memory").exists(), "a call that cannot work must leave nothing behind"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chat", "--model", "echo", "--message", " "], "--message is empty"),
        (["chat", "--model", "echo", "--script", "{}/script.yaml"], "turns.0"),
        (["chat", "--model", "echo", "--script", "nosuch.yaml"], "cannot be read"),
        (["chat", "--model", "echo", "--image", "{}/../red.png"], "add --message"),
        (["pull", "huge"], "there is: tiny"),
        (["memory", "list", "--memory", "{}/none"], "none"),
        (["memory", "forget", "x", "--memory", "{}/none"], "none"),
        (["memory", "search", "--memory", "{}/none"], "what to look for"),
        (["memory", "forget"], "ID"),
        (["nonsense"], "nonsense"),
    ],
)
def test_other_commands(
    cli: Cli, files: Path, arguments: list[str], says: str, picture: Callable[..., bytes]
) -> None:
    (files.parent / "red.png").write_bytes(picture())
    result = cli(*[argument.replace("{}", str(files)) for argument in arguments])
    assert result.code == 2, result.err
    assert_one_line(result.err, says)


def test_a_memory_of_a_newer_version_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    assert cli("memory", "add", "I live in Oslo.", "--memory", memory).code == 0
    (database,) = [path for path in memory.rglob("*") if _is_database(path)]
    with closing(sqlite3.connect(database)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute("PRAGMA user_version = 999")
    before = database.read_bytes()
    result = cli("chat", "--model", "echo", "--memory", memory, "--message", "Hi")
    assert result.code == 1
    assert_one_line(result.err, "newer")
    assert database.read_bytes() == before
    with closing(sqlite3.connect(database)) as db:
        db.execute(f"PRAGMA user_version = {version}")
    assert "Oslo" in cli("memory", "list", "--memory", memory).out


def _is_database(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:15] == b"SQLite format 3"


def test_a_picture_that_is_refused_costs_no_memory(cli: Cli, files: Path, tmp_path: Path) -> None:
    fixed = ["chat", "--model", "echo", "--memory", tmp_path / "memory"]
    assert cli(*fixed, "--message", "I live in Oslo.").code == 0
    assert cli(*fixed, "--message", "Look", "--image", files / "text.png").code == 2
    listed = cli("memory", "list", "--memory", tmp_path / "memory").out
    assert "Oslo" in listed
    assert "Look" not in listed


def test_a_home_that_cannot_be_written(
    cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMAGENT_HOME", str(files / "a-file"))
    result = cli("pull", "tiny")
    assert result.code == 2
    assert_one_line(result.err, "set MMAGENT_HOME")


def test_an_unknown_embedder(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAGENT_EMBEDDER", "gpt")
    result = cli("chat", "--model", "echo", "--message", "Hi")
    assert result.code == 2
    assert_one_line(result.err, "may be bundled or hash")


def test_debugging_shows_where(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmagent.errors import ModelNotFoundError

    monkeypatch.setenv("MMAGENT_DEBUG", "1")
    arguments: list[Any] = ["chat", "--model", "tinny", "--message", "Hi"]
    with pytest.raises(ModelNotFoundError):
        main(arguments)
