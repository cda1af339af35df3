"""The fault campaign: kill, damage, starve and crowd a store, and see what is left.

    python benchmarks/faults.py                      # about a minute; what CI runs
    python benchmarks/faults.py --rounds 500         # 500 kills of each kind of work's share
    python benchmarks/faults.py --write docs         # also docs/faults.md and faults.json

After every round the store is opened, every acknowledged item is looked for, searches are
compared with brute force, and `verify` must find nothing wrong. Whatever is read from a damaged
store must be right; what is missing must be named; `repair` must save what is whole.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # It forks: no threads.

import argparse
import json
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT / folder) for folder in ("tests/faults", "tests", "memory")]

QUICK_KILLS, QUICK_DAMAGES = 55, 54
"""Rounds of a quick campaign, over all kinds."""


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; 0 if nothing bad came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=0, help="kills [default: a quick campaign]")
    parser.add_argument("--damages", type=int, default=0, help="damaged files [default: as kills]")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write faults.md, faults.json")
    options = parser.parse_args(arguments)
    from fault_damage import DAMAGES
    from fault_kills import KILLS

    place = _place()
    try:
        results = []
        for group, kinds, total in (
            ("kill", KILLS, options.rounds or QUICK_KILLS),
            ("damage", DAMAGES, options.damages or options.rounds or QUICK_DAMAGES),
        ):
            chosen = [kind for kind in kinds if options.only in kind.name]
            for number, kind in enumerate(chosen):
                rounds = total // len(chosen) + (number < total % len(chosen))
                results.append(_run(group, kind, max(1, rounds), place, options.seed))
                print(_line(results[-1]), flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report = {"machine": _machine(), "seed": options.seed, "results": results}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if options.write:
        (options.write / "faults.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        page = options.write / "faults.md"
        page.write_text(_with_tables(page, report), encoding="utf-8")
    bad = [result for result in results if result["bad"]]
    for result in bad:
        print(f"BAD {result['name']}: {result['words']}", file=sys.stderr)
    return 1 if bad else 0


def _place() -> Path:
    # A kill does not lose what the system holds, so that the disk would only slow this down.
    memory = Path("/dev/shm")
    folder = str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="mmagent-faults-", dir=folder))


def _run(group: str, kind: Any, rounds: int, place: Path, seed: int) -> dict[str, Any]:
    began = time.monotonic()
    done = [kind.round(place, seed * 1000 + number) for number in range(rounds)]
    bad = [one for one in done if one.outcome == "bad"]
    return {
        "group": group,
        "name": kind.name,
        "rounds": rounds,
        "acknowledged": sum(one.acknowledged for one in done),
        **{what: sum(one.outcome == what for one in done) for what in _OUTCOMES},
        "saved": round(statistics.fmean(one.saved for one in done), 4),
        "saved_least": round(min(one.saved for one in done), 4),
        "seconds": round(time.monotonic() - began, 2),
        "words": [one.words[:3] for one in bad][:5],
    }


_OUTCOMES = ("whole", "repaired", "named", "bad")


def _line(result: dict[str, Any]) -> str:
    outcomes = ", ".join(f"{result[what]} {what}" for what in _OUTCOMES if result[what])
    return f"{result['name']:34} {result['rounds']:4} rounds: {outcomes} ({result['seconds']} s)"


def _machine() -> str:
    return (
        f"{os.cpu_count()} shared {platform.machine()} cores, Linux, Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}; files in memory (tmpfs)"
    )


_BEGIN, _END = "<!-- tables -->", "<!-- end of tables -->"


def _with_tables(page: Path, report: dict[str, Any]) -> str:
    """Return the page with its tables made anew; the words around them stay."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{_BEGIN}\n{_END}\n"
    before, rest = text.split(_BEGIN, 1)
    return f"{before}{_BEGIN}\n{_tables(report)}{_END}{rest.split(_END, 1)[1]}"


def _tables(report: dict[str, Any]) -> str:
    results = report["results"]
    kills = [one for one in results if one["group"] == "kill"]
    damages = [one for one in results if one["group"] == "damage"]
    lines = [f"Machine: {report['machine']}. Seed {report['seed']}.", ""]
    lines += _table(
        ("killed while it would", "rounds", "acknowledged", "bad stores", "s a round"),
        [
            (
                one["name"],
                one["rounds"],
                one["acknowledged"],
                one["bad"],
                f"{one['seconds'] / one['rounds']:.2f}",
            )
            for one in [*kills, _sum(kills)]
        ],
    )
    lines += _table(
        ("damage", "rounds", "no harm", "all saved", "loss named", "bad", "items saved", "least"),
        [
            (
                one["name"],
                one["rounds"],
                *(one[what] for what in _OUTCOMES),
                f"{one['saved']:.1%}",
                f"{one['saved_least']:.1%}",
            )
            for one in damages
        ],
    )
    return "\n".join(lines)


def _sum(results: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("rounds", "acknowledged", "bad", "seconds")
    return {"name": "**all**", **{name: sum(one[name] for one in results) for name in names}}


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    titles = list(head)
    lines = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
