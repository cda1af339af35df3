"""Which colours a picture has, by the names that people use; for "the red one".

Pure but for Pillow. Eleven names, from hue, saturation and brightness of a thumbnail: it is for
telling the pictures of one conversation apart, not for measuring colour.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COLOUR_WORDS", "colours_of"]

COLOUR_WORDS = {
    "red": "red", "crimson": "red", "scarlet": "red", "红": "red",
    "orange": "orange", "橙": "orange", "橘": "orange",
    "yellow": "yellow", "golden": "yellow", "黄": "yellow",
    "green": "green", "绿": "green",
    "blue": "blue", "navy": "blue", "cyan": "blue", "turquoise": "blue", "蓝": "blue",
    "purple": "purple", "violet": "purple", "紫": "purple",
    "pink": "pink", "magenta": "pink", "粉": "pink",
    "brown": "brown", "棕": "brown", "褐": "brown",
    "black": "black", "dark": "black", "黑": "black",
    "white": "white", "白": "white",
    "grey": "grey", "gray": "grey", "灰": "grey",
}  # fmt: skip
"""What people say, and the name that it stands for here."""

_SIDE = 24
_LEAST = 0.08  # of the picture; less is a detail that nobody names it by
_HUES = ((14, "red"), (40, "orange"), (68, "yellow"), (165, "green"), (255, "blue"),
         (310, "purple"), (340, "pink"), (361, "red"))  # fmt: skip


def colours_of(picture: Image) -> dict[str, float]:
    """Return the names of a picture's colours with their shares, the largest first."""
    small = picture.convert("RGB").resize((_SIDE, _SIDE)).convert("HSV").tobytes()
    names = Counter(
        _name(small[place] * 360 / 255, small[place + 1] / 255, small[place + 2] / 255)
        for place in range(0, len(small), 3)
    )
    total = len(small) // 3
    return {n: c / total for n, c in names.most_common() if c / total >= _LEAST}


def _name(hue: float, saturation: float, value: float) -> str:
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    name = next(name for end, name in _HUES if hue < end)
    if name in ("red", "orange", "yellow") and value < 0.65 and (name != "red" or hue >= 8):
        return "brown"
    if name == "purple" and hue >= 290 and value > 0.85:
        return "pink"
    if name == "red" and saturation < 0.5 and value > 0.8:
        return "pink"
    return name
