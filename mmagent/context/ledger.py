"""The image ledger: every picture of a conversation, by a number and an id that never change.

A place in the prompt is no name for a picture: after an eviction "the second picture" would be
another one. So each showing gets the next number of the conversation, and the content's hash as
its id, the same that the long-term memory files it under. The ledger outlives the messages: it
is plain data that a checkpoint can hold.

Pure: knows no messages and no pixels. `references.py` finds out which picture words mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mmagent.untrusted import neutralise_line

__all__ = ["ImageLedger", "ShownPicture"]

_MAX_CAPTION = 160


@dataclass(frozen=True)
class ShownPicture:
    """One showing of one picture.

    Attributes:
        number: 1 for the first picture of the conversation, and so on.
        id: SHA-256 of its bytes, in hex (of its address, where the bytes are not ours to read).
        caption: The words that it was shown with.
        said: What was answered.
        speaker: Who showed it: "user", "assistant" or "tool".
        message: Id of the message that holds it.
        place: Which picture of that message it is, from 0.
        memory: Id of the memory that keeps it.
        colours: Names of its colours with their shares.
    """

    number: int
    id: str
    caption: str = ""
    said: str = ""
    speaker: str = "user"
    message: str = ""
    place: int = 0
    memory: str = ""
    colours: dict[str, float] = field(default_factory=dict)

    @property
    def short_id(self) -> str:
        """The first eight digits of its id, as prompts show them."""
        return self.id[:8]

    def line(self) -> str:
        """Return how a prompt tells of it, in one line."""
        words = neutralise_line(self.caption or self.said, _MAX_CAPTION)
        return f"picture {self.number} ({self.short_id})" + (f": {words}" if words else "")


@dataclass(frozen=True)
class ImageLedger:
    """The pictures of one conversation, in the order in which they were shown."""

    pictures: tuple[ShownPicture, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def merged(self, found: Iterable[ShownPicture]) -> ImageLedger:
        """Return the ledger with what the messages show now.

        A showing that is known keeps its number, whatever number it comes with; one whose
        message is gone stays; a new one gets the next number.
        """
        known = {(p.message, p.place): p for p in self.pictures}
        order = list(known)
        for picture in found:
            key = (picture.message, picture.place)
            if key in known:
                old = known[key]
                # An answer that was heard once is not unheard when its message is compacted away.
                said = picture.said or old.said
                known[key] = replace(picture, number=old.number, said=said)
            else:
                known[key] = replace(picture, number=len(order) + 1)
                order.append(key)
        return ImageLedger(tuple(known[key] for key in order))

    def get(self, number: int) -> ShownPicture:
        """Return the picture of a number.

        Raises:
            KeyError: There is none.
        """
        if not 1 <= number <= len(self.pictures):
            raise KeyError(number)
        return self.pictures[number - 1]

    def lines(self, messages: Iterable[str] | None = None) -> list[str]:
        """Return a line for each picture, of these messages or of all."""
        wanted = None if messages is None else set(messages)
        return [p.line() for p in self.pictures if wanted is None or p.message in wanted]

    def as_data(self) -> list[dict[str, Any]]:
        """Return it as plain data, for a checkpoint."""
        # By hand: `asdict` copies every field deeply, in every turn, of every picture so far.
        return [{**vars(p), "colours": dict(p.colours)} for p in self.pictures]

    @classmethod
    def from_data(cls, data: Any) -> ImageLedger:
        """Return the ledger that `as_data` gave; None is an empty one."""
        return cls(tuple(ShownPicture(**entry) for entry in data or ()))
