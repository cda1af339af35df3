"""What a model says and how sure it is of the right answers: the same before and after.

Everything is measured on rows that were never trained on. Perplexities are of the answers'
tokens. The picture test shows each test row with another row's picture: a model that looks finds
the right answer less likely then. Forgetting is the perplexity of general dialogues that have
nothing to do with the data.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmagent.finetune.config import EvaluateSettings
from mmagent.finetune.data.formats import parse_row
from mmagent.finetune.data.pictures import alike
from mmagent.finetune.data.reading import read_objects
from mmagent.finetune.data.rows import Dialogue, PictureRef
from mmagent.finetune.encoding import IGNORED, ChatCollator
from mmagent.finetune.metrics import (
    Estimate,
    chrf,
    exact_match,
    mean,
    rouge_l,
    share,
    token_f1,
)

__all__ = ["GENERAL", "Evaluation", "evaluate_chat", "general_dialogues"]

GENERAL = Path(__file__).parent / "general.jsonl"
_BATCH = 4


@dataclass
class Evaluation:
    """What was measured once.

    Attributes:
        figures: By name; see `LABELS` of the report.
        samples: Questions with the reference and what the model answered.
    """

    figures: dict[str, Estimate] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "figures": {name: each.as_dict() for name, each in self.figures.items()},
            "samples": self.samples,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Evaluation:
        """What `as_dict` made."""
        figures = {name: Estimate(**each) for name, each in found["figures"].items()}
        return cls(figures, list(found["samples"]))


def general_dialogues() -> list[Dialogue]:
    """Short dialogues about this and that, to notice what is forgotten."""
    return [
        parse_row(row, where, GENERAL.parent, "openai")
        for where, row in read_objects(GENERAL, 100_000)
    ]


def evaluate_chat(
    model: Any,
    collator: ChatCollator,
    rows: Sequence[Dialogue],
    settings: EvaluateSettings,
    *,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Measure a model on rows that it was not trained on.

    Args:
        model: In evaluation mode, on its device.
        collator: Its encoder and pictures.
        rows: The test rows.
        settings: How much is measured.
        seed: Of the choice of rows and wrong pictures.
        note: Is told what is being done.
    """
    was_training = model.training
    model.eval()
    draw = random.Random(f"{seed}/evaluate")
    rows = list(rows)
    if len(rows) > settings.rows:
        rows = draw.sample(rows, settings.rows)
    done = Evaluation()
    try:
        note("measuring the likelihood of the right answers")
        right = _losses(model, collator, rows)
        if right:
            done.figures["loss"] = _per_token(right)
            done.figures["perplexity"] = _exp(done.figures["loss"])
        _picture_test(model, collator, rows, right, draw, done)
        if settings.answers:
            note("generating answers")
            _generate(model, collator, rows, settings, draw, done)
        if settings.forgetting:
            note("measuring general dialogues")
            general = _losses(model, collator, general_dialogues())
            done.figures["general_perplexity"] = _exp(_per_token(general))
    finally:
        model.train(was_training)
    return done


def _per_token(losses: Sequence[tuple[float, int]]) -> Estimate:
    """Mean loss of a token; rows are what varies."""
    means = [total / count for total, count in losses if count]
    return mean(means, [float(count) for _, count in losses if count])


def _exp(loss: Estimate) -> Estimate:
    def safe(x: float) -> float:
        return math.exp(min(x, 50.0))

    return Estimate(safe(loss.value), safe(loss.low), safe(loss.high), loss.count)


@torch.inference_mode()
def _losses(
    model: Any, collator: ChatCollator, rows: Sequence[Dialogue]
) -> list[tuple[float, int]]:
    """(summed loss, learned tokens) of each row, in order."""
    out: dict[int, tuple[float, int]] = {}
    # Rows of a batch alike in pictures, so that the collator leaves their order as it is.
    order = sorted(range(len(rows)), key=lambda place: not rows[place].pictures)
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        batch = collator.collate([rows[place] for place in places])
        labels = batch.pop("labels")[:, 1:].to(model.device)  # [B, L-1]
        inputs = _for(model, batch)
        logits = model(**inputs, use_cache=False).logits[:, :-1]  # [B, L-1, V]
        for number, place in enumerate(places):
            learned = labels[number] != IGNORED
            chosen = logits[number][learned].float()  # [S, V]
            loss = torch.nn.functional.cross_entropy(
                chosen, labels[number][learned], reduction="sum"
            )
            out[place] = (float(loss), int(learned.sum()))
    return [out[place] for place in range(len(rows))]


def _picture_test(
    model: Any,
    collator: ChatCollator,
    rows: Sequence[Dialogue],
    right: Sequence[tuple[float, int]],
    draw: random.Random,
    done: Evaluation,
) -> None:
    swapped = _swapped(rows, draw)
    places = sorted(swapped)
    if not places:
        return
    wrong = _losses(model, collator, [swapped[place] for place in places])
    gaps = [w[0] / w[1] - right[p][0] / right[p][1] for p, w in zip(places, wrong, strict=True)]
    done.figures["picture_matters"] = share(sum(gap > 0 for gap in gaps), len(gaps))
    done.figures["picture_gap"] = mean(gaps)


def _swapped(rows: Sequence[Dialogue], draw: random.Random) -> dict[int, Dialogue]:
    """Each row with pictures, with pictures of other rows in their place."""
    every: dict[str, PictureRef] = {p.sha256: p for row in rows for p in row.pictures}
    pool = sorted(every.values(), key=lambda p: p.sha256)
    looks = [p.look for p in pool]
    same = {frozenset((pool[i].sha256, pool[j].sha256)) for i, j in alike(looks)}
    out = {}
    for place, row in enumerate(rows):
        own = {p.sha256 for p in row.pictures}
        others = [
            p
            for p in pool
            if p.sha256 not in own and not any(frozenset((p.sha256, o)) in same for o in own)
        ]
        if own and others:
            out[place] = replace(row, pictures=tuple(draw.choice(others) for _ in row.pictures))
    return out


def _generate(
    model: Any,
    collator: ChatCollator,
    rows: Sequence[Dialogue],
    settings: EvaluateSettings,
    draw: random.Random,
    done: Evaluation,
) -> None:
    asked = [(place, turn) for place, row in enumerate(rows) for turn in row.answers
             if row.turns[turn].text.strip()]  # fmt: skip
    if len(asked) > settings.answers:
        asked = sorted(draw.sample(asked, settings.answers))
    swapped = _swapped(rows, draw)
    pairs: list[tuple[str, str]] = []
    changed: list[bool] = []
    for place, turn in asked:
        before = rows[place].until(turn)
        answer = answer_to(model, collator, before, settings.max_tokens)
        reference = rows[place].turns[turn].text.strip()
        pairs.append((answer, reference))
        sample = {
            "row": rows[place].where,
            "question": before.turns[-1].text.strip() if before.turns else "",
            "pictures": len(before.pictures),
            "reference": reference,
            "answer": answer,
        }
        if place in swapped and before.pictures:
            other = swapped[place].until(turn)
            with_other = answer_to(model, collator, other, settings.max_tokens)
            changed.append(with_other != answer)
            sample["with_other_picture"] = with_other
        done.samples.append(sample)
    if not pairs:
        return
    done.figures["exact_match"] = share(sum(exact_match(*pair) for pair in pairs), len(pairs))
    done.figures["token_f1"] = mean([token_f1(*pair) for pair in pairs])
    done.figures["chrf"] = mean([chrf(*pair) for pair in pairs])
    done.figures["rouge_l"] = mean([rouge_l(*pair) for pair in pairs])
    done.figures["answer_words"] = mean([float(len(answer.split())) for answer, _ in pairs])
    if changed:
        done.figures["answer_changes"] = share(sum(changed), len(changed))


def _for(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch where the model is, pixels as narrow as its weights."""
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
    }


@torch.inference_mode()
def answer_to(model: Any, collator: ChatCollator, dialogue: Dialogue, max_tokens: int) -> str:
    """The likeliest answer to a dialogue that ends with a question."""
    encoder = collator.encoder
    prompt = encoder.prompt(dialogue, collator.pictures(dialogue.pictures))
    inputs = _for(model, prompt)
    made = model.generate(
        **inputs,
        max_new_tokens=max_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=sorted(encoder.ends) or None,
        pad_token_id=encoder.tokenizer.pad_token_id,
    )
    new = made[0, inputs["input_ids"].shape[1] :]
    text: str = encoder.tokenizer.decode(new, skip_special_tokens=True)
    return text.strip()
