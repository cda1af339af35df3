r"""Measures the bundled model on what it was not trained on, beside its forerunner and the base.

Pictures are of styles that training never drew; questions, names, values, functions and some kinds
of facts are kept for measuring. Answers are greedy, through the chat template and the grammars
that `ChatMMAgent` uses, and count as right if they hold the expected words. Intervals are
Wilson's, 95%. What was measured once is kept in the output folder and not measured again.

    python -m mmagent.finetune.bundled.evaluate --model FOLDER --pictograms FILE \
        [--gguf FILE] [--previous FOLDER] [--out FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mmagent.finetune.bundled.dialogues import Dialogue, Talk, say, user
from mmagent.finetune.bundled.dialogues_encode import Encoder
from mmagent.finetune.bundled.evaluate_questions import (
    IN_WORDS,
    TASKS,
    Question,
    photographs,
    picture_questions,
    text_questions,
)

__all__ = ["Score", "is_right", "perplexity", "report_of", "scores", "table", "wilson"]

_ROLES = {"model": "this version", "previous": "previous version", "base": "untouched base"}


@dataclass(frozen=True)
class Score:
    """How many answers of a task were right."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """Of right answers."""
        return self.right / self.total if self.total else 0.0


def wilson(score: Score, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share (Wilson, 1927)."""
    if not score.total:
        return 0.0, 1.0
    n, p = score.total, score.share
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def is_right(answer: str, accept: Iterable[str]) -> bool:
    """Whether the answer holds one of the accepted words, whole and in any case.

    A name may stand in the plural ("three clocks").
    """
    said = answer.lower().replace("’", "'")
    return any(
        re.search(rf"(?<![a-z0-9]){re.escape(a.lower())}(e?s)?(?![a-z0-9])", said) or (
            not a.isascii() and a in said)
        for a in accept
    )  # fmt: skip


def judged(question: Question, answer: str) -> dict[str, bool]:
    """Rows of the report that an answer counts for, and whether it is right there."""
    talk = question.talk
    if question.task == "tool":
        name = re.match(r'<tool_call>\s*\{"name": "[^"]*"', talk.answer)
        assert name is not None
        return {"tool-name": answer.startswith(name[0]), "tool": answer == talk.answer}
    if question.task in ("json", "form_call"):
        return {question.task: answer == talk.answer}
    if question.task == "tool_plain":
        return {"tool_plain": bool(answer) and "<tool_call>" not in answer}
    if question.task == "code":  # what is not read should not be made up
        return {"code": is_right(answer, talk.accept),
                "unread": is_right(answer, ("cannot read", "cannot tell"))}  # fmt: skip
    return {question.task: is_right(answer, talk.accept)}


def scores(questions: Sequence[Question], said: Sequence[str]) -> dict[str, Score]:
    """Right answers by task."""
    out: dict[str, Score] = {}
    for question, answer in zip(questions, said, strict=True):
        for task, right in judged(question, answer).items():
            old = out.get(task, Score(0, 0))
            out[task] = Score(old.right + right, old.total + 1)
    return out


def perplexity(model: Any, encoder: Encoder) -> float:
    """Per token of the answers of `heldout_chat.yaml`."""
    import torch

    text = files("mmagent.finetune.bundled").joinpath("heldout_chat.yaml").read_text("utf-8")
    total, number = 0.0, 0
    for ask, reply in yaml.safe_load(text):
        row = encoder.row(Dialogue("chat", (Talk("chat", (user(ask), say(reply))),)))
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0].float()
        wanted = torch.tensor(row.target)
        picked = logits[torch.tensor(row.source)].log_softmax(-1).gather(1, wanted[:, None])
        total -= float(picked.sum())
        number += len(row.target)
    return math.exp(total / number)


def table(report: dict[str, Any]) -> str:
    """The report as markdown, as the model card quotes it.

    Args:
        report: what `measure` found, by role; "previous" and "base" may be missing.
    """
    mine = report["model"]
    others = [role for role in ("previous", "base") if role in report]
    heads = ["measured", "right", "95% interval", "of", "target", *(_ROLES[r] for r in others)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for task, row in mine["tasks"].items():
        low, high = row["interval"]
        about, target = TASKS[task]
        cells = [about, f"{row['share']:.1%}", f"{low:.1%} to {high:.1%}", str(row["total"]),
                 f"{target:.0%}" if target else ""]  # fmt: skip
        for role in others:
            other = report[role]["tasks"].get(task)
            without = "cannot see" if role == "base" and task not in IN_WORDS else "not asked"
            cells.append(f"{other['share']:.1%}" if other else without)
        lines.append("| " + " | ".join(cells) + " |")
    words = [f"{_ROLES[r]} {report[r]['perplexity']:.2f}" for r in ("model", *others)]
    lines += ["", f"Perplexity of hand-written plain chat: {', '.join(words)}."]
    if mine.get("photographs"):
        seen = [r for r in ("model", "previous") if r in report]
        lines += ["", f"| photograph | {' | '.join(_ROLES[r] for r in seen)} |"]
        lines.append("|" + "---|" * (len(seen) + 1))
        for name in mine["photographs"]:
            said = [report[r]["photographs"].get(name, "") for r in seen]
            lines.append(f"| {name} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def _answered(
    args: argparse.Namespace, role: str, questions: list[Question], share: int, shares: int
) -> tuple[list[str], float | None]:
    """The answers of one process; the first also measures the perplexity."""
    import torch

    from mmagent.finetune.bundled.evaluate_answers import answers

    if shares > 1:
        torch.set_num_threads(1)
    elif args.threads:
        torch.set_num_threads(args.threads)
    model, processor = _load(args, role)
    said = answers(model, processor, questions)
    if share:
        return said, None
    encoder = Encoder(
        processor.tokenizer, int(model.config.image_token_id), int(model.config.image_seq_length)
    )
    return said, perplexity(model, encoder)


def measure(args: argparse.Namespace, role: str, questions: list[Question]) -> dict[str, Any]:
    """Everything that is reported of one model, by one process for each core."""
    shares = max(1, min(args.workers, len(questions)))
    if shares == 1:
        said, found = _answered(args, role, questions, 0, 1)
        return report_of(questions, said, found or math.nan)
    said = [""] * len(questions)
    with ProcessPoolExecutor(shares, multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(_answered, args, role, questions[k::shares], k, shares)
            for k in range(shares)
        ]
        for k, job in enumerate(jobs):
            said[k::shares] = job.result()[0]
        found = jobs[0].result()[1]
    return report_of(questions, said, found or math.nan)


def report_of(questions: list[Question], said: list[str], perplexity: float) -> dict[str, Any]:
    """What is reported of these answers: shares with intervals, failures, photographs."""
    plain = [(q, a) for q, a in zip(questions, said, strict=True) if q.talk.task != "photograph"]
    found = scores([q for q, _ in plain], [a for _, a in plain])
    wrong: dict[str, list[dict[str, str]]] = {}
    for question, answer in plain:
        for task, right in judged(question, answer).items():
            if not right:
                asked = question.talk.messages[-2]["content"][-1]["text"]
                row = {"asked": asked, "expected": question.talk.answer, "said": answer}
                wrong.setdefault(task, []).append(row)
    rows = {t: {"right": s.right, "total": s.total, "share": s.share, "interval": wilson(s)}
            for t in TASKS if (s := found.get(t))}  # fmt: skip
    shown = {q.task.split(":")[1]: a for q, a in zip(questions, said, strict=True)
             if q.talk.task == "photograph"}  # fmt: skip
    failures = {task: rows[:12] for task, rows in wrong.items()}
    return {"tasks": rows, "perplexity": perplexity, "failures": failures,
            "photographs": shown}  # fmt: skip


def _at_most(questions: list[Question], most: int | None) -> list[Question]:
    """An even choice of `most` questions of every task."""
    if most is None:
        return questions
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        by_task.setdefault(question.task, []).append(question)
    return [
        rows[index * len(rows) // min(most, len(rows))]
        for rows in by_task.values()
        for index in range(min(most, len(rows)))
    ]


def _load(args: argparse.Namespace, role: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mmagent.models.assemble import build, build_processor, picture_side

    if role == "model" and args.model:
        processor = AutoProcessor.from_pretrained(args.model)  # type: ignore[no-untyped-call]
        model: Any = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
        return model.requires_grad_(False).train(False), processor
    weights = {"model": args.weights, "previous": args.previous, "base": args.out / "no-weights"}
    processor = build_processor(args.gguf, picture_side(weights[role]))
    return build(args.gguf, processor, weights[role]), processor


def main() -> None:
    """Measure from the command line; writes `evaluation.json` and `evaluation.md`."""
    from mmagent.finetune.bundled.pictograms import Sheet
    from mmagent.finetune.bundled.scenes import SceneMaker
    from mmagent.finetune.bundled.screens import ScreenMaker, fetch_fonts
    from mmagent.models.vision import SIDE

    parser = argparse.ArgumentParser(description="Measure the bundled model on held-out data.")
    parser.add_argument("--model", type=Path, help="model folder; else --gguf with --weights")
    parser.add_argument("--weights", type=Path, help="folder of projector, adapter and vision")
    parser.add_argument("--previous", type=Path, help="such a folder of an earlier version")
    parser.add_argument("--gguf", type=Path, help="the base, to be measured beside")
    parser.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
    parser.add_argument("--fonts", type=Path, default=Path(".build/fonts"))
    parser.add_argument("--photos", type=Path, default=Path(".build/photos"))
    parser.add_argument("--out", type=Path, default=Path(".build/evaluation"))
    parser.add_argument("--quick", action="store_true", help="a third of the questions")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="only these")
    parser.add_argument("--most", type=int, help="at most so many questions of each task")
    parser.add_argument("--only", nargs="+", choices=list(_ROLES), help="only these models")
    parser.add_argument("--again", action="store_true", help="measure again what is kept")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--threads", type=int, default=0, help="of a single process")
    args = parser.parse_args()
    if args.previous and not args.gguf:
        parser.error("--previous needs the base beside it: name it with --gguf.")
    roles = ["model"] if args.model or args.weights else []
    roles += ["previous"] if args.previous else []
    roles += ["base"] if args.gguf else []
    roles = [r for r in roles if not args.only or r in args.only]
    if not roles or ("model" in roles and not args.model and not args.gguf):
        parser.error("name a model folder with --model, or the base with --gguf and --weights.")
    fetch_fonts(args.fonts)
    maker, screens = SceneMaker(Sheet.load(args.pictograms), SIDE), ScreenMaker(args.fonts, SIDE)
    tasks = set(args.tasks or TASKS) | ({"tool"} if "tool-name" in (args.tasks or ()) else set())
    text = [q for q in _at_most(text_questions(args.quick), args.most) if q.task in tasks]
    seen = _at_most(picture_questions(maker, args.quick, screens), args.most)
    seen = [q for q in seen if q.task in tasks] + ([] if args.tasks else photographs(args.photos))
    args.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    for role in roles:
        kept = args.out / f"{role}.json"
        if args.again or not kept.exists():
            found = measure(args, role, text if role == "base" else [*seen, *text])
            kept.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
        report[role] = json.loads(kept.read_text("utf-8"))
    dumped = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (args.out / "evaluation.json").write_text(dumped, "utf-8")
    if "model" in report:
        (args.out / "evaluation.md").write_text(table(report), "utf-8")
        print(table(report))


if __name__ == "__main__":
    main()
