r"""Stage A: teach tower and projector to see, without running the language model.

The trunk learns to name the concept and to place pictures in the text embedder's space. With the
projector it learns to say in the language model's word vectors what every cell shows (`lexicon`):
concepts, colours, sides, numbers, letters, or that nothing known is there. Every picture is drawn
anew (`sight`). Time-boxed, resumable, on the CPU, one process for each core.

    python -m mmagent.finetune.bundled.train_tower --pictograms FILE --fonts FOLDER \
        --imagenet FILE --gguf FILE --text-model FOLDER --out FOLDER --minutes 60
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmagent.finetune.bundled import together
from mmagent.finetune.bundled.eyesight import eyesight
from mmagent.finetune.bundled.lexicon import Lexicon
from mmagent.finetune.bundled.pictograms import Sheet
from mmagent.finetune.bundled.screens import fetch_fonts
from mmagent.finetune.bundled.sight import (
    Draw,
    batch_of,
    direct_losses,
    losses,
    shares_of,
    strips_of,
)
from mmagent.finetune.bundled.tower import (
    FINE,
    CellHeads,
    Heads,
    Projector,
    load_imagenet,
    load_projector,
    load_trunk,
    save_trunk,
    without_gates,
)
from mmagent.models.vision import SIDE, new_trunk

__all__ = ["TowerRun", "text_matrix"]

_WAIT = 5000  # pictures before a trained tower learns on
_FROZEN_BLOCKS = 3  # stem and the first stages: generic, and the dearest to train


def text_matrix(texts: list[str], model_folder: Path) -> Tensor:
    """Unit vectors of the texts by the frozen text embedder: [K, 384]."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModel.from_pretrained(model_folder).eval()
    total: Tensor | None = None
    for form in ("{}", "a picture of {}", "look at this {}"):
        rows = []
        for start in range(0, len(texts), 64):
            chunk = [form.format(t) for t in texts[start : start + 64]]
            inputs = tokenizer(chunk, padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**inputs).last_hidden_state  # [B, T, 384]
            mask = inputs["attention_mask"][..., None]
            rows.append(normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
        total = torch.cat(rows) if total is None else total + torch.cat(rows)
    assert total is not None
    return normalize(total, dim=-1)


class TowerRun:
    """The state of a training run: the parts, their moving averages, optimiser, time spent.

    Args:
        trunk: to be trained, its gates taken out.
        texts: unit vectors of all texts, [K, 384].
        lexicon: the words.
        minutes: of the whole run, for the learning rate.
        lr: highest learning rate of the trunk; heads and projector learn three times as fast.
        still_norms: keep the means and variances that the trunk has; every picture then is seen
            as it will be, whatever else is in its batch. Only for a trunk that has been trained.
        seed: of the heads' and the projector's first weights.
    """

    def __init__(
        self, trunk: Any, texts: Tensor, lexicon: Lexicon, *, minutes: float, lr: float = 8e-4,
        still_norms: bool = False, seed: int = 11,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.still_norms = still_norms
        self.texts, self.lexicon, self.minutes = texts, lexicon, minutes
        self.trunk: Any = trunk.to(memory_format=torch.channels_last)
        self.heads = Heads()
        self.projector = Projector(lexicon.vectors.shape[1])
        frozen = [self.trunk.embeddings, *self.trunk.encoder.blocks[:_FROZEN_BLOCKS]]
        for module in frozen:
            module.requires_grad_(False)
        self.frozen = frozen
        swa: Any = torch.optim.swa_utils  # without annotations
        average = swa.get_ema_multi_avg_fn(0.99)
        self.mean_trunk = swa.AveragedModel(self.trunk, multi_avg_fn=average, use_buffers=True)
        self.mean_heads = swa.AveragedModel(self.heads, multi_avg_fn=average)
        self.mean_projector = swa.AveragedModel(self.projector, multi_avg_fn=average)
        trainable = [p for p in self.trunk.parameters() if p.requires_grad]
        self.cells = CellHeads()
        self._fine: dict[str, Tensor] = {}
        self.trunk.encoder.blocks[FINE].register_forward_hook(
            lambda _module, _input, output: self._fine.update(cells=output)
        )
        heads = [*self.heads.parameters(), *self.cells.parameters()]
        says = [*self.projector.parameters()]
        self.learning, self.of_trunk = [*trainable, *heads, *says], len(trainable)
        self.optimizer = torch.optim.AdamW(
            [{"params": trainable, "peak": lr}, {"params": heads, "peak": lr * 3},
             {"params": says, "peak": lr * 3}],
            weight_decay=0.02,
        )  # fmt: skip
        self.spent, self.seen, self.wait = 0.0, 0, 0

    def step(self, *batches: dict[str, Tensor]) -> dict[str, float]:
        """One step on batches of `sight.batch_of`; with several processes, all of them together.

        The losses of the batches are added. The running time of the first process is everybody's,
        so that all end at the same step.
        """
        began = time.monotonic()
        done = min(1.0, self.spent / (self.minutes * 60))
        for group, wait in zip(self.optimizer.param_groups, (self.wait, 0, 0), strict=True):
            warm = min(1.0, max(0.0, (self.seen - wait + 1) / 4000))
            group["lr"] = group["peak"] * warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        learns = self.seen >= self.wait
        for parameter in self.learning[: self.of_trunk]:
            parameter.requires_grad_(learns)
        self.trunk.train(not self.still_norms)
        for module in self.frozen:
            module.eval()
        self.optimizer.zero_grad(set_to_none=True)
        told: dict[str, float] = {}
        for batch in batches:
            parts = self._losses(batch)
            torch.autograd.backward(torch.stack(list(parts.values())).sum())
            for key, value in parts.items():
                told[key] = told.get(key, 0.0) + float(value.detach())
        together.share_gradients(self.learning)
        nn.utils.clip_grad_norm_(self.learning, 5.0)
        self.optimizer.step()
        for mean, part in ((self.mean_trunk, self.trunk), (self.mean_heads, self.heads),
                           (self.mean_projector, self.projector)):  # fmt: skip
            mean.update_parameters(part)
        self.seen += sum(len(b["pixels"]) for b in batches) * together.number_of()
        self.spent += together.first_says(time.monotonic() - began)
        return told

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["pixels"].contiguous(memory_format=torch.channels_last)
        features = self.trunk(x).last_hidden_state  # [B, 1280, h, w]
        cells = features.flatten(2).transpose(1, 2)  # [B, T, 1280]
        parts = losses(self.heads(features, self.texts), self.projector(cells), batch, self.lexicon)
        return parts | direct_losses(self.cells(cells, self._fine["cells"]), batch)

    def begin_from(self, folder: Path) -> None:
        """Begin with projector and embedding head of an earlier version, whose tower it has.

        The tower waits until the heads that are new have learned what it shows; their first
        mistakes would undo what it has learned. The projector learns half as fast as the tower:
        faster, what `refit` taught it is undone.
        """
        load_projector(self.projector, folder / "projector.safetensors")
        load_projector(self.heads.embed, folder / "embedding_head.safetensors")
        for mean, part in ((self.mean_heads, self.heads), (self.mean_projector, self.projector)):
            mean.module.load_state_dict(part.state_dict())
        self.wait = _WAIT
        self.optimizer.param_groups[-1]["peak"] = self.optimizer.param_groups[0]["peak"] / 2

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"trunk": self.trunk, "heads": self.heads, "projector": self.projector,
                "cells": self.cells,
                "mean_trunk": self.mean_trunk, "mean_heads": self.mean_heads,
                "mean_projector": self.mean_projector, "optimizer": self.optimizer}  # fmt: skip

    def save(self, path: Path) -> None:
        """Write a checkpoint; it appears whole or not at all."""
        state = {k: v.state_dict() for k, v in self.parts().items()}
        torch.save({**state, "spent": self.spent, "seen": self.seen}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; the learning rates stay those of this run."""
        state = torch.load(path, weights_only=True)
        peaks = [group["peak"] for group in self.optimizer.param_groups]
        for key, part in self.parts().items():
            part.load_state_dict(state[key])
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak
        self.spent, self.seen = state["spent"], state["seen"]


def _work(args: argparse.Namespace) -> None:
    """What each of the processes does."""
    rank = together.rank_of()
    sheet = Sheet.load(args.pictograms)
    names = sorted({item.text for item in sheet.items})
    index = {name: k for k, name in enumerate(names)}
    trunk = without_gates(new_trunk())
    if args.start:
        load_trunk(trunk, args.start / "vision.safetensors")
    else:
        load_imagenet(trunk, args.imagenet)
    lexicon = Lexicon.from_gguf(args.gguf)
    run = TowerRun(trunk, text_matrix(names, args.text_model), lexicon,
                   minutes=args.minutes, lr=args.lr, still_norms=bool(args.strips),
                   seed=args.seed)  # fmt: skip
    if args.start:
        run.begin_from(args.start)
    checkpoint = args.out / "stage-a.pt"
    if checkpoint.exists():
        run.load(checkpoint)
        print(f"resumed after {run.spent / 60:.1f} minutes, {run.seen} pictures", flush=True)
    draw = Draw(sheet, args.fonts, SIDE, shares_of(args.share))
    rng = np.random.default_rng([args.seed, rank, run.seen])
    mean: dict[str, float] = {}
    told, limit = time.monotonic(), args.minutes * 60
    next_report = run.spent + args.every * 60
    while run.spent < limit:
        began = time.monotonic()
        batches = [batch_of(draw.some(rng, args.batch // args.workers), index)]
        if args.strips:
            codes = draw.some(rng, args.strips // args.workers, kind="screen")
            batches.append(strips_of(batch_of(codes, index)))
        drawing = time.monotonic() - began
        run.spent += together.first_says(drawing)
        for key, value in run.step(*batches).items():
            mean[key] = value if key not in mean else 0.97 * mean[key] + 0.03 * value
        if rank == 0 and time.monotonic() - told > 20:
            told = time.monotonic()
            words = ", ".join(f"{k} {v:.2f}" for k, v in mean.items())
            left = math.ceil((limit - run.spent) / 60)
            print(f"{run.seen} pictures, {left} min left: {words}", flush=True)
        if run.spent >= next_report or run.spent >= limit:
            next_report = run.spent + args.every * 60
            if rank == 0:
                _report(run, draw, args.out)
            together.wait()
    if rank == 0:
        meta = {"pictures": run.seen, "minutes": round(run.spent / 60, 1), "side": SIDE}
        save_trunk(run.mean_trunk.module, run.mean_heads.module, run.mean_projector.module,
                   args.out, meta)  # fmt: skip


def _report(run: TowerRun, draw: Draw, out: Path) -> None:
    run.save(out / "stage-a.pt")
    trunk, projector = run.mean_trunk.module.eval(), run.mean_projector.module.eval()
    row = {"minutes": round(run.spent / 60, 1), "pictures": run.seen,
           **eyesight(trunk, projector, draw, run.lexicon)}  # fmt: skip
    with (out / "stage-a.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Stage A: train tower and projector.")
    parser.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
    parser.add_argument("--fonts", type=Path, default=Path(".build/fonts"))
    parser.add_argument("--imagenet", type=Path, required=True, help="efficientnet-lite0 .pth")
    parser.add_argument("--gguf", type=Path, required=True, help="SmolLM2-135M-Instruct")
    parser.add_argument("--text-model", type=Path, required=True, help="all-MiniLM-L6-v2 folder")
    parser.add_argument("--start", type=Path, help="folder of an earlier version")
    parser.add_argument("--out", type=Path, default=Path(".build/stage-a"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=8, help="minutes between measurements")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=32, help="of all processes together")
    parser.add_argument("--strips", type=int, default=0, metavar="N",
                        help="beside every batch so many strips about a code, and the trunk's "
                        "means and variances stay: for a trained eye that is to read")  # fmt: skip
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--share", action="append", default=[], metavar="KIND=SHARE",
                        help="of a kind of pictures, in place of the usual")  # fmt: skip
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    fetch_fonts(args.fonts)
    together.launch(_work, args.workers, args)


if __name__ == "__main__":
    main()
