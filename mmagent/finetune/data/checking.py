"""Checks rows before anything is trained: every problem is named with its row."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmagent.errors import MediaError, UsageError
from mmagent.finetune.data.pictures import Gallery, alike, look_of
from mmagent.finetune.data.rows import Dialogue, PictureRef, Problem

__all__ = ["DataReport", "check_dialogues", "mark_duplicates", "refuse_bad"]

_MAX_TEXT = 200_000
_SHOWN = 8


@dataclass
class DataReport:
    """What was found in the data.

    Attributes:
        read: Rows that were read.
        kept: Rows that are used.
        problems: Everything worth saying, in the order of the rows.
    """

    read: int = 0
    kept: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def fatal(self) -> list[Problem]:
        """Those problems that make a row unusable."""
        return [problem for problem in self.problems if problem.fatal]

    def counts(self) -> dict[str, int]:
        """How often each kind of problem was found."""
        return dict(Counter(problem.kind for problem in self.problems))

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "read": self.read,
            "kept": self.kept,
            "problems": self.counts(),
            "details": [
                {"row": p.where, "kind": p.kind, "message": p.message, "fatal": p.fatal}
                for p in self.problems[:500]
            ],
        }


def check_dialogues(
    dialogues: Iterable[Dialogue],
    report: DataReport,
    gallery: Gallery,
    control_tokens: Sequence[str] = (),
) -> list[Dialogue]:
    """Keep what can be learned from, its pictures loaded once and hashed.

    Args:
        dialogues: The rows as they were read.
        report: Takes the problems.
        gallery: Loads the pictures.
        control_tokens: Texts that mean something to the model, and must not be typed.
    """
    kept = []
    for dialogue in dialogues:
        reason = _wrong_with_turns(dialogue, control_tokens)
        if reason is not None:
            report.problems.append(Problem(dialogue.where, *reason))
            continue
        try:
            pictures = tuple(_checked(ref, gallery) for ref in dialogue.pictures)
        except MediaError as error:
            kind = "missing picture" if "There is no picture" in str(error) else "picture refused"
            report.problems.append(Problem(dialogue.where, kind, str(error)))
            continue
        kept.append(replace(dialogue, pictures=pictures))
    return kept


def _checked(ref: PictureRef, gallery: Gallery) -> PictureRef:
    image = gallery.load(ref)
    return replace(ref, sha256=image.sha256, look=look_of(image.pil()))


def _wrong_with_turns(dialogue: Dialogue, control_tokens: Sequence[str]) -> tuple[str, str] | None:
    shown = [number for turn in dialogue.turns for number in turn.pictures]
    if sorted(shown) != list(range(len(dialogue.pictures))):
        return "placeholder mismatch", "its pictures and their places in the text do not match."
    for number, turn in enumerate(dialogue.turns, start=1):
        text = turn.text
        if len(text) > _MAX_TEXT:
            return "unreadable row", f"turn {number} has more than {_MAX_TEXT:,} characters."
        if _unprintable(text):
            return (
                "control characters",
                f"turn {number} has characters that are no text (NUL, lone surrogates); "
                "remove them.",
            )
        typed = next((token for token in control_tokens if token in text), None)
        if typed is not None:
            return (
                "control token",
                f"turn {number} has {typed!r} in its text, which the model reads as a command; "
                "remove it.",
            )
        if turn.role == "assistant" and not text.strip() and not turn.tool_calls and turn.trained:
            return "empty answer", f"turn {number} is an empty answer; write or remove it."
        if turn.role == "assistant" and turn.pictures:
            return "wrong shape", f"turn {number} is an answer with a picture; models write text."
        if turn.role == "system" and number > 1:
            return "wrong shape", f"turn {number} is a system turn; put it first."
    if not dialogue.answers:
        return "no supervised token", "nobody answers in it: a row needs an assistant's turn."
    if dialogue.turns[0].role == "assistant" and len(dialogue.turns) == 1:
        return "wrong shape", "it is an answer without a question."
    return None


def _unprintable(text: str) -> bool:
    return any(unicodedata.category(c) == "Cs" or (ord(c) < 32 and c not in "\n\t\r") for c in text)


def mark_duplicates(
    dialogues: list[Dialogue], report: DataReport, policy: str = "warn"
) -> list[Dialogue]:
    """Find rows that stand twice: word for word, or with pictures that look the same.

    Args:
        dialogues: Checked rows.
        report: Takes the problems.
        policy: warn, drop or refuse.
    """
    first: dict[str, int] = {}
    twins: dict[int, tuple[int, str]] = {}
    by_words: dict[str, list[int]] = {}
    for place, dialogue in enumerate(dialogues):
        earlier = first.setdefault(dialogue.fingerprint(), place)
        if earlier != place:
            twins[place] = (earlier, "exact duplicate")
        elif dialogue.pictures:
            key = dialogue.fingerprint(with_pictures=False)
            by_words.setdefault(key, []).append(place)
    for places in by_words.values():
        looks = [b"".join(p.look for p in dialogues[place].pictures) for place in places]
        for one, two in alike(looks):
            twins.setdefault(places[two], (places[one], "duplicate to the eye"))
    for place, (earlier, kind) in sorted(twins.items()):
        message = f"it says and shows the same as {dialogues[earlier].where}"
        message += " (dropped)." if policy == "drop" else "; remove one of them."
        report.problems.append(
            Problem(dialogues[place].where, kind, message, fatal=policy == "refuse")
        )
    if policy == "warn":
        return dialogues
    return [d for place, d in enumerate(dialogues) if place not in twins]


def refuse_bad(report: DataReport, policy: str) -> None:
    """Stop where rows cannot be used, unless they are to be skipped.

    Raises:
        UsageError: Rows cannot be used; the message names the first.
    """
    fatal = report.fatal
    if not fatal or (policy == "skip" and len(fatal) < report.read):
        return
    more = f" (and {len(fatal) - _SHOWN} more)" if len(fatal) > _SHOWN else ""
    listed = " ".join(str(problem) for problem in fatal[:_SHOWN])
    remedy = "" if policy == "skip" else " Mend them, or leave them out with --bad-rows skip."
    raise UsageError(f"{len(fatal)} of {report.read} rows cannot be used{more}. {listed}{remedy}")
