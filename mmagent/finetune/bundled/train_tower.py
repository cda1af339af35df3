r"""Stage A: teach the vision tower to see pictograms, without the language model.

The trunk learns to name the concept, to place pictures in the text embedder's space, to tell the
colour of the background and of a tinted pictogram, to count, and to say for each cell of its
feature map which concept lies there. Time-boxed, resumable, on the CPU.

    python -m mmagent.finetune.bundled.train_tower --pictograms FILE --imagenet FILE \
        --text-model FOLDER --out FOLDER --minutes 60
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, IterableDataset

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.pictograms import Sheet
from mmagent.finetune.bundled.scenes import SHADES, Scene, SceneMaker
from mmagent.finetune.bundled.tower import (
    Heads,
    load_imagenet,
    save_trunk,
    without_gates,
)
from mmagent.models.vision import new_trunk

__all__ = ["accuracy", "batch_of", "pixels_of", "text_matrix"]

_COLOUR = {name: index for index, name in enumerate(SHADES)}
_IGNORE = -100
_FROZEN_BLOCKS = 3  # stem and the first stages: generic, and the dearest to train


def pixels_of(image: Image.Image) -> Tensor:
    """A picture as the tower takes it: float32 [3, S, S] in -1 … 1."""
    array = np.asarray(image, np.float32) / 127.5 - 1.0
    return torch.from_numpy(array).permute(2, 0, 1)


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


def batch_of(scenes: list[Scene], texts: dict[str, int]) -> dict[str, Tensor]:
    """Pixels and labels of some scenes; -100 where a label does not apply."""
    grid = scenes[0].image.size[0] // 32
    rows: dict[str, list[Any]] = {k: [] for k in ("concept", "text", "background", "tint", "count")}
    cells = torch.full((len(scenes), grid * grid), len(CONCEPTS))
    for index, scene in enumerate(scenes):
        labels = {p.item.label for p in scene.objects}
        one = scene.objects[0]
        single = len(scene.objects) == 1
        same = len(labels) == 1
        rows["concept"].append(one.item.label if same and one.item.label >= 0 else _IGNORE)
        rows["text"].append(texts[one.item.text] if same else _IGNORE)
        rows["background"].append(_COLOUR[scene.background] if scene.background else _IGNORE)
        rows["tint"].append(_COLOUR[one.colour] if one.colour and same else _IGNORE)
        rows["count"].append(len(scene.objects) if same and one.item.label >= 0 else _IGNORE)
        for placed in scene.objects:
            left, top, right, bottom = (v * grid for v in placed.box)
            known = placed.item.label if placed.item.label >= 0 else _IGNORE
            for y in range(grid):
                for x in range(grid):
                    over = max(0.0, min(right, x + 1) - max(left, x)) * max(
                        0.0, min(bottom, y + 1) - max(top, y)
                    )
                    if over > 0.5:
                        cells[index, y * grid + x] = known
                    elif over > 0.15 and not single:
                        cells[index, y * grid + x] = _IGNORE
    batch = {key: torch.tensor(value) for key, value in rows.items()}
    batch["cell"] = cells
    batch["pixels"] = torch.stack([pixels_of(s.image) for s in scenes])
    return batch


class _Scenes(IterableDataset[dict[str, Tensor]]):
    """An endless run of batches: 55% single, 15% other emoji, 20% pairs, 10% counts."""

    def __init__(self, sheet: Path, side: int, size: int, seed: int, texts: dict[str, int]) -> None:
        self.sheet, self.side, self.size, self.seed, self.texts = sheet, side, size, seed, texts

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        os.nice(2)
        torch.set_num_threads(1)
        maker = SceneMaker(Sheet.load(self.sheet), self.side)
        rng = np.random.default_rng(self.seed)
        while True:
            scenes = []
            for _ in range(self.size):
                draw = rng.random()
                if draw < 0.55:
                    scenes.append(maker.single(rng))
                elif draw < 0.7:
                    scenes.append(maker.other(rng))
                elif draw < 0.9:
                    scenes.append(maker.pair(rng))
                else:
                    scenes.append(maker.count(rng))
            yield batch_of(scenes, self.texts)


def _loss(out: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    weights = {"concept": 1.0, "text": 0.5, "background": 0.3, "tint": 0.3, "count": 0.2}
    total = torch.zeros(())
    for key, weight in weights.items():
        if bool((batch[key] >= 0).any()):
            smooth = 0.1 if key in ("concept", "text") else 0.0
            total = total + weight * cross_entropy(out[key], batch[key], label_smoothing=smooth)
    return total + 0.5 * cross_entropy(out["cell"].flatten(0, 1), batch["cell"].flatten())


@torch.no_grad()
def accuracy(trunk: nn.Module, heads: Heads, maker: SceneMaker, style: str) -> dict[str, float]:
    """How often the heads are right on every pictogram of a style, drawn clean and disturbed."""
    trunk.eval()
    everyday = torch.tensor([i for i, c in enumerate(CONCEPTS) if c.everyday])
    texts = torch.zeros(1, 384)
    right: dict[str, list[bool]] = {"everyday 100": [], "all concepts": [], "background": []}
    rng = np.random.default_rng(7)
    items = [(r, i) for r, i in enumerate(maker.sheet.items) if i.style == style and i.label >= 0]
    for clean in (True, False):
        for start in range(0, len(items), 64):
            part = items[start : start + 64]
            scenes = [maker.single(rng, row=row, clean=clean) for row, _ in part]
            x = torch.stack([pixels_of(s.image) for s in scenes])
            x = x.contiguous(memory_format=torch.channels_last)
            out = heads(trunk(x).last_hidden_state, texts)
            for k, (_, item) in enumerate(part):
                right["all concepts"].append(int(out["concept"][k].argmax()) == item.label)
                if CONCEPTS[item.label].everyday:
                    best = everyday[out["concept"][k][everyday].argmax()]
                    right["everyday 100"].append(int(best) == item.label)
                if (colour := scenes[k].background) is not None:
                    right["background"].append(
                        int(out["background"][k].argmax()) == _COLOUR[colour]
                    )
    return {key: round(float(np.mean(value)), 4) for key, value in right.items()}


class _Run:
    """The state of a training run: trunk, heads, their moving averages, optimiser, time spent."""

    def __init__(self, args: argparse.Namespace, texts: Tensor) -> None:
        torch.manual_seed(args.seed)
        self.args, self.texts = args, texts
        trunk = new_trunk()
        load_imagenet(trunk, args.imagenet)
        self.trunk: Any = without_gates(trunk).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        self.heads = Heads()
        frozen = [self.trunk.embeddings, *self.trunk.encoder.blocks[:_FROZEN_BLOCKS]]
        for module in frozen:
            module.requires_grad_(False)
        self.frozen = frozen
        swa: Any = torch.optim.swa_utils  # without annotations
        average = swa.get_ema_multi_avg_fn(0.998)
        self.mean_trunk = swa.AveragedModel(self.trunk, multi_avg_fn=average, use_buffers=True)
        self.mean_heads = swa.AveragedModel(self.heads, multi_avg_fn=average)
        trainable = [p for p in self.trunk.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [{"params": trainable, "peak": args.lr},
             {"params": self.heads.parameters(), "peak": args.lr * 3}],
            weight_decay=0.02,
        )  # fmt: skip
        self.spent, self.seen = 0.0, 0

    def step(self, batch: dict[str, Tensor]) -> float:
        done = min(1.0, self.spent / (self.args.minutes * 60))
        warm = min(1.0, (self.seen + 1) / 4000)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        self.trunk.train()
        for module in self.frozen:
            module.eval()
        x = batch["pixels"].contiguous(memory_format=torch.channels_last)
        loss = _loss(self.heads(self.trunk(x).last_hidden_state, self.texts), batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.trunk.parameters(), 5.0)
        self.optimizer.step()
        self.mean_trunk.update_parameters(self.trunk)
        self.mean_heads.update_parameters(self.heads)
        self.seen += len(x)
        return float(loss.detach())

    def parts(self) -> dict[str, Any]:
        return {"trunk": self.trunk, "heads": self.heads, "mean_trunk": self.mean_trunk,
                "mean_heads": self.mean_heads, "optimizer": self.optimizer}  # fmt: skip

    def save(self, path: Path) -> None:
        state = {k: v.state_dict() for k, v in self.parts().items()}
        torch.save({**state, "spent": self.spent, "seen": self.seen}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for key, part in self.parts().items():
            part.load_state_dict(state[key])
        self.spent, self.seen = state["spent"], state["seen"]


def train(args: argparse.Namespace) -> None:
    """Run or resume stage A until `args.minutes` of training are spent."""
    sheet = Sheet.load(args.pictograms)
    names = sorted({item.text for item in sheet.items})
    index = {name: k for k, name in enumerate(names)}
    run = _Run(args, text_matrix(names, args.text_model))
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "stage-a.pt"
    if checkpoint.exists():
        run.load(checkpoint)
        print(f"resumed after {run.spent / 60:.1f} minutes, {run.seen} pictures", flush=True)
    limit, low = args.minutes * 60, 0.65 * args.minutes * 60
    reported = 0.0
    while run.spent < limit:
        side = 128 if run.spent < low else 160  # learn on small pictures, finish on the true size
        data = _Scenes(args.pictograms, side, args.batch, args.seed + run.seen, index)
        for batch in DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=6):
            start = time.monotonic()
            loss = run.step(batch)
            run.spent += time.monotonic() - start
            if run.spent - reported > 240 or run.spent >= limit:
                reported = run.spent
                run.save(checkpoint)
                maker = SceneMaker(sheet, 160)
                trunk, heads = run.mean_trunk.module, run.mean_heads.module
                scores = {s: accuracy(trunk, heads, maker, s) for s in ("openmoji", "emojione-v1")}
                row = {"minutes": round(run.spent / 60, 1), "pictures": run.seen, "side": side,
                       "loss": round(loss, 3), **scores}  # fmt: skip
                with (args.out / "stage-a.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
            if run.spent >= limit or (side == 128 and run.spent >= low):
                break
    meta = {"pictures": run.seen, "minutes": round(run.spent / 60, 1), "side": 160}
    save_trunk(run.mean_trunk.module, run.mean_heads.module, args.out, meta)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Stage A: train the vision tower.")
    parser.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
    parser.add_argument("--imagenet", type=Path, required=True, help="efficientnet-lite0 .pth")
    parser.add_argument("--text-model", type=Path, required=True, help="all-MiniLM-L6-v2 folder")
    parser.add_argument("--out", type=Path, default=Path(".build/stage-a"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=11)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
