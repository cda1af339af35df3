"""What stage B reads: a gallery of pictures as features of the tower, and the base's own words.

The tower is frozen in stage B, so every picture passes it once; training then starts at the
projector. The base's distribution over its own answers is computed once as well (the 32 likeliest
tokens of every position), so that staying close to it costs no second model while training.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict
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
from mmagent.finetune.bundled.dialogues_encode import Encoder, Row, collate
from mmagent.finetune.bundled.dialogues_kept import kept_dialogue
from mmagent.finetune.bundled.dialogues_memory import memory_dialogue, told_dialogue
from mmagent.finetune.bundled.dialogues_persona import draw_system, persona_dialogue, small_talk
from mmagent.finetune.bundled.dialogues_picture import (
    Gallery,
    Shown,
    picture_dialogue,
    remembered_picture,
    shown_of,
)
from mmagent.finetune.bundled.dialogues_text import prompts, read_answers
from mmagent.finetune.bundled.dialogues_tools import form_dialogue
from mmagent.finetune.bundled.dialogues_user import order_dialogue, user_dialogue
from mmagent.finetune.bundled.scenes import Scene, SceneMaker

__all__ = [
    "Teacher",
    "make_gallery",
    "make_teacher",
    "mixture",
    "read_gallery",
    "teacher_dialogues",
]

_TOP = 32
# What a gallery is drawn from; "<split>-more" has what the first version lacked.
_KINDS = {
    "": {"single": 0.75, "pair": 0.17, "count": 0.08},
    "-more": {"nothing": 0.28, "other": 0.17, "pair": 0.35, "count": 0.2},
}


def _draw(
    maker: SceneMaker, rng: np.random.Generator, split: Split, kinds: dict[str, float]
) -> tuple[Scene, Shown]:
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    clean = bool(rng.random() < 0.35)  # what people show is seldom disturbed
    scene: Scene = getattr(maker, kind)(rng, split, clean=clean)
    return scene, shown_of(scene, kind)


def make_gallery(
    maker: SceneMaker,
    model: Any,
    processor: Any,
    folder: Path,
    split: Split,
    number: int,
    seed: int,
    part: str = "",
) -> None:
    """Draw `number` scenes and write their features, float16 [number, 25, 1280], and facts.

    Args:
        maker: draws the scenes.
        model: the vision-language model; only its tower is used.
        processor: its processor.
        folder: gets `<split><part>.npy` and `<split><part>.jsonl`, each whole or not at all.
        split: which styles.
        number: how many pictures.
        seed: of the scenes.
        part: "" or "-more": which kinds of pictures.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tower = model.model.vision_tower.eval()
    features: list[npt.NDArray[np.float16]] = []
    facts: list[str] = []
    start = time.monotonic()
    for first in range(0, number, 32):
        drawn = [_draw(maker, rng, split, _KINDS[part]) for _ in range(min(32, number - first))]
        pixels = processor.image_processor([s.image for s, _ in drawn], return_tensors="pt")
        with torch.inference_mode():
            grid = tower(pixels["pixel_values"], return_dict=True).last_hidden_state
        cells = grid.flatten(2).permute(0, 2, 1)  # [B, 25, 1280]
        features.append(cells.numpy().astype(np.float16))
        facts += [json.dumps(asdict(shown)) for _, shown in drawn]
        if first // 32 % 20 == 0:
            done = first + len(drawn)
            left = (time.monotonic() - start) / done * (number - done)
            print(f"{split}: {done} of {number} pictures, {left:.0f} s left", flush=True)
    _replace(folder / f"{split}{part}.jsonl", ("\n".join(facts) + "\n").encode())
    unfinished = folder / f".{split}{part}.part.npy"
    np.save(unfinished, np.concatenate(features))
    unfinished.replace(folder / f"{split}{part}.npy")


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def read_gallery(folder: Path, split: Split) -> tuple[Gallery, npt.NDArray[np.float16]]:
    """The gallery and its features, of both parts where there are two.

    Raises:
        FileNotFoundError: it was not made yet.
    """
    lines = (folder / f"{split}.jsonl").read_text("utf-8").splitlines()
    features = np.load(folder / f"{split}.npy", mmap_mode="r")
    if (folder / f"{split}-more.npy").exists():
        lines += (folder / f"{split}-more.jsonl").read_text("utf-8").splitlines()
        features = np.concatenate([features, np.load(folder / f"{split}-more.npy")])
    shown = []
    for line in lines:
        row = json.loads(line)
        row["names"], row["colours"] = tuple(row["names"]), tuple(row["colours"])
        row["boxes"] = tuple(tuple(box) for box in row["boxes"])
        shown.append(Shown(**row))
    return Gallery(shown), features


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


def mixture(gallery: Gallery, texts: list[Dialogue], looking: float = 1.0) -> Mixture:
    """What stage B draws from; the shares are of dialogues.

    Args:
        gallery: the pictures.
        texts: the base's own answers.
        looking: how many times as often single pictures are asked about, and how many times less
            often it is right to see nothing: unseen styles look much like nothing known.
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
        "tool": (0.14, lambda rng: tool_dialogue(rng, lines=lines)),
        "offered": (0.04, lambda rng: offered_dialogue(rng, rng.choice(plain)(rng))),
        "form": (0.07, form_dialogue),
        "single": (0.28 * looking, lambda rng: picture_dialogue(rng, gallery, "single")),
        "pair": (0.12, lambda rng: picture_dialogue(rng, gallery, "pair")),
        "count": (0.06, lambda rng: picture_dialogue(rng, gallery, "count")),
        "recalled": (0.03, lambda rng: remembered_picture(rng, gallery)),
        "absent": (0.003 / looking, lambda rng: absent_dialogue(rng, gallery)),
        "album": (0.04, lambda rng: album_dialogue(rng, gallery)),
        "memory": (0.05, memory_dialogue),
        "told": (0.01, told_dialogue),
        "user": (0.06, user_dialogue),
        "order": (0.01, order_dialogue),
        "persona": (0.02, persona_dialogue),
        "kept": (0.05, kept_dialogue),
        "talk": (0.02, small_talk),
        "text": (0.1, lambda rng: rng.choice(texts)),
    }
    if "nothing" in gallery.by_kind:
        parts["doubt"] = (0.008 / looking, lambda rng: doubt_dialogue(rng, gallery))
    return Mixture(parts)
