"""The model's greedy answers to the questions, held to grammars where the product holds them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import LogitsProcessor

from mmagent.engine.base import Form
from mmagent.engine.guide import Guide, GuideMaker
from mmagent.engine.toolformat import ToolFormat
from mmagent.finetune.bundled.evaluate_questions import Question

if TYPE_CHECKING:
    import torch

__all__ = ["answers"]

_ROOM = 72  # tokens of an answer that has a form
_TALK = 28


def _form(question: Question) -> Form | None:
    """What `ChatMMAgent` would hold the answer to."""
    talk = question.talk
    if question.task == "form_call":  # a structured answer by a function: it must be called
        return Form(talk.functions, required=True, parallel=False)
    if talk.functions:
        return Form(talk.functions)
    if talk.schema is not None:
        return Form(schema=talk.schema)
    return None


class _Guided(LogitsProcessor):
    """Holds every answer of a batch to its grammar."""

    def __init__(self, guides: Sequence[Guide | None], start: int, ends: frozenset[int]) -> None:
        self.guides, self.start, self.ends = list(guides), start, ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Forbid what no grammar allows; `input_ids` [B, L], `scores` [B, V]."""
        for row, guide in enumerate(self.guides):
            if guide is None:
                continue
            if input_ids.shape[1] > self.start:
                token = int(input_ids[row, -1])
                if token in self.ends or guide.finished:
                    self.guides[row] = None
                    continue
                guide.settle(token, 1 << 20)  # what it would hurry to cannot be put in here
            if guide.finished:
                only = scores.new_full((scores.shape[-1],), float("-inf"))
                only[list(self.ends)] = 0.0
                scores[row] = only
                self.guides[row] = None
            else:
                scores[row] = guide.allow(scores[row : row + 1])[0]
        return scores


def answers(
    model: Any, processor: Any, questions: Sequence[Question], *, batch_size: int = 16
) -> list[str]:
    """The answer to every question, in the order of the questions."""
    import torch
    from transformers import LogitsProcessorList

    end = int(model.generation_config.eos_token_id)
    width = int(model.get_input_embeddings().weight.shape[0])
    maker = GuideMaker(processor.tokenizer, ends=frozenset({end}), width=width)
    forms = [_form(q) for q in questions]

    def kind(i: int) -> tuple[int, bool]:
        return len(questions[i].images), forms[i] is not None

    lengths = [sum(len(str(m)) for m in q.talk.messages) for q in questions]
    order = sorted(range(len(questions)), key=lambda i: (kind(i), lengths[i]))
    out = [""] * len(questions)
    began, first = time.monotonic(), 0
    while first < len(order):
        chosen = order[first : first + batch_size]
        chosen = [i for i in chosen if kind(i) == kind(chosen[0])]
        texts = [
            processor.apply_chat_template(
                list(questions[i].talk.messages[:-1]), add_generation_prompt=True, tokenize=False
            )
            for i in chosen
        ]
        images = [list(questions[i].images) for i in chosen] if kind(chosen[0])[0] else None
        inputs = processor(
            text=texts, images=images, padding=True, padding_side="left", return_tensors="pt"
        )
        start = inputs["input_ids"].shape[1]
        held = []
        if forms[chosen[0]] is not None:
            guides = [
                maker.guide(form, ToolFormat(), _ROOM) if (form := forms[i]) else None
                for i in chosen
            ]
            held.append(_Guided(guides, start, frozenset({end})))
        with torch.inference_mode():
            ids = model.generate(
                **inputs, do_sample=False, max_new_tokens=_ROOM if held else _TALK,
                logits_processor=LogitsProcessorList(held),
            )  # fmt: skip
        for i, row in zip(chosen, ids[:, start:], strict=True):
            out[i] = processor.tokenizer.decode(row, skip_special_tokens=True).strip()
        first += len(chosen)
        if first // batch_size % 10 == 0:
            left = (time.monotonic() - began) / first * (len(order) - first)
            print(f"{first} of {len(order)} questions, {left:.0f} s left", file=sys.stderr)
    return out
