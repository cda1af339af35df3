"""Several processes at one store: none's writes are lost, none reads what is not so."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.checking import repair, verify
from mmagent_memory.errors import MemoryStoreError, StoreBusyError

ROOT = Path(__file__).parents[2]
EMBEDDER = HashEmbedder(dims=32)

# Forked from one interpreter, so that all of them start at once.
CROWD = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = {paths!r}
import json, random, time
from pathlib import Path
import fault_forks
from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
folder, writers, readers, count = sys.argv[1], *map(int, sys.argv[2:])

def write(tell, name):
    with FaissStore(folder, HashEmbedder(dims=32), fields=("text",)) as store:
        memory = LongTermMemory(store, user=name)
        for number in range(count):
            value = {{"text": f"{{name}} says {{number}}", "n": number}}
            store.put(("w", name), f"{{number}}", value)
            memory.remember(f"{{name}} remembers {{number}}", id=f"{{number}}")
            if number % 5 == 4:
                store.delete(("w", name), f"{{number - 2}}")
                memory.forget(f"{{number - 2}}")
            mine = store.get(("w", name), f"{{number}}")
            assert mine is not None and mine.value["n"] == number, "its own write is not there"
        tell({{"written": name}})

def read(tell, name):
    seen = 0
    with FaissStore(folder, HashEmbedder(dims=32), fields=("text",)) as store:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for limit in (10**9, 0):
                store.exact_limit = limit
                for item in store.search(("w",), query="says 3", limit=20):
                    who = item.namespace[1]
                    assert item.value["text"] == f"{{who}} says {{item.value['n']}}", item.value
            found = store.search(("w",), limit=10_000)
            for item in found:
                assert item.value["text"] == f"{{item.namespace[1]}} says {{item.value['n']}}"
            now = len(found)
            # Of five items that a writer puts it takes one back: it never goes down by more.
            assert now >= seen - writers, (now, seen)
            seen = max(seen, now)
            if Path(folder, "done").exists():
                break
    tell({{"seen": seen}})

children = [fault_forks.start(lambda tell, n=n: write(tell, f"w{{n}}")) for n in range(writers)]
others = [fault_forks.start(lambda tell, n=n: read(tell, f"r{{n}}")) for n in range(readers)]
ended = [child.end(100) for child in children]
Path(folder, "done").touch()
ended += [child.end(100) for child in others]
print(json.dumps([[one.status, one.told] for one in ended]))
"""


@pytest.mark.parametrize(("writers", "readers"), [(2, 2), (4, 1)])
def test_writers_and_readers_at_once(tmp_path: Path, writers: int, readers: int):
    paths = [str(ROOT / "tests" / "faults"), str(ROOT / "memory")]
    count = 15
    done = subprocess.run(
        [sys.executable, "-c", CROWD.format(paths=paths), str(tmp_path)]
        + [str(number) for number in (writers, readers, count)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    ended = json.loads(done.stdout)
    assert [status for status, _ in ended] == [0] * (writers + readers), ended
    report = verify(tmp_path)
    kept = [n for n in range(count) if n % 5 != 2]
    assert (report.whole, report.items) == (True, 2 * writers * len(kept))
    with FaissStore(tmp_path, EMBEDDER, fields=("text",)) as store:
        for name in (f"w{number}" for number in range(writers)):
            items = store.search(("w", name), query=f"{name} says 3", limit=100)
            assert sorted(item.value["n"] for item in items) == kept
            memories = LongTermMemory(store, user=name).list()
            assert {hit.text for hit in memories} == {f"{name} remembers {n}" for n in kept}


def test_a_forked_child_and_its_parent_both_write(tmp_path: Path):
    store = FaissStore(tmp_path, EMBEDDER, fields=("text",))
    store.put(("f",), "before", {"text": "before the fork"})
    store.search(("f",), query="fork")
    children = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Forking with threads, from 3.12.
        for name in ("one", "two"):
            child = os.fork()
            if not child:
                try:
                    for number in range(10):
                        store.put(("f",), f"{name} {number}", {"text": f"{name} {number}"})
                    found = store.search(("f",), limit=100)
                    os._exit(0 if len(found) >= 11 else 1)
                except BaseException:
                    os._exit(2)
            children.append(child)
    for number in range(10):
        store.put(("f",), f"parent {number}", {"text": f"parent {number}"})
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert len(store.search(("f",), query="parent", limit=100)) == 31
    store.close()
    assert verify(tmp_path).whole


def test_a_store_that_is_held_too_long_is_busy(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmagent_memory.database.BUSY_MS", 200)
    with FaissStore(tmp_path, False) as store:
        store.put(("a",), "k", {"n": 1})
        with closing(sqlite3.connect(tmp_path / "memory.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusyError, match="try again"):
                store.put(("a",), "k", {"n": 2})
            assert store.get(("a",), "k").value == {"n": 1}  # Reading goes on.
            with pytest.raises(StoreBusyError):
                FaissStore(tmp_path, False)
            other.execute("ROLLBACK")
        store.put(("a",), "k", {"n": 3})
        assert store.get(("a",), "k").value == {"n": 3}


def test_a_writer_waits_for_another(tmp_path: Path):
    with FaissStore(tmp_path, False) as store:
        store.put(("a",), "k", {"n": 1})
        other = sqlite3.connect(
            tmp_path / "memory.sqlite3", isolation_level=None, check_same_thread=False
        )
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
        release.start()
        store.put(("a",), "k", {"n": 2})
        release.join()
        other.close()
        assert store.get(("a",), "k").value == {"n": 2}


def test_repair_keeps_away_from_a_store_in_use(tmp_path: Path):
    with FaissStore(tmp_path, False) as store:
        store.put(("a",), "k", {"n": 1})
        store.put(("a",), "hurt", {"n": 1})
    with closing(sqlite3.connect(tmp_path / "memory.sqlite3", isolation_level=None)) as db:
        db.execute("UPDATE items SET crc = crc + 1 WHERE key = ?", (b"hurt",))
    with FaissStore(tmp_path, False) as store:
        assert store.get(("a",), "k").value == {"n": 1}
        assert not verify(tmp_path).whole  # Looking is allowed.
        with pytest.raises(StoreBusyError, match="open in another program"):
            repair(tmp_path)
        store.put(("a",), "k", {"n": 2})
    assert repair(tmp_path).lost == ["hurt (number 2)"]
    with FaissStore(tmp_path, False) as store:
        assert store.get(("a",), "k").value == {"n": 2}


def test_verify_changes_nothing(tmp_path: Path):
    with FaissStore(tmp_path, EMBEDDER) as store:
        LongTermMemory(store, user="sam").remember("something")
        before = {path.name: path.read_bytes() for path in tmp_path.glob("memory.sqlite3*")}
        assert len(before["memory.sqlite3-wal"]) > 0
        assert verify(tmp_path).whole
        after = {path.name: path.read_bytes() for path in tmp_path.glob("memory.sqlite3*")}
        for name in ("memory.sqlite3", "memory.sqlite3-wal"):
            assert after[name] == before[name]


def test_a_killed_repair_is_finished_by_whoever_comes_next(tmp_path: Path, monkeypatch):
    with FaissStore(tmp_path, False) as store:
        for number in range(5):
            store.put(("a",), f"{number}", {"n": number})
    with closing(sqlite3.connect(tmp_path / "memory.sqlite3", isolation_level=None)) as db:
        db.execute("UPDATE items SET crc = crc + 1 WHERE key = ?", (b"3",))

    def killed(old: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmagent_memory.replacing._finish", killed)
    with pytest.raises(KeyboardInterrupt):
        repair(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "memory.sqlite3.repaired").exists()
    with FaissStore(tmp_path, False) as store:
        assert sorted(item.value["n"] for item in store.search(("a",))) == [0, 1, 2, 4]
        with pytest.raises(MemoryStoreError):
            repair(tmp_path / "nowhere")
    assert not (tmp_path / "memory.sqlite3.repaired").exists()
    assert verify(tmp_path).whole
