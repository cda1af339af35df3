"""The write-ahead log frame by frame: what SQLite drops at the first damage, `fold` saves."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mmagent_memory import FaissStore
from mmagent_memory.errors import CorruptStoreError
from mmagent_memory.wal import examine, fold

COUNT = 60


@pytest.fixture(params=[2048, 4096])
def crashed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A database whose rows are all in its log, as after a crash."""
    live, copy = tmp_path / "live", tmp_path / "copy"
    with closing(sqlite3.connect(live, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size = {request.param}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
        for number in range(COUNT):
            db.execute(
                "INSERT INTO t VALUES (?, ?)", (number, random.Random(number).randbytes(300))
            )
        for suffix in ("", "-wal"):
            shutil.copy(f"{live}{suffix}", f"{copy}{suffix}")
    return copy


def log_of(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def rows(file: Path) -> set[int]:
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = db.execute("SELECT id, data FROM t").fetchall()
    assert all(data == random.Random(number).randbytes(300) for number, data in found)
    return {number for number, _ in found}


def test_a_whole_log(crashed: Path):
    state = examine(log_of(crashed))
    assert (state.whole, state.damaged) == (True, [])
    assert state.frames > COUNT
    assert fold(log_of(crashed), crashed) == []
    log_of(crashed).unlink()
    assert rows(crashed) == set(range(COUNT))
    assert examine(log_of(crashed)).whole  # None at all is whole.


@pytest.mark.parametrize("where", ["page", "number", "size", "salt", "checksum", "header"])
def test_one_bit_is_set_right(crashed: Path, where: str):
    data = bytearray(log_of(crashed).read_bytes())
    page = int.from_bytes(data[8:12], "big")
    frame = 32 + 30 * (24 + page)
    place = {"page": 24 + page // 2, "number": 3, "size": 7, "salt": 9, "checksum": 18}
    data[5 if where == "header" else frame + place[where]] ^= 4
    log_of(crashed).write_bytes(data)
    state = examine(log_of(crashed))
    assert not state.whole
    assert state.commits > 20
    plain = crashed.with_name("plain")
    for suffix in ("", "-wal"):
        shutil.copy(f"{crashed}{suffix}", f"{plain}{suffix}")
    fold(log_of(crashed), crashed)
    log_of(crashed).unlink()
    # Another bit of that page may explain the checksum as well: then the frame is left out.
    assert len(rows(crashed)) >= COUNT - (where in ("number", "size"))
    if where != "header":
        assert len(rows(plain)) < COUNT / 2  # What SQLite makes of it.


def test_what_was_not_committed_is_left_out(crashed: Path):
    data = log_of(crashed).read_bytes()
    page = int.from_bytes(data[8:12], "big")
    log_of(crashed).write_bytes(data[: -(24 + page) // 2])
    assert examine(log_of(crashed)).whole  # Cut off while it was written: nothing was promised.
    fold(log_of(crashed), crashed)
    log_of(crashed).unlink()
    assert rows(crashed) >= set(range(COUNT - 2))


def test_a_log_that_is_gone_is_noticed(tmp_path: Path):
    child = os.fork()
    if not child:
        store = FaissStore(tmp_path / "m", False)
        for number in range(5):
            store.put(("a",), f"{number}", {"n": number})
        os._exit(0)  # As if killed: the log is left.
    os.waitpid(child, 0)
    (tmp_path / "m" / "memory.sqlite3-wal").unlink()
    with pytest.raises(CorruptStoreError, match=r"lacks its last \d+ changes.*repair"):
        FaissStore(tmp_path / "m", False)
