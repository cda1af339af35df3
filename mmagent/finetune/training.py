"""`mmagent finetune chat`: one run from rows to an adapter (or a model) with a report."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent.errors import GenerationError, UsageError
from mmagent.finetune.arguments import (
    Schedule,
    checkpoint_to_resume,
    claim_output,
    precision_of,
    schedule_of,
    trainer_arguments,
)
from mmagent.finetune.base import Reader, load_reader, quiet_training
from mmagent.finetune.config import ChatSettings
from mmagent.finetune.extras import require_training
from mmagent.finetune.prepare import Prepared, prepare, sizes

__all__ = [
    "Run",
    "build_trainer",
    "encoder_of",
    "finetune_chat",
    "load_base",
    "no_note",
    "write_json",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What a finished run left behind.

    Attributes:
        output: The folder of everything.
        weights: The adapter's folder, or the model's in full fine-tuning.
        report: The report, as in `report.json`.
    """

    output: Path
    weights: Path
    report: dict[str, Any]


def no_note(text: str) -> None:
    """Say nothing."""


def finetune_chat(
    settings: ChatSettings,
    *,
    resume: bool = False,
    quiet: bool = True,
    note: Callable[[str], None] = no_note,
) -> Run:
    """Fine-tune a model on dialogues, and measure it before and after on rows held out.

    Args:
        settings: Everything that decides about the run.
        resume: Go on from the newest checkpoint in the output folder.
        quiet: Show no progress of the training.
        note: Is told what is being done.

    Returns:
        Where everything lies, and the report.

    Raises:
        UsageError: Settings or data cannot work; nothing was trained.
        MissingDependencyError: An optional package is absent.
        GenerationError: The training failed, for instance for memory.
    """
    require_training()
    first = not int(os.environ.get("RANK", "0"))  # of several processes
    if first and settings.output.joinpath("settings.json").exists() and not resume:
        claim_output(settings, resume)  # says so before the data is read
    reader = load_reader(settings.base, progress=not quiet)
    encoder = encoder_of(reader)
    note("reading and checking the data")
    prepared = prepare(settings, encoder, reader.context_length)
    schedule = schedule_of(settings, len(prepared.splits.train), len(prepared.splits.validation))
    _say_problems(prepared, note)
    precision_of(settings)
    data = prepared.as_dict() | _membership(prepared)
    if resume:
        _check_same_data(settings.output / "data.json", data)
    if first:
        claim_output(settings, resume)
    write_json(settings.output / "data.json", data)
    from mmagent.finetune.report import measure_before, write_report

    with quiet_training():
        model = load_base(settings, reader)
        before = measure_before(settings, model, encoder, prepared, resume, note)
        trainer, progress = build_trainer(settings, model, encoder, prepared, schedule, quiet)
        trained, total = _parameters(trainer.model)
        note(f"training {trained:,} of {total:,} weights for {schedule.total} steps")
        checkpoint = checkpoint_to_resume(settings.output) if resume else None
        _train(trainer, progress, checkpoint)
        weights = _save(trainer, settings, encoder)
        facts = {
            "steps": int(trainer.state.global_step),
            "seconds": round(progress.seconds, 1),
            "trained_weights": trained,
            "weights": total,
            "precision": precision_of(settings),
            "device": str(trainer.args.device),
            "best_step": trainer.state.best_global_step,
            "mask": encoder.method,
        }
        history = list(trainer.state.log_history)
        del trainer, model
        gc.collect()
        if not first:
            sys.exit(0)
        write_json(settings.output / "facts.json", {"facts": facts, "history": history})
        report = write_report(settings, reader, prepared, before, facts, history, weights, note)
    return Run(settings.output, weights, report)


def encoder_of(reader: Reader) -> Any:
    """The encoder for a model's dialogues."""
    from mmagent.finetune.encoding import ChatEncoder

    return ChatEncoder(reader.processor, reader.image_token_id, reader.ends)


def load_base(settings: ChatSettings, reader: Reader) -> Any:
    """The model to train, on the CPU: the trainer moves it where it belongs."""
    from mmagent.engine.loading import load_checkpoint

    # Weights that are trained themselves need single precision; frozen ones need it on CPUs.
    narrow = precision_of(settings) == "bf16" and not settings.full
    dtype = "bfloat16" if narrow else "float32"
    model = load_checkpoint(reader.path, device="cpu", dtype=dtype).model
    if settings.full and settings.dropout:
        text = model.config.get_text_config(decoder=True)
        text.attention_dropout = settings.dropout
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = settings.dropout
    return model


def build_trainer(
    settings: ChatSettings,
    model: Any,
    encoder: Any,
    prepared: Prepared,
    schedule: Schedule,
    quiet: bool = True,
) -> tuple[Any, Any]:
    """TRL's trainer for a run, and what shows its progress.

    Raises:
        UsageError: The model lacks what is to be trained.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from mmagent.finetune.callbacks import LogCallback, ProgressCallback
    from mmagent.finetune.encoding import ChatCollator
    from mmagent.finetune.sharding import ShardingCallback, prepare_sharding
    from mmagent.finetune.towers import hold_still, plan_of, tower_of, towers_of

    plan = plan_of(model, settings)
    hold_still(model, settings)
    lora = None
    if settings.full:
        towers = towers_of(model)
        for name, weight in model.named_parameters():
            weight.requires_grad_(tower_of(name, towers) in plan.whole)
    else:
        lora = LoraConfig(
            r=settings.lora.r,
            lora_alpha=settings.alpha,  # type: ignore[arg-type,unused-ignore]  # any number does
            lora_dropout=settings.dropout,
            use_dora=settings.lora.dora,
            use_rslora=settings.lora.rslora,
            target_modules=plan.target or [],
            modules_to_save=list(plan.modules) or None,
        )
    rows = [*prepared.splits.train, *prepared.splits.validation]
    here = len(prepared.splits.train)
    metric = {"loss": "eval_loss", "token_accuracy": "eval_mean_token_accuracy"}[settings.metric]
    arguments = trainer_arguments(settings, schedule, metric)
    progress = ProgressCallback(quiet)
    callbacks: list[Any] = [
        progress,
        LogCallback(settings.output / "log.jsonl"),
        ShardingCallback(),
    ]
    if settings.early_stopping:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping))
    with _QuietTrl():
        trainer: Any = SFTTrainer(
            model=model,
            # Our collator masks, and never cuts: TRL's defaults for both do not suit pictures.
            args=SFTConfig(
                **arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
            ),
            data_collator=ChatCollator(encoder, rows),
            train_dataset=Dataset.from_dict({"row": list(range(here))}),
            eval_dataset=Dataset.from_dict({"row": list(range(here, len(rows)))})
            if schedule.evaluate
            else None,
            processing_class=encoder.processor,
            peft_config=lora,
            callbacks=callbacks,
        )
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # small steps are lost in narrow numbers
            weight.data = weight.data.float()
    prepare_sharding(trainer)
    trainer.remove_callback(PrinterCallback)
    # TRL writes a card of its own into every checkpoint; ours is written from the whole run.
    trainer.create_model_card = lambda *args, **kwargs: None
    return trainer, progress


class _QuietTrl:
    """No advice of TRL's and transformers' loggers while a trainer is built."""

    def __enter__(self) -> None:
        self._loggers = [logging.getLogger(name) for name in ("trl", "transformers", "peft")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *args: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)


def _train(trainer: Any, progress: Any, checkpoint: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise GenerationError(f"The training failed: {error}") from error
        raise GenerationError(
            "There is not enough memory: lower batch (and raise accumulation as much), shorten "
            "max_length, or set gradient_checkpointing to true. --resume goes on from the last "
            "checkpoint."
        ) from error
    finally:
        progress.close()
    losses = [note["loss"] for note in trainer.state.log_history if "loss" in note]
    if losses and not all(loss == loss and abs(loss) < 1e9 for loss in losses[-1:]):
        raise GenerationError(
            "The loss is no number any more, so the weights are of no use: lower lr, raise "
            "warmup, or set precision to fp32."
        )


def _save(trainer: Any, settings: ChatSettings, encoder: Any) -> Path:
    """Write the weights; an adapter names its base as the user called it."""
    weights = settings.output / ("model" if settings.full else "adapter")
    with _QuietTrl():
        trainer.save_model(str(weights))
    if not trainer.is_world_process_zero():
        return weights
    (weights / "training_args.bin").unlink(missing_ok=True)  # a pickle, and of this machine
    (weights / "README.md").unlink(missing_ok=True)
    file = weights / "adapter_config.json"
    if file.exists():
        config = json.loads(file.read_text("utf-8"))
        config["base_model_name_or_path"] = settings.base
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    encoder.processor.save_pretrained(weights)
    return weights


def _parameters(model: Any) -> tuple[int, int]:
    weights = list(model.parameters())
    return sum(w.numel() for w in weights if w.requires_grad), sum(w.numel() for w in weights)


def _say_problems(prepared: Prepared, note: Callable[[str], None]) -> None:
    rows = sizes(prepared.splits)
    note(
        f"{prepared.report.kept} rows: {rows['train']} to train, {rows['validation']} to "
        f"validate, {rows['test']} to test; {sum(prepared.learned):,} of "
        f"{sum(prepared.lengths):,} tokens are learned"
    )
    for problem in prepared.report.problems[:5]:
        note(f"note: {problem}")
    if len(prepared.report.problems) > 5:
        note(f"and {len(prepared.report.problems) - 5} more; data.json lists them")
    if not prepared.stops:
        note(
            "note: the chat template leaves the end of answers out of what is learned, so the "
            "model may not know when to stop; put the end token inside {% generation %}"
        )


def _membership(prepared: Prepared) -> dict[str, Any]:
    """Which row went where, so that anybody can check that nothing leaked."""
    sides = prepared.splits
    every = [row.fingerprint() for row in (*sides.train, *sides.validation, *sides.test)]
    return {
        "fingerprint": hashlib.sha256("".join(every).encode("ascii")).hexdigest(),
        "train": [row.where for row in sides.train],
        "validation": [row.where for row in sides.validation],
        "test": [row.where for row in sides.test],
    }


def _check_same_data(file: Path, data: dict[str, Any]) -> None:
    try:
        before = json.loads(file.read_text("utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        return  # it stopped before the data was written down
    if before != data["fingerprint"]:
        raise UsageError(
            "The data has changed since the run was started, so it cannot go on: put the files "
            "back as they were, or start anew with another --output."
        )


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; of several processes the first alone."""
    if int(os.environ.get("RANK", "0")):
        return  # the first process writes
    temporary = file.with_name(f".{file.name}.tmp")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    temporary.write_text(text.encode("utf-8", "replace").decode("utf-8"), "utf-8")
    temporary.replace(file)
