"""Pictures of rows: loaded by the rules of `mmagent.media`, recognised when they look alike."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmagent.errors import MediaError
from mmagent.finetune.data.rows import PictureRef
from mmagent.media import LoadedImage, MediaPolicy, load_image

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Gallery", "alike", "look_of"]

_SIDE = 8
_ALIKE = 3.0
"""Mean difference of thumbnails (0–255) below which pictures count as the same."""


def look_of(image: Image.Image) -> bytes:
    """A coarse thumbnail in colour: survives rescaling and compression, tells hues apart."""
    from PIL import Image as Pillow

    return image.resize((_SIDE, _SIDE), Pillow.Resampling.BOX).convert("RGB").tobytes()


def alike(looks: list[bytes]) -> list[tuple[int, int]]:
    """Pairs of places whose thumbnails are nearly the same.

    Sorted by mean brightness, each is compared with those next to it alone.
    """
    if len(looks) < 2:
        return []
    values: npt.NDArray[np.int16] = np.stack(
        [np.frombuffer(look, np.uint8) for look in looks]
    ).astype(np.int16)  # [N, 192]
    means = values.mean(1)
    order = np.argsort(means, kind="stable")
    values, means = values[order], means[order]
    pairs = []
    for place in range(len(looks)):
        end = int(np.searchsorted(means, means[place] + _ALIKE, side="right"))
        if end > place + 1:
            near = np.abs(values[place + 1 : end] - values[place]).mean(1) < _ALIKE
            for other in np.flatnonzero(near):
                first, second = int(order[place]), int(order[place + 1 + other])
                pairs.append((min(first, second), max(first, second)))
    return sorted(pairs)


class Gallery:
    """Loads pictures, and keeps the last ones.

    Args:
        keep: How many pictures are kept decoded.
    """

    def __init__(self, keep: int = 64) -> None:
        self.keep = keep
        self._kept: OrderedDict[str, LoadedImage] = OrderedDict()

    def load(self, ref: PictureRef) -> LoadedImage:
        """A picture, checked.

        Raises:
            MediaError: It is not allowed, not there, not a picture, or another one than it was.
        """
        if ref.sha256 and ref.sha256 in self._kept:
            self._kept.move_to_end(ref.sha256)
            return self._kept[ref.sha256]
        # Addresses of the network are refused: what a model learns must not change on a server.
        policy = MediaPolicy(allowed_roots=(ref.root,) if ref.root is not None else ())
        image = load_image(ref.source, policy)
        if ref.sha256 and image.sha256 != ref.sha256:
            raise MediaError("A picture has changed since the data was checked; start anew.")
        self._kept[image.sha256] = image
        if len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        return image

    def pil(self, ref: PictureRef) -> Image.Image:
        """A picture as the model is shown it, changed if it is an augmented one."""
        image = self.load(ref).pil()
        if ref.change:
            from mmagent.finetune.data.augment import changed

            return changed(image, ref.change)
        return image
