"""From settings to rows that are ready to be trained on; everything wrong is said here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmagent.errors import MediaError, UsageError
from mmagent.finetune.config import ChatSettings
from mmagent.finetune.data.augment import augmented
from mmagent.finetune.data.checking import (
    DataReport,
    check_dialogues,
    mark_duplicates,
    refuse_bad,
)
from mmagent.finetune.data.formats import RowError, parse_row
from mmagent.finetune.data.pictures import Gallery
from mmagent.finetune.data.reading import read_objects
from mmagent.finetune.data.rows import Dialogue, Problem
from mmagent.finetune.data.splits import Splits, split_dialogues
from mmagent.finetune.encoding import ChatEncoder, Encoded, EncodingError, shortened

__all__ = ["Prepared", "gather", "prepare", "sizes"]


@dataclass
class Prepared:
    """Rows ready for training.

    Attributes:
        splits: Train (with augmented copies), validation and test.
        report: What was found in the data.
        lengths: Tokens of each row as it was read.
        learned: How many of them are learned.
        image_tokens: How many of them stand for pictures.
        stops: Whether the end of answers is learned.
        limit: Most tokens of a row.
        redacted: What was taken out of stored conversations.
    """

    splits: Splits[Dialogue]
    report: DataReport
    lengths: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    image_tokens: list[int] = field(default_factory=list)
    stops: bool = True
    limit: int = 0
    redacted: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: sizes and problems, no content."""
        return {
            **self.report.as_dict(),
            "rows": sizes(self.splits),
            "tokens": sum(self.lengths),
            "learned_tokens": sum(self.learned),
            "image_tokens": sum(self.image_tokens),
            "longest_row": max(self.lengths, default=0),
            "limit": self.limit,
            "redacted": self.redacted,
        }


def sizes(splits: Splits[Any]) -> dict[str, int]:
    """How many rows each side has."""
    return {
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
    }


def gather(settings: ChatSettings, report: DataReport) -> tuple[list[Dialogue], dict[str, int]]:
    """All rows that are named, as dialogues; no picture is opened yet.

    Returns:
        The dialogues, and what was taken out of stored conversations.

    Raises:
        UsageError: Nothing is named, or a file cannot be read.
    """
    dialogues: list[Dialogue] = []
    redacted: dict[str, int] = {}
    if not settings.data and settings.from_memory.folder is None:
        raise UsageError(
            "Name what to learn from: --data FILE, or --from-memory FOLDER for what was said. "
            "`mmagent finetune example-data FOLDER` makes an example."
        )
    for path in settings.data:
        for parsed in _parsed(path, settings):
            report.read += 1
            if isinstance(parsed, Problem):
                report.problems.append(parsed)
            else:
                dialogues.append(parsed)
    if settings.from_memory.folder is not None:
        from mmagent.finetune.data.from_memory import read_memory

        lived = read_memory(settings.from_memory)
        dialogues += lived.dialogues
        report.read += len(lived.dialogues)
        redacted = lived.redacted
    return dialogues, redacted


def _parsed(path: Path, settings: ChatSettings) -> Iterator[Dialogue | Problem]:
    root = (settings.images or path.parent).resolve()
    for where, row in read_objects(path, settings.max_row_bytes):
        if isinstance(row, Problem):
            yield row
            continue
        try:
            yield parse_row(row, where, root, settings.format)
        except RowError as error:
            yield Problem(where, error.kind, str(error))


def prepare(settings: ChatSettings, encoder: ChatEncoder, context_length: int) -> Prepared:
    """Read, check, measure, split and change the rows.

    Raises:
        UsageError: Rows cannot be used, or cannot be split; the message names them.
    """
    report = DataReport()
    gallery = Gallery()
    dialogues, redacted = gather(settings, report)
    dialogues = check_dialogues(dialogues, report, gallery, encoder.control_tokens())
    limit = min(settings.max_length or context_length, context_length)
    found = Prepared(Splits([], [], []), report, limit=limit, redacted=redacted)
    usable = []
    for dialogue in dialogues:
        made = _measured(dialogue, settings, encoder, gallery, limit, report)
        if made is not None:
            row, encoded = made
            usable.append(row)
            found.lengths.append(len(encoded.ids))
            found.learned.append(encoded.supervised)
            found.image_tokens.append(encoded.image_tokens)
            found.stops = found.stops and encoder.stops(encoded)
    usable = mark_duplicates(usable, report, settings.duplicates)
    refuse_bad(report, settings.bad_rows)
    splits = split_dialogues(usable, settings.split, settings.seed)
    copies = augmented(splits.train, settings.augment, settings.seed)[len(splits.train) :]
    kept = []
    for row in copies:  # reworded rows have other lengths
        if _measured(row, settings, encoder, gallery, limit, DataReport()) is not None:
            kept.append(row)
    found.splits = replace(splits, train=[*splits.train, *kept])
    report.kept = len(usable)
    return found


def _measured(
    dialogue: Dialogue,
    settings: ChatSettings,
    encoder: ChatEncoder,
    gallery: Gallery,
    limit: int,
    report: DataReport,
) -> tuple[Dialogue, Encoded] | None:
    row: Dialogue | None = dialogue
    first = 0
    while row is not None:
        try:
            encoded = encoder.encode(row, [gallery.pil(ref) for ref in row.pictures])
        except (EncodingError, MediaError) as error:
            kind = error.kind if isinstance(error, EncodingError) else "picture refused"
            report.problems.append(Problem(dialogue.where, kind, str(error)))
            return None
        if len(encoded.ids) <= limit:
            if row is not dialogue:
                report.problems.append(
                    Problem(
                        dialogue.where,
                        "shortened",
                        f"its oldest turns were left out: {first:,} tokens became "
                        f"{len(encoded.ids):,}.",
                        fatal=False,
                    )
                )
            return row, encoded
        first = first or len(encoded.ids)
        row = shortened(row) if settings.overlong == "shorten" else None
    remedy = {
        "refuse": "raise max_length, shorten it, or set overlong to shorten or skip",
        "shorten": "even its last exchange is too long; shorten that",
        "skip": "left out",
    }[settings.overlong]
    report.problems.append(
        Problem(
            dialogue.where,
            "too long",
            f"it has {first:,} tokens of {limit:,} and is not cut, since its answers could be "
            f"lost; {remedy}.",
            fatal=settings.overlong != "skip",
        )
    )
    return None
