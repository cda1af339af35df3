"""Example data that needs nothing: shapes drawn on paper, and what can be said of them.

Shades, sizes, places and noise differ from picture to picture; the test pictures are others than
the ones trained on. It shows that an objective works; it says nothing about photographs.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["COLOURS", "SHAPES", "draw_rows"]

COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 70),
    "blue": (45, 80, 200),
    "yellow": (240, 200, 40),
    "purple": (140, 60, 170),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "star")
SIDE = 96
_SIZES = {"small": (13, 18), "large": (28, 38)}
Scene = dict[str, str]


def draw_rows(objective: str, count: int, folder: Path, seed: int = 0) -> Path:
    """Draw pictures and write the rows of an objective.

    Args:
        objective: vqa, match, embed, classify or pretrain.
        count: How many pictures.
        folder: Where `rows.jsonl` and `images/` go.
        seed: The same seed draws the same pictures.

    Returns:
        The file of rows.
    """
    rng = random.Random(seed)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        scene = _scene(rng)
        name = f"images/{number:06d}.png"
        _draw(scene, rng, folder / name)
        rows += [{"image": name, **row} for row in _ROWS_OF[objective](scene, rng)]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _scene(rng: random.Random) -> Scene:
    return {
        "shape": rng.choice(SHAPES),
        "colour": rng.choice(list(COLOURS)),
        "size": rng.choice(list(_SIZES)),
        "side": rng.choice(("left", "right")),
    }


def _draw(scene: Scene, rng: random.Random, file: Path) -> None:
    from PIL import Image, ImageDraw

    paper = tuple(rng.randint(215, 255) for _ in range(3))
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    pen = ImageDraw.Draw(picture)
    radius = rng.randint(*_SIZES[scene["size"]])
    middle = 0.3 if scene["side"] == "left" else 0.7
    x = min(max(middle * SIDE + rng.uniform(-6, 6), radius + 2), SIDE - radius - 2)
    y = rng.uniform(radius + 2, SIDE - radius - 2)
    shade = tuple(
        min(255, max(0, value + rng.randint(-22, 22))) for value in COLOURS[scene["colour"]]
    )
    turn = rng.uniform(-0.25, 0.25)
    if scene["shape"] == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade)
    else:
        pen.polygon(_corners(scene["shape"], x, y, radius, turn), fill=shade)
    for _ in range(25):  # specks
        at = (rng.randrange(SIDE), rng.randrange(SIDE))
        picture.putpixel(at, tuple(rng.randint(0, 255) for _ in range(3)))
    picture.save(file)


def _corners(
    shape: str, x: float, y: float, radius: float, turn: float
) -> list[tuple[float, float]]:
    count = {"square": 4, "triangle": 3, "star": 10}[shape]
    start = turn - math.pi / 2 + (math.pi / 4 if shape == "square" else 0.0)
    corners = []
    for number in range(count):
        reach = radius * (0.42 if shape == "star" and number % 2 else 1.0)
        angle = start + 2 * math.pi * number / count
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners


def _caption(scene: Scene, rng: random.Random) -> str:
    text = rng.choice(
        (
            "a {size} {colour} {shape} on the {side}",
            "on the {side} is a {size} {shape} in {colour}",
            "the picture shows a {colour} {shape} , {size} , {side}",
        )
    )
    return text.format(**scene)


def _questions(scene: Scene, rng: random.Random) -> list[dict[str, Any]]:
    asked = {
        "colour": ("what colour is the shape ?", "which colour do you see ?"),
        "shape": ("what shape is it ?", "what is drawn here ?"),
        "side": ("on which side is it ?", "where is the shape ?"),
        "size": ("is it small or large ?", "how big is the shape ?"),
    }
    about = rng.sample(sorted(asked), 2)
    return [{"question": rng.choice(asked[what]), "answer": scene[what]} for what in about]


def _matches(scene: Scene, rng: random.Random) -> list[dict[str, Any]]:
    true = rng.random() < 0.5
    told = dict(scene)
    if not true:  # wrong in one thing
        what = rng.choice(("shape", "colour", "side"))
        choices = {"shape": SHAPES, "colour": tuple(COLOURS), "side": ("left", "right")}[what]
        told[what] = rng.choice([value for value in choices if value != scene[what]])
    return [{"text": _caption(told, rng), "label": true}]


def _captions(scene: Scene, rng: random.Random) -> list[dict[str, Any]]:
    return [{"text": _caption(scene, rng)}]


def _classes(scene: Scene, rng: random.Random) -> list[dict[str, Any]]:
    """The text says what counts: neither the picture nor the text alone tells the class."""
    what = rng.choice(("colour", "shape"))
    asked = {"colour": "sort by colour please", "shape": "sort by shape please"}[what]
    return [{"text": asked, "label": scene[what]}]


_ROWS_OF: dict[str, Callable[[Scene, random.Random], list[dict[str, Any]]]] = {
    "vqa": _questions,
    "match": _matches,
    "embed": _captions,
    "classify": _classes,
    "pretrain": _captions,
}
