"""Measure one store in a process of its own; prints one line of JSON.

python -m stores.worker {fill|ask|all|writes} STORE FOLDER DATA SIZE [--seconds N]
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stores.data import Data

__all__ = ["STORES"]

STORES = {
    "mmagent": "stores.ours:Ours",
    "faiss": "stores.plain:RawFaiss",
    "pair": "stores.plain:Pair",
    "inmemory": "stores.langgraph_stores:InMemory",
    "sqlite": "stores.langgraph_stores:Sqlite",
    "chroma": "stores.vector_databases:Chroma",
    "lancedb": "stores.vector_databases:Lance",
    "qdrant": "stores.vector_databases:Qdrant",
    "mem0": "stores.vector_databases:Mem0",
}
MARK = "=== measured from here ==="
_ADDS, _ROUNDS, _GROUP = 200, 100, 50


def timed(action: Callable[[Any], object], arguments: Iterable[Any], most: float) -> dict[str, Any]:
    """Return p50 and p95 in milliseconds; stops after `most` seconds."""
    found, until = [], time.perf_counter() + most
    for argument in arguments:
        start = time.perf_counter()
        action(argument)
        found.append((time.perf_counter() - start) * 1e3)
        if time.perf_counter() > until and len(found) >= 3:
            break
    ordered = sorted(found)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return {"p50_ms": statistics.median(found), "p95_ms": p95, "n": len(found)}


def resident() -> float:
    """Return this process's resident memory in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def fill(store: Any, data: Data, folder: Path, seconds: float) -> dict[str, Any]:
    """Load, add, update, delete; in the end there is what was loaded."""
    result: dict[str, Any] = {}
    data.make_texts()
    loaded, took = load(store, data.size, seconds)
    result["load_per_s"] = loaded / took
    if loaded < data.size:
        result["stopped_at"] = loaded
        return result
    if type(store).__name__ == "Ours":
        start = time.perf_counter()
        store.make_full_text()
        result["full_text_s"] = time.perf_counter() - start
        result["load_with_full_text_per_s"] = loaded / (took + result["full_text_s"])
        store.wait()
        result["behind_s"] = time.perf_counter() - start
    spare = [data.size + place for place in range(_ADDS)]
    result["add"] = timed(store.add, spare, seconds / 4)
    added = spare[: result["add"]["n"]]
    if hasattr(store, "commit_only"):
        only = [data.size + _ADDS + place for place in range(_ADDS)]
        result["commit"] = timed(store.commit_only, only, seconds / 4)
        for number in only[: result["commit"]["n"]]:
            store.delete(number)
    pairs = [(number, number + 500) for number in added[:_ROUNDS]]
    result["update"] = timed(lambda pair: store.update(*pair), pairs, seconds / 4)
    deleted = timed(store.delete, added[:_ROUNDS], seconds / 4)
    result["delete"] = deleted
    for number in added[deleted["n"] :]:
        store.delete(number)
    if type(store).__name__ == "Ours":
        result["group_ms_an_item"] = together(store, data)
        result["add_to_commit"] = in_turns(store, data, folder)
    return result


def load(store: Any, size: int, seconds: float) -> tuple[int, float]:
    """Load everything; return how many items and how long it took.

    A tenth shows whether the rest fits into the seconds allowed. Then it is given in one go;
    otherwise in tenths, until they are over.
    """
    step = max(1_000, size // 10)
    start, loaded = time.perf_counter(), 0
    while loaded < size and time.perf_counter() - start <= seconds:
        fits = loaded and (time.perf_counter() - start) * size / loaded < seconds / 2
        end = size if fits else min(size, loaded + step)
        store.load(range(loaded, end))
        loaded = end
    return loaded, time.perf_counter() - start


def in_turns(store: Any, data: Data, folder: Path) -> float:
    """Return the ratio of an add to a bare commit of the same row, measured in turns.

    A disk that others use is slow for both then; medians of a hundred each.
    """
    from stores.plain import Pair

    bare = Pair(folder.with_name(f"{folder.name}-bare"), data)
    numbers = range(data.size + 1_500, data.size + 1_600)
    adds, commits = [], []
    for number in numbers:
        start = time.perf_counter()
        bare.commit_only(number)
        commits.append(time.perf_counter() - start)
        start = time.perf_counter()
        store.add(number)
        adds.append(time.perf_counter() - start)
    for number in numbers:
        store.delete(number)
    bare.close()
    return statistics.median(adds) / statistics.median(commits)


def together(store: Any, data: Data) -> float:
    """Return milliseconds an item when eight threads add at once."""
    first = data.size + 1_000
    parts = [range(first + n * _GROUP, first + (n + 1) * _GROUP) for n in range(8)]

    def work(part: Iterable[int]) -> None:
        for number in part:
            store.add(number)

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    for part in parts:
        for number in part:
            store.delete(number)
    return took * 1e3 / (8 * _GROUP)


def ask(store: Any, data: Data, seconds: float, *, settle: bool) -> dict[str, Any]:
    """Search one user's items and all of them."""
    import numpy as np

    mine, wide = (np.load(data_folder / f"{name}-{data.size}.npy") for name in ("mine", "wide"))
    result: dict[str, Any] = {}
    questions = range(len(data.questions))
    for name, truth in (("slice", mine), ("wide", wide)):
        found: dict[int, list[int]] = {}

        def search(question: int, name: str = name, found: dict[int, list[int]] = found) -> None:
            user = f"user{data.askers[question]}" if name == "slice" else None
            found[question] = store.search(question, user)

        try:
            # Once to warm up: the index of a slice is made when first asked for, and what is
            # found is then in memory.
            first = timed(search, questions, seconds / 4)
            if settle and name == "wide" and hasattr(store, "_store"):
                wait = getattr(store._store, "wait_for_index", None)
                if wait is not None:
                    wait()
            result[name] = timed(search, questions, seconds / 2)
        except NotImplementedError as error:
            result[name] = {"none": str(error)}
            continue
        right = [len(set(found[q]) & set(truth[q])) / max(1, (truth[q] >= 0).sum()) for q in found]
        result[name]["recall"] = float(np.mean(right))
        result[name]["first_p50_ms"] = first["p50_ms"]
        if name == "slice":
            burner = multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
            burner.start()
            time.sleep(0.5)
            result["slice_beside_load"] = timed(search, questions, seconds / 4)
            burner.kill()
    return result


def burn() -> None:
    """Keep one core busy."""
    while True:
        pass


def disk(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["fill", "ask", "all", "writes"])
    parser.add_argument("store", choices=STORES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("size", type=int)
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args()
    global data_folder
    data_folder = args.data
    module, name = STORES[args.store].split(":")
    make = getattr(importlib.import_module(module), name)
    data = Data(args.data, args.size)
    result: dict[str, Any] = {}
    before = resident()
    start = time.perf_counter()
    store = make(args.folder, data)
    if args.part == "writes":
        for number in range(20):
            store.add(data.size + 100 + number)
        os.write(2, MARK.encode())
        for number in range(100):
            store.add(data.size + 200 + number)
        os.write(2, MARK.encode())
        for number in [*range(100, 120), *range(200, 300)]:
            store.delete(data.size + number)
        store.close()
        return
    if args.part in ("fill", "all"):
        result |= fill(store, data, args.folder, args.seconds)
    if args.part in ("ask", "all") and "stopped_at" not in result:
        if args.part == "ask":
            store.search(0, f"user{data.askers[0]}")
            result["open_and_answer_s"] = time.perf_counter() - start
            start = time.perf_counter()
            if args.store != "mem0":
                store.search(0, None)
            result["first_wide_s"] = time.perf_counter() - start
        result |= ask(store, data, args.seconds, settle=True)
        result["resident_mb"] = resident() - before
    store.close()
    if args.folder.exists() and "stopped_at" not in result:
        result["disk_bytes_an_item"] = disk(args.folder) / data.size
    json.dump(result, sys.stdout)


data_folder = Path()
if __name__ == "__main__":
    main()
