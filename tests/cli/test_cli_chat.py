"""`mmagent chat` without a terminal: one-shot, piped, scripted; what it prints and remembers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Cli

NUTS = "My order number is A-17 and I am allergic to nuts."


@pytest.fixture
def chat(cli: Cli, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """One process's worth of conversation, as JSON, with a memory that stays."""

    def run(*arguments: Any, stdin: str = "") -> list[dict[str, Any]]:
        memory = tmp_path / "记忆 memory"
        fixed = ["chat", "--model", "echo", "--user", "sam", "--memory", memory, "--json"]
        result = cli(*fixed, *arguments, stdin=stdin)
        assert (result.code, result.err) == (0, "")
        return [json.loads(line) for line in result.out.splitlines()]

    return run


Chat = Callable[..., list[dict[str, Any]]]


def test_what_was_said_is_recalled_by_a_new_process(chat: Chat) -> None:
    chat("--message", NUTS)
    (turn,) = chat("--message", "What do you remember about my allergies?")
    assert NUTS in [memory["text"] for memory in turn["memories"][:3]]
    assert "nuts" in turn["prompt"]
    memory = next(m for m in turn["memories"] if m["text"] == NUTS)
    assert set(memory) == {"id", "text", "speaker", "at", "score", "images"}
    assert memory["speaker"] == "Sam"


def test_a_picture_is_recalled_by_a_new_process(
    chat: Chat, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(picture("orange"))
    (shown,) = chat("--image", tmp_path / "cat.png", "--message", "Look at my new cat")
    (turn,) = chat("--message", "Do you remember what pet I showed you? A cat?")
    assert shown["images"][0] in [id_ for m in turn["memories"] for id_ in m["images"]]
    assert turn["prompt"].count("<image>") == 1


def test_a_turn_has_everything_and_turns_share_a_conversation(chat: Chat) -> None:
    first, second = chat("--message", "One.", "--message", "Two.")
    assert set(first) == {
        "message", "images", "answer", "reasoning", "memories", "prompt", "tokens", "seconds",
        "stopped",
    }  # fmt: skip
    assert first["answer"] == "You said: One."
    assert set(first["tokens"]) == {"in", "out", "cached"}
    assert first["tokens"]["out"] == 3
    assert "assistant: You said: One." in second["prompt"]


def test_lines_of_a_pipe_are_messages_and_the_pictures_go_with_the_first(
    chat: Chat, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture())
    files = ["--image", tmp_path / "a.png", "--image", tmp_path / "b.png"]
    first, second = chat(*files, stdin="What is this?\n\nThank you, 谢谢\n")
    assert first["answer"].count("[picture 64x48 #ff0000]") == 2
    assert second["answer"] == "You said: Thank you, 谢谢"


def test_each_user_and_persona_remembers_apart(chat: Chat) -> None:
    chat("--message", NUTS)
    for other in (["--persona", "ada"], ["--user", "eve"]):
        (turn,) = chat("--message", "What about allergies to nuts?", *other)
        assert turn["memories"] == []


def test_plain_output_is_the_answer_alone(cli: Cli, tmp_path: Path) -> None:
    result = cli(
        "chat", "--model", "echo", "--memory", tmp_path / "m", "-m", "Hi", "-m", "\x1b[2J!"
    )
    assert (result.code, result.err) == (0, "")
    assert result.out == "You said: Hi\nYou said: [2J!\n"  # nothing that steers a terminal


def test_the_default_memory_lies_in_the_users_folder(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMAGENT_HOME", str(tmp_path / "home"))
    assert cli("chat", "--model", "echo", "-m", "Hi").code == 0
    assert any((tmp_path / "home" / "memory").iterdir())


def test_personas_from_files_and_the_developers_instructions(
    cli: Cli, chat: Chat, tmp_path: Path
) -> None:
    (tmp_path / "bo.yaml").write_text("name: Bo\ninstructions: You are {{char}}, a sailor.\n")
    (turn,) = chat(
        "--persona", tmp_path / "bo.yaml", "--system", "Never swear.", "--message", "Ahoy"
    )
    assert "Never swear." in turn["prompt"]
    assert "You are Bo, a sailor." in turn["prompt"]
    card = {"spec": "chara_card_v2", "spec_version": "2.0", "data": {"name": "Kit",
            "description": "A fox.", "first_mes": "Yip!", "personality": "", "scenario": "",
            "mes_example": "", "extensions": {}}}  # fmt: skip
    (tmp_path / "kit.json").write_text(json.dumps(card))
    (turn,) = chat("--persona", tmp_path / "kit.json", "--message", "Hello")
    assert "A fox." in turn["prompt"]


def test_a_real_checkpoint_answers_and_its_template_is_shown(
    cli: Cli, tiny_llava: Path, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    fixed = ["chat", "--model", tiny_llava, "--memory", tmp_path / "m", "--json"]
    sampling = ["--temperature", "0", "--max-tokens", "4", "--seed", "1", "--top-p", "0.9"]
    result = cli(*fixed, *sampling, "--image", tmp_path / "a.png", "-m", "What?", "-m", "Why?")
    assert result.code == 0, result.err
    first, second = [json.loads(line) for line in result.out.splitlines()]
    assert first["prompt"].startswith("<|im_start|>system\n")
    assert first["prompt"].endswith("<image>What?<|im_end|>\n<|im_start|>assistant\n")
    assert first["tokens"]["out"] <= 4
    assert second["tokens"]["cached"] > 0


def test_a_script_is_played_and_time_passes_in_it(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "talk.yaml"
    script.write_text(
        "user: kim\nturns:\n  - say: I play the oboe.\n  - later: A week after.\n"
        "  - say: Which instrument do I play, the oboe?\n"
    )
    memory = tmp_path / "m"
    result = cli("chat", "--model", "echo", "--memory", memory, "--script", script, "--json")
    assert result.code == 0, result.err
    _, later, second = [json.loads(line) for line in result.out.splitlines()]
    assert later == {"later": "A week after."}
    assert "I play the oboe." in [memory["text"] for memory in second["memories"]]
    assert "assistant" not in second["prompt"]  # a new conversation: only memory carries over
    memory = tmp_path / "another"
    text = cli("chat", "--model", "echo", "--memory", memory, "--script", script).out
    assert "Kim: I play the oboe.\nMia: You said:" in text
    assert "\n— A week after. —\n" in text
    assert "(recalled: Kim: I play the oboe.)" in text


def test_the_demo_plays_to_its_end_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    result = cli("demo", "--model", "echo")
    assert result.code == 0, result.err
    assert "[cat.png]" in result.out
    asked = result.out.partition("Do you remember what pet I showed you?")[2]
    assert "[picture " in asked  # the picture itself is recalled
    assert cli("memory", "stats").code == 2  # its memory was not the person's own
