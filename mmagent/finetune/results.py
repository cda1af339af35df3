"""What a run left behind: found, loaded as users load it, measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmagent.errors import UsageError
from mmagent.finetune.base import load_reader, quiet_training
from mmagent.finetune.config import ChatSettings
from mmagent.finetune.extras import require_training
from mmagent.finetune.prepare import prepare

__all__ = ["check_usable", "evaluate_run", "load_result"]


def load_result(base: str, weights: Path, *, device: str = "cpu", dtype: str = "float32") -> Any:
    """The fine-tuned model as users get it: the base with the adapter, or the model itself."""
    from mmagent.engine.loading import attach_adapter, load_checkpoint

    if (weights / "adapter_config.json").is_file():
        checkpoint = load_checkpoint(base, device=device, dtype=dtype)
        attach_adapter(checkpoint, str(weights), "default")
        return checkpoint.model
    return load_checkpoint(str(weights), device=device, dtype=dtype).model


def check_usable(weights: Path) -> Path:
    """The folder of an adapter or model inside a run's output, or the folder itself.

    Raises:
        UsageError: There is neither.
    """
    for folder in (weights, weights / "adapter", weights / "model"):
        if any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
            return folder
    raise UsageError(
        f"{weights} has neither an adapter nor a model; name the output of `mmagent finetune`."
    )


def _silent(text: str) -> None:
    pass


def evaluate_run(run: Path, *, note: Callable[[str], None] = _silent) -> dict[str, Any]:
    """Measure a finished run before and after, with one process, and write its report anew.

    Raises:
        UsageError: The folder holds no finished run, or its data has changed.
    """
    require_training()
    from mmagent.finetune.report import measure_before, write_report
    from mmagent.finetune.training import encoder_of, load_base

    weights = check_usable(run)
    try:
        settings = ChatSettings.model_validate_json((run / "settings.json").read_text("utf-8"))
        was = json.loads((run / "data.json").read_text("utf-8"))
        state = json.loads((run / "facts.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{run} is not the output of a finished run (`mmagent finetune chat`)."
        ) from error
    settings.output = run
    reader = load_reader(settings.base)
    encoder = encoder_of(reader)
    prepared = prepare(settings, encoder, reader.context_length)
    if [row.where for row in prepared.splits.test] != was["test"]:
        raise UsageError(
            "The data is not what the run was made with, so its test rows are not known any "
            "more; put the files back as they were."
        )
    with quiet_training():
        model = load_base(settings, reader)
        before = measure_before(settings, model, encoder, prepared, True, note)
        del model
        return write_report(
            settings, reader, prepared, before, state["facts"], state["history"], weights, note
        )
