"""Train, validation and test: nothing of one side may be seen on another.

Rows that share a conversation or a picture (the same file, or one that looks the same) belong
together and stay together. Which group goes where depends on the seed alone, not on the order
of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mmagent.errors import UsageError
from mmagent.finetune.config import SplitSettings
from mmagent.finetune.data.pictures import alike
from mmagent.finetune.data.rows import Dialogue

__all__ = ["Splits", "groups_of", "split_dialogues", "split_groups"]

Row = TypeVar("Row")


@dataclass(frozen=True)
class Splits(Generic[Row]):
    """The three sides."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


def split_groups(
    groups: Sequence[int], sizes: SplitSettings, seed: int, names: Sequence[str] | None = None
) -> list[str]:
    """The side of each row, given the number of its group; groups stay whole.

    Args:
        groups: A number for each row; rows of one number stay together.
        sizes: The shares of the sides.
        seed: Another seed is another split.
        names: What tells rows apart, so that their order does not matter; by default the place.

    Raises:
        UsageError: The rows hang together so much that a side would be empty.
    """
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)

    def lot(group: int) -> str:
        own = min(names[p] if names else f"{p:09}" for p in members[group])
        return hashlib.sha256(f"{seed}/{own}".encode("utf-8", "replace")).hexdigest()

    sides = ["train"] * len(groups)
    wanted = {"test": sizes.test, "validation": sizes.validation}
    order = sorted(members, key=lot)
    for side, share in wanted.items():
        room = max(1, round(share * len(groups))) if share else 0
        for group in list(order):
            if room <= 0:
                break
            # A group that is much too large for a small side belongs to the training.
            if len(members[group]) <= max(room, 1) * 1.5:
                room -= len(members[group])
                order.remove(group)
                for place in members[group]:
                    sides[place] = side
        if share and side not in sides:
            raise UsageError(
                f"The rows cannot be split: too many share a picture or a conversation, so that "
                f"nothing is left for {side}. Give more rows, say `split` in each row, or set "
                f"split.{side} to 0."
            )
    if "train" not in sides:
        raise UsageError(
            f"{len(groups)} rows are too few to split; give more, or set split.test and "
            "split.validation to 0."
        )
    return sides


def groups_of(dialogues: Sequence[Dialogue]) -> list[int]:
    """A number for each row: the same for rows that share a conversation or a picture."""
    parent = list(range(len(dialogues)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    owner: dict[tuple[str, str], int] = {}
    looks: list[bytes] = []
    owners: list[int] = []
    for place, dialogue in enumerate(dialogues):
        keys = [("picture", picture.sha256) for picture in dialogue.pictures]
        if dialogue.conversation:
            keys.append(("conversation", dialogue.conversation))
        keys.append(("words", dialogue.fingerprint()))
        for key in keys:
            new = key not in owner
            parent[root(place)] = root(owner.setdefault(key, place))
            if new and key[0] == "picture":
                picture = next(p for p in dialogue.pictures if p.sha256 == key[1])
                looks.append(picture.look)
                owners.append(place)
    for one, two in alike(looks) if all(looks) else []:
        parent[root(owners[two])] = root(owners[one])
    return [root(place) for place in range(len(dialogues))]


def split_dialogues(
    dialogues: Sequence[Dialogue], sizes: SplitSettings, seed: int
) -> Splits[Dialogue]:
    """Part the rows; where every row says its side, that is kept and checked.

    Raises:
        UsageError: A side would be empty, or the sides that rows name share something.
    """
    groups = groups_of(dialogues)
    named = [dialogue.split for dialogue in dialogues]
    if all(named):
        sides = [str(side) for side in named]
        first: dict[int, int] = {}
        for place, group in enumerate(groups):
            other = first.setdefault(group, place)
            if sides[other] != sides[place]:
                raise UsageError(
                    f"{dialogues[place].where} ({sides[place]}) and {dialogues[other].where} "
                    f"({sides[other]}) share a picture or a conversation: put them on one side."
                )
    elif any(named):
        missing = next(d.where for d in dialogues if not d.split)
        raise UsageError(f"Some rows say their `split` and {missing} does not: say it in all.")
    else:
        sides = split_groups(groups, sizes, seed, [d.fingerprint() for d in dialogues])
    parts: dict[str, list[Dialogue]] = {"train": [], "validation": [], "test": []}
    for dialogue, side in zip(dialogues, sides, strict=True):
        parts[side].append(dialogue)
    return Splits(**parts)
