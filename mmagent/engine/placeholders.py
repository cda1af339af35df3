"""What pictures and recordings become in a prompt: so many placeholders, which are all alike.

Shapes: a prompt's keys are (tokens,); a span is [first, last + 1).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmagent.media import LoadedImage
from mmagent.sounds import LoadedSound

__all__ = ["Footprint", "Footprints", "Medium", "place"]

Medium = LoadedImage | LoadedSound
_KEPT = 4096


@dataclass(frozen=True)
class Footprint:
    """What one picture or recording becomes: how many placeholders, and which text around them.

    `grid` is its frames, rows and columns of patches, where a processor tells them.
    """

    placeholders: int
    replacement: str | None
    grid: tuple[int, ...] | None = None


@dataclass
class Footprints:
    """Those known from earlier prompts; what was not used for longest is let go."""

    _known: OrderedDict[str, Footprint] = field(default_factory=OrderedDict)

    def get(self, name: str) -> Footprint | None:
        """The footprint of that name, if it is known."""
        if name in self._known:
            self._known.move_to_end(name)
        return self._known.get(name)

    def keep(self, name: str, footprint: Footprint) -> Footprint:
        """Remember it."""
        self._known[name] = footprint
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return footprint


def place(
    keys: list[int], token: int | None, media: Sequence[Medium], footprints: Sequence[Footprint]
) -> list[tuple[tuple[int, int], Medium]]:
    """Where media of one kind lie; writes into `keys` what they are.

    Args:
        keys: Of the whole prompt.
        token: Their placeholder.
        media: In the order of their placeholders.
        footprints: Of each.
    """
    places = [at for at, key in enumerate(keys) if key == token] if media else []
    counts = [footprint.placeholders for footprint in footprints]
    names = [medium.sha256 for medium in media]
    if sum(counts) != len(places):
        # How many placeholders a picture has depends on the others here: then only all of
        # them together have an identity.
        names, counts = [hashlib.sha256("".join(names).encode()).hexdigest()], [len(places)]
    spans, used = [], 0
    for name, count in zip(names, counts, strict=True):
        mine = places[used : used + count]
        used += count
        for at in mine:
            keys[at] = -1 - int(name[:15], 16)
        spans.append((mine[0], mine[-1] + 1) if mine else (0, 0))
    if len(spans) < len(media):
        spans = spans * len(media)
    return list(zip(spans, media, strict=True))
