"""Train every objective on the examples it draws, and put what they reached into one table.

    python benchmarks/objectives.py [--example 800] [--work FOLDER] [--out FILE.json]
        [--table FILE.md] [--only "NAME;..."]

Each objective is the command `mmagent finetune ...` as a user gives it, with its defaults and small
models from nothing; what is measured are rows held out. Then the trained classifiers are attacked
(`mmagent eval robustness`). A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RUNS = {
    "vqa": ["vqa"],
    "match": ["match"],
    "embed": ["embed"],
    "classify, early fusion": ["classify", "--fusion", "early"],
    "classify, late fusion": ["classify", "--fusion", "late"],
    "classify, attention": ["classify", "--fusion", "attention"],
    "pretrain": ["pretrain"],
}
ATTACKED = ("vqa", "match", "classify, late fusion")


def trained(arguments: list[str], output: Path, example: int) -> dict[str, Any]:
    """The report of a run; it is trained if there is none yet."""
    report = output / "report.json"
    if not report.exists():
        command = [sys.executable, "-m", "mmagent", "finetune", *arguments]
        command += ["--example", str(example), "--output", str(output)]
        subprocess.run(command + ["--resume"] * output.exists(), check=True)
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found


def attacked(output: Path) -> dict[str, Any]:
    """How well a trained classifier holds, on fresh examples."""
    folder = output / "robustness"
    command = [sys.executable, "-m", "mmagent", "eval", "robustness", str(output), "--out"]
    if not (folder / "robustness.json").exists():
        subprocess.run([*command, str(folder)], check=True)
    found: dict[str, Any] = json.loads((folder / "robustness.json").read_text("utf-8"))
    return found


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Every measure before and after, a line each."""
    lines = [
        "| objective | rows to train, held out | steps, seconds | measure | before | after |",
        "|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        rows, size = report["rows"], f"{report['steps']}, {report['seconds']:.0f}"
        for measure, after in report["after"].items():
            before = report["before"].get(measure)
            cells = [name, f"{rows['train']}, {rows['test']}", size, measure]
            cells += ["" if before is None else f"{before:.3f}", f"{after:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
            name = size = ""
            rows = {"train": "", "test": ""}
    return "\n".join(line.replace("| ,  |", "|  |") for line in lines) + "\n"


def robustness_table(found: dict[str, dict[str, Any]]) -> str:
    """Accuracy when attacked, by epsilon."""
    sizes = list(next(iter(found.values()))["fgsm"])
    head = ["attacked, of 255", "clean", *(f"{way} {e}" for way in ("FGSM", "PGD") for e in sizes)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, report in found.items():
        shares = [report[way][size] for way in ("fgsm", "pgd") for size in sizes]
        cells = [name, *(f"{share:.2f}" for share in (report["clean"], *shares))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, attack, write."""
    parser = argparse.ArgumentParser(description="Train every objective on drawn examples.")
    parser.add_argument("--example", type=int, default=800, help="rows drawn for each")
    parser.add_argument("--work", type=Path, default=Path(".build/objectives"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", default="", help="names, with semicolons")
    args = parser.parse_args()
    names = [name.strip() for name in args.only.split(";") if name.strip()] or list(RUNS)
    if unknown := set(names) - set(RUNS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; name some of: {'; '.join(RUNS)}")
    args.work.mkdir(parents=True, exist_ok=True)
    folder = {name: args.work / name.replace(", ", "-").replace(" ", "-") for name in RUNS}
    reports = {name: trained(RUNS[name], folder[name], args.example) for name in names}
    held = {name: attacked(folder[name]) for name in names if name in ATTACKED}
    text = table(reports) + ("\n" + robustness_table(held) if held else "")
    print(text)
    if args.table:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(text, "utf-8")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        here = ("settings", "run")  # of this machine
        kept = [
            {n: {k: v for k, v in r.items() if k not in here} for n, r in found.items()}
            for found in (reports, held)
        ]
        words = json.dumps({"runs": kept[0], "robustness": kept[1]}, indent=1)
        args.out.write_text(words + "\n", "utf-8")


if __name__ == "__main__":
    main()
