"""`mmagent memory`: what people see of a memory, and what they can do with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Cli, Result

Memory = Callable[..., Result]


@pytest.fixture
def memory(cli: Cli, tmp_path: Path) -> Memory:
    """Run a memory command on one folder for one user."""

    def run(command: str, *arguments: Any) -> Result:
        options = ["--memory", tmp_path / "mem ory"]
        if command != "stats":
            options += ["--user", "sam"]
        return cli("memory", command, *arguments, *options)

    return run


def lines(result: Result) -> list[Any]:
    assert (result.code, result.err) == (0, "")
    return [json.loads(line) for line in result.out.splitlines()]


@pytest.fixture
def filled(memory: Memory, picture: Callable[..., bytes], tmp_path: Path) -> Memory:
    (tmp_path / "cat.png").write_bytes(picture("orange"))
    memory("add", "I am allergic to nuts.", "--speaker", "Sam")
    memory("add", "My cat", "--image", tmp_path / "cat.png")
    memory("add", "Our meeting is on Monday.", "--persona", "ada")
    return memory


def test_list_is_newest_first_with_pictures_by_their_ids(filled: Memory) -> None:
    hits = lines(filled("list", "--json"))
    assert [hit["text"] for hit in hits] == [
        "Our meeting is on Monday.",
        "My cat",
        "I am allergic to nuts.",
    ]
    picture = hits[1]["images"][0]["id"]
    assert len(picture) == 64
    shown = filled("list").out
    assert f"[picture {picture[:12]}]" in shown
    assert "Sam\n    I am allergic to nuts." in shown
    assert [hit["text"] for hit in lines(filled("list", "-k", "1", "--json"))] == [
        "Our meeting is on Monday."
    ]
    assert [hit["persona"] for hit in lines(filled("list", "--persona", "ada", "--json"))] == [
        "ada"
    ]


def test_search_by_words_and_by_picture(filled: Memory, tmp_path: Path) -> None:
    found = lines(filled("search", "nuts allergic", "--json"))
    assert found[0]["text"] == "I am allergic to nuts."
    assert "score" in found[0]
    by_picture = lines(filled("search", "--image", tmp_path / "cat.png", "--json"))
    assert by_picture[0]["text"] == "My cat"
    explained = filled("search", "nuts", "--explain").out.splitlines()
    assert any(line.startswith("    ") and "," in line for line in explained[1:])


def test_forget_takes_the_beginning_of_an_id(filled: Memory) -> None:
    id_ = lines(filled("search", "nuts", "--json"))[0]["id"]
    assert filled("forget", id_[:8]).out == f"Forgotten: {id_}\n"
    assert id_ not in filled("list", "--json").out
    assert filled("forget", id_).code == 2


def test_erase_asks_first_and_gives_a_receipt(filled: Memory) -> None:
    refused = filled("erase")
    assert refused.code == 2
    assert "erase 3 memories of sam" in refused.err
    assert "add --yes" in refused.err
    (receipt,) = lines(filled("erase", "--yes", "--json"))
    assert (receipt["memories"], receipt["images"], receipt["complete"]) == (3, 1, True)
    assert filled("list").out == "Nothing is remembered of sam yet.\n"


def test_export_and_import_bring_everything_over(filled: Memory, cli: Cli, tmp_path: Path) -> None:
    (said,) = lines(filled("export", tmp_path / "out.jsonl", "--json"))
    assert said == {"exported": 3, "file": str(tmp_path / "out.jsonl")}
    other = ["--memory", tmp_path / "other", "--user", "sam"]
    assert cli("memory", "import", tmp_path / "out.jsonl", *other).code == 0
    moved = lines(cli("memory", "list", *other, "--json"))
    original = lines(filled("list", "--json"))
    for key in ("id", "text", "speaker", "at", "persona", "images"):
        assert [hit[key] for hit in moved] == [hit[key] for hit in original]


def test_stats_show_whose_memories_there_are(filled: Memory) -> None:
    (stats,) = lines(filled("stats", "--json"))
    assert stats["users"] == {"sam": {"memories": 3, "pictures": 1, "personas": ["ada", "mia"]}}
    assert "sam: 3 memories, 1 pictures (ada, mia)" in filled("stats").out


def test_what_is_remembered_cannot_steer_a_terminal(memory: Memory) -> None:
    memory("add", "red \x1b[31malert\x07 \u009b2J")
    assert "\x1b" not in memory("list").out
    assert "\u009b" not in memory("list").out
