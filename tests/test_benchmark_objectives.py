"""The table of the objectives' benchmark, without the training."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "benchmarks" / "objectives.py"


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("bench_objectives", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_of_the_benchmark_is_one_of_ours() -> None:
    from mmagent.finetune.objectives import OBJECTIVES

    assert {arguments[0] for arguments in loaded().RUNS.values()} == set(OBJECTIVES)
    assert set(loaded().ATTACKED) <= set(loaded().RUNS)


def test_the_table_has_a_line_for_each_measure() -> None:
    report = {
        "rows": {"train": 640, "validation": 80, "test": 80}, "steps": 200, "seconds": 61.4,
        "before": {"accuracy": 0.1}, "after": {"accuracy": 0.9, "macro F1": 0.85},
    }  # fmt: skip
    lines = loaded().table({"vqa": report, "embed": report}).splitlines()
    assert lines[2] == "| vqa | 640, 80 | 200, 61 | accuracy | 0.100 | 0.900 |"
    assert lines[3] == "|  |  |  | macro F1 |  | 0.850 |"
    assert lines[4].startswith("| embed | 640, 80 |")
    held = {"clean": 0.9, "fgsm": {"1": 0.5, "2": 0.4}, "pgd": {"1": 0.3, "2": 0.2}}
    lines = loaded().robustness_table({"vqa": held}).splitlines()
    assert lines[0] == "| attacked, of 255 | clean | FGSM 1 | FGSM 2 | PGD 1 | PGD 2 |"
    assert lines[2] == "| vqa | 0.90 | 0.50 | 0.40 | 0.30 | 0.20 |"


def test_an_unknown_objective_is_named() -> None:
    run = subprocess.run(
        [sys.executable, FILE, "--only", "vqa;nope"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "there is no nope; name some of: vqa; match;" in run.stderr
