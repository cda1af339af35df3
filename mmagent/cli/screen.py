"""What suits the place that output goes to: a terminal, a terminal without colour, a pipe."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from typing import Any, TextIO

import typer

__all__ = ["colour", "dim", "is_terminal", "note", "print_json", "printable"]


def is_terminal(stream: TextIO) -> bool:
    """Whether a person sits at this end."""
    try:
        return stream.isatty()
    except ValueError:  # it has been closed
        return False


def _coloured(stream: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return is_terminal(stream) and not plain


def colour(text: str, name: str, stream: TextIO | None = None) -> str:
    """The text in bold and a colour, where the stream shows colours."""
    coloured = _coloured(sys.stdout if stream is None else stream)
    return typer.style(text, fg=name, bold=True) if coloured else text


def dim(text: str, stream: TextIO | None = None) -> str:
    """The text in grey, where the stream shows colours."""
    coloured = _coloured(sys.stdout if stream is None else stream)
    return typer.style(text, dim=True) if coloured else text


def printable(text: str) -> str:
    """The text without control characters: neither a model nor a memory may steer a terminal."""
    kept = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    return kept.encode("utf-8", "replace").decode("utf-8")


def note(text: str) -> None:
    """Say something aside, on stderr, so that piped output stays clean."""
    print(dim(text, sys.stderr), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON value on one line; other scripts than Latin stay readable."""
    # Lone surrogates cannot be written in UTF-8.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    print(text, flush=True)
