"""`mmagent finetune` by its front door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Cli

from mmagent.cli.finetune import COMMANDS


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_forty_columns(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    result = cli("finetune", *command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    assert [line for line in result.out.splitlines() if len(line) > 40] == []
    assert result.out.startswith("Usage: mmagent finetune")


def test_help_needs_no_model_libraries() -> None:
    code = (
        "import sys\nfrom mmagent.cli import main\n"
        "try:\n    main(['finetune', 'chat', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('torch', 'transformers', 'trl', 'numpy') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_setting_is_an_option(cli: Cli) -> None:
    out = cli("finetune", "chat", "--help").out
    for option in ("--lora-r", "--lora-dora", "--lora-rslora", "--lora-targets", "--freeze-vision",
                   "--full", "--precision", "--warmup", "--weight-decay", "--dropout",
                   "--early-stopping", "--eval-every", "--resume", "--track", "--from-memory",
                   "--rated-only", "--consent", "--augment-copies"):  # fmt: skip
        assert option in out, option


def test_wrong_calls_say_what_to_do(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 3")
    result = cli("finetune", "chat", "--config", file)
    assert result.code == 2
    assert "no setting 'learning_rate'" in result.err
    result = cli("finetune", "chat", "--lr", "7")
    assert result.code == 2
    assert "lr: input should be less than 1" in result.err
    result = cli("finetune", "export", tmp_path, tmp_path / "out")
    assert result.code == 2
    assert "neither an adapter nor a model" in result.err
    result = cli("finetune", "rate", "x", "great")
    assert (result.code, "good or bad" in result.err) == (2, True)


def test_a_config_for_several_gpus_is_shipped(cli: Cli) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    file = Path(cli("finetune", "fsdp-config").out.strip())
    loaded = load_config_from_file(str(file))
    assert str(loaded.distributed_type.value) == "FSDP"
    assert loaded.fsdp_config["fsdp_version"] == 2


def test_example_data_is_made_inspected_and_learned(
    cli: Cli, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("finetune", "example-data", "shapes", "--rows", "20")
    assert (result.code, result.err) == (0, "")
    assert {p.name for p in Path("shapes").iterdir()} == {"dialogues.jsonl", "pictures", "run.yaml"}
    again = cli("finetune", "example-data", "shapes")
    assert (again.code, "holds something already" in again.err) == (2, True)
    monkeypatch.chdir("shapes")
    common = ("--config", "run.yaml", "--base", tiny_llava)

    shown = cli("finetune", "inspect", *common, "--rows", "1", "--histogram", "h.png")
    assert shown.code == 0
    assert "20 rows read, 20 usable" in shown.out
    assert "Squawk! " in shown.out
    assert "[picture, 16 tokens]" in shown.out
    assert "\x1b" not in shown.out
    assert Path("h.png").read_bytes().startswith(b"\x89PNG")

    made = cli("finetune", "chat", *common, "--steps", "2", "--eval-every", "1",
               "--evaluate-answers", "1", "--evaluate-max-tokens", "3")  # fmt: skip
    assert made.code == 0, made.err
    assert "20 rows: 16 to train, 2 to validate, 2 to test" in made.err
    assert "step 1 of 2" in made.err
    assert "trained 2 steps" in made.err
    assert "Perplexity of the right answers" in made.out
    assert "Talk with it: mmagent chat" in made.out
    assert json.loads(Path("pip/report.json").read_text())["run"]["steps"] == 2

    stopped = cli("finetune", "chat", *common)
    assert (stopped.code, "add --resume" in stopped.err) == (2, True)
    exported = cli("finetune", "export", "pip", "whole", "--base", tiny_llava)
    assert (exported.code, exported.out.strip()) == (0, "whole")
    talked = cli("chat", "--model", "whole", "--memory", "m", "-m", "Hi", "--max-tokens", "3")
    assert talked.code == 0, talked.err


def test_bad_rows_are_shown_and_refused(cli: Cli, tiny_llava: Path, tmp_path: Path) -> None:
    from finetune_rows_cli import rows_with_one_bad

    file = rows_with_one_bad(tmp_path)
    result = cli("finetune", "inspect", "--base", tiny_llava, "--data", file)
    assert result.code == 2
    assert "missing picture: 1" in result.out
    assert "row 3: There is no picture file none.png" in result.err
    result = cli("finetune", "inspect", "--base", tiny_llava, "--data", file, "--bad-rows", "skip")
    assert result.code == 0


def test_learning_from_memory_asks_for_consent_and_ratings(
    cli: Cli, tiny_llava: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "memory"
    for number in range(12):
        for speaker, text in (("Sam", f"Question {number}?"), ("Mia", f"Answer {number}.")):
            cli("memory", "add", text, "--speaker", speaker, "--user", "sam", "--memory", folder)
    common = ("finetune", "inspect", "--base", tiny_llava, "--from-memory", folder, "--user", "sam",
              "--split-test", 0, "--split-validation", 0)  # fmt: skip
    refused = cli(*common)
    assert (refused.code, "--consent" in refused.err) == (2, True)
    shown = cli(*common, "--consent", "--rows", "1")
    assert shown.code == 0, shown.err
    assert "Answer 0." in shown.out
    listed = cli("memory", "list", "--user", "sam", "--memory", folder, "--json").out
    ids = [json.loads(line) for line in listed.splitlines()]
    best = next(hit["id"] for hit in ids if hit["text"] == "Answer 5.")
    rated = cli("finetune", "rate", best, "good", "--user", "sam", "--memory", folder)
    assert rated.out == f"Rated good: {best}\n"
    shown = cli(*common, "--consent", "--rated-only", "--json")
    assert json.loads(shown.out)["read"] == 1
