"""How fast the memory is and how far it scales, beside the other local stores, in one run.

    python benchmarks/memory.py [--sizes 1000,10000,100000] [--stores mmagent,pair,faiss,…]
        [--python PYTHON] [--seconds 120] [--work FOLDER] [--out FILE.json] [--table FILE.md]

Each store fills and answers in processes of its own, with the same texts, vectors (384
dimensions, clustered), users (a hundred) and questions; embedding costs nothing. `--python` is
an interpreter that has the other stores (`make bench-memory` makes one). Times are medians in
milliseconds; machines differ, so look at the ratios. A store that does not finish a stage within
`--seconds` is stopped there and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from stores.data import make
from stores.worker import MARK, STORES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAMES = {
    "mmagent": "mmagent FaissStore",
    "faiss": "raw FAISS flat, one thread",
    "pair": "plain SQLite + FAISS flat",
    "inmemory": "LangGraph InMemoryStore",
    "sqlite": "LangGraph SqliteStore",
    "chroma": "Chroma",
    "lancedb": "LanceDB",
    "qdrant": "Qdrant local",
    "mem0": "mem0 on FAISS, infer=False",
}
IN_MEMORY = ("faiss", "inmemory")


def run(python: str, arguments: list[str], before: tuple[str, ...] = ()) -> tuple[str, str]:
    """Run one worker; return what it printed and the last of what it complained of."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), str(ROOT / "memory")]),
        "ANONYMIZED_TELEMETRY": "False",
    }
    done = subprocess.run(
        [*before, python, "-m", "stores.worker", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        return "", lines[-1][:200]
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "{}", done.stderr


def measure(store: str, size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return everything measured of one store at one size."""
    folder = args.work / f"{store}-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    # Ours runs with the packages of this interpreter, as do the yardsticks.
    python = sys.executable if store in ("mmagent", "faiss", "pair") else args.python
    result: dict[str, Any] = {}
    parts = ["all"] if store in IN_MEMORY else ["fill", "ask"]
    for part in parts:
        more = ["--seconds", str(args.seconds)]
        answer, complaint = run(
            python, [part, store, str(folder), str(args.data), str(size), *more]
        )
        if not answer:
            result["failed"] = complaint
            break
        result |= json.loads(answer)
        if "stopped_at" in result:
            break
    if store == "mmagent" and shutil.which("strace") and "failed" not in result:
        result["writes"] = writes(folder, size, args)
    for made in (folder, folder.with_name(f"{folder.name}-bare")):
        shutil.rmtree(made, ignore_errors=True)
    return result


def writes(folder: Path, size: int, args: argparse.Namespace) -> dict[str, float]:
    """Return what one durable add asks of the system, seen by strace over a hundred."""
    trace = args.work / "strace.txt"
    calls = "trace=fsync,fdatasync,write,pwrite64,pwritev,writev"
    before = ("strace", "-f", "-e", calls, "-s", "64", "-o", str(trace))
    run(sys.executable, ["writes", "mmagent", str(folder), str(args.data), str(size)], before)
    text = trace.read_text(errors="replace")
    trace.unlink()
    between = text.split(MARK)[1] if text.count(MARK) >= 2 else ""
    sizes = re.findall(r"p?write(?:64|v)?\(.*?= (\d+)$", between, re.MULTILINE)
    return {
        "syncs_an_add": len(re.findall(r"f(?:data)?sync\(", between)) / 100,
        "bytes_an_add": sum(map(int, sizes)) / 100,
    }


def machine() -> str:
    """Return what this ran on."""
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({name}), {memory:.0f} GB, no GPU, shared with other work"


def table(results: dict[str, dict[str, Any]], size: int) -> str:
    """Return one size as a table; ratios are to the yardstick of the same run."""

    def ratio(found: dict[str, Any], part: str, yardstick: str, of: str) -> str:
        own = found.get(part, {}).get("p50_ms")
        base = results.get(yardstick, {}).get(of, {}).get("p50_ms")
        if own is None:
            return "–"
        text = f"{own:.2f}" if own < 10 else f"{own:.0f}"
        return f"{text} ({own / base:.2f}×)" if base else text

    lines = [
        f"### {size:,} items",
        "",
        "| store | load, items/s | add, ms (to a bare commit) | update, ms | delete, ms | "
        "one user, ms (to raw FAISS) | recall | all, ms (to raw FAISS) | recall | "
        "open and answer, s | resident, MB | disk, B an item |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for store, found in results.items():
        if "failed" in found or "stopped_at" in found:
            why = found.get("failed") or (
                f"stopped after {found['stopped_at']:,} items ({found['load_per_s']:,.0f} items/s)"
            )
            lines.append(f"| {NAMES[store]} | {why} |" + " – |" * 10)
            continue
        cells = [
            f"{found['load_per_s']:,.0f}",
            ratio(found, "add", "pair", "commit"),
            ratio(found, "update", "", ""),
            ratio(found, "delete", "", ""),
            ratio(found, "slice", "faiss", "slice"),
            f"{found['slice'].get('recall', 0):.3f}",
            ratio(found, "wide", "faiss", "wide"),
            f"{found['wide']['recall']:.3f}" if "recall" in found["wide"] else "–",
            f"{found['open_and_answer_s']:.2f}" if "open_and_answer_s" in found else "–",
            f"{found['resident_mb']:,.0f}",
            f"{found['disk_bytes_an_item']:,.0f}" if "disk_bytes_an_item" in found else "–",
        ]
        lines.append(f"| {NAMES[store]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ours(found: dict[str, Any], size: int) -> str:
    """Return what is measured of this store alone."""
    beside, alone = found.get("slice_beside_load", {}), found.get("slice", {})
    parts = [f"{size:,} items:"]
    if "full_text_s" in found:
        parts.append(
            f"the load has every item on disk, and full text, the folded log and the index over "
            f"all follow behind it within {found['behind_s']:.1f} s; a search by words right "
            f"after it makes full text first, in {found['full_text_s']:.2f} s (load and full "
            f"text: {found['load_with_full_text_per_s']:,.0f} items/s);"
        )
    if "group_ms_an_item" in found:
        parts.append(f"eight threads adding together {found['group_ms_an_item']:.2f} ms an item;")
    if "add_to_commit" in found:
        parts.append(f"an add and a bare commit in turns {found['add_to_commit']:.2f}×;")
    if "writes" in found:
        parts.append(
            f"{found['writes']['syncs_an_add']:.2f} fdatasync and "
            f"{found['writes']['bytes_an_add']:,.0f} B written an add (strace, a hundred adds);"
        )
    if beside and alone:
        parts.append(
            f"one user's search beside a process that burns a core p50 {beside['p50_ms']:.2f}, "
            f"p95 {beside['p95_ms']:.2f} ms ({beside['p95_ms'] / beside['p50_ms']:.1f}×);"
        )
    if "first_p50_ms" in alone:
        parts.append(f"each question asked for the first time p50 {alone['first_p50_ms']:.2f} ms;")
    if "first_wide_s" in found:
        parts.append(f"first search over all {found['first_wide_s']:.2f} s.")
    return "- " + " ".join(parts)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--work", type=Path, default=ROOT / ".build" / "bench-memory")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    stores = args.stores.split(",")
    unknown = [store for store in stores if store not in STORES]
    if unknown:
        parser.error(f"unknown stores {', '.join(unknown)}; there are: {', '.join(STORES)}")
    whole: dict[str, Any] = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "sizes": {}}
    parts = []
    for size in [int(size) for size in args.sizes.split(",")]:
        args.data = args.work / f"data-{size}"
        data = make(args.data, size)
        mine, wide = data.nearest()
        np.save(args.data / f"mine-{size}.npy", mine)
        np.save(args.data / f"wide-{size}.npy", wide)
        results: dict[str, dict[str, Any]] = {}
        for store in stores:
            started = time.perf_counter()
            results[store] = measure(store, size, args)
            took = time.perf_counter() - started
            print(f"{size:>9,} {NAMES[store]}: {took:.0f} s", file=sys.stderr, flush=True)
        whole["sizes"][str(size)] = results
        parts.append(table(results, size))
        if "mmagent" in results and "failed" not in results["mmagent"]:
            parts.append(ours(results["mmagent"], size))
        shutil.rmtree(args.data, ignore_errors=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(whole, indent=1) + "\n")
    text = f"{whole['machine']}; {whole['date']}.\n\n" + "\n\n".join(parts) + "\n"
    if args.table:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
