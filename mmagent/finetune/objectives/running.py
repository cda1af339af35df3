"""The run that all objectives share: read, part, train, measure before and after, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmagent.errors import UsageError
from mmagent.finetune.arguments import (
    checkpoint_to_resume,
    claim_output,
    precision_of,
    schedule_of,
    trainer_arguments,
)
from mmagent.finetune.base import quiet_training
from mmagent.finetune.curves import draw_curves
from mmagent.finetune.extras import require_training
from mmagent.finetune.objectives.rows import PairRow, Sides, part_rows, read_rows
from mmagent.finetune.objectives.settings import ObjectiveSettings
from mmagent.finetune.objectives.shapes import draw_rows
from mmagent.finetune.objectives.task import Objective, Report, Task
from mmagent.finetune.training import no_note, write_json

__all__ = ["run_objective"]

_MODEL = "model"
_NEEDED = ("sklearn", "matplotlib", "accelerate", "sentence_transformers", "datasets")


def run_objective(
    objective: Objective,
    settings: ObjectiveSettings,
    *,
    resume: bool = False,
    quiet: bool = True,
    note: Callable[[str], None] = no_note,
) -> dict[str, Any]:
    """Train a model for an objective and measure it on rows held out, before and after.

    Args:
        objective: What is trained for.
        settings: Everything that decides about the run.
        resume: Go on from the newest checkpoint in the output folder.
        quiet: Show no progress of the training.
        note: Is told what is being done.

    Returns:
        The report, as in `report.json` of the output folder.

    Raises:
        UsageError: Settings or rows cannot work; nothing was trained.
        ModelNotFoundError: The base cannot be loaded.
        MissingDependencyError: An optional package is absent.
    """
    require_training(*_NEEDED)
    from transformers import set_seed

    precision_of(settings)
    if settings.output.joinpath("settings.json").exists() and not resume:
        claim_output(settings, resume)  # says so before anything is read
    if settings.example:
        settings = _with_example(objective, settings, note)
    rows, problems = read_rows(
        settings, objective.words, objective.label, needs_label=objective.needs_label
    )
    for problem in problems[:5]:
        note(f"left out: {problem}")
    sides = part_rows(rows, settings)
    if not sides.train:
        raise UsageError("No rows are left to train on; lower split.test or split.validation.")
    schedule = schedule_of(settings, len(sides.train), len(sides.validation))
    claim_output(settings, resume)
    set_seed(settings.seed)
    with quiet_training():
        task: Task = objective.make(settings, sides.train)
        hold_still(task, settings)
        before = _before(task, sides, settings.output, resume)
        note(
            f"{len(sides.train)} rows to train, {len(sides.validation)} to validate, "
            f"{len(sides.test)} to test; {schedule.total} steps"
        )
        trainer, progress = _trainer(task, settings, sides, schedule, quiet)
        checkpoint = checkpoint_to_resume(settings.output) if resume else None
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            progress.close()
        model = trainer.model.eval()
        folder = settings.output / _MODEL
        folder.mkdir(exist_ok=True)
        task.save(model, folder)
        after = _measured(task, model, sides)
    report = {
        "objective": objective.name,
        "classes": objective.classes,
        "settings": json.loads(settings.model_dump_json()),
        "rows": {
            "train": len(sides.train),
            "validation": len(sides.validation),
            "test": len(sides.test),
            "left out": len(problems),
        },
        "steps": int(trainer.state.global_step),
        "seconds": round(progress.seconds, 1),
        "weights": sum(weight.numel() for weight in model.parameters()),
        "before": before.figures if before else {},
        "after": after.figures if after else {},
        "table": after.table if after else "",
    }
    write_json(settings.output / "report.json", report)
    history = list(trainer.state.log_history)
    draw_curves(history, settings.output / "curves.png", f"finetune {objective.name}", "loss")
    (settings.output / "README.md").write_text(_card(report), encoding="utf-8")
    return report


def hold_still(task: Task, settings: ObjectiveSettings) -> None:
    """Freeze the parts that are to stay as they are.

    Raises:
        UsageError: The model has no such part, or nothing is left to train.
    """
    for part in ("vision", "projector", "language"):
        if not getattr(settings.freeze, part):
            continue
        names = [n for n, _ in task.model.named_parameters() if n.startswith(task.parts[part])]
        if not names:
            raise UsageError(f"This model has no {part} of its own; leave freeze.{part} at false.")
        for name in names:
            task.model.get_parameter(name).requires_grad_(False)


class _Rows:
    """Rows as a data set; each says whether it is trained on."""

    def __init__(self, rows: Sequence[PairRow], training: bool) -> None:
        self._rows, self._training = rows, training

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[PairRow, bool]:
        return self._rows[place], self._training


def _trainer(
    task: Task, settings: ObjectiveSettings, sides: Sides, schedule: Any, quiet: bool
) -> tuple[Any, Any]:
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

    from mmagent.finetune.callbacks import LogCallback, ProgressCallback

    class ObjectiveTrainer(Trainer):  # type: ignore[misc,unused-ignore]
        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            loss, logits, _ = task.loss(model, inputs)
            return (loss, {"logits": logits}) if return_outputs else loss

        def prediction_step(
            self,
            model: Any,
            inputs: Any,
            prediction_loss_only: bool,
            ignore_keys: Any = None,
        ) -> Any:
            import torch

            with torch.no_grad():
                loss, logits, labels = task.loss(model, self._prepare_inputs(inputs))
            return loss.detach(), logits, labels

    arguments = trainer_arguments(settings, schedule, f"eval_{settings.metric}")
    # Batches hold the labels of their rows, so that evaluation knows them whatever their name.
    progress = ProgressCallback(quiet)
    callbacks: list[Any] = [progress, LogCallback(settings.output / "log.jsonl")]
    if settings.early_stopping:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping))
    trainer = ObjectiveTrainer(
        model=task.model,
        args=TrainingArguments(**arguments),
        data_collator=lambda pairs: task.collate([r for r, _ in pairs], training=pairs[0][1]),
        train_dataset=_Rows(sides.train, True),
        eval_dataset=_Rows(sides.validation, False) if schedule.evaluate else None,
        compute_metrics=_accuracy if settings.metric == "accuracy" else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, progress


def _accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def _measured(task: Task, model: Any, sides: Sides) -> Report | None:
    import torch

    with torch.inference_mode():
        return task.measure(model, sides.test) if sides.test else None


def _before(task: Task, sides: Sides, output: Path, resume: bool) -> Report | None:
    """Measure the untrained model; a resumed run remembers what was measured at its start."""
    file = output / "before.json"
    if resume and file.exists():
        found = json.loads(file.read_text("utf-8"))
        return Report(found) if found else None
    report = _measured(task, task.model.eval(), sides)
    write_json(file, report.figures if report else {})
    return report


def _with_example(
    objective: Objective, settings: ObjectiveSettings, note: Callable[[str], None]
) -> ObjectiveSettings:
    """Draw example pictures beside the output folder, once."""
    if settings.data:
        raise UsageError("Give either --data or --example, not both.")
    folder = settings.output.with_name(f"{settings.output.name}-data")
    file = folder / "rows.jsonl"
    if not file.exists():
        note(f"drawing {settings.example} example pictures into {folder}")
        draw_rows(objective.name, settings.example, folder, settings.seed)
    return settings.model_copy(update={"data": [file]})


def _card(report: dict[str, Any]) -> str:
    lines = [
        f"# A model for `{report['objective']}`",
        "",
        f"Trained by `mmagent finetune {report['objective']}` ({report['classes']}), "
        f"{report['weights']:,} weights, {report['steps']:,} steps in {report['seconds']:.0f} s, "
        f"base `{report['settings']['base']}`.",
        "",
        f"Rows: {report['rows']['train']:,} to train, {report['rows']['validation']:,} to "
        f"validate, {report['rows']['test']:,} held out (other pictures).",
        "",
        "| on rows held out | before | after |",
        "|---|---|---|",
    ]
    for name, value in report["after"].items():
        before = report["before"].get(name)
        lines.append(f"| {name} | {'–' if before is None else f'{before:.3f}'} | {value:.3f} |")
    if report["table"]:
        lines += ["", "```", report["table"].rstrip(), "```"]
    if report["settings"]["example"]:
        lines += ["", "The pictures are drawn examples; this says nothing about photographs."]
    return "\n".join(lines) + "\n"
