"""A disk that is full, fails or is read-only: what was acknowledged stays, and errors are ours."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.checking import repair, verify
from mmagent_memory.errors import MemoryStoreError, ReadOnlyStoreError, StoreFullError

DATABASE = "memory.sqlite3"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system, of which the ballast leaves 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=9m", "none", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root: " + mounted.stderr.decode().strip())
    (place / "ballast").write_bytes(bytes(6_000_000))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def text(number: int) -> str:
    chance = random.Random(number)
    return f"number {number} " + "".join(chance.choices("bcdfghjklm ", k=30_000))


def fill(store: FaissStore, first: int = 0) -> list[int]:
    """Put until the disk is full; return what was acknowledged."""
    kept: list[int] = []
    for number in range(first, first + 5000):
        try:
            store.put(("a",), f"{number}", {"text": text(number)}, index=False)
        except StoreFullError:
            return kept
        kept.append(number)
    raise AssertionError("The disk was never full.")


def assert_all(store: FaissStore, kept: list[int]) -> None:
    for number in kept:
        item = store.get(("a",), f"{number}")
        assert item is not None
        assert item.value == {"text": text(number)}


def test_a_full_disk_loses_nothing(disk: Path):
    folder, ballast = disk / "m", disk / "ballast"
    with FaissStore(folder, HashEmbedder(dims=32)) as store:
        LongTermMemory(store, user="sam").remember("before the disk was full", id="first")
        kept = fill(store)
        assert len(kept) > 20
        assert_all(store, kept)  # What is there can be read.
        with pytest.raises(StoreFullError, match=r"make room|free space"):
            store.put(("a",), "more", {"text": text(-1)}, index=False)
        assert store.get(("a",), "more") is None
        os.truncate(ballast, 5_500_000)
        store.put(("a",), "more", {"text": "there is room again"}, index=False)
        kept += fill(store, first=10_000)
    assert verify(folder).whole
    with FaissStore(folder, HashEmbedder(dims=32)) as store:
        assert_all(store, kept)
        assert LongTermMemory(store, user="sam").get("first") is not None


def test_erasing_on_a_full_disk_says_what_is_left_to_do(disk: Path):
    folder, ballast = disk / "m", disk / "ballast"
    with FaissStore(folder, HashEmbedder(dims=32)) as store:
        memory = LongTermMemory(store, user="sam")
        memory.remember("xylophonists of Samarkand")
        other = LongTermMemory(store, user="kim")
        other.remember("something else")
        kept = fill(store)
        try:
            receipt = memory.erase()
            assert receipt.memories == 1
            assert receipt.complete or "full" in receipt.notes[0]
        except StoreFullError:
            assert memory.count() == 1  # Nothing was erased, and it was said.
        ballast.unlink()
        assert memory.erase().complete
    with FaissStore(folder, HashEmbedder(dims=32)) as store:
        assert_all(store, kept)
        assert LongTermMemory(store, user="kim").count() == 1
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(b"xylophonists" in data for data in files)


def test_repair_without_room_changes_nothing(disk: Path):
    folder = disk / "m"
    with FaissStore(folder, False) as store:
        kept = fill(store)
    os.truncate(disk / "ballast", 2_000_000)
    FaissStore(folder, False).close()  # There was no room to fold the log into the database.
    damaged = (folder / DATABASE).read_bytes().replace(b'{"text":"number 3 ', b'{"text":"nomber 3 ')
    (folder / DATABASE).write_bytes(damaged)
    with (disk / "more").open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(10_000))
            file.flush()
    with pytest.raises(MemoryStoreError, match=r"room|free space"):
        repair(folder)
    assert [path.name for path in folder.iterdir() if "repair" in path.name] == []
    (disk / "more").unlink()
    with FaissStore(folder, False) as store:
        assert_all(store, [number for number in kept if number != 3])


def test_a_read_only_file_system(disk: Path):
    folder = disk / "m"
    with FaissStore(folder, False) as store:
        store.put(("a",), "k", {"text": "hello"})
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        with pytest.raises(ReadOnlyStoreError, match=r"writable|can write"):
            FaissStore(folder, False)
        with pytest.raises(ReadOnlyStoreError):
            FaissStore(disk / "new", False)
        report = verify(folder)  # It only reads.
        assert (report.whole, report.items) == (True, 1)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    with FaissStore(folder, False) as store:
        assert store.get(("a",), "k").value == {"text": "hello"}


FAILING = """
import os, resource, sys
sys.path[:0] = [{memory!r}, {tests!r}]
from pathlib import Path
from mmagent_memory import FaissStore
from mmagent_memory.errors import MemoryStoreError
how, folder = sys.argv[1:]
store = FaissStore(folder, False)
for number in range(5):
    store.put(("a",), f"{{number}}", {{"text": "x" * 5000, "n": number}})
print("kept", 5, flush=True)
if how == "limit":  # As a full disk, but for one process, and without root.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
else:
    for name in os.listdir("/proc/self/fd"):
        if os.path.realpath(f"/proc/self/fd/{{name}}").endswith("-wal"):
            bad = os.open("/dev/full" if how == "full" else "/", os.O_RDONLY if how == "error"
                else os.O_RDWR)
            os.dup2(bad, int(name))
try:
    for number in range(5, 500):
        store.put(("a",), f"{{number}}", {{"text": "x" * 5000, "n": number}})
        print("kept", number + 1, flush=True)
except MemoryStoreError as error:
    print(type(error).__name__, error, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("how", ["limit", "full", "error"])
def test_writes_that_fail(tmp_path: Path, how: str):
    """A limit on the size of files; a device that is full; a file that cannot be written."""
    root = Path(__file__).parents[2]
    code = FAILING.format(memory=str(root / "memory"), tests=str(root / "tests" / "faults"))
    done = subprocess.run(
        [sys.executable, "-c", code, how, str(tmp_path)], capture_output=True, text=True
    )
    *kept, said = done.stdout.splitlines()
    assert said.startswith("StoreFullError"), done.stdout + done.stderr
    count = int(kept[-1].split()[1])
    assert count >= 5
    assert verify(tmp_path).whole
    with FaissStore(tmp_path, False) as store:
        items = [store.get(("a",), f"{number}") for number in range(count)]
        assert [item and item.value["n"] for item in items] == list(range(count))


def test_a_file_cut_off_under_an_open_store(tmp_path: Path):
    """As when a failing disk gives back less than it was given."""
    with FaissStore(tmp_path, False) as store:
        for number in range(50):
            store.put(("a",), f"{number}", {"text": text(number)})
    store = FaissStore(tmp_path, False)
    try:
        os.truncate(tmp_path / DATABASE, 20_000)
        with pytest.raises(MemoryStoreError, match=r"verify|check the disk"):
            store.search(("a",), limit=50)
    finally:
        store.close()
