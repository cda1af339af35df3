"""Pictograms of the concepts in many styles: fetch the icon sets, render them, keep a cache.

The sets are npm packages `@iconify-json/<set>`, each a JSON file of SVG bodies with its licence.
Only sets whose licence allows derived works without share-alike are trained on; `HELD_OUT` sets
(share-alike among them) are drawn for measuring only and leave no trace in the weights.

    python -m mmagent.finetune.bundled.pictograms --sets FOLDER --cache FILE
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmagent.errors import DownloadError, MissingDependencyError
from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.pictograms_emoji import draw_emoji, fetch_emoji, unpacked

__all__ = ["HELD_OUT", "SETS", "SIDE", "Pictogram", "Sheet", "fetch_sets", "render_sheet"]

SIDE = 192  # pixels of a cached pictogram's side

# name → licence as its package states it (SPDX).
SETS = {
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "twemoji": "CC-BY-4.0",
    "fluent-emoji": "MIT",
    "fluent-emoji-flat": "MIT",
    "fluent-emoji-high-contrast": "MIT",
    "emojione": "CC-BY-4.0",
    "emojione-monotone": "CC-BY-4.0",
    "fxemoji": "Apache-2.0",
    "streamline-emojis": "CC-BY-4.0",
    "flat-color-icons": "MIT",
    "icon-park": "Apache-2.0",
    "icon-park-outline": "Apache-2.0",
    "icon-park-solid": "Apache-2.0",
    "icon-park-twotone": "Apache-2.0",
    "mdi": "Apache-2.0",
    "tabler": "MIT",
    "ph": "MIT",
    "fa6-solid": "CC-BY-4.0",
    "lucide": "ISC",
    "game-icons": "CC-BY-3.0",
    "hugeicons": "MIT",
    "solar": "CC-BY-4.0",
    "mingcute": "Apache-2.0",
    "fluent": "MIT",
    "fluent-color": "MIT",
    "material-symbols": "Apache-2.0",
    "streamline": "CC-BY-4.0",
    "streamline-flex": "CC-BY-4.0",
    "streamline-plump": "CC-BY-4.0",
    "streamline-color": "CC-BY-4.0",
    "streamline-cyber": "CC-BY-4.0",
    "streamline-cyber-color": "CC-BY-4.0",
    "streamline-flex-color": "CC-BY-4.0",
    "streamline-kameleon-color": "CC-BY-4.0",
    "streamline-plump-color": "CC-BY-4.0",
    "streamline-sharp-color": "CC-BY-4.0",
    "streamline-stickies-color": "CC-BY-4.0",
    "streamline-ultimate-color": "CC-BY-4.0",
    "flat-ui": "MIT",
    "marketeq": "MIT",
    "duo-icons": "MIT",
    "boxicons": "MIT",
    "carbon": "Apache-2.0",
    "iconoir": "MIT",
    "ion": "MIT",
    "ri": "Apache-2.0",
    "uil": "Apache-2.0",
    "vaadin": "Apache-2.0",
    "cil": "CC-BY-4.0",
    "maki": "CC0-1.0",
    "temaki": "CC0-1.0",
    "openmoji": "CC-BY-SA-4.0",
    "emojione-v1": "CC-BY-SA-4.0",
}
HELD_OUT = frozenset({"openmoji", "emojione-v1"})

# Sets of multi-colour emoji, whose other pictures (beyond the concepts) teach the text space.
_EMOJI = frozenset({"noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "emojione",
                    "fxemoji", "streamline-emojis", "openmoji", "emojione-v1"})  # fmt: skip
# Brand marks and other things that merely share a concept's name.
_NOT = frozenset({"mdi:apple", "hugeicons:apple", "icon-park:apple", "icon-park-outline:apple",
                  "icon-park-solid:apple", "icon-park-twotone:apple", "ph:orange", "mdi:cut",
                  "mdi:flash", "game-icons:fort", "mdi:hotel", "ph:drop-simple", "mdi:opera",
                  "material-symbols:home-pin", "hugeicons:flash", "fluent:flash", "solar:key",
                  "mdi:bat", "material-symbols:cut", "ri:apple", "boxicons:apple", "uil:apple",
                  "cil:apple", "vaadin:apple", "ion:apple", "iconoir:apple", "iconoir:orange",
                  "carbon:apple", "carbon:bat", "carbon:fish", "carbon:arrow"})  # fmt: skip
_VARIANT = re.compile(
    r"-(fill|filled|bold|duotone|light|thin|line|linear|outline|outlined|rounded|sharp|broken|"
    r"line-duotone|bold-duotone|solid|remix|regular|color|twotone|\d\d-filled|\d\d-regular|\d\d)$"
)
_SKIPPED = re.compile(r"(skin-tone|-off$|-off-|-dark$|-light$|-medium|flag-|keycap|-slash)")
_PREFIX = re.compile(r"^(animal|food|vehicle|drink|fruit)-")


@dataclass(frozen=True)
class Pictogram:
    """One rendered icon.

    Attributes:
        style: the icon set it is from.
        icon: its name in the set.
        label: index into `CONCEPTS`, or -1 for an emoji beyond them.
        text: what it shows, in words.
        plain: True if it is drawn in one colour and may be tinted.
    """

    style: str
    icon: str
    label: int
    text: str
    plain: bool


@dataclass(frozen=True)
class Sheet:
    """All rendered pictograms: `pixels` is uint8 [N, SIDE, SIDE, 4] (RGBA), `items` has N rows."""

    pixels: npt.NDArray[np.uint8]
    items: tuple[Pictogram, ...]

    @staticmethod
    def load(path: Path) -> Sheet:
        """Map a cache written by `render_sheet` into memory."""
        rows = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return Sheet(np.load(path, mmap_mode="r"), tuple(Pictogram(**row) for row in rows))


def fetch_sets(folder: Path) -> None:
    """Download every icon set into `folder` with npm (a set already there is kept).

    Raises:
        DownloadError: npm is missing or a package cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        if (folder / name / "icons.json").exists():
            continue
        unpacked(folder, f"@iconify-json/{name}", name, lambda m: m in ("icons.json", "info.json"))
    fetch_emoji(folder)


def _by_icon() -> dict[str, int]:
    return {icon: index for index, c in enumerate(CONCEPTS) for icon in c.icons}


def _base_name(icon: str) -> str:
    name = icon
    while (shorter := _VARIANT.sub("", name)) != name:
        name = shorter
    return _PREFIX.sub("", name)


def _wanted(style: str, data: dict[str, Any]) -> Iterator[Pictogram]:
    """The icons of a set that show a concept, and for emoji sets all the others too."""
    by_icon = _by_icon()
    info = data.get("info", {})
    plain = not info.get("palette", False)
    seen: dict[int, int] = {}
    for icon in data["icons"]:
        if _SKIPPED.search(icon):
            continue
        base = icon if style in _EMOJI else _base_name(icon)
        label = by_icon.get(base, -1)
        if f"{style}:{base}" in _NOT or f"{style}:{icon}" in _NOT:
            continue
        if label >= 0:
            # A set with ten weights of one drawing must not outweigh the others.
            seen[label] = seen.get(label, 0) + 1
            if seen[label] > 4:
                continue
            yield Pictogram(style, icon, label, CONCEPTS[label].name, plain)
        elif style in _EMOJI and style not in HELD_OUT and style != "fxemoji":
            yield Pictogram(style, icon, -1, icon.replace("-", " "), plain)


def render_sheet(folder: Path, cache: Path) -> Sheet:
    """Render every wanted pictogram of the sets in `folder`, white where the set has no colour.

    Raises:
        MissingDependencyError: resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise MissingDependencyError(
            "Drawing pictograms needs resvg-py: pip install 'mmagent[train]'"
        ) from error
    from io import BytesIO

    from PIL import Image

    by_icon = _by_icon()
    pixels: list[npt.NDArray[np.uint8]] = []
    items: list[Pictogram] = []
    for style in SETS:
        data = json.loads((folder / style / "icons.json").read_text("utf-8"))
        if "info" not in data:
            data["info"] = json.loads((folder / style / "info.json").read_text("utf-8"))
        found = data["info"]["license"].get("spdx")
        if found != SETS[style]:
            raise DownloadError(
                f"{style}: the licence is now {found}, not {SETS[style]}; review it."
            )
        for item in _wanted(style, data):
            icon = data["icons"][item.icon]
            width = icon.get("width", data.get("width", 16))
            height = icon.get("height", data.get("height", 16))
            left, top = icon.get("left", data.get("left", 0)), icon.get("top", data.get("top", 0))
            body = icon["body"].replace("currentColor", "#ffffff")
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}" '
                f'width="{SIDE}" height="{SIDE}">{body}</svg>'
            )
            try:
                png = resvg_py.svg_to_bytes(svg_string=svg)
            except ValueError:
                continue
            picture = Image.open(BytesIO(bytes(png))).convert("RGBA").resize((SIDE, SIDE))
            array = np.asarray(picture)
            if array[..., 3].max() < 128:
                continue
            pixels.append(array)
            items.append(item)
        print(f"{style}: {sum(i.style == style for i in items)} pictograms", flush=True)
    for emoji, picture in draw_emoji(folder, SIDE):
        icon_name = emoji.name
        label = by_icon.get(icon_name, -1)
        if label < 0 and (emoji.plain or _SKIPPED.search(icon_name)):
            continue
        text = CONCEPTS[label].name if label >= 0 else icon_name.replace("-", " ")
        pixels.append(np.asarray(picture))
        items.append(Pictogram(emoji.style, icon_name, label, text, emoji.plain))
    sheet = np.stack(pixels)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.with_suffix(".json").write_text(json.dumps([vars(i) for i in items]), "utf-8")
    part = cache.with_name(f".{cache.stem}.part.npy")  # an interrupted run leaves no half sheet
    np.save(part, sheet)
    part.replace(cache)
    return Sheet(sheet, tuple(items))


def main() -> None:
    """Fetch and render, from the command line."""
    parser = argparse.ArgumentParser(description="Fetch icon sets and render the pictograms.")
    parser.add_argument("--sets", type=Path, default=Path(".build/icon-sets"))
    parser.add_argument("--cache", type=Path, default=Path(".build/pictograms.npy"))
    args = parser.parse_args()
    fetch_sets(args.sets)
    sheet = render_sheet(args.sets, args.cache)
    covered = {i.label for i in sheet.items if i.label >= 0}
    print(f"{len(sheet.items)} pictograms of {len(covered)} concepts in {args.cache}")


if __name__ == "__main__":
    main()
