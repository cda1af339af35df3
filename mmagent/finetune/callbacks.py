"""What is seen of a run while it goes on: a bar with the time left, or plain lines in a pipe."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from mmagent.finetune.arguments import world_size

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["LogCallback", "ProgressCallback", "time_left"]

_EVERY = 20.0
"""Seconds between plain lines, at least."""


def time_left(seconds: float) -> str:
    """Such as "0:05", "12:30" or "1:02:03"."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


class ProgressCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Shows how far a run is, on stderr; the first process alone.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: Any = None
        self._started = self._last = 0.0
        self._first_step = 0
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count."""
        self._quiet = self._quiet or not state.is_world_process_zero
        self._started = self._last = time.monotonic()
        self._first_step = state.global_step
        if self._quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, description=self._loss)
            return
        now = time.monotonic()
        is_first = state.global_step == self._first_step + 1
        if not self._quiet and (is_first or now - self._last > _EVERY):
            self._last = now
            pace = (now - self._started) / max(1, state.global_step - self._first_step)
            left = time_left(pace * (state.max_steps - state.global_step))
            loss = f", {self._loss}" if self._loss else ""
            self._say(f"step {state.global_step} of {state.max_steps}{loss}, {left} left")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Show a new loss."""
        logs = logs or {}
        if "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.3f}"
        if "eval_loss" in logs:
            note = f"step {state.global_step}: validation loss {float(logs['eval_loss']):.3f}"
            if "eval_mean_token_accuracy" in logs:
                note += f", {float(logs['eval_mean_token_accuracy']):.1%} of tokens right"
            self._say(note)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the screen tidy."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._say(f"trained {state.global_step} steps in {time_left(self.seconds)}")

    @property
    def seconds(self) -> float:
        """How long it has trained by now."""
        return time.monotonic() - self._started

    def close(self) -> None:
        """Leave the screen tidy after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, text: str) -> None:
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


class LogCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Writes every note of the trainer to a file at once, one JSON object a line.

    Args:
        file: Where to.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero or world_size() == 1:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")
