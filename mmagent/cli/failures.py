"""The one boundary where errors become a line on stderr and an exit code.

    0    it worked
    1    it failed: a download, a damaged file, a full disk, a model
    2    the call cannot work as it is: unknown options, files that are not there or not pictures
    130  Ctrl-C

`MMAGENT_DEBUG=1` shows the traceback instead.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer

__all__ = ["is_debugging", "run"]


def is_debugging() -> bool:
    """Whether tracebacks and other libraries' messages are wanted."""
    return os.environ.get("MMAGENT_DEBUG", "").lower() not in ("", "0", "false", "no")


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the app, say what went wrong in one line, and exit."""
    _quieten_libraries()
    try:
        command: Callable[..., Any] = typer.main.get_command(app)
        given = None if arguments is None else list(arguments)
        # Help is set for the width that there is; by itself it would never go below 50 columns.
        width = max(30, min(shutil.get_terminal_size().columns, 80) - 2)
        code = command(args=given, prog_name="mmagent", standalone_mode=False, terminal_width=width)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        _say("Stopped.")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if is_debugging():
            raise
        message, code = explain(error)
        _say(message)
        sys.exit(code)


def explain(error: Exception) -> tuple[str, int]:
    """What to tell people of an error, in one line, and the exit code."""
    if type(error).__name__ == "Abort":  # typer's, for a prompt that was not answered
        return "Stopped.", 1
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors
        context = getattr(error, "ctx", None)
        help_ = f" See `{context.command_path} --help`." if context is not None else ""
        message = str(error.format_message()).rstrip(".")
        return f"{message}.{help_}", int(error.exit_code)
    for module, base, usage in (
        ("mmagent.errors", "MMAgentError", "UsageError"),
        ("mmagent_memory.errors", "MemoryStoreError", "MemoryUsageError"),
        ("mmagent_prompts.safe_yaml", "CatalogueError", "CatalogueError"),
    ):
        # An error of a module that was never loaded cannot be this one.
        known = sys.modules.get(module)
        if known is not None and isinstance(error, getattr(known, base)):
            return str(error), 2 if isinstance(error, getattr(known, usage)) else 1
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        return f"{where}: {reason}" if where else reason, 2
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}.", 1
    return (
        f"Something unexpected went wrong ({type(error).__name__}: {error}). "
        "MMAGENT_DEBUG=1 shows where; please report it.",
        1,
    )


def _say(message: str) -> None:
    line = " ".join(message.split())
    print(f"mmagent: {line}", file=sys.stderr, flush=True)


def _quieten_libraries() -> None:
    """Keep bars, advice and warnings of other libraries off a person's screen."""
    if is_debugging():
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
