"""Emoji that no icon set holds: Microsoft's in three dimensions, and Google's as a font of lines.

Both are npm packages: `@lobehub/fluent-emoji-3d` (MIT; pictures of Fluent Emoji, MIT) and
`@fontsource/noto-emoji` (OFL-1.1). They name their pictures by code point; the names come from
`@iconify-json/noto`.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmagent.errors import DownloadError

__all__ = ["Emoji", "draw_emoji", "fetch_emoji", "unpacked"]

_SOLID, _LINES = "fluent-emoji-3d", "noto-emoji-font"
_WEIGHTS = ("300", "400", "700")


@dataclass(frozen=True)
class Emoji:
    """One of them: the set it is from, its CLDR name with dashes, whether it has one colour."""

    style: str
    name: str
    plain: bool


def unpacked(folder: Path, package: str, into: str, wanted: Callable[[str], bool]) -> None:
    """Fetch an npm package and keep the wanted files of it in `folder/into`.

    Raises:
        DownloadError: npm is missing or the package cannot be had.
    """
    try:
        done = subprocess.run(  # noqa: S603
            ["npm", "pack", "--silent", package],  # noqa: S607
            cwd=folder, check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise DownloadError(f"npm could not fetch {package}: {error}") from error
    archive = folder / done.stdout.strip().splitlines()[-1]
    target = folder / into
    target.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            entry = tar.extractfile(member) if wanted(name) else None
            if entry is not None:
                (target / name.replace("/", "_")).write_bytes(entry.read())
    archive.unlink()


def fetch_emoji(folder: Path) -> None:
    """Fetch both sets and the names; what is there is kept."""
    if not (folder / "names" / "chars.json").exists():
        unpacked(folder, "@iconify-json/noto", "names", lambda m: m == "chars.json")
    if not (folder / _LINES).exists():
        unpacked(folder, "@fontsource/noto-emoji", _LINES,
                 lambda m: m.endswith(tuple(f"-{w}-normal.woff" for w in _WEIGHTS)))  # fmt: skip
    if not (folder / _SOLID).exists():
        unpacked(folder, "@lobehub/fluent-emoji-3d", _SOLID, lambda m: m.endswith(".webp"))


def draw_emoji(folder: Path, side: int) -> Iterator[tuple[Emoji, Image.Image]]:
    """Every emoji of one code point in both styles, RGBA of `side` pixels."""
    names = json.loads((folder / "names" / "chars.json").read_text("utf-8"))
    for code, name in names.items():
        path = folder / _SOLID / f"assets_{code}.webp"
        if not path.exists():
            path = path.with_name(f"assets_{code}-fe0f.webp")
        if path.exists():
            picture = Image.open(path).convert("RGBA").resize((side, side))
            yield Emoji(_SOLID, name, False), picture
    for weight in _WEIGHTS:
        drawn: set[str] = set()  # a sign can be in several files of the font
        for path in sorted((folder / _LINES).glob(f"*-{weight}-normal.woff")):
            font = ImageFont.truetype(path, round(side * 0.78))
            blank = font.getmask("\U0010fffd").getbbox(), font.getlength("\U0010fffd")
            for code, name in names.items():
                if "-" in code or code in drawn:
                    continue
                letter = chr(int(code, 16))
                if (font.getmask(letter).getbbox(), font.getlength(letter)) == blank:
                    continue  # this file of the font does not have it
                picture = Image.new("RGBA", (side, side), (255, 255, 255, 0))
                ImageDraw.Draw(picture).text(
                    (side / 2, side / 2), letter, font=font, fill="white", anchor="mm"
                )
                box = picture.getbbox()
                if box is not None and min(box[2] - box[0], box[3] - box[1]) > side / 5:
                    drawn.add(code)
                    yield Emoji(_LINES, name, True), picture
