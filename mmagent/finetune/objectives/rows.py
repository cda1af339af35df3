"""Rows of a picture and words, read and checked before anything is trained."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent.errors import MediaError, UsageError
from mmagent.finetune.data.reading import read_objects
from mmagent.finetune.data.rows import Problem
from mmagent.finetune.objectives.settings import ObjectiveSettings
from mmagent.media import LoadedImage, MediaPolicy, load_image

__all__ = ["PairRow", "Sides", "labels_of", "part_rows", "read_rows"]

_MAX_ROW_BYTES = 1_000_000


@dataclass(frozen=True)
class PairRow:
    """A picture with words, and perhaps what is to be said of them.

    Attributes:
        where: File and number, for messages.
        image: The picture, not decoded.
        text: A question, a caption, a statement.
        label: An answer or a class; "true" and "false" for matching; None where there is none.
    """

    where: str
    image: LoadedImage
    text: str
    label: str | None = None


@dataclass(frozen=True)
class Sides:
    """Rows to train on, to validate on and to test with; a picture is on one side only."""

    train: list[PairRow]
    validation: list[PairRow]
    test: list[PairRow]


def read_rows(
    settings: ObjectiveSettings, words: str, label: str | None, *, needs_label: bool = True
) -> tuple[list[PairRow], list[Problem]]:
    """Read every file of rows.

    Args:
        settings: Which files, and where their pictures are.
        words: The key of the text ("question", "text").
        label: The key of the label; None if the objective has none.
        needs_label: Whether a row without one is unusable.

    Raises:
        UsageError: There are no data, or rows that cannot be used (unless they may be skipped).
    """
    if not settings.data:
        raise UsageError(
            "There are no data: name a file of rows with --data, or try it with --example 1000."
        )
    rows: list[PairRow] = []
    problems: list[Problem] = []
    for file in settings.data:
        root = settings.images or file.parent
        policy = MediaPolicy(allowed_roots=(root,))
        for where, value in read_objects(file, _MAX_ROW_BYTES):
            found = _row(where, value, words, label, needs_label, root, policy)
            (rows if isinstance(found, PairRow) else problems).append(found)  # type: ignore[arg-type]
    if problems and settings.bad_rows == "refuse":
        listed = "; ".join(str(problem) for problem in problems[:3])
        raise UsageError(
            f"{len(problems)} of {len(rows) + len(problems)} rows cannot be used ({listed}): mend "
            "them, or set bad_rows to skip."
        )
    if len(rows) < 10:
        raise UsageError(f"There are only {len(rows)} usable rows; at least 10 are needed.")
    return rows, problems


def part_rows(rows: Sequence[PairRow], settings: ObjectiveSettings) -> Sides:
    """Part rows by their pictures, so that none is on two sides."""
    pictures = sorted({row.image.sha256 for row in rows})
    random.Random(settings.seed).shuffle(pictures)
    tested = round(len(pictures) * settings.split.test)
    validated = round(len(pictures) * settings.split.validation)
    test = set(pictures[:tested])
    validation = set(pictures[tested : tested + validated])
    return Sides(
        train=[r for r in rows if r.image.sha256 not in test | validation],
        validation=[r for r in rows if r.image.sha256 in validation],
        test=[r for r in rows if r.image.sha256 in test],
    )


def labels_of(rows: Sequence[PairRow], most: int | None = None) -> list[str]:
    """Return the labels of rows, the commonest first.

    Raises:
        UsageError: There are fewer than two.
    """
    counted = Counter(row.label for row in rows if row.label is not None)
    found = [label for label, _ in sorted(counted.items(), key=lambda one: (-one[1], one[0]))]
    if len(found) < 2:
        raise UsageError(f"The rows have only {len(found)} different labels; two are needed.")
    return found[:most]


def _row(
    where: str,
    value: Any,
    words: str,
    label: str | None,
    needs_label: bool,
    root: Path,
    policy: MediaPolicy,
) -> PairRow | Problem:
    if isinstance(value, Problem):
        return value
    if not isinstance(value, dict):
        return Problem(where, "no object", "is not a JSON object; write one row a line")
    text = value.get(words)
    if not isinstance(text, str) or not text.strip():
        return Problem(where, "no text", f"has no {words!r}")
    found = value.get(label) if label else None
    if label and needs_label and (found is None or str(found).strip() == ""):
        return Problem(where, "no label", f"has no {label!r}")
    name = value.get("image")
    if not isinstance(name, str):
        return Problem(where, "no picture", "has no 'image'")
    try:
        image = load_image(name if name[:5] == "data:" else root / name, policy)
        image.pil()  # let the decoded pixels go: they are made anew when a batch needs them
    except MediaError as error:
        return Problem(where, "bad picture", str(error))
    said = None if found is None else str(found).strip()
    if isinstance(found, bool):
        said = "true" if found else "false"
    return PairRow(where, image, text.strip(), said)
