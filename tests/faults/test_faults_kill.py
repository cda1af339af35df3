"""`kill -9` at any moment: every acknowledged memory is there, and the store opens."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory

ROUNDS = int(os.environ.get("MMAGENT_KILL_ROUNDS", "4"))
WRITER = Path(__file__).with_name("kill_writer.py")


@pytest.mark.slow
def test_kill_in_a_write_loop(tmp_path: Path):
    chance = random.Random(1)
    acknowledged: dict[str, str] = {}
    forgotten: set[str] = set()
    for number in range(ROUNDS):
        process = subprocess.Popen(
            [sys.executable, str(WRITER), str(tmp_path), f"{number}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = []
        assert process.stdout is not None
        # Killed at a random moment after a random acknowledgement.
        for _ in range(chance.randrange(3, 40)):
            lines.append(process.stdout.readline())
        time.sleep(chance.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                what, name, text = line.rstrip("\n").split(" ", 2)
                if what == "kept":
                    acknowledged[name] = text
                else:
                    forgotten.add(name)
        _check(tmp_path, acknowledged, forgotten)
    assert len(acknowledged) > 3 * ROUNDS


def _check(path: Path, acknowledged: dict[str, str], forgotten: set[str]) -> None:
    with FaissStore(path, HashEmbedder()) as store:
        memory = LongTermMemory(store, user="sam", persona="mia")
        found = {hit.id: hit for hit in memory.list()}
        for name, text in acknowledged.items():
            if name in forgotten:
                assert name not in found
            elif name in found:
                assert found[name].text == text
                if found[name].images:
                    assert found[name].images[0].data()
            else:
                # It was being forgotten when the kill came: done, but not yet told.
                run, number = map(int, name.split("-"))
                assert (number + 3) % 7 == 6
                assert f"{run}-{number + 4}" not in acknowledged
        with store.database.reading() as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with store.database.writing() as db:
            db.execute("INSERT INTO full_text (full_text, rank) VALUES ('integrity-check', 1)")
        name = next((n for n in reversed(acknowledged) if n in found), None)
        if name is not None:
            hits = memory.recall(acknowledged[name], k=3)
            assert name in [hit.id for hit in hits]
