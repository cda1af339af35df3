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
        if command not in ("stats", "verify", "repair", "migrate"):
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


def test_explain_is_a_table_whose_parts_add_up(filled: Memory) -> None:
    lines = filled("search", "nuts allergic", "-k", "1", "--explain").out.splitlines()
    assert lines[1] == "    I am allergic to nuts."
    table = [line.split() for line in lines[2:]]
    parts = {row[0]: float(row[1]) for row in table[:-1]}
    assert {"words", "meaning"} <= set(parts)
    assert table[-1][:2] == ["=", "score"]
    assert float(table[-1][2]) == pytest.approx(sum(parts.values()), abs=0.03)
    (words,) = [row for row in table if row[0] == "words"]
    assert "BM25" in words
    assert max(map(len, lines[1:])) <= 40


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


def test_verify_names_damage_and_repair_mends_it(filled: Memory, tmp_path: Path) -> None:
    whole = filled("verify")
    assert (whole.code, whole.out) == (0, "Whole: 3 items and 1 pictures.\n")
    (report,) = lines(filled("verify", "--json"))
    assert (report["whole"], report["items"]) == (True, 3)
    file = tmp_path / "mem ory" / "memory.sqlite3"
    data = bytearray(file.read_bytes())
    place = data.index(b"I am allergic to nuts.")
    data[place] ^= 1
    file.write_bytes(data)
    damaged = filled("verify")
    assert damaged.code == 1
    assert "`mmagent memory repair`" in damaged.out
    mended = filled("repair")
    assert mended.code == 0
    assert "The old database is kept" in mended.out
    assert filled("verify").code == 0


def test_migrate_copies_everybody_and_says_how_much(
    filled: Memory, cli: Cli, tmp_path: Path
) -> None:
    moved = filled("migrate", "--to", tmp_path / "到 there")
    assert moved.code == 0
    assert moved.out.startswith("3 items, 4 vectors and 1 pictures are there now: 3 copied, 0 had")
    (again,) = lines(filled("migrate", "--to", tmp_path / "到 there", "--json"))
    assert (again["copied"], again["already"], again["different"]) == (0, 3, [])
    there = ["--memory", tmp_path / "到 there", "--user", "sam"]
    assert cli("memory", "list", *there).out == filled("list").out
    (hit,) = lines(cli("memory", "search", "nuts allergic", "-k", "1", *there, "--json"))
    assert hit["text"] == "I am allergic to nuts."
    missing = cli("memory", "migrate", "--memory", tmp_path / "no", "--to", tmp_path / "x")
    assert missing.code == 2
    assert "There is no memory" in missing.err


def test_chinese_names_and_texts_go_through_a_pipe(cli: Cli, tmp_path: Path) -> None:
    def run(command: str, user: str, *arguments: Any) -> Result:
        return cli("memory", command, *arguments, "--memory", tmp_path / "记忆", "--user", user)

    run("add", "李雷", "我对坚果过敏。", "--speaker", "李雷")
    (hit,) = lines(run("search", "李雷", "过敏", "--json"))
    assert (hit["text"], hit["speaker"]) == ("我对坚果过敏。", "李雷")
    assert run("export", "李雷", tmp_path / "导出.jsonl").code == 0
    assert "导出.jsonl" in run("import", "韩梅梅", tmp_path / "导出.jsonl").out
    assert "韩梅梅: 1 memories" in cli("memory", "stats", "--memory", tmp_path / "记忆").out


def test_a_bad_file_is_one_line_and_changes_nothing(filled: Memory, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"mmagent_memory": 2}\n{"id": 1}\n')
    result = filled("import", tmp_path / "bad.jsonl")
    assert (result.code, result.out) == (2, "")
    assert "Line 2 of" in result.err
    assert len(result.err.splitlines()) == 1
    assert filled("import", tmp_path).code == 2
    assert len(lines(filled("list", "--json"))) == 3


def test_an_import_with_another_embedder_says_so(filled: Memory, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    filled("export", file)
    text = file.read_text("utf-8").replace("hash-embedder-1:", "hash-embedder-0:", 1)
    file.write_text(text, "utf-8")
    result = cli("memory", "import", file, "--memory", tmp_path / "other", "--user", "sam")
    assert result.code == 0
    assert "embedded anew" in result.err


def test_a_database_that_is_not_there_is_one_line_without_a_password(cli: Cli) -> None:
    place = "postgresql://sam:hushhush@127.0.0.1:1/db"
    result = cli("memory", "list", "--memory", place)
    assert result.code == 1
    assert "cannot be reached" in result.err
    assert "hushhush" not in result.err
    assert cli("memory", "verify", "--memory", place).code == 2
