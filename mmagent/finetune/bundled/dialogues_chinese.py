"""Short dialogues in Chinese: name a thing, a colour, a number, oneself.

The base spells Chinese in bytes and knows little of it; this is as much as it carries.
"""

from __future__ import annotations

import random

from mmagent.finetune.bundled.dialogues import Dialogue, Split, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_persona import draw_name
from mmagent.finetune.bundled.dialogues_picture import Gallery

__all__ = ["chinese_dialogue"]


def chinese_dialogue(
    rng: random.Random, gallery: Gallery, split: Split = "train", row: int | None = None
) -> Dialogue:
    """Questions about a picture of one or several things, or about who the persona is."""
    book = phrases("chinese")
    if row is None:
        known = [
            r for kind in ("single", "count") for r in gallery.by_kind.get(kind, ())
            if gallery.pictures[r].names[0] in book["things"]
        ]  # fmt: skip
        row = rng.choice(known) if known and rng.random() < 0.8 else None
    talks: list[Talk] = []
    name = draw_name(rng, split)
    # The same for all talks: what they have in common is run once.
    system = [say(f"你叫{name}。", "system")] if row is None or rng.random() < 0.4 else []

    def add(task: str, key: str, picture: bool, **values: str) -> None:
        question, answer = rng.choice(book[key][split])
        words = answer.format(n=name, **values)
        accept = next(iter(values.values()), name)
        turns = (*system, user(question, int(picture)), say(words))
        talks.append(Talk(task, turns, (accept,)))

    if row is None:
        add("zh_persona", "persona", False)
        if split == "train":
            question, answer = rng.choice(book["talk"])
            talks.append(Talk("zh_talk", (*system, user(question), say(answer)), (answer,)))
        return Dialogue("chinese", tuple(talks))
    shown = gallery.pictures[row]
    if shown.kind == "count":
        add("zh_count", "count", True, k=book["numbers"][len(shown.names)])
    else:
        add("zh_name", "name", True, a=book["things"][shown.names[0]])
    if shown.background is not None:
        add("zh_background", "background", True, bg=book["colours"][shown.background])
    return Dialogue("chinese", tuple(talks), (row,))
