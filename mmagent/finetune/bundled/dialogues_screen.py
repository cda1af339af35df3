"""Dialogues over a screen or a label: read the code that it shows."""

from __future__ import annotations

import random

from mmagent.finetune.bundled.dialogues import Dialogue, Split, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_system
from mmagent.finetune.bundled.dialogues_picture import Gallery, Shown
from mmagent.finetune.bundled.screens import Screen

__all__ = ["screen_dialogue", "shown_on"]


def shown_on(screen: Screen) -> Shown:
    """The facts of a screen: its name is the code, its colour's place holds what it is called."""
    marks = screen.letters
    left, right = marks[0].across - marks[0].wide / 2, marks[-1].across + marks[-1].wide / 2
    top, bottom = (min(m.down - m.high / 2 for m in marks), max(m.down + m.high / 2 for m in marks))
    box = (left, top, right, bottom)
    return Shown("screen", (screen.code,), (screen.called,), (box,), None)


def screen_dialogue(
    rng: random.Random, gallery: Gallery, split: Split = "train", row: int | None = None
) -> Dialogue:
    """What is the code? Asked in several ways.

    Args:
        rng: draws everything.
        gallery: the pictures.
        split: which phrasings.
        row: of the picture; None draws one.
    """
    row = rng.choice(gallery.by_kind["screen"]) if row is None else row
    shown = gallery.pictures[row]
    book = phrases("screens")
    values = {"code": shown.names[0], "called": str(shown.colours[0])}
    system = draw_system(rng, split, draw_name(rng, split))
    asked = rng.sample(book["read"][split], 2 if split == "train" else 1)
    if split == "train" and rng.random() < 0.3:
        asked.append(rng.choice(book["see"]["train"]))
    talks = []
    for question, answer in asked:
        turns = (*system, user(question.format(**values), 1), say(answer.format(**values)))
        talks.append(Talk("code", turns, (shown.names[0],)))
    return Dialogue("screen", tuple(talks), (row,))
