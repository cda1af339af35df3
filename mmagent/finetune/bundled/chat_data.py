"""What stage B reads: pictures drawn anew as features of the tower, and the base's own words.

The tower is frozen in stage B; training starts at the projector. The base's distribution over its
own answers is computed once (the 32 likeliest tokens of every position), so that staying close to
it costs no second model while training.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmagent.finetune.bundled.dialogues import Dialogue, Message, Mixture, Split, Talk, say, user
from mmagent.finetune.bundled.dialogues_album import (
    absent_dialogue,
    album_dialogue,
    doubt_dialogue,
)
from mmagent.finetune.bundled.dialogues_calls import offered_dialogue, tool_dialogue
from mmagent.finetune.bundled.dialogues_chinese import chinese_dialogue
from mmagent.finetune.bundled.dialogues_encode import Encoder, Row, collate
from mmagent.finetune.bundled.dialogues_kept import kept_dialogue
from mmagent.finetune.bundled.dialogues_memory import memory_dialogue, told_dialogue
from mmagent.finetune.bundled.dialogues_persona import draw_system, persona_dialogue, small_talk
from mmagent.finetune.bundled.dialogues_picture import (
    Gallery,
    Shown,
    picture_dialogue,
    remembered_picture,
)
from mmagent.finetune.bundled.dialogues_read import read_dialogue
from mmagent.finetune.bundled.dialogues_screen import screen_dialogue
from mmagent.finetune.bundled.dialogues_text import prompts, read_answers
from mmagent.finetune.bundled.dialogues_tools import form_dialogue
from mmagent.finetune.bundled.dialogues_user import order_dialogue, user_dialogue
from mmagent.finetune.bundled.sight import Draw, look

__all__ = [
    "Album",
    "Teacher",
    "make_teacher",
    "mixture",
    "teacher_dialogues",
]

_TOP = 32
# What the pictures of a chunk are. None is of a thing beyond the concepts: whoever learns to doubt
# those on styles that the eye was trained on doubts everything of another style.
_KINDS = {"single": 0.38, "pair": 0.20, "count": 0.18, "screen": 0.17, "nothing": 0.07}
_TWINS = 0.4  # so that two pictures of one thing can be compared


class Album:
    """New pictures for every chunk of dialogues, seen by the frozen tower.

    Nothing is shown twice, so that neither projector nor adapters learn pictures by heart.

    Args:
        draw: draws the pictures.
        tower: gives features [B, F, h, w].
        texts: the base's own answers.
        number: pictures of a chunk.
        seed: of everything drawn.
        shares: changes the shares of some kinds of dialogues.
    """

    def __init__(
        self, draw: Draw, tower: Any, texts: list[Dialogue], *, number: int = 72, seed: int = 3,
        shares: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.draw, self.tower, self.texts, self.shares = draw, tower.eval(), texts, shares
        self.number, self.seed = number, seed

    def __call__(self, chunk: int) -> tuple[Mixture, npt.NDArray[np.float16]]:
        """The mixture of a chunk and the features of its pictures, float16 [N, T, F]."""
        shown, features = self.pictures(chunk)
        return mixture(Gallery(shown), self.texts, self.shares), features

    def pictures(
        self, chunk: int, split: Split = "train"
    ) -> tuple[list[Shown], npt.NDArray[np.float16]]:
        """What the pictures of a chunk show, and their features."""
        rng = np.random.default_rng([self.seed, chunk])
        kinds = [
            k for k, share in _KINDS.items() for _ in range(max(2, round(share * self.number)))
        ]
        facts, features = look(
            self.tower, self.draw, rng, kinds, clean=0.35, split=split, twins=_TWINS
        )
        return facts, features.numpy()


def teacher_dialogues(answers: Path, seed: int = 5) -> list[Dialogue]:
    """The base's answers as dialogues, each once plain and once after another system message."""
    rng = random.Random(seed)
    out: list[Dialogue] = []
    wanted = set(prompts())
    for line in read_answers(answers):
        if line["prompt"] not in wanted:  # an answer to a prompt of an older list
            continue
        turns: tuple[Message, ...] = (user(line["prompt"]), say(line["answer"]))
        for system in ([], draw_system(rng, "train", "Sam")):
            talk = Talk("text", (*system, *turns))
            out.append(Dialogue("text", (talk,), teacher=len(out)))
    return out


class Teacher:
    """The base's likeliest next tokens along some rows.

    Attributes:
        start: first position of each row that is held to the base, [R].
        offset: where each row begins in the tables, [R + 1].
        tokens: [N, 32] token ids.
        log_probs: [N, 32] their log probabilities.
    """

    def __init__(self, start: Tensor, offset: Tensor, tokens: Tensor, log_probs: Tensor) -> None:
        self.start, self.offset, self.tokens, self.log_probs = start, offset, tokens, log_probs

    @classmethod
    def read(cls, path: Path) -> Teacher:
        """Read what `make_teacher` wrote."""
        from safetensors.torch import load_file

        return cls(**load_file(path))

    def table(self, row: int) -> tuple[int, Tensor, Tensor]:
        """First position, tokens [n, 32] and log probabilities [n, 32] of a row."""
        first, last = int(self.offset[row]), int(self.offset[row + 1])
        return int(self.start[row]), self.tokens[first:last].long(), self.log_probs[first:last]


def make_teacher(model: Any, encoder: Encoder, answers: Path, path: Path) -> None:
    """Write the untouched model's distribution over the words of `teacher_dialogues`."""
    from safetensors.torch import save_file

    rows = [encoder.row(d) for d in teacher_dialogues(answers)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: dict[int, tuple[int, Tensor, Tensor]] = {}
    for first in range(0, len(order), 8):
        chosen = order[first : first + 8]
        batch = collate([rows[i] for i in chosen], pad=0)
        with torch.inference_mode():
            hidden = model.model.language_model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions,
                use_cache=False,
            ).last_hidden_state  # fmt: skip
            for place, index in enumerate(chosen):
                begin, end = _span(rows[index])
                logits = model.lm_head(hidden[place, begin:end])  # [n, V]
                best = logits.float().log_softmax(-1).topk(_TOP, dim=-1)
                found[index] = (begin, best.indices.int(), best.values)
        if first // 8 % 10 == 0:
            print(f"base: {first + len(chosen)} of {len(rows)} rows", flush=True)
    lengths = [len(found[i][1]) for i in range(len(rows))]
    tables = {
        "start": torch.tensor([found[i][0] for i in range(len(rows))]),
        "offset": torch.tensor([0, *lengths]).cumsum(0),
        "tokens": torch.cat([found[i][1] for i in range(len(rows))]),
        "log_probs": torch.cat([found[i][2] for i in range(len(rows))]),
    }
    part = path.with_name(f".{path.name}.part")
    save_file(tables, part)
    part.replace(path)


def _span(row: Row) -> tuple[int, int]:
    """Positions that predict the words of user and assistant, without the system message.

    The last token of the answer is where the base stopped or was cut: it is the last to predict.
    """
    turn = row.ids[0]  # <|im_start|>
    starts = [i for i, token in enumerate(row.ids) if token == turn]
    return starts[-2] + 2, row.source[-1] + 1


def _lines(texts: list[Dialogue]) -> list[tuple[str, str]]:
    """Requests and whole answers of the base, the short ones: no function is needed for these."""
    out = []
    for dialogue in texts:
        asked, answer = dialogue.talks[0].messages[-2:]
        words = answer["content"][0]["text"]
        line = asked["content"][0]["text"]
        # Sums are what functions are for, and the base is bad at putting things differently.
        if len(words) < 160 and words.endswith((".", "!", "?")) and not re.search(r"[\d:]", line):
            out.append((line, words))
    return out


def mixture(
    gallery: Gallery, texts: list[Dialogue], shares: dict[str, float] | None = None
) -> Mixture:
    """What stage B draws from; the shares are of dialogues.

    Args:
        gallery: the pictures.
        texts: the base's own answers.
        shares: other shares for some kinds.
    """
    lines = _lines(texts)
    plain: tuple[Callable[[random.Random], Dialogue], ...] = (
        memory_dialogue,
        persona_dialogue,
        small_talk,
        lambda rng: picture_dialogue(rng, gallery, "single"),
        lambda rng: remembered_picture(rng, gallery),
    )
    parts: dict[str, tuple[float, Callable[[random.Random], Dialogue]]] = {
        "tool": (0.18, lambda rng: tool_dialogue(rng, lines=lines)),
        "offered": (0.03, lambda rng: offered_dialogue(rng, rng.choice(plain)(rng))),
        "form": (0.08, form_dialogue),
        "single": (0.16, lambda rng: picture_dialogue(rng, gallery, "single")),
        "pair": (0.15, lambda rng: picture_dialogue(rng, gallery, "pair")),
        "count": (0.11, lambda rng: picture_dialogue(rng, gallery, "count")),
        "recalled": (0.03, lambda rng: remembered_picture(rng, gallery)),
        "absent": (0.06, lambda rng: absent_dialogue(rng, gallery)),
        "album": (0.11, lambda rng: album_dialogue(rng, gallery)),
        "memory": (0.04, memory_dialogue),
        "told": (0.01, told_dialogue),
        "user": (0.10, user_dialogue),
        "order": (0.03, order_dialogue),
        "read": (0.12, read_dialogue),
        "persona": (0.02, persona_dialogue),
        "kept": (0.04, kept_dialogue),
        "talk": (0.02, small_talk),
        "text": (0.15, lambda rng: rng.choice(texts)),
    }
    if "nothing" in gallery.by_kind:
        parts["doubt"] = (0.04, lambda rng: doubt_dialogue(rng, gallery))
    if "single" in gallery.by_kind:
        parts["chinese"] = (0.05, lambda rng: chinese_dialogue(rng, gallery))
    if "screen" in gallery.by_kind:
        parts["screen"] = (0.22, lambda rng: screen_dialogue(rng, gallery))
    for kind, share in (shares or {}).items():
        if kind in parts:
            parts[kind] = (share, parts[kind][1])
    return Mixture(parts)
