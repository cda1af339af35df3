"""The fault campaign in short: kills at random moments and at every step, every file damaged.

`make faults ROUNDS=500` runs the long one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a quick campaign, which runs in a process of its own because it forks."""
    results = tmp_path_factory.mktemp("faults") / "results.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--json", str(results)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert results.exists(), done.stderr[-3000:]
    report: dict[str, Any] = json.loads(results.read_text())
    return report


def only(report: dict[str, Any], group: str) -> list[dict[str, Any]]:
    return [result for result in report["results"] if result["group"] == group]


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_a_kill(campaign: dict[str, Any]):
    kills = only(campaign, "kill")
    assert sum(result["rounds"] for result in kills) >= 50
    assert sum(result["acknowledged"] for result in kills) > 200
    assert [(result["name"], result["words"]) for result in kills if result["bad"]] == []


@pytest.mark.slow
def test_damage_is_repaired_or_named(campaign: dict[str, Any]):
    damages = only(campaign, "damage")
    assert len(damages) >= 29
    assert [(result["name"], result["words"]) for result in damages if result["bad"]] == []


@pytest.mark.slow
def test_what_is_whole_is_saved(campaign: dict[str, Any]):
    saved = {result["name"]: result["saved_least"] for result in only(campaign, "damage")}
    for name, least in saved.items():
        if name.startswith(("index", "marker", "shared memory")):
            assert least == 1.0, name  # Each of them can be made anew from the database.
    for name in ("log: one bit", "log: a bit of the header", "database: the header garbled"):
        assert saved[name] == 1.0, name
    for name in ("database: one bit", "log: garbled", "log: deleted"):
        assert saved[name] > 0.8, name
