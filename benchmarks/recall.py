"""How well memory finds what answers a question: recall@5, 10 and 25 by type of question.

    python benchmarks/recall.py FOLDER [--unit round|turn] [--embedder default|hash] [--tune]
        [--store folder|postgres]

FOLDER holds dialogues in the form of Mem-Gallery (github: ma-xueqian/Mem-Gallery): each JSON file
one user, with sessions, rounds, captions of pictures, and questions whose `clue` lists the rounds
that hold the answer. All dialogues go into one store, each as a user of its own. Side by side:
full text alone, meaning alone, their plain reciprocal rank fusion (k = 60), and what
`LongTermMemory.recall` does. `--tune` chooses the weights anew for each dialogue on the other
dialogues alone and reports the held-out figures, to see whether the ones in use are overfitted.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from langgraph.store.base import BaseStore

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.asking import about, ask
from mmagent_memory.backends import run
from mmagent_memory.embedding import TextEmbedder, default_embedder
from mmagent_memory.pictures import read_picture
from mmagent_memory.ranking import Signals, Wanted, Weights, rank

CUTS = (5, 10, 25)
Scores = dict[str, list[float]]


class Cached:
    """An embedder that keeps its vectors in a file: the same texts are embedded in every run."""

    def __init__(self, inner: TextEmbedder, file: Path) -> None:
        self._inner = inner
        self.fingerprint = str(getattr(inner, "fingerprint", type(inner).__name__))
        self._db = sqlite3.connect(file, check_same_thread=False)
        self._db.execute("CREATE TABLE IF NOT EXISTS v (k TEXT PRIMARY KEY, v BLOB)")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""
        keys = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in texts]
        known: dict[str, bytes] = {}
        for key in keys:
            row = self._db.execute("SELECT v FROM v WHERE k = ?", (key,)).fetchone()
            if row:
                known[key] = row[0]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            vectors = self._inner.embed_documents(list(missing.values()))
            for key, vector in zip(missing, vectors, strict=True):
                known[key] = np.asarray(vector, dtype="<f4").tobytes()
                self._db.execute("INSERT OR REPLACE INTO v VALUES (?, ?)", (key, known[key]))
            self._db.commit()
        return [np.frombuffer(known[key], dtype="<f4").tolist() for key in keys]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return self.embed_documents([text])[0]


@dataclass(frozen=True)
class Asked:
    """A question with what may answer it."""

    dialogue: str
    kind: str
    clues: frozenset[str]
    rounds: tuple[str, ...]
    signals: tuple[Signals, ...]
    wanted: Wanted


def remember(memory: LongTermMemory, dialogue: dict[str, Any], unit: str) -> None:
    """Keep a dialogue, one memory a round or one a turn."""
    user = dialogue["character_profile"]["name"]
    for session in dialogue["multi_session_dialogues"]:
        at = datetime.fromisoformat(session["date"]).replace(tzinfo=UTC)
        for turn in session["dialogues"]:
            round_id, captions = turn["round"], turn.get("image_caption", [])
            said = [("", user, f"{turn['user']}\n{turn['assistant']}", captions)]
            if unit == "turn":
                said = [
                    ("/user", user, turn["user"], captions),
                    ("/assistant", "Assistant", turn["assistant"], []),
                ]
            for suffix, speaker, text, shown in said:
                memory.remember(
                    text,
                    captions=shown,
                    speaker=speaker,
                    at=at,
                    thread=session["session_id"],
                    id=round_id + suffix,
                )


def ask_all(memory: LongTermMemory, dialogue: dict[str, Any], name: str) -> list[Asked]:
    """Return every question that has an answer, with the signals of its candidates."""
    dates = [session["date"] for session in dialogue["multi_session_dialogues"]]
    now = datetime.fromisoformat(max(dates)).replace(tzinfo=UTC)
    found = []
    for question in dialogue["human-annotated QAs"]:
        if not question["clue"]:
            continue  # Asks for what was never said.
        caption = question.get("image_caption")
        pictures = (read_picture(None, caption),) if caption else ()
        asked = ask(question["question"], pictures, now)
        steps = memory._backend.candidates(memory._prefix, asked.question, 200)
        candidates = run(memory.store, steps)
        found.append(
            Asked(
                dialogue=name,
                kind=question["point"],
                clues=frozenset(question["clue"]),
                rounds=tuple(c.stored.key.split("/")[0] for c in candidates),
                signals=tuple(about(candidate, asked) for candidate in candidates),
                wanted=asked.wanted,
            )
        )
    return found


def ours(weights: Weights) -> Callable[[Asked], list[int]]:
    """Return the ranking of `recall` with these weights."""

    def order(asked: Asked) -> list[int]:
        best = rank(asked.signals, 60, weights, asked.wanted)
        return [ranked.place for ranked in best]

    return order


def by(name: str) -> Callable[[Asked], list[int]]:
    """Return the ranking by one signal alone."""

    def order(asked: Asked) -> list[int]:
        values = [getattr(signals, name) for signals in asked.signals]
        known = [place for place, value in enumerate(values) if value is not None]
        return sorted(known, key=lambda place: -values[place])

    return order


def fused(asked: Asked) -> list[int]:
    """Return plain reciprocal rank fusion of words and meaning (Cormack et al. 2009)."""
    scores: dict[int, float] = defaultdict(float)
    for name in ("words", "meaning"):
        for position, place in enumerate(by(name)(asked), start=1):
            scores[place] += 1 / (60 + position)
    return sorted(scores, key=lambda place: -scores[place])


def measure(every: Sequence[Asked], order: Callable[[Asked], list[int]]) -> Scores:
    """Return the mean recall at each cut, by type of question and overall."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(CUTS))
    counts: dict[str, int] = defaultdict(int)
    for asked in every:
        rounds = list(dict.fromkeys(asked.rounds[place] for place in order(asked)))
        for kind in ("all", asked.kind):
            counts[kind] += 1
            for number, cut in enumerate(CUTS):
                hit = len(asked.clues & set(rounds[:cut])) / len(asked.clues)
                sums[kind][number] += hit
    return {kind: [value / counts[kind] for value in sums[kind]] for kind in sums}


def tuned(every: Sequence[Asked]) -> tuple[Scores, list[Weights]]:
    """Return held-out figures with weights chosen for each dialogue on the others alone."""
    grid = [
        replace(Weights(), meaning=m, conversation=c, neighbours=n, shows=s)
        for m, c, n, s in itertools.product((1.0, 1.5, 2.0), (0.5, 1.0), (0.1, 0.2), (0.1, 0.2))
    ]
    names = sorted({asked.dialogue for asked in every})
    recall = {
        (name, number): measure([a for a in every if a.dialogue == name], ours(weights))["all"][1]
        for name in names
        for number, weights in enumerate(grid)
    }
    sizes = {name: sum(a.dialogue == name for a in every) for name in names}
    chosen: dict[str, Weights] = {}
    for name in names:
        others = [other for other in names if other != name]
        best = max(range(len(grid)), key=lambda g: sum(recall[o, g] * sizes[o] for o in others))
        chosen[name] = grid[best]
    return measure(every, lambda asked: ours(chosen[asked.dialogue])(asked)), list(chosen.values())


@contextmanager
def opened(kind: str, embedder: Any) -> Iterator[BaseStore]:
    """Open a store that is gone afterwards: a folder, or a PostgreSQL server of its own."""
    if kind == "folder":
        with tempfile.TemporaryDirectory() as folder, FaissStore(folder, embedder) as store:
            yield store
        return
    from mmagent_memory.postgres import PostgresMemoryStore
    from mmagent_memory.temporary_postgres import temporary_postgres

    with temporary_postgres() as url, PostgresMemoryStore(url, embedder) as store:
        yield store


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unit", choices=("round", "turn"), default="round")
    parser.add_argument("--embedder", choices=("default", "hash"), default="default")
    parser.add_argument("--cache", type=Path, help="a file that keeps vectors between runs")
    parser.add_argument("--store", choices=("folder", "postgres"), default="folder")
    parser.add_argument("--tune", action="store_true", help="also cross-validate the weights")
    options = parser.parse_args()
    embedder: Any = HashEmbedder() if options.embedder == "hash" else default_embedder()
    if options.cache:
        embedder = Cached(embedder, options.cache)
    files = sorted(options.folder.glob("*.json"))
    if not files:
        parser.error(f"{options.folder} holds no dialogues (*.json).")
    every: list[Asked] = []
    with opened(options.store, embedder) as store:
        dialogues = [json.loads(file.read_text("utf-8")) for file in files]
        memories = [LongTermMemory(store, user=file.stem, persona="p") for file in files]
        started = time.perf_counter()
        for memory, dialogue in zip(memories, dialogues, strict=True):
            remember(memory, dialogue, options.unit)
        kept = sum(memory.count() for memory in memories)
        print(f"{kept} memories in {time.perf_counter() - started:.1f} s; ", end="")
        started = time.perf_counter()
        for memory, dialogue, file in zip(memories, dialogues, files, strict=True):
            every += ask_all(memory, dialogue, file.stem)
        print(f"{len(every)} questions in {time.perf_counter() - started:.1f} s.\n")
    rows = {
        "full text alone": measure(every, by("words")),
        "meaning alone": measure(every, by("meaning")),
        "plain rank fusion": measure(every, fused),
        "mmagent": measure(every, ours(Weights())),
    }
    if options.tune:
        rows["mmagent, tuned, held out"], chosen = tuned(every)
    kinds = ["all", *sorted({asked.kind for asked in every})]
    print("| recall@5 / @10 / @25 | " + " | ".join(kinds) + " |")
    print("|---|" + "---|" * len(kinds))
    for name, scores in rows.items():
        cells = [" / ".join(f"{value:.3f}" for value in scores[kind]) for kind in kinds]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if options.tune:
        print("\nWeights chosen without the held-out dialogue:", *sorted(map(str, set(chosen))))


if __name__ == "__main__":
    main()
