"""From settings to the arguments of transformers' trainers; the same for every objective."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent.errors import UsageError
from mmagent.finetune.config import TrainSettings
from mmagent.finetune.extras import require_tracker

__all__ = [
    "Schedule",
    "checkpoint_to_resume",
    "claim_output",
    "precision_of",
    "schedule_of",
    "trainer_arguments",
    "world_size",
]

# What may differ when a run is resumed: how long it goes on, what is written down meanwhile, and
# where things lie (that the data is the same is seen from the data).
_FREE = frozenset(
    {
        "data",
        "device",
        "early_stopping",
        "epochs",
        "eval_every",
        "evaluate",
        "images",
        "keep_best",
        "keep_checkpoints",
        "metric",
        "output",
        "save_every",
        "steps",
        "track",
        "workers",
    }
)


def world_size() -> int:
    """How many processes `accelerate launch` started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Schedule:
    """When something happens, in optimizer steps.

    Attributes:
        total: Steps of the whole run.
        evaluate: Every how many steps is validated; 0 for never.
        save: Every how many steps a checkpoint is written.
        log: Every how many steps the loss is noted.
    """

    total: int
    evaluate: int
    save: int
    log: int


def schedule_of(settings: TrainSettings, rows: int, validation_rows: int) -> Schedule:
    """Plan a run over so many rows.

    Raises:
        UsageError: Settings that need validation rows are set and there are none, or checkpoints
            would miss the best weights.
    """
    at_once = settings.batch * settings.accumulation * world_size()
    total = settings.steps or max(1, math.ceil(math.ceil(rows / at_once) * settings.epochs))
    evaluate = min(settings.eval_every or max(1, total // 10), total) if validation_rows else 0
    if settings.early_stopping and not evaluate:
        raise UsageError(
            "Early stopping needs rows to validate on: set split.validation above 0, or leave "
            "early_stopping at 0."
        )
    save = min(settings.save_every or evaluate or max(1, total // 10), total)
    if settings.keep_best and evaluate and save % evaluate:
        raise UsageError(
            f"save_every ({save}) must be a multiple of eval_every ({evaluate}), or the best "
            "weights may not be kept; change one of them, or set keep_best to false."
        )
    return Schedule(total, evaluate, save, max(1, min(10, total // 50)))


def precision_of(settings: TrainSettings) -> str:
    """fp32, bf16 or fp16, for the device of this run.

    Raises:
        UsageError: The device cannot do it.
    """
    import torch

    gpu = settings.device != "cpu" and torch.cuda.is_available()
    if settings.device == "gpu" and not gpu:
        raise UsageError("There is no GPU that torch can use here; set device to auto or cpu.")
    if settings.precision == "auto":
        return "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp32"
    if settings.precision == "fp16" and not gpu:
        raise UsageError("fp16 needs a GPU; set precision to auto, which is fp32 on a CPU.")
    return settings.precision


def trainer_arguments(settings: TrainSettings, schedule: Schedule, metric: str) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments` and what derives from it.

    Args:
        settings: The run.
        schedule: From `schedule_of`.
        metric: The trainer's name of what a gain is measured by, such as "eval_loss".

    Raises:
        UsageError: Several GPUs are seen and nobody launched a process for each.
        MissingDependencyError: A tracker is not installed.
    """
    import torch

    for tracker in settings.track:
        require_tracker(tracker)
    precision = precision_of(settings)
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if not on_cpu and torch.cuda.device_count() > 1 and "LOCAL_RANK" not in os.environ:
        raise UsageError(
            f"{torch.cuda.device_count()} GPUs are seen: start the run with `accelerate launch "
            "-m mmagent finetune ...`, or choose one with CUDA_VISIBLE_DEVICES=0."
        )
    keep_best = settings.keep_best and schedule.evaluate > 0
    kinds = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
    return {
        "output_dir": str(settings.output / "checkpoints"),
        "max_steps": schedule.total,
        "learning_rate": settings.lr,
        "lr_scheduler_type": kinds[settings.scheduler],
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "per_device_train_batch_size": settings.batch,
        "per_device_eval_batch_size": settings.batch,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": on_cpu,
        "dataloader_num_workers": settings.workers,
        "dataloader_pin_memory": not on_cpu,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "logging_steps": schedule.log,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if schedule.evaluate else "no",
        "eval_steps": schedule.evaluate or None,
        "save_strategy": "steps",
        "save_steps": schedule.save,
        "save_total_limit": settings.keep_checkpoints,
        "load_best_model_at_end": keep_best,
        "metric_for_best_model": metric if schedule.evaluate else None,
        "greater_is_better": ("loss" not in metric) if schedule.evaluate else None,
        "report_to": settings.track or "none",
        "project": "mmagent",  # of trackio; its runs are called as their folders
        "run_name": settings.output.name,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "push_to_hub": False,
    }


def claim_output(settings: TrainSettings, resume: bool) -> None:
    """Make the output folder, or see that a run can go on in it; write down the settings.

    Raises:
        UsageError: A run lies there already, or the one to resume had other settings.
    """
    folder = settings.output
    file = folder / "settings.json"
    now = json.loads(settings.model_dump_json())
    if file.exists():
        if not resume:
            raise UsageError(
                f"There is a run in {folder} already: add --resume to go on with it, or name "
                "another folder with --output."
            )
        try:
            before = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise UsageError(f"{file} is damaged, so the run cannot go on; start anew.") from error
        differs = [n for n in now if n not in _FREE and before.get(n) != now[n]]
        if differs:
            raise UsageError(
                f"The run in {folder} was started with another {', '.join(differs)}: give the "
                "same settings to resume it, or name another folder with --output."
            )
    elif resume:
        raise UsageError(f"There is no run in {folder} to resume; leave --resume out.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something else: name a new folder with --output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be written ({error.strerror or error}); name another "
            "with --output."
        ) from error


def checkpoint_to_resume(output: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    found = [
        (int(folder.name.rsplit("-", 1)[-1]), folder)
        for folder in (output / "checkpoints").glob("checkpoint-*")
        # The trainer writes this file last.
        if (folder / "trainer_state.json").is_file() and folder.name.rsplit("-", 1)[-1].isdigit()
    ]
    return max(found)[1] if found else None
