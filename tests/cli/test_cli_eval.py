import json
from pathlib import Path

import pytest
from cli_runner import Cli


def test_templates_by_one_line(cli: Cli, tmp_path: Path) -> None:
    result = cli(
        "eval", "reasoning", "--model", "echo", "--limit", 4, "--template", "two_stage",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 0
    assert "| template | right (95%) | against direct |" in result.out
    assert "| `two_stage` |" in result.out
    report = json.loads((tmp_path / "out" / "reasoning.json").read_text("utf-8"))
    assert report["model"] == "echo"
    assert report["questions"] == 4
    assert (tmp_path / "out" / "reasoning.md").read_text("utf-8").strip() in result.out


def test_your_own_questions_as_json(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Say tree", "answer": "tree"}\n')
    result = cli("eval", "reasoning", "--model", "echo", "--data", path, "--template", "direct",
                 "--json")  # fmt: skip
    report = json.loads(result.out)
    assert report["templates"]["direct"]["right"]["hits"] == 1
    assert report["data"] == str(path)
    assert result.err == ""


def test_a_persona_by_one_line(cli: Cli, tmp_path: Path) -> None:
    card = tmp_path / "rex.json"
    card.write_text('{"spec": "chara_card_v2", "data": {"name": "Rex"}}')
    result = cli("eval", "persona", "--model", "echo", "--persona", card, "--turns", 1,
                 "--no-memory", "--json")  # fmt: skip
    report = json.loads(result.out)
    assert report["persona"] == "Rex"
    assert report["measures"]["language match"]["value"] == 1.0


def test_a_long_conversation_by_one_line(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = cli("eval", "persona", "--model", "echo", "--long", "--turns", 12, "--rounds", 1,
                 "--budget", 600, "--out", tmp_path)  # fmt: skip
    assert result.code == 0
    assert "| prompts over the budget | 0 | 0 |" in result.out
    assert "with memory: turn 10" not in result.out  # aside, on stderr
    for suffix in ("json", "md", "png"):
        assert (tmp_path / f"long-conversation.{suffix}").stat().st_size > 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("reasoning", "--model", "echo", "--template", "magic"), "not in the catalogue"),
        (("reasoning", "--model", "echo", "--data", "none.jsonl"), "cannot be read"),
        (("persona", "--model", "echo", "--persona", "nobody"), "not in the catalogue"),
        (("persona", "--model", "echo", "--long", "--turns", "5"), "need at least"),
        (("persona", "--model", "no-such-folder-x"), "no-such-folder-x"),
    ],
)
def test_what_cannot_work(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    result = cli("eval", *arguments)
    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1


def test_without_matplotlib_all_but_the_plot(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = cli("eval", "reasoning", "--model", "echo", "--limit", 2, "--template", "direct",
                 "--out", tmp_path)  # fmt: skip
    assert result.code == 0
    assert "pip install 'mmagent[train]'" in result.err
    assert {path.name for path in tmp_path.iterdir()} == {"reasoning.json", "reasoning.md"}


@pytest.mark.parametrize("command", ["eval", "eval persona", "eval reasoning"])
def test_help_fits_forty_columns(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    result = cli(*command.split(), "--help")
    assert result.code == 0
    assert [line for line in result.out.splitlines() if len(line) > 40] == []
