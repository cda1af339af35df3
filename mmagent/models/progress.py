"""Progress of a download, on stderr: a bar in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Reporter", "SilentReporter", "reporter"]


class SilentReporter:
    """Says nothing; the base of those that do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def note(self, text: str) -> None:
        """Say one thing."""

    def step(self, text: str, done: int = 0, total: int | None = None) -> None:
        """Say how far the step `text` is; a new text begins a new step."""

    def close(self) -> None:
        """Leave the screen tidy."""


class _LineReporter(SilentReporter):
    """A line at the beginning of each step, for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def step(self, text: str, done: int = 0, total: int | None = None) -> None:
        if text != self._last:
            self._last = text
            self.note(f"{_with_size(text, total)} …")


class Reporter(SilentReporter):
    """A bar for each step, drawn by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        # In a narrow terminal the text is cut, and the line stays one line.
        self._progress: Progress = Progress(
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(min_width=4)),
            BarColumn(bar_width=8, table_column=Column(min_width=8)),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=Console(stderr=True),
            expand=True,
        )
        self._progress.start()
        self._task: TaskID | None = None
        self._last = ""

    def note(self, text: str) -> None:
        """Say one thing, above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def step(self, text: str, done: int = 0, total: int | None = None) -> None:
        """Move the bar; a new text begins a new one."""
        if text != self._last or self._task is None:
            self._finish()
            self._last = text
            self._task = self._progress.add_task(_with_size(text, total), total=total)
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        self._finish()
        self._progress.stop()

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1, total=1, visible=False)
            self._task = None


def _with_size(text: str, total: int | None) -> str:
    return f"{text} ({total / 1e6:.0f} MB)" if total and total > 1e6 else text


def reporter(wanted: bool) -> SilentReporter:
    """What suits this process: a bar if stderr is a terminal, lines if not."""
    if not wanted:
        return SilentReporter()
    return Reporter() if sys.stderr.isatty() else _LineReporter()
