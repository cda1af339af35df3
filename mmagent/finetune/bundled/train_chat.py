r"""Stage B: teach projector and language model to talk about pictures, memories and personas.

The untouched base first answers some plain requests (`distil`) and is run over its own answers
(`prepare`). Then the projector that stage A trained learns on, with LoRA adapters of the language
model, from dialogues over pictures that are drawn anew (`train`, see `chat_stage`). Every step
takes up where it was interrupted, and all run on the CPU, one process for each core.

    python -m mmagent.finetune.bundled.train_chat distil --gguf FILE --answers FILE
    python -m mmagent.finetune.bundled.train_chat prepare --gguf FILE --vision FILE --answers FILE
    python -m mmagent.finetune.bundled.train_chat train --gguf FILE --vision FILE \
        --out FOLDER --minutes 45
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from mmagent.finetune.bundled import together
from mmagent.finetune.bundled.chat_data import Album, Teacher, make_teacher, teacher_dialogues
from mmagent.finetune.bundled.chat_stage import Settings, StageB, train
from mmagent.finetune.bundled.dialogues_encode import Encoder
from mmagent.finetune.bundled.dialogues_text import distil
from mmagent.finetune.bundled.pictograms import Sheet
from mmagent.finetune.bundled.sight import Draw, shares_of
from mmagent.finetune.bundled.tower import load_trunk, without_gates
from mmagent.models.vision import SIDE

__all__ = ["main"]

_DOUBLED = 0.2  # of the codes


def _base(args: argparse.Namespace) -> tuple[Any, Any, Encoder]:
    from mmagent.models.assemble import build, build_processor

    processor = build_processor(args.gguf)
    model = build(args.gguf, processor, args.out / "no-weights")
    load_trunk(model.model.vision_tower, args.vision)
    encoder = Encoder(
        processor.tokenizer, int(model.config.image_token_id), int(model.config.image_seq_length)
    )
    return model, processor, encoder


def _prepare(args: argparse.Namespace) -> None:
    model, _, encoder = _base(args)
    if not args.teacher.exists():
        args.teacher.parent.mkdir(parents=True, exist_ok=True)
        make_teacher(model, encoder, args.answers, args.teacher)


def _settings(args: argparse.Namespace) -> Settings:
    """What the command line says; the rest is as usual."""
    given = vars(args)
    return Settings(**{f.name: given[f.name] for f in fields(Settings) if f.name in given})


def _train(args: argparse.Namespace) -> None:
    model, _, encoder = _base(args)
    texts = teacher_dialogues(args.answers)
    settings = _settings(args)
    draw = Draw(Sheet.load(args.pictograms), args.fonts, SIDE, doubled=_DOUBLED)
    shares = shares_of(args.share)
    tower = without_gates(model.model.vision_tower).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    album = Album(draw, tower, texts, seed=args.seed, shares=shares)
    run = StageB(model, Teacher.read(args.teacher), settings)
    checkpoint, first = args.out / "stage-b.pt", together.rank_of() == 0
    if checkpoint.exists():
        run.load(checkpoint)
        print(f"resumed after {run.step_number} steps, {run.spent / 60:.1f} minutes", flush=True)
    else:
        run.see_with(args.vision.with_name("projector.safetensors"))
        if args.start:
            run.begin_from(args.start)
    mean: dict[str, float] = {}
    limit, seen = 60 * args.minutes, time.monotonic()
    for losses in train(run, album, encoder, args.out, minutes=args.minutes):
        for key, value in losses.items():
            mean[key] = value if key not in mean else 0.95 * mean[key] + 0.05 * value
        if first and time.monotonic() - seen > 20:
            seen = time.monotonic()
            shown = ", ".join(f"{k} {v:.3f}" for k, v in sorted(mean.items()))
            left = math.ceil((limit - run.spent) / 60)
            line = f"step {run.step_number}, chunk {run.chunk}: {shown}; {left} min left"
            print(line, flush=True)
    if first:
        run.export(args.out)
        print(f"wrote projector and adapter to {args.out}", flush=True)


def _distil(args: argparse.Namespace) -> None:
    from transformers import AutoTokenizer

    from mmagent.models.assemble import language_model

    tokenizer: Any = AutoTokenizer.from_pretrained(args.gguf.parent, gguf_file=args.gguf.name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = "<|im_end|>"  # noqa: S105
    distil(language_model(args.gguf).eval(), tokenizer, args.answers, limit=args.prompts)


def _options(commands: Any) -> None:
    """Describe the sub-commands."""
    for name, about in (
        ("distil", "let the base answer"),
        ("prepare", "run the base once over its own answers"),
        ("train", "train"),
    ):
        sub = commands.add_parser(name, help=about)
        sub.add_argument("--gguf", type=Path, required=True, help="SmolLM2-135M-Instruct")
        sub.add_argument("--answers", type=Path, default=Path(".build/answers.jsonl"))
        if name == "distil":
            sub.add_argument("--prompts", type=int, help="at most so many; default all")
            continue
        sub.add_argument("--vision", type=Path, required=True, help="vision.safetensors of stage A")
        sub.add_argument("--teacher", type=Path, default=Path(".build/teacher.safetensors"))
        sub.add_argument("--out", type=Path, default=Path(".build/stage-b"))
        if name == "train":
            sub.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
            sub.add_argument("--fonts", type=Path, default=Path(".build/fonts"))
            sub.add_argument("--minutes", type=float, default=120)
            sub.add_argument("--workers", type=int, default=os.cpu_count() or 1)
            sub.add_argument("--lr", type=float, default=Settings.lr)
            sub.add_argument("--projector-lr", type=float, default=Settings.projector_lr)
            sub.add_argument("--tokens", type=int, default=Settings.tokens, help="in a batch")
            sub.add_argument("--still", type=int, default=Settings.still, help="of 30 layers")
            sub.add_argument("--start", type=Path, help="folder of an earlier version's adapter")
            sub.add_argument("--drop", type=float, default=Settings.drop, help="of the features")
            sub.add_argument("--mix", type=float, default=Settings.mix, help="of other pictures")
            sub.add_argument("--stay", type=float, default=Settings.stay,
                             help="weight of staying close to the base on plain chat")  # fmt: skip
            sub.add_argument("--share", action="append", default=[], metavar="KIND=SHARE",
                             help="of a kind of dialogues, in place of the usual")  # fmt: skip
            sub.add_argument("--seed", type=int, default=Settings.seed)


def main() -> None:
    """Parse the command line; distil, prepare or train."""
    parser = argparse.ArgumentParser(description="Stage B: train projector and language model.")
    _options(parser.add_subparsers(dest="command", required=True))
    args = parser.parse_args()
    if args.command == "train":
        args.out.mkdir(parents=True, exist_ok=True)
        together.launch(_train, args.workers, args)
    else:
        {"distil": _distil, "prepare": _prepare}[args.command](args)


if __name__ == "__main__":
    main()
