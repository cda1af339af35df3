r"""Measures the bundled model on what it was not trained on, beside the untouched base.

Pictures are of styles that training never drew; questions, names, values and some kinds of facts
are kept for measuring. Answers are generated greedily through the same chat template that
`ChatMMAgent` uses, and count as right if they hold the expected word. Intervals are Wilson's, 95%.

    python -m mmagent.finetune.bundled.evaluate --model FOLDER --pictograms FILE \
        [--gguf FILE] [--out FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.dialogues import Dialogue, Talk, say, user
from mmagent.finetune.bundled.dialogues_encode import Encoder
from mmagent.finetune.bundled.dialogues_memory import memory_dialogue, told_dialogue
from mmagent.finetune.bundled.dialogues_persona import persona_dialogue
from mmagent.finetune.bundled.dialogues_picture import (
    Gallery,
    picture_dialogue,
    remembered_picture,
    shown_of,
)
from mmagent.finetune.bundled.scenes import SceneMaker

__all__ = ["Question", "Score", "answers", "is_right", "perplexity", "table", "wilson"]

# task → (what the card calls it, target share if there is one)
TASKS: dict[str, tuple[str, float | None]] = {
    "name": ("object named, 100 everyday concepts, plain pictures", 0.6),
    "name-disturbed": ("object named, 100 everyday concepts, disturbed pictures", None),
    "background-usual": ("background colour, plain pictures, asked in the usual words", 0.9),
    "background": ("background colour, plain pictures, in words never read", None),
    "is_it": ('"is this …?" answered yes or no', None),
    "side": ("which of two objects is on which side", None),
    "count": ("one to six objects counted", None),
    "recalled": ("object of a recalled picture named", None),
    "memory": ("fact answered from the given memories", None),
    "unknown": ("says so where no memory tells", None),
    "persona_name": ("name of the persona", None),
    "persona_fact": ("fact about the persona", None),
    "user_name": ("name of the user", None),
}
_TEXT_ONLY = ("memory", "unknown", "persona_name", "persona_fact", "user_name")


@dataclass(frozen=True)
class Question:
    """One conversation to continue.

    Attributes:
        task: row of the report.
        talk: the conversation with its reference answer.
        image: the picture, if it has one.
    """

    task: str
    talk: Talk
    image: Image.Image | None = None


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
    return any(re.search(rf"(?<!\w){re.escape(a.lower())}(e?s)?(?!\w)", said) for a in accept)


def picture_questions(maker: SceneMaker, quick: bool) -> list[Question]:
    """Questions about pictures of held-out styles."""
    out: list[Question] = []
    everyday = [i for i, c in enumerate(CONCEPTS) if c.everyday]
    times = 1 if quick else 3
    for disturbed in (False, True):
        rng, words = np.random.default_rng(2026), random.Random(2026)
        for label in everyday if not quick else everyday[::2]:
            for _ in range(times):
                try:
                    scene = maker.single(rng, "test", label, clean=not disturbed)
                except (IndexError, KeyError, ValueError):
                    continue  # no held-out style has it
                gallery = Gallery([shown_of(scene, "single")])
                dialogue = picture_dialogue(words, gallery, split="test", row=0)
                wanted = ("name",) if disturbed else ("name", "background", "is_it")
                for talk in dialogue.talks:
                    if talk.task in wanted and len(talk.messages) <= 3:
                        if talk.task == "background":
                            usual = (user("What colour is the background?", 1), talk.messages[-1])
                            again = Talk("background-usual", usual, talk.accept)
                            out.append(Question(again.task, again, scene.image))
                        task = f"{talk.task}-disturbed" if disturbed else talk.task
                        out.append(Question(task, talk, scene.image))
    rng, words = np.random.default_rng(7), random.Random(7)
    for _ in range(20 if quick else 100):
        for kind, task in (("pair", "side"), ("count", "count"), ("single", "recalled")):
            scene = getattr(maker, kind)(rng, "test", clean=True)
            gallery = Gallery([shown_of(scene, kind)])
            if task == "recalled":
                dialogue = remembered_picture(words, gallery, "test", row=0)
            else:
                dialogue = picture_dialogue(words, gallery, kind, "test", row=0)
            talk = next(t for t in dialogue.talks if t.task == task)
            out.append(Question(task, talk, scene.image))
    return out


def text_questions(quick: bool) -> list[Question]:
    """Questions about memories and personas, with held-out names, values and phrasings."""
    rng = random.Random(99)
    out: list[Question] = []
    for _ in range(15 if quick else 60):
        drawn: list[Dialogue] = [memory_dialogue(rng, "test"), persona_dialogue(rng, "test")]
        if rng.random() < 0.3:
            drawn.append(told_dialogue(rng, "test"))
        for dialogue in drawn:
            out += [Question(t.task, t) for t in dialogue.talks if t.task in _TEXT_ONLY]
    return out


def answers(
    model: Any, processor: Any, questions: Sequence[Question], *, batch_size: int = 8
) -> list[str]:
    """The model's greedy answer to every question."""
    import torch

    order = sorted(
        range(len(questions)),
        key=lambda i: (
            questions[i].image is None,
            sum(len(str(m)) for m in questions[i].talk.messages),
        ),
    )
    out = [""] * len(questions)
    start = time.monotonic()
    first = 0
    while first < len(order):
        chosen = order[first : first + batch_size]
        with_picture = questions[chosen[0]].image is not None
        chosen = [i for i in chosen if (questions[i].image is not None) == with_picture]
        texts = [
            processor.apply_chat_template(
                list(questions[i].talk.messages[:-1]), add_generation_prompt=True, tokenize=False
            )
            for i in chosen
        ]
        images = [[questions[i].image] for i in chosen] if with_picture else None
        inputs = processor(
            text=texts, images=images, padding=True, padding_side="left", return_tensors="pt"
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=28)
        for i, row in zip(chosen, ids[:, inputs["input_ids"].shape[1] :], strict=True):
            out[i] = processor.tokenizer.decode(row, skip_special_tokens=True).strip()
        first += len(chosen)
        if first // batch_size % 10 == 0:
            left = (time.monotonic() - start) / first * (len(order) - first)
            print(
                f"{first} of {len(order)} questions, {left:.0f} s left", file=sys.stderr, flush=True
            )
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


def scores(questions: Sequence[Question], said: Sequence[str]) -> dict[str, Score]:
    """Right answers by task."""
    out: dict[str, Score] = {}
    for question, answer in zip(questions, said, strict=True):
        old = out.get(question.task, Score(0, 0))
        right = is_right(answer, question.talk.accept)
        out[question.task] = Score(old.right + right, old.total + 1)
    return out


def table(report: dict[str, Any]) -> str:
    """The report as a markdown table, as the model card quotes it."""
    base = report.get("base")
    lines = [f"| measured | right | 95% interval | of |{' untouched base |' if base else ''}",
             f"|---|---|---|---|{'---|' if base else ''}"]  # fmt: skip
    for task, row in report["tasks"].items():
        low, high = row["interval"]
        cells = [
            TASKS[task][0],
            f"{row['share']:.1%}",
            f"{low:.1%} to {high:.1%}",
            str(row["total"]),
        ]
        if base:
            cells.append(
                f"{base['tasks'][task]['share']:.1%}" if task in base["tasks"] else "cannot see"
            )
        lines.append("| " + " | ".join(cells) + " |")
    words = f"Perplexity of hand-written plain chat: {report['perplexity']:.2f}"
    if base:
        words += f" (untouched base: {base['perplexity']:.2f})"
    return "\n".join([*lines, "", words + "."]) + "\n"


def _at_most(questions: list[Question], most: int | None) -> list[Question]:
    """An even choice of `most` questions of every task."""
    if most is None:
        return questions
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        by_task.setdefault(question.task, []).append(question)
    return [q for rows in by_task.values() for q in rows[:: -(-len(rows) // most)]]


def _measure(model: Any, processor: Any, questions: list[Question]) -> dict[str, Any]:
    encoder = Encoder(
        processor.tokenizer, int(model.config.image_token_id), int(model.config.image_seq_length)
    )
    said = answers(model, processor, questions)
    found = scores(questions, said)
    wrong: dict[str, list[dict[str, str]]] = {}
    for question, answer in zip(questions, said, strict=True):
        if not is_right(answer, question.talk.accept):
            asked = question.talk.messages[-2]["content"][-1]["text"]
            row = {"asked": asked, "expected": question.talk.answer, "said": answer}
            wrong.setdefault(question.task, []).append(row)
    rows = {t: {"right": s.right, "total": s.total, "share": s.share, "interval": wilson(s)}
            for t in TASKS if (s := found.get(t))}  # fmt: skip
    failures = {task: rows[:8] for task, rows in wrong.items()}
    return {"tasks": rows, "perplexity": perplexity(model, encoder), "failures": failures}


def main() -> None:
    """Measure from the command line; writes `evaluation.json` and `evaluation.md`."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mmagent.finetune.bundled.pictograms import Sheet
    from mmagent.models.assemble import build, build_processor

    parser = argparse.ArgumentParser(description="Measure the bundled model on held-out data.")
    parser.add_argument("--model", type=Path, help="model folder; else --gguf with --weights")
    parser.add_argument("--weights", type=Path, help="folder of projector, adapter and vision")
    parser.add_argument("--gguf", type=Path, help="the base, to be measured beside")
    parser.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
    parser.add_argument("--out", type=Path, default=Path(".build/evaluation"))
    parser.add_argument("--quick", action="store_true", help="a fifth of the questions")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="only these")
    parser.add_argument("--most", type=int, help="at most so many questions of each task")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.model is None and not (args.gguf and args.weights):
        parser.error("name a model folder with --model, or the base with --gguf and --weights.")
    maker = SceneMaker(Sheet.load(args.pictograms))
    tasks = args.tasks or list(TASKS)
    text = [q for q in _at_most(text_questions(args.quick), args.most) if q.task in tasks]
    seen = _at_most(picture_questions(maker, args.quick), args.most)
    questions = [q for q in seen if q.task in tasks] + text
    if args.model:
        processor = AutoProcessor.from_pretrained(args.model)  # type: ignore[no-untyped-call]
        model: Any = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
        model.requires_grad_(False).train(False)
    else:
        processor = build_processor(args.gguf)
        model = build(args.gguf, processor, args.weights)
    report = _measure(model, processor, questions)
    if args.gguf:
        processor = build_processor(args.gguf)
        base = build(args.gguf, processor, args.out / "no-weights")
        report["base"] = _measure(base, processor, text)
    args.out.mkdir(parents=True, exist_ok=True)
    dumped = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (args.out / "evaluation.json").write_text(dumped, "utf-8")
    (args.out / "evaluation.md").write_text(table(report), "utf-8")
    print(table(report))


if __name__ == "__main__":
    main()
