"""How well memory finds what answers a question: recall@5, 10 and 25 by type of question.

    python benchmarks/recall.py FOLDER [--units round,turn] [--embedders default,noise,few,hash]
        [--tune] [--cache FILE] [--machine WORDS] [--out FILE.json] [--table FILE.md]

FOLDER holds dialogues in the form of Mem-Gallery (github: ma-xueqian/Mem-Gallery): each JSON file
one user, with sessions, rounds, captions of pictures, and questions whose `clue` lists the rounds
that hold the answer. All dialogues go into one store, each as a user of its own; one memory a round
(what was asked with its answer) or one a turn, as `MemoryMiddleware` keeps them. Side by side: full
text alone, meaning alone, their plain reciprocal rank fusion (k = 60), `LongTermMemory.recall`
without vectors, and with them.

`--embedders` also takes bad ones on purpose: `noise` returns random vectors, `few` the default's
cut to 16 random directions, `hash` counts words. `--tune` chooses weights anew for each dialogue on
the other dialogues alone and reports the held-out figures, to see whether those in use are
overfitted. The short personal dialogues of `short_dialogues.yaml` are asked in every run.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.asking import about, ask
from mmagent_memory.backends import run
from mmagent_memory.embedding import TextEmbedder, default_embedder
from mmagent_memory.pictures import read_picture
from mmagent_memory.ranking import Signals, Wanted, Weights, rank
from short_dialogues import places, table

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


class Spoiled:
    """The default embedder made worse on purpose; the same text always gives the same vector."""

    def __init__(self, inner: TextEmbedder, how: str) -> None:
        self._inner = inner
        self.fingerprint = f"{getattr(inner, 'fingerprint', '?')}, {how}"
        self._noise = how == "noise"
        self._directions = np.random.default_rng(0).normal(size=(384, 16))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""
        if self._noise:
            seeds = [hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8] for text in texts]
            made = [np.random.default_rng(int.from_bytes(s)).normal(size=384) for s in seeds]
            return [vector.tolist() for vector in made]
        vectors = np.asarray(self._inner.embed_documents(texts))
        found: list[list[float]] = (vectors @ self._directions).tolist()
        return found

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
        asked = ask(question["question"], pictures, now, memory.user)
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


def without_vectors(asked: Asked) -> list[int]:
    """Return the ranking of `recall` in a store that has no vectors."""
    plain = [
        replace(s, meaning=None, vector=None, parts=tuple((word, None) for word, _ in s.parts))
        for s in asked.signals
    ]
    known = [p for p, s in enumerate(plain) if s.words is not None]
    best = rank([plain[place] for place in known], 60, Weights(), asked.wanted)
    return [known[ranked.place] for ranked in best]


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


def tuned(every: Sequence[Asked]) -> tuple[Scores, dict[str, str]]:
    """Return held-out figures with weights chosen for each dialogue on the others alone."""
    grid = [
        replace(Weights(), meaning=m, conversation=c, sequence=s)
        for m, c, s in itertools.product((1.5, 2.0), (0.7, 1.0), (0.0, 0.5))
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
    varied = ("meaning", "conversation", "sequence")
    described = {
        name: ", ".join(f"{field} {getattr(weights, field)}" for field in varied)
        for name, weights in chosen.items()
    }
    return measure(every, lambda asked: ours(chosen[asked.dialogue])(asked)), described


def ask_folder(files: Sequence[Path], embedder: Any, unit: str) -> list[Asked]:
    """Remember all dialogues, then ask all questions."""
    every: list[Asked] = []
    with tempfile.TemporaryDirectory() as folder, FaissStore(folder, embedder) as store:
        dialogues = [json.loads(file.read_text("utf-8")) for file in files]
        memories = [
            LongTermMemory(store, user=dialogue["character_profile"]["name"], persona=file.stem)
            for dialogue, file in zip(dialogues, files, strict=True)
        ]
        for memory, dialogue in zip(memories, dialogues, strict=True):
            remember(memory, dialogue, unit)
        for memory, dialogue, file in zip(memories, dialogues, files, strict=True):
            every += ask_all(memory, dialogue, file.stem)
    return every


def short(embedder: Any) -> dict[str, dict[str, float]]:
    """Return how often the short dialogues' answers come first."""
    with tempfile.TemporaryDirectory() as folder, FaissStore(folder, embedder) as store:
        return table(places(lambda u, p: LongTermMemory(store, user=u, persona=p)))


def rows_of(every: Sequence[Asked], *, tune: bool) -> tuple[dict[str, Scores], dict[str, str]]:
    """Return the figures of each way of ranking."""
    rows = {
        "full text alone": measure(every, by("words")),
        "meaning alone": measure(every, by("meaning")),
        "plain rank fusion": measure(every, fused),
        "mmagent, without vectors": measure(every, without_vectors),
        "mmagent": measure(every, ours(Weights())),
    }
    chosen: dict[str, str] = {}
    if tune:
        rows["mmagent, tuned, held out"], chosen = tuned(every)
    return rows, chosen


def as_table(rows: dict[str, Scores]) -> list[str]:
    """Return figures as lines of Markdown."""
    kinds = ["all", *sorted({kind for scores in rows.values() for kind in scores} - {"all"})]
    lines = ["| recall@5 / @10 / @25 | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for name, scores in rows.items():
        cells = [" / ".join(_short(value) for value in scores[kind]) for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _short(share: float) -> str:
    return "1.00" if share >= 0.9995 else f"{share:.3f}".removeprefix("0")


def embedders_of(names: Sequence[str], cache: Path | None) -> dict[str, Any]:
    """Return the embedders of these names."""
    default: Any = Cached(default_embedder(), cache) if cache else default_embedder()
    made = {"default": lambda: default, "hash": HashEmbedder}
    made |= {how: lambda how=how: Spoiled(default, how) for how in ("noise", "few")}  # type: ignore[misc]
    return {name: made[name]() for name in names}


def main() -> None:
    """Run the benchmark; print its tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--units", default="round", help="round, turn, or both: round,turn")
    parser.add_argument("--embedders", default="default", help="of default, noise, few, hash")
    parser.add_argument("--cache", type=Path, help="a file that keeps vectors between runs")
    parser.add_argument("--tune", action="store_true", help="also cross-validate the weights")
    parser.add_argument("--machine", default="", help="what to call this machine in the results")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--table", type=Path, help="write the tables as Markdown")
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.json"))
    if not files:
        parser.error(f"{options.folder} holds no dialogues (*.json).")
    machine = options.machine or f"{platform.machine()}, {os.cpu_count()} cores"
    results: dict[str, Any] = {"machine": machine, "dialogues": len(files), "runs": []}
    lines: list[str] = []
    for name, embedder in embedders_of(options.embedders.split(","), options.cache).items():
        for unit in options.units.split(","):
            started = time.perf_counter()
            every = ask_folder(files, embedder, unit)
            rows, chosen = rows_of(every, tune=options.tune and name == "default")
            run_of = {"embedder": name, "unit": unit, "questions": len(every)}
            results["runs"].append({**run_of, "rows": rows, "chosen": chosen})
            seconds = time.perf_counter() - started
            print(
                f"{name}, one memory a {unit}: {len(every)} questions in {seconds:.0f} s",
                flush=True,
            )
            lines += ["", f"One memory a {unit}, embedder `{name}`, {len(every)} questions:", ""]
            lines += as_table(rows)
        if name == "default":
            results["short"] = short(embedder)
    if "short" in results:
        lines += [
            "",
            "Short personal dialogues: the line that tells it is first / in the first three:",
        ]
        lines += [""]
        for fold, found in results["short"].items():
            shares = f"{found['@1']:.2f} / {found['@3']:.2f}"
            lines.append(f"- {fold}: {shares} of {found['questions']:.0f} questions")
    text = "\n".join([f"Machine: {machine}.", *lines]) + "\n"
    print("\n" + text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if options.table:
        options.table.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
