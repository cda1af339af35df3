"""Pictures of screens, labels and slips that show one short code, and where each letter stands.

Fonts are npm packages `@fontsource/<name>` (OFL-1.1, `ubuntu` under its own free licence); some
fonts and layouts are kept for measuring. Everything is drawn from the given random generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmagent.finetune.bundled.pictograms_emoji import unpacked
from mmagent.finetune.bundled.scenes import disturb

__all__ = ["FONTS", "LETTERS", "Letter", "Screen", "ScreenMaker", "fetch_fonts"]

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that are mistaken for one another by people

FONTS = {
    "train": ("roboto", "open-sans", "lato", "montserrat", "source-sans-3", "ubuntu", "inter",
              "noto-sans", "roboto-mono", "fira-mono", "ibm-plex-mono", "jetbrains-mono",
              "merriweather", "pt-serif", "poppins", "nunito", "rubik", "space-mono",
              "courier-prime", "ibm-plex-sans", "roboto-slab", "fira-sans",
              "dm-sans", "ibm-plex-serif", "raleway", "noto-serif", "pt-sans", "pt-mono",
              "inconsolata", "libre-franklin", "karla", "barlow", "heebo", "manrope", "quicksand",
              "titillium-web", "exo-2", "archivo", "arimo", "tinos", "cousine", "overpass",
              "overpass-mono", "dm-mono", "red-hat-display", "lexend", "figtree", "public-sans",
              "zilla-slab", "crimson-text", "lora", "domine", "arvo", "b612", "b612-mono",
              "share-tech-mono", "oxygen", "jost", "asap", "signika", "catamaran", "chivo",
              "spline-sans-mono", "noto-sans-mono", "anonymous-pro"),
    "test": ("work-sans", "source-code-pro", "cabin", "bitter"),
}  # fmt: skip
# What a code is called, on the picture and by who asks.
CALLED = ("error code", "order number", "ticket number", "booking code", "access code",
          "serial number", "reference", "tracking number", "gift code", "case number")  # fmt: skip
_NOTES = ("Something went wrong", "Thank you for your order", "Please keep this number",
          "Try again later", "Your parcel is on its way", "Contact support", "Valid until Friday",
          "Do not share it", "Total 24.90", "Connection lost", "Scan at the desk", "Version 2.1",
          "Paid by card", "Not found", "Update failed", "Welcome back")  # fmt: skip


@dataclass(frozen=True)
class Letter:
    """One letter or figure of the code: its centre, width and height as fractions of the side."""

    sign: str
    across: float
    down: float
    wide: float
    high: float


@dataclass(frozen=True)
class Screen:
    """A picture (RGB, square) that shows a code.

    Attributes:
        image: the picture.
        code: what is to be read.
        called: what the code is: "error code".
        letters: where its letters stand.
    """

    image: Image.Image
    code: str
    called: str
    letters: tuple[Letter, ...]


def fetch_fonts(folder: Path) -> None:
    """Fetch every font into `folder`; what is there is kept.

    Raises:
        DownloadError: npm is missing or a package cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FONTS["train"], *FONTS["test"]):
        if not (folder / name).exists():
            ends = ("latin-400-normal.woff", "latin-700-normal.woff")
            unpacked(folder, f"@fontsource/{name}", name, _latin(name, ends))


def _latin(name: str, ends: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda member: member in {f"files/{name}-{end}" for end in ends}


class ScreenMaker:
    """Draws screens.

    Args:
        fonts: the folder that `fetch_fonts` filled.
        side: pixels of a picture's side.
        doubled: of the codes to learn from so many have two like letters side by side (by chance
            a seventh has): whoever copies a code easily leaves one of them out.
    """

    def __init__(self, fonts: Path, side: int, doubled: float = 0.0) -> None:
        self.side, self.doubled = side, doubled
        self._files = {
            split: [f for name in names for f in sorted((fonts / name).glob("*.woff"))]
            for split, names in FONTS.items()
        }

    def draw(
        self, rng: np.random.Generator, split: str = "train", *, clean: bool = False,
        length: int | None = None,
    ) -> Screen:  # fmt: skip
        """One picture; codes for measuring have six characters.

        Args:
            rng: what is drawn from.
            split: "train" or "test": which fonts and layouts.
            clean: leave blur, noise and the like out.
            length: of the code; None: six, in training also four to seven.
        """
        test = split == "test"
        if length is None:
            length = 6 if test or rng.random() < 0.6 else int(rng.integers(4, 8))
        drawn = rng.integers(len(LETTERS), size=length)
        if not test and self.doubled and rng.random() < self.doubled:
            place = int(rng.integers(1, length))
            drawn[place] = drawn[place - 1]
        code = "".join(LETTERS[i] for i in drawn)
        called = CALLED[int(rng.integers(len(CALLED)))]
        files = self._files[split]
        path = files[int(rng.integers(len(files)))]
        page, paper, ink = self._page(rng, test)
        wide = rng.uniform(0.5, 0.86) * self.side * min(1.0, length / 6 + 0.15)
        probe = ImageFont.truetype(path, 100)
        size = min(wide / probe.getlength(code) * 100, 0.26 * self.side)
        font = ImageFont.truetype(path, size)
        small = ImageFont.truetype(path, max(8.0, self.side * rng.uniform(0.05, 0.075)))
        pen = ImageDraw.Draw(page)
        width = font.getlength(code)
        left = rng.uniform(0.03 * self.side, 0.97 * self.side - width)
        top = rng.uniform(0.2, 0.72) * self.side
        if not test and rng.random() < 0.3:  # anywhere, so that no place is the place of codes
            top = rng.uniform(0.02, 0.84) * self.side
        self._around(rng, pen, small, called, ink, top, size, test)
        if rng.random() < (0.5 if test else 0.3):  # a field of its own
            edge = size * 0.18
            box = (left - edge, top - edge * 0.4, left + width + edge, top + size * 1.2)
            pen.rounded_rectangle(
                box, edge, fill=paper, outline=ink if rng.random() < 0.5 else None
            )
        pen.text((left, top), code, fill=ink, font=font)
        letters = self._letters(font, code, left, top)
        image = page if clean else disturb(rng, page)
        return Screen(image, code, called, tuple(letters))

    def wall(self, rng: np.random.Generator, *, clean: bool = False) -> Screen:
        """Lines of letters all over the picture: many to learn from at once, no code."""
        files = self._files["train"]
        page, _, ink = self._page(rng, False)
        pen = ImageDraw.Draw(page)
        letters: list[Letter] = []
        top = rng.uniform(0.0, 0.06) * self.side
        while True:
            size = self.side * rng.uniform(0.11, 0.19)
            font = ImageFont.truetype(files[int(rng.integers(len(files)))], size)
            if top + size * 1.15 > self.side:
                break
            left = rng.uniform(0.0, 0.2) * self.side
            signs = ""
            while True:
                sign = LETTERS[int(rng.integers(len(LETTERS)))]
                if left + font.getlength(signs + sign) > self.side:
                    break
                signs += sign
            pen.text((left, top), signs, fill=ink, font=font)
            letters += self._letters(font, signs, left, top)
            top += size * rng.uniform(1.1, 1.5)
        return Screen(page if clean else disturb(rng, page), "", "text", tuple(letters))

    def _letters(
        self, font: ImageFont.FreeTypeFont, signs: str, left: float, top: float
    ) -> list[Letter]:
        """Where the letters of a line stand that begins at `left`, `top` (pixels)."""
        out = []
        for index, sign in enumerate(signs):
            start, end = font.getlength(signs[:index]), font.getlength(signs[: index + 1])
            box = font.getbbox(sign)
            across, down = left + (start + end) / 2, top + (box[1] + box[3]) / 2
            wide, high = end - start, box[3] - box[1]
            out.append(Letter(sign, *(v / self.side for v in (across, down, wide, high))))
        return out

    def _page(
        self, rng: np.random.Generator, test: bool
    ) -> tuple[Image.Image, tuple[int, int, int], tuple[int, int, int]]:
        """A sheet, the colour under the code, and a colour that can be read on both."""
        side = self.side
        dark = rng.random() < 0.4
        base = rng.uniform(0, 60, 3) if dark else rng.uniform(195, 255, 3)
        if rng.random() < 0.3:  # coloured paper or screen
            base[int(rng.integers(3))] += 60 if dark else -60
        ink = rng.uniform(175, 255, 3) if dark else rng.uniform(0, 80, 3)
        if rng.random() < 0.2:
            ink[int(rng.integers(3))] = 40 if dark else 190
        paper, pen_ink = _whole(base), _whole(ink)
        page = Image.new("RGB", (side, side), paper)
        pen = ImageDraw.Draw(page)
        other = _whole(base + rng.uniform(-28, 28, 3))
        kind = rng.random()
        if test:  # a ticket with a stub, a page with a column at its side
            if kind < 0.5:
                x = int(side * rng.uniform(0.02, 0.1))
                pen.rectangle((0, 0, x, side), fill=_whole(255 - base))
            else:
                pen.rounded_rectangle((4, 4, side - 5, side - 5), 14, outline=pen_ink, width=2)
        elif kind < 0.25:  # a bar at the top
            pen.rectangle((0, 0, side, int(side * rng.uniform(0.06, 0.16))), fill=other)
        elif kind < 0.45:  # a window on something else
            page.paste(_whole(rng.uniform(0, 255, 3)), (0, 0, side, side))
            edge = int(side * rng.uniform(0.01, 0.05))
            pen.rounded_rectangle((edge, edge, side - edge, side - edge), edge, fill=paper)
        elif kind < 0.6:  # ruled
            for y in range(0, side, int(rng.integers(18, 40))):
                pen.line((0, y, side, y), fill=other)
        return page, paper, pen_ink

    def _around(
        self, rng: np.random.Generator, pen: ImageDraw.ImageDraw, small: ImageFont.FreeTypeFont,
        called: str, ink: tuple[int, int, int], top: float, size: float, test: bool,
    ) -> None:  # fmt: skip
        """What the code is called, above it, and notes at the top and at the bottom."""
        line = small.size * 1.3
        text = called.upper() if rng.random() < 0.2 else called.capitalize()
        if rng.random() < 0.85 and top > line:
            x = rng.uniform(0.04, 0.3) * self.side
            pen.text((x, top - line), text + (":" if rng.random() < 0.4 else ""), ink, small)
        y = top + size * 1.3
        number = int(rng.integers(0, 4))
        for _ in range(number):
            if y + line > self.side:
                break
            note = _NOTES[int(rng.integers(len(_NOTES)))]
            pen.text((rng.uniform(0.03, 0.25) * self.side, y), note, ink, small)
            y += line * rng.uniform(1.0, 1.6)
        if test and top > 3 * line:
            pen.ellipse((8, 6, 8 + line, 6 + line), outline=ink, width=2)
        elif top > 3 * line and rng.random() < 0.6:
            note = _NOTES[int(rng.integers(len(_NOTES)))]
            pen.text((rng.uniform(0.03, 0.25) * self.side, rng.uniform(2, 8)), note, ink, small)


def _whole(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in np.clip(colour, 0, 255))
    return red, green, blue
