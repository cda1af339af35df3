"""A long conversation in a small window: does it overflow, forget, or grow slow?

Facts are told in the first turns; small talk pushes them out of the window; at even distances
all of them are asked again. Once with the long-term memory, once without: both at the same time,
turn by turn, since a model answers two for little more than one. A turn's seconds are those of
both together, in every turn alike.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from mmagent.errors import UsageError
from mmagent.evaluation.answers import holds, length
from mmagent.evaluation.planted import Probe, facts_told, plant, probes, small_talk
from mmagent.evaluation.reporting import load_pyplot, markdown
from mmagent.evaluation.statistics import Share, slope
from mmagent.evaluation.talking import Said, Talk
from mmagent.personas.persona import Persona

__all__ = ["draw_long", "long_conversation", "long_table"]

_KINDS = {
    "name": "the persona's name",
    "persona": "facts about the persona",
    "user": "facts told by the user",
}
Progress = Callable[[str], None]


def long_conversation(
    model: BaseChatModel,
    persona: Persona,
    *,
    turns: int = 200,
    budget: int = 2048,
    rounds: int = 5,
    memory: tuple[bool, ...] = (True, False),
    embeddings: Any = None,
    summary: Any = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Hold the conversation and return the report.

    Args:
        model: Any chat model.
        persona: Whose name is asked; three facts are planted in it.
        turns: How many turns of the user, probes included.
        budget: Most tokens of a prompt.
        rounds: How often everything is asked.
        memory: With memory, without, or both at the same time.
        embeddings: Of the memory; None for the bundled embedder.
        summary: As `create_companion` takes it.
        progress: Is told what goes on.

    Raises:
        UsageError: There are too few turns for the probes.
    """
    asked = probes(persona)
    told = facts_told(persona.language)
    if turns < len(told) + rounds * len(asked):
        raise UsageError(
            f"{rounds} rounds of {len(asked)} questions and {len(told)} facts need at least "
            f"{len(told) + rounds * len(asked)} turns, not {turns}."
        )
    beside = threading.Barrier(len(memory))

    def held(is_on: bool) -> dict[str, Any]:
        name = "with memory" if is_on else "without memory"
        with tempfile.TemporaryDirectory(prefix="mmagent-eval-") as folder:
            store = _store(Path(folder), embeddings) if is_on else None
            talk = Talk(model, plant(persona), store, budget, summary=summary, before=beside.wait)
            try:
                _hold(talk, asked, told, turns, rounds, partial(_named, progress, name))
            finally:
                beside.abort()  # the other one must not wait for a turn that never comes
                if store is not None:
                    store.close()
        return {"memory": is_on, **_measured(talk.turns, asked, budget)}

    with ThreadPoolExecutor(len(memory)) as pool:
        runs = _results([pool.submit(held, is_on) for is_on in memory])
    return {
        "kind": "long conversation",
        "persona": persona.name,
        "turns": turns,
        "budget": budget,
        "rounds": rounds,
        "together": len(runs),
        "runs": runs,
    }


def _results(futures: list[Future[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what the conversations gave; of errors, the one that broke the other off."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def _named(progress: Progress, name: str, text: str) -> None:
    progress(f"{name}: {text}")


def _store(folder: Path, embeddings: Any) -> Any:
    from mmagent_memory import FaissStore

    return FaissStore(folder / "memory", embeddings)


def _hold(
    talk: Talk, asked: list[Probe], told: list[str], turns: int, rounds: int, progress: Progress
) -> None:
    for fact in told:
        talk.say(fact, "fact")
    for number in range(rounds):
        # The last question of each round falls on an even share of the turns.
        begin = turns * (number + 1) // rounds - len(asked)
        while len(talk.turns) < begin:
            talk.say(small_talk(talk.persona.language, len(talk.turns)))
            if len(talk.turns) % 10 == 0:
                progress(f"turn {len(talk.turns)} of {turns}")
        for probe in asked:
            talk.say(probe.questions[number % len(probe.questions)], f"{probe.kind}:{probe.key}")


def _measured(turns: list[Said], asked: list[Probe], budget: int) -> dict[str, Any]:
    accepted = {f"{probe.kind}:{probe.key}": probe.accepted for probe in asked}
    probed = [(turn, holds(turn.answer, accepted[turn.purpose])) for turn in turns
              if turn.purpose in accepted]  # fmt: skip
    scores = {}
    for kind in _KINDS:
        rows = [(turn, right) for turn, right in probed if turn.purpose.startswith(f"{kind}:")]
        words = [length(turn.answer) for turn, _ in rows]
        scores[kind] = {
            **Share(sum(right for _, right in rows), len(rows)).as_dict(),
            "mean_words": round(statistics.mean(words), 1) if words else None,
        }
    right = Share(sum(right for _, right in probed), len(probed))
    # The model loads and warms up in the first turns.
    timed = [turn for turn in turns if turn.number > 3] or turns
    half = len(timed) // 2
    seconds = [turn.seconds for turn in timed]
    grows = slope([turn.number for turn in timed], seconds)
    return {
        "overflows": sum(turn.overflowed or turn.tokens > budget for turn in turns),
        "largest_prompt": max((turn.tokens for turn in turns), default=0),
        "right": right.as_dict(),
        "scores": scores,
        "seconds": {
            "median": round(statistics.median(seconds), 3),
            "median_first_half": round(statistics.median(seconds[:half] or seconds), 3),
            "median_second_half": round(statistics.median(seconds[half:]), 3),
            "median_by_quarter": _quarters(seconds),
            "slope_per_100_turns": None if grows is None else round(grows * 100, 4),
        },
        "failures": [
            {"turn": turn.number, "asked": turn.question, "said": turn.answer}
            for turn, is_right in probed
            if not is_right
        ],
        "turns": [turn.as_dict() for turn in turns],
    }


def _quarters(seconds: list[float]) -> list[float]:
    """Medians of the four quarters; the prompt grows to its budget in the first ones."""
    bounds = [len(seconds) * part // 4 for part in range(5)]
    parts = [seconds[a:b] for a, b in pairwise(bounds)]
    return [round(statistics.median(part), 3) for part in parts if part]


def long_table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    runs = report["runs"]
    header = ["measured", *("with memory" if run["memory"] else "without memory" for run in runs)]
    rows = [
        ["prompts over the budget", *(str(run["overflows"]) for run in runs)],
        ["largest prompt, tokens", *(f"{run['largest_prompt']:,}" for run in runs)],
        ["all probes right", *(_share(run["right"]) for run in runs)],
    ]
    for kind, words in _KINDS.items():
        cells = [
            f"{_share(run['scores'][kind])}, {run['scores'][kind]['mean_words']} words"
            for run in runs
        ]
        rows.append([words, *cells])
    for key, words in (
        ("median_first_half", "median seconds a turn, first half"),
        ("median_second_half", "median seconds a turn, second half"),
        ("slope_per_100_turns", "seconds a turn more after 100 turns"),
    ):
        rows.append([words, *(str(run["seconds"][key]) for run in runs)])
    quarters = [", ".join(map(str, run["seconds"]["median_by_quarter"])) for run in runs]
    rows.append(["median seconds a turn, by quarter", *quarters])
    title = f"{report['turns']} turns, budget {report['budget']:,} tokens, {report['persona']}"
    if report["together"] > 1:
        title += ", both conversations held at the same time"
    return f"{title}\n\n{markdown(header, rows)}"


def _share(found: dict[str, Any]) -> str:
    return str(Share(found["hits"], found["total"]))


def draw_long(report: dict[str, Any], path: Path) -> None:
    """Draw seconds and tokens by turn, and mark the wrong answers."""
    pyplot = load_pyplot()
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True)
    for run in report["runs"]:
        name = "with memory" if run["memory"] else "without memory"
        numbers = [turn["number"] for turn in run["turns"]]
        (line,) = above.plot(numbers, [t["seconds"] for t in run["turns"]], label=name, lw=1)
        below.plot(numbers, [t["tokens"] for t in run["turns"]], color=line.get_color(), lw=1)
        wrong = [failure["turn"] for failure in run["failures"]]
        tokens = {turn["number"]: turn["tokens"] for turn in run["turns"]}
        below.scatter(wrong, [tokens[n] for n in wrong], color=line.get_color(), marker="x",
                      label=f"wrong answer, {name}")  # fmt: skip
    below.axhline(report["budget"], color="grey", ls=":", label="budget")
    above.set_ylabel("seconds a turn")
    below.set_ylabel("tokens of the prompt")
    below.set_xlabel("turn")
    above.legend()
    below.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
