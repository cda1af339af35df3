"""The training loop of stage B: adapters and projector learn, the rest is frozen.

The loss is on the assistant's words only; on rows of plain chat the model is held to the base's
own distribution. Time-boxed and resumable to the bit. `train_chat` is its command line.
"""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmagent.finetune.bundled import together
from mmagent.finetune.bundled.chat_data import Teacher
from mmagent.finetune.bundled.dialogues import Mixture
from mmagent.finetune.bundled.dialogues_encode import Batch, Encoder, Row, collate
from mmagent.finetune.bundled.quick_lora import quicken
from mmagent.finetune.bundled.sight import mixed
from mmagent.finetune.bundled.tower import load_projector, save_projector

__all__ = ["TARGETS", "Settings", "StageB", "batches", "train"]

TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"


@dataclass(frozen=True)
class Settings:
    """How stage B trains; the length of a run is not among them.

    Attributes:
        lr: highest learning rate of the adapters.
        projector_lr: of the projector.
        rank: of the adapters; alpha is twice that.
        tokens: padded tokens in a batch.
        chunk: dialogues that are drawn and sorted by length together.
        stay: weight of staying close to the base on plain chat.
        drop: share of the features that is left out, as an unseen style would lack some.
        mix: of another picture at most so much is mixed into the features: things of an unseen
            style are seen less surely than those that the eye was trained on.
        still: so many of the lowest layers' adapters (half of all at most) learn only from
            batches with pictures; the others then cost no backward pass through those layers.
        seed: of everything drawn.
    """

    lr: float = 8e-4
    projector_lr: float = 1.5e-4
    rank: int = 16
    tokens: int = 1000
    chunk: int = 64
    stay: float = 1.0
    drop: float = 0.05
    mix: float = 0.3
    still: int = 8
    seed: int = 3


class Course(Protocol):
    """What is taught: for every chunk the dialogues that are drawn, and the pictures' features."""

    def __call__(self, chunk: int) -> tuple[Mixture, npt.NDArray[np.float16]]:
        """The mixture of a chunk and the features [N, T, F] of the pictures that it shows."""


def batches(draw: Mixture, encoder: Encoder, settings: Settings, chunk: int) -> list[list[Row]]:
    """The batches of a chunk: rows of like length together, batches in random order."""
    rows = [encoder.row(d) for d in draw.chunk(settings.seed, chunk, settings.chunk)]
    rows.sort(key=len)
    out: list[list[Row]] = [[]]
    for row in rows:
        if out[-1] and len(row) * (len(out[-1]) + 1) > settings.tokens:
            out.append([])
        out[-1].append(row)
    random.Random(f"{settings.seed}/{chunk}/order").shuffle(out)
    return out


class StageB:
    """The model in training: frozen language model and tower, adapters and projector that learn.

    Args:
        model: the vision-language model; adapters are put into it.
        teacher: the base's distributions, if rows of plain chat are drawn.
        settings: how to train.
    """

    def __init__(self, model: Any, teacher: Teacher | None, settings: Settings) -> None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(settings.seed)
        model.requires_grad_(False)
        config = LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, target_modules=TARGETS)
        with warnings.catch_warnings():  # PEFT asks transformers by an old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self.peft = get_peft_model(model, config)
        quicken(self.peft)
        self.model, self.teacher, self.settings = model, teacher, settings
        self.features: npt.NDArray[np.float16] = np.zeros((0, 1, 1), np.float16)  # of the chunk
        self.projector: nn.Module = model.model.multi_modal_projector
        self.projector.requires_grad_(True)
        self.image_token = int(model.config.image_token_id)
        self.adapters = {name: p for name, p in self.peft.named_parameters() if "lora_" in name}
        still = min(settings.still, (1 + max(map(_layer, self.adapters))) // 2)
        self.learning = [*self.adapters.values(), *self.projector.parameters()]
        self.low = [p for n, p in self.adapters.items() if _layer(n) < still]
        self.optimizer = torch.optim.AdamW(
            [{"params": list(self.adapters.values()), "peak": settings.lr},
             {"params": list(self.projector.parameters()), "peak": settings.projector_lr}],
            weight_decay=0.01, betas=(0.9, 0.98),
        )  # fmt: skip
        self.dropout = nn.Dropout(settings.drop)
        self.step_number = self.chunk = self.next_batch = 0
        self.spent = 0.0

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states, [B, L, D]; every talk as if it stood alone."""
        embeds = self.model.get_input_embeddings()(batch.ids)
        if len(batch.pictures):
            read = torch.from_numpy(self.features[batch.pictures.numpy()]).float()  # [P, T, F]
            if self.projector.training and self.settings.mix:
                read = mixed(read, torch.from_numpy(self.features), self.settings.mix)
            seen = self.projector(self.dropout(read))  # [P, T, D]
            place = (batch.ids == self.image_token)[..., None]  # [B, L, 1]
            embeds = embeds.masked_scatter(place, seen)
        states: Tensor = self.model.model.language_model(
            inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        return states

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss on what the assistant says, and distance from the base on plain chat (in nats)."""
        hidden = self.hidden(batch)
        zero = hidden.sum() * 0.0
        taught = ~torch.isin(
            batch.rows, torch.tensor([r for r, _ in batch.teachers], dtype=torch.long)
        )
        said = away = zero
        if bool(taught.any()):
            states = hidden[batch.rows[taught], batch.source[taught]]  # [S, D]
            said = cross_entropy(self.model.lm_head(states), batch.target[taught])
        if batch.teachers and self.teacher is not None:
            parts = []
            for row, index in batch.teachers:
                start, tokens, wanted = self.teacher.table(index)
                logits = self.model.lm_head(hidden[row, start : start + len(tokens)])  # [n, V]
                parts.append(_distance(logits, tokens, wanted))
            away = torch.cat(parts).mean()
        return said, away

    def step(self, rows: list[Row], done: float) -> dict[str, float]:
        """One step of training; `done` is the share of the run that lies behind."""
        warm = min(1.0, (self.step_number + 1) / 20)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * warm * (0.02 + 0.98 * (1 - done))
        self.peft.train()
        self.model.model.vision_tower.eval()
        sees = any(row.pictures for row in rows)
        for parameter in self.low:
            parameter.requires_grad_(sees)
        said, away = self.losses(collate(rows, pad=0))
        held = sum(row.teacher is not None for row in rows) / len(rows)
        loss = (1 - held) * said + held * self.settings.stay * away
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        together.share_gradients(self.learning)
        nn.utils.clip_grad_norm_(self.learning, max_norm=1.0)
        self.optimizer.step()
        self.step_number += 1
        out = {"said": float(said.detach())} if held < 1 else {}
        return out | ({"away": float(away.detach())} if held else {})

    def save(self, path: Path) -> None:
        """Write a checkpoint; it appears whole or not at all."""
        state = {
            "adapters": {name: p.detach() for name, p in self.adapters.items()},
            "projector": self.projector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "at": [self.step_number, self.chunk, self.next_batch],
            "spent": self.spent,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for name, parameter in self.adapters.items():
                parameter.copy_(state["adapters"][name])
        self.projector.load_state_dict(state["projector"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step_number, self.chunk, self.next_batch = state["at"]
        self.spent = state["spent"]

    def see_with(self, projector: Path) -> None:
        """Begin with the projector that stage A trained with the tower."""
        load_projector(self.projector, projector)

    def begin_from(self, folder: Path) -> None:
        """Begin with the adapter of an earlier version.

        Raises:
            ValueError: its adapter has another shape.
        """
        from safetensors.torch import load_file

        known = load_file(folder / "adapter" / "adapter_model.safetensors")
        with torch.no_grad():
            for name, parameter in self.adapters.items():
                old = known.get(name.replace(".default.", "."))
                if old is None or old.shape != parameter.shape:
                    raise ValueError(f"The adapter in {folder} does not fit: {name} differs.")
                parameter.copy_(old)

    def export(self, folder: Path) -> None:
        """Write `projector.safetensors` and `adapter/` (PEFT) in half precision."""
        from safetensors.torch import load_file, save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_projector(self.projector, folder / "projector.safetensors")
        self.peft.save_pretrained(str(folder / "adapter"))
        path = folder / "adapter" / "adapter_model.safetensors"
        save_file({k: v.half() for k, v in load_file(path).items()}, path, {"format": "pt"})
        config_path = folder / "adapter" / "adapter_config.json"
        config = json.loads(config_path.read_text("utf-8"))
        config["base_model_name_or_path"] = None  # where it was trained says nothing to a user
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        (folder / "adapter" / "README.md").unlink(missing_ok=True)


def _layer(name: str) -> int:
    """The number of the layer that a parameter belongs to."""
    return int(name.split(".layers.")[1].split(".")[0])


def _distance(logits: Tensor, tokens: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler distance to a distribution known by its likeliest tokens, [n].

    The tokens that are not listed count together.

    Args:
        logits: [n, V].
        tokens: [n, K].
        wanted: log probabilities of those, [n, K].
    """
    got = logits.float().log_softmax(-1).gather(1, tokens)  # [n, K]
    p = wanted.exp()
    rest = (1 - p.sum(-1)).clamp_min(1e-6)
    got_rest = (1 - got.exp().sum(-1)).clamp_min(1e-6)
    return (p * (wanted - got)).sum(-1) + rest * (rest.log() - got_rest.log())


def train(
    run: StageB, course: Course, encoder: Encoder, out: Path, *,
    minutes: float | None = None, steps: int | None = None, every: float = 120.0,
) -> Iterator[dict[str, float]]:  # fmt: skip
    """Train until `minutes` of computing (over all resumptions) or `steps` are done.

    Args:
        run: the model; its counters say where to go on.
        course: the dialogues and their pictures; with several processes each takes every so
            many-th chunk.
        encoder: of the dialogues.
        out: gets `stage-b.pt` every `every` seconds and at the end.
        minutes: how long; None if `steps` is given.
        steps: how many steps.
        every: seconds between checkpoints.

    Yields:
        The losses of every step.
    """
    written = run.spent
    while True:
        began = time.monotonic()
        chunk = run.chunk * together.number_of() + together.rank_of()
        draw, run.features = course(chunk)
        for index, rows in enumerate(batches(draw, encoder, run.settings, chunk)):
            if index < run.next_batch:
                continue
            spent = together.first_says(run.spent)
            done = run.step_number / steps if steps else spent / (60 * (minutes or 1e-9))
            if done >= 1:
                if together.rank_of() == 0:
                    run.save(out / "stage-b.pt")
                return
            losses = run.step(rows, done)
            now = time.monotonic()
            run.spent, began = run.spent + now - began, now
            run.next_batch = index + 1
            if run.spent - written > every:
                if together.rank_of() == 0:
                    run.save(out / "stage-b.pt")
                written = run.spent
            yield losses
        run.chunk += 1
        run.next_batch = 0
