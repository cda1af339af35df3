"""Compose pictograms into pictures whose content is known exactly.

A scene has a background of a named colour and one or more pictograms on it, tinted, turned,
shaded and disturbed in ways that pictures in the world are. Everything is drawn from the given
random generator, so the same seed gives the same scene.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from mmagent.finetune.bundled.concepts import CONCEPTS, Concept
from mmagent.finetune.bundled.emptiness import nothing
from mmagent.finetune.bundled.pictograms import HELD_OUT, Pictogram, Sheet

__all__ = ["SHADES", "Placed", "Scene", "SceneMaker", "disturb"]

# Several centres for each basic colour: people call all of these by the one name.
SHADES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((220, 30, 30), (255, 0, 0), (200, 20, 45), (235, 60, 50), (175, 20, 25)),
    "orange": ((250, 140, 20), (255, 165, 0), (240, 120, 10), (255, 150, 50)),
    "yellow": ((250, 220, 40), (255, 255, 0), (255, 235, 90), (245, 205, 10), (255, 245, 140)),
    "green": ((50, 165, 70), (0, 128, 0), (0, 255, 0), (120, 200, 80), (30, 110, 50),
              (140, 220, 140), (60, 200, 60)),
    "blue": ((45, 95, 220), (0, 0, 255), (60, 140, 240), (25, 50, 130), (135, 190, 240),
             (30, 110, 200), (90, 170, 250)),
    "purple": ((135, 60, 175), (128, 0, 128), (100, 40, 160), (165, 90, 210), (110, 20, 130)),
    "pink": ((250, 150, 190), (255, 192, 203), (255, 105, 180), (250, 170, 200), (240, 130, 170)),
    "brown": ((125, 75, 40), (139, 69, 19), (100, 60, 30), (150, 95, 55), (92, 51, 23)),
    "black": ((10, 10, 12), (0, 0, 0), (28, 28, 30)),
    "white": ((250, 250, 250), (255, 255, 255), (242, 242, 244)),
    "grey": ((140, 140, 140), (128, 128, 128), (165, 165, 168), (110, 112, 115), (185, 185, 185)),
}  # fmt: skip
_NAMES = tuple(SHADES)


@dataclass(frozen=True)
class Placed:
    """One pictogram in a scene.

    Attributes:
        item: the pictogram drawn.
        colour: the name of its colour if it was tinted in one, else None.
        box: (left, top, right, bottom) as fractions of the side.
    """

    item: Pictogram
    colour: str | None
    box: tuple[float, float, float, float]

    @property
    def concept(self) -> Concept | None:
        """The concept it shows, or None for an emoji beyond the concepts."""
        return CONCEPTS[self.item.label] if self.item.label >= 0 else None


@dataclass(frozen=True)
class Scene:
    """A picture (RGB, square) and what is in it; `background` is None if it has no one colour."""

    image: Image.Image
    objects: tuple[Placed, ...]
    background: str | None


def _shade(rng: np.random.Generator, name: str) -> npt.NDArray[np.float32]:
    """A colour that people would call `name`: float32 [3] in 0–255."""
    anchors = SHADES[name]
    one, two = (np.array(anchors[i], np.float32) for i in rng.integers(len(anchors), size=2))
    mixed = one + (two - one) * (rng.random() * 0.5)
    return np.clip(mixed + rng.normal(0, 4, 3), 0, 255).astype(np.float32)


class SceneMaker:
    """Draws scenes from a sheet of pictograms.

    Args:
        sheet: the rendered pictograms.
        side: pixels of a scene's side.
    """

    def __init__(self, sheet: Sheet, side: int = 224) -> None:
        self.sheet = sheet
        self.side = side
        self._by_label: dict[bool, dict[int, dict[str, list[int]]]] = {
            held: defaultdict(lambda: defaultdict(list)) for held in (False, True)
        }
        # What lies beyond the concepts is drawn in no held-out style: the split is by what it is.
        self._others: dict[bool, list[int]] = {False: [], True: []}
        beyond = sorted({item.text for item in sheet.items if item.label < 0})
        unseen = set(beyond[4::5])
        for row, item in enumerate(sheet.items):
            if item.label >= 0:
                self._by_label[item.style in HELD_OUT][item.label][item.style].append(row)
            else:
                self._others[item.text in unseen].append(row)

    def has(self, split: str, label: int) -> bool:
        """Whether a style of the split has a concept."""
        return bool(self._by_label[split == "test"][label])

    def pick(
        self, rng: np.random.Generator, split: str, label: int, style: str | None = None
    ) -> int:
        """The row of a random pictogram of concept `label`.

        All styles are alike likely, except that those in several colours count three times.
        """
        styles = self._by_label[split == "test"][label]
        if style is None:
            names = list(styles)
            weights = np.array(
                [1.0 if self.sheet.items[styles[n][0]].plain else 3.0 for n in names]
            )
            style = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        rows = styles[style]
        return rows[int(rng.integers(len(rows)))]

    def single(
        self,
        rng: np.random.Generator,
        split: str = "train",
        label: int | None = None,
        *,
        style: str | None = None,
        clean: bool = False,
        row: int | None = None,
    ) -> Scene:
        """One pictogram, large. `clean` leaves the disturbances out (as pictures in tests are)."""
        if row is None:
            label = int(rng.integers(len(CONCEPTS))) if label is None else label
            row = self.pick(rng, split, label, style)
        size = rng.uniform(0.55, 0.95)
        left, top = rng.uniform(0, 1 - size, 2)
        return self._draw(rng, [(row, (left, top, left + size, top + size))], clean)

    def other(
        self, rng: np.random.Generator, split: str = "train", *, clean: bool = False
    ) -> Scene:
        """One emoji beyond the concepts; its `text` says what it is."""
        rows = self._others[split == "test"]
        return self.single(rng, row=rows[int(rng.integers(len(rows)))], clean=clean)

    def nothing(
        self, rng: np.random.Generator, split: str = "train", *, clean: bool = False
    ) -> Scene:
        """A picture in which nothing can be made out; each split has its own kinds of it."""
        return Scene(nothing(rng, self.side, split), (), None)

    def pair(self, rng: np.random.Generator, split: str = "train", *, clean: bool = False) -> Scene:
        """Two different concepts: left and right, or above and below one another."""
        first, second = rng.choice(len(CONCEPTS), 2, replace=False)
        rows = [self.pick(rng, split, int(first)), self.pick(rng, split, int(second))]
        sizes = rng.uniform(0.38, 0.48, 2)
        across = rng.random() < 0.7
        boxes = []
        for place, size in enumerate(sizes):
            main = rng.uniform(0, 0.5 - size) + 0.5 * place
            side = rng.uniform(0.05, 0.95 - size)
            left, top = (main, side) if across else (side, main)
            boxes.append((left, top, left + size, top + size))
        return self._draw(rng, list(zip(rows, boxes, strict=True)), clean)

    def several(
        self, rng: np.random.Generator, split: str = "train", *, clean: bool = False
    ) -> Scene:
        """Three or four different concepts, each in its quarter: as many small names to learn."""
        number = int(rng.integers(3, 5))
        rows = [
            self.pick(rng, split, int(label))
            for label in rng.choice(len(CONCEPTS), number, replace=False)
        ]
        boxes = []
        for quarter in rng.permutation(4)[:number].tolist():
            size = rng.uniform(0.36, 0.48)
            left, top = rng.uniform(0, 0.5 - size, 2) + 0.5 * np.array(divmod(quarter, 2))
            boxes.append((left, top, left + size, top + size))
        return self._draw(rng, list(zip(rows, boxes, strict=True)), clean)

    def count(
        self, rng: np.random.Generator, split: str = "train", *, clean: bool = False
    ) -> Scene:
        """One to six of the same concept on a loose grid."""
        number = int(rng.integers(1, 7))
        row = self.pick(rng, split, int(rng.integers(len(CONCEPTS))))
        cells = rng.permutation(9)[:number] if number > 4 or rng.random() < 0.5 else None
        grid = 3 if cells is not None else 2
        if cells is None:
            cells = rng.permutation(4)[:number]
        step = 1 / grid
        placed = []
        for cell in cells:
            size = step * rng.uniform(0.8, 0.98)
            left = (int(cell) % grid) * step + rng.uniform(0, step - size)
            top = (int(cell) // grid) * step + rng.uniform(0, step - size)
            placed.append((row, (left, top, left + size, top + size)))
        return self._draw(rng, placed, clean, same=True)

    def _draw(
        self,
        rng: np.random.Generator,
        rows: list[tuple[int, tuple[float, float, float, float]]],
        clean: bool,
        same: bool = False,
    ) -> Scene:
        name = _NAMES[int(rng.integers(len(_NAMES)))]
        base = _shade(rng, name)
        canvas = np.empty((self.side, self.side, 3), np.float32)
        canvas[:] = base
        background: str | None = name
        if not clean:
            background = self._background(rng, canvas, name)
        picture = Image.fromarray(canvas.astype(np.uint8), "RGB")
        placed: list[Placed] = []
        tint: tuple[str, npt.NDArray[np.float32]] | None = None
        for row, box in rows:
            item = self.sheet.items[row]
            if item.plain and not (same and tint is not None):
                tint = self._tint(rng, base)
            picture = self._paste(
                rng, picture, row, box, tint[1] if item.plain and tint else None, clean
            )
            placed.append(Placed(item, tint[0] if item.plain and tint else None, box))
        if not clean:
            picture = disturb(rng, picture)
        return Scene(picture, tuple(placed), background)

    def _background(
        self, rng: np.random.Generator, canvas: npt.NDArray[np.float32], name: str
    ) -> str | None:
        """Shade, pattern or mix `canvas` in place; returns the colour that it still has, if any."""
        kind = rng.random()
        side = self.side
        ramp = np.linspace(0, 1, side, dtype=np.float32)
        ramp = ramp[:, None, None] if rng.random() < 0.5 else ramp[None, :, None]
        if kind < 0.55:
            return name
        if kind < 0.7:  # a gradient between two shades of the same name
            canvas += (_shade(rng, name) - canvas) * ramp * 0.6
            return name
        if kind < 0.8:  # a soft texture
            coarse = rng.normal(0, 10, (8, 8)).astype(np.float32)
            texture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            canvas += np.asarray(texture)[:, :, None]
            np.clip(canvas, 0, 255, out=canvas)
            return name
        other = _shade(rng, _NAMES[int(rng.integers(len(_NAMES)))])
        if kind < 0.9:
            canvas += (other - canvas) * ramp
        else:  # stripes or a chequer board
            step = int(rng.integers(6, 30))
            mask = (np.arange(side) // step % 2).astype(np.float32)
            grid = mask[:, None] if rng.random() < 0.5 else np.abs(mask[:, None] - mask[None, :])
            canvas += (other - canvas) * np.broadcast_to(grid, (side, side))[:, :, None]
        return None

    @staticmethod
    def _tint(
        rng: np.random.Generator, base: npt.NDArray[np.float32]
    ) -> tuple[str, npt.NDArray[np.float32]]:
        """A colour that stands out from `base`."""
        for _ in range(20):
            name = _NAMES[int(rng.integers(len(_NAMES)))]
            shade = _shade(rng, name)
            if float(np.abs(shade - base).sum()) > 200:
                return name, shade
        light = float(base.mean()) < 128
        return ("white" if light else "black"), np.full(3, 250 if light else 10, np.float32)

    def _paste(
        self,
        rng: np.random.Generator,
        picture: Image.Image,
        row: int,
        box: tuple[float, float, float, float],
        tint: npt.NDArray[np.float32] | None,
        clean: bool,
    ) -> Image.Image:
        pixels = np.array(self.sheet.pixels[row])
        if tint is not None:
            pixels[..., :3] = tint.astype(np.uint8)
        sprite = Image.fromarray(pixels, "RGBA")
        size = max(8, round((box[2] - box[0]) * self.side))
        if not clean:
            if rng.random() < 0.4:
                sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if tint is None:
                sprite = _recolour(rng, sprite)
            if rng.random() < 0.6:
                stretch = rng.uniform(0.8, 1.0)
                shape = (size, max(8, round(size * stretch)))
                sprite = sprite.resize(shape if rng.random() < 0.5 else shape[::-1])
            if rng.random() < 0.3:  # seen from aside
                lean, edge = rng.normal(0, 0.12), sprite.size[0]
                shear = (1, lean, -lean * edge / 2, 0, 1, 0)
                sprite = sprite.transform(
                    sprite.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR
                )
            sprite = sprite.rotate(rng.normal(0, 10), Image.Resampling.BILINEAR, expand=False)
        sprite.thumbnail((size, size))
        if sprite.size[0] < size and sprite.size[1] < size:
            sprite = sprite.resize((size, size))
        at = (round(box[0] * self.side), round(box[1] * self.side))
        if not clean and rng.random() < 0.3:
            alpha = sprite.getchannel("A")
            wide = alpha.filter(ImageFilter.MaxFilter(3 if size < 80 else 5))
            shade = (0, 0, 0) if rng.random() < 0.65 else (255, 255, 255)
            picture.paste(Image.new("RGB", sprite.size, shade), at, wide)
        picture.paste(sprite, at, sprite)
        return picture


def _recolour(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """Vary the colours of a pictogram in many colours; the shape must stay what names it."""
    draw = rng.random()
    alpha = sprite.getchannel("A")
    colour = sprite.convert("RGB")
    if draw < 0.35:
        hsv = np.array(colour.convert("HSV")).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + int(rng.normal(0, 8))) % 256
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.5, 1.3), 0, 255)
        hsv[..., 2] = np.clip(hsv[..., 2] * rng.uniform(0.6, 1.2), 0, 255)
        colour = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    elif draw < 0.42:
        colour = colour.convert("L").convert("RGB")
    elif draw < 0.5:  # line art: the edges of the drawing in black on white or no fill
        edges = (
            colour.convert("L")
            .filter(ImageFilter.FIND_EDGES)
            .point(lambda v: 255 - min(255, v * 3))
        )
        colour = Image.merge("RGB", (edges, edges, edges))
    elif draw < 0.68:  # flat colours within dark outlines, as in a comic
        flat = colour.point([v & 224 for v in range(256)] * 3) if rng.random() < 0.5 else colour
        grey = Image.merge("RGB", [flat.convert("L")] * 3).filter(ImageFilter.FIND_EDGES)
        strong = 255 - np.asarray(grey.convert("L"), np.float32) * rng.uniform(2, 5)
        wide = Image.fromarray(np.clip(strong, 0, 255).astype(np.uint8))
        wide = wide.filter(ImageFilter.MinFilter(3))
        inner = alpha.filter(ImageFilter.MinFilter(5 if rng.random() < 0.5 else 7))
        line = np.minimum(np.asarray(wide), np.asarray(inner)).astype(np.float32)[..., None] / 255
        colour = Image.fromarray((np.asarray(flat) * line).astype(np.uint8), "RGB")
    elif draw < 0.74:
        bits = int(rng.integers(1, 3))
        colour = colour.point([v & (256 - (1 << (8 - bits))) for v in range(256)] * 3)
    result = colour.convert("RGBA")
    result.putalpha(alpha)
    return result


def disturb(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """What cameras, screens and files do to a picture."""
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.25:
        picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.75, 1.2))
    if rng.random() < 0.2:
        noisy = np.asarray(picture).astype(np.float32)
        noisy += rng.normal(0, rng.uniform(2, 10), noisy.shape)
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8), "RGB")
    if rng.random() < 0.15:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(rng.integers(35, 90)))
        picture = Image.open(buffer).convert("RGB")
    return picture
