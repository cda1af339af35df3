r"""Stage B: teach projector and language model to talk about pictures, memories and personas.

The untouched base first answers some plain requests (`distil`). The frozen tower is then run over
a gallery of pictures, and the base over its own answers (`prepare`). At last the projector is
fitted to the word vectors (`chat_align`), or taken from an earlier version, and trained on with
LoRA adapters of the language model on dialogues (`train`, see `chat_stage`). Every step takes up
where it was interrupted, and all run on the CPU.

    python -m mmagent.finetune.bundled.train_chat distil --gguf FILE --answers FILE
    python -m mmagent.finetune.bundled.train_chat prepare --gguf FILE --vision FILE \
        --pictograms FILE --answers FILE --out FOLDER
    python -m mmagent.finetune.bundled.train_chat train --gguf FILE --vision FILE \
        --data FOLDER --out FOLDER --minutes 45
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmagent.finetune.bundled.chat_align import (
    Lexicon,
    align,
    detectors,
    named_right,
    place_detectors,
)
from mmagent.finetune.bundled.chat_data import (
    Teacher,
    make_gallery,
    make_teacher,
    mixture,
    read_gallery,
    teacher_dialogues,
)
from mmagent.finetune.bundled.chat_stage import Settings, StageB, train
from mmagent.finetune.bundled.dialogues_encode import Encoder
from mmagent.finetune.bundled.dialogues_picture import Gallery
from mmagent.finetune.bundled.dialogues_text import distil

__all__ = ["main"]


def _base(args: argparse.Namespace) -> tuple[Any, Any, Encoder]:
    from safetensors.torch import load_file

    from mmagent.models.assemble import build, build_processor

    processor = build_processor(args.gguf)
    model = build(args.gguf, processor, args.out / "no-weights")
    state = {k: v.float() for k, v in load_file(args.vision).items()}
    left = model.model.vision_tower.load_state_dict(state, strict=False)
    if left.unexpected_keys:
        raise ValueError(f"{args.vision} is not the tower: {left.unexpected_keys[0]} is unknown.")
    encoder = Encoder(
        processor.tokenizer, int(model.config.image_token_id), int(model.config.image_seq_length)
    )
    return model, processor, encoder


def _prepare(args: argparse.Namespace) -> None:
    from mmagent.finetune.bundled.pictograms import Sheet
    from mmagent.finetune.bundled.scenes import SceneMaker

    model, processor, encoder = _base(args)
    if not (args.out / "teacher.safetensors").exists():
        args.out.mkdir(parents=True, exist_ok=True)
        make_teacher(model, encoder, args.answers, args.out / "teacher.safetensors")
    if args.only_teacher:
        return
    maker = SceneMaker(Sheet.load(args.pictograms), processor.image_processor.size["height"])
    for part, share in (("", 1.0), ("-more", 0.35)):
        for split, number, seed in (
            ("test", args.pictures // 10, 91),
            ("train", args.pictures, 17),
        ):
            if not (args.out / f"{split}{part}.npy").exists():
                many = max(32, round(number * share))
                make_gallery(maker, model, processor, args.out, split, many, seed, part)  # type: ignore[arg-type]


def _of_concepts(
    gallery: Gallery, features: npt.NDArray[np.float16]
) -> tuple[Gallery, npt.NDArray[np.float16]]:
    """The pictures whose words the projector is fitted to."""
    rows = [i for i, s in enumerate(gallery.pictures) if s.kind in ("single", "pair", "count")]
    return Gallery([gallery.pictures[i] for i in rows]), features[rows]


def _train(args: argparse.Namespace) -> None:
    model, processor, encoder = _base(args)
    gallery, features = read_gallery(args.data, "train")
    test, test_features = read_gallery(args.data, "test")
    texts = teacher_dialogues(args.answers)
    run = StageB(model, features, Teacher.read(args.data / "teacher.safetensors"),
                 Settings(lr=args.lr, projector_lr=args.projector_lr, seed=args.seed,
                          tokens=args.tokens, still=args.still, drop=args.drop))  # fmt: skip
    checkpoint = args.out / "stage-b.pt"
    if checkpoint.exists():
        run.load(checkpoint)
        print(f"resumed after {run.step_number} steps, {run.spent / 60:.1f} minutes", flush=True)
    else:
        lexicon = Lexicon.of(processor.tokenizer, model.get_input_embeddings().weight.detach())
        known, known_features = _of_concepts(gallery, features)
        phases = (
            ["as it was", "with places"] if args.start else ["closed form", "refined", "placed"]
        )
        if args.start and args.placed:
            phases = phases[:1]
        for phase in phases:
            if phase == "as it was":
                run.begin_from(args.start)
            elif phase == "closed form":
                detectors(run.projector, known, known_features, lexicon)
            elif phase == "refined":
                align(run.projector, known, known_features, lexicon, seconds=args.align_seconds)
            else:
                place_detectors(run.projector, features, lexicon)
            name, colour = named_right(run.projector, test, test_features, lexicon)
            words = f"{phase}: concept {name:.1%}, background {colour:.1%} on held-out styles"
            print(words, flush=True)
        run.save(checkpoint)
    draw = mixture(gallery, texts, args.looking)
    mean: dict[str, float] = {}
    limit, seen = 60 * args.minutes, time.monotonic()
    for losses in train(run, draw, encoder, args.out, minutes=args.minutes):
        for key, value in losses.items():
            mean[key] = value if key not in mean else 0.95 * mean[key] + 0.05 * value
        if time.monotonic() - seen > 20:
            seen = time.monotonic()
            shown = ", ".join(f"{k} {v:.3f}" for k, v in sorted(mean.items()))
            left = math.ceil((limit - run.spent) / 60)
            line = f"step {run.step_number}, chunk {run.chunk}: {shown}; {left} min left"
            print(line, flush=True)
    run.export(args.out)
    print(f"wrote projector and adapter to {args.out}", flush=True)


def _distil(args: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"gguf_file": args.gguf.name}
    tokenizer: Any = AutoTokenizer.from_pretrained(args.gguf.parent, **where)
    model: Any = AutoModelForCausalLM.from_pretrained(
        args.gguf.parent, **where, quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )  # fmt: skip
    if tokenizer.pad_token is None:
        tokenizer.pad_token = "<|im_end|>"  # noqa: S105
    distil(model.eval(), tokenizer, args.answers, limit=args.prompts)


def _options(commands: Any) -> None:
    """Describe the sub-commands."""
    for name, about in (
        ("distil", "let the base answer"),
        ("prepare", "run the tower and the base once"),
        ("train", "train"),
    ):
        sub = commands.add_parser(name, help=about)
        sub.add_argument("--gguf", type=Path, required=True, help="SmolLM2-135M-Instruct")
        sub.add_argument("--answers", type=Path, default=Path(".build/answers.jsonl"))
        sub.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
        if name == "distil":
            sub.add_argument("--prompts", type=int, help="at most so many; default all")
            continue
        sub.add_argument("--vision", type=Path, required=True, help="vision.safetensors of stage A")
        sub.add_argument("--out", type=Path, default=Path(f".build/stage-b-{name}"))
        if name == "prepare":
            sub.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
            sub.add_argument("--pictures", type=int, default=7000)
            sub.add_argument("--only-teacher", action="store_true", help="leave the pictures out")
        else:
            sub.add_argument("--data", type=Path, default=Path(".build/stage-b-prepare"))
            sub.add_argument("--minutes", type=float, default=120)
            sub.add_argument("--align-seconds", type=float, default=60)
            sub.add_argument("--lr", type=float, default=Settings.lr)
            sub.add_argument("--projector-lr", type=float, default=Settings.projector_lr)
            sub.add_argument("--tokens", type=int, default=Settings.tokens, help="in a batch")
            sub.add_argument("--still", type=int, default=Settings.still, help="of 30 layers")
            sub.add_argument("--start", type=Path, help="weights of an earlier version")
            sub.add_argument("--placed", action="store_true", help="START tells places already")
            sub.add_argument("--drop", type=float, default=Settings.drop, help="of the features")
            sub.add_argument("--looking", type=float, default=1.0, help="more single pictures")
            sub.add_argument("--seed", type=int, default=Settings.seed)


def main() -> None:
    """Parse the command line; distil, prepare or train."""
    parser = argparse.ArgumentParser(description="Stage B: train projector and language model.")
    _options(parser.add_subparsers(dest="command", required=True))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    {"distil": _distil, "prepare": _prepare, "train": _train}[args.command](args)


if __name__ == "__main__":
    main()
