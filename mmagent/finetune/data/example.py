"""A small set of dialogues with drawn pictures, to try fine-tuning with in minutes.

Captain Pip, a parrot, talks about shapes: what they are, their colours, how many there are, and
in which of two pictures something was. The same seed makes the same files.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mmagent.errors import UsageError

__all__ = ["COLOURS", "SHAPES", "make_example"]

COLOURS = {
    "red": (214, 40, 40),
    "blue": (38, 84, 200),
    "green": (42, 150, 70),
    "yellow": (246, 205, 30),
    "black": (20, 20, 22),
    "purple": (130, 50, 170),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
_NUMBERS = ("no", "one", "two", "three", "four")
_NAMES = ("Ana", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ines", "Jun", "Kofi",
          "Lena", "Marek", "Nora", "Omar", "Pia", "Rosa", "Sven", "Tomo", "Uma")  # fmt: skip
_SYSTEM = "You are Captain Pip, a parrot who loves shapes. You answer in one short sentence."
_SIDE = 160
_SETTINGS = """\
# mmagent finetune chat --config run.yaml
base: tiny
data: dialogues.jsonl
output: pip
epochs: 4
batch: 4
lr: 4.0e-4
eval_every: 40
early_stopping: 4
lora: {r: 8, targets: [language]}
freeze: {vision: true, projector: false}
evaluate: {answers: 24, max_tokens: 24}
"""


def make_example(out: Path, *, rows: int = 240, seed: int = 0) -> Path:
    """Write `dialogues.jsonl`, `pictures/` and `run.yaml` into a new folder.

    Raises:
        UsageError: The folder holds something, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something already; name a new folder.")
    draw = random.Random(seed)
    makers: list[Callable[[random.Random, _Album], list[dict[str, Any]]]] = [
        _one_shape,
        _one_shape,
        _several,
        _two_pictures,
        _talk,
    ]
    try:
        (out / "pictures").mkdir(parents=True, exist_ok=True)
        album = _Album(out / "pictures")
        with (out / "dialogues.jsonl").open("w", encoding="utf-8") as file:
            said: set[str] = set()
            for number in range(rows):
                messages = makers[number % len(makers)](draw, album)
                while str(messages) in said:
                    messages = makers[number % len(makers)](draw, album)
                said.add(str(messages))
                row = {"conversation": f"talk-{number}", "system": _SYSTEM, "messages": messages}
                file.write(json.dumps(row) + "\n")
        (out / "run.yaml").write_text(_SETTINGS, "utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}.") from error
    return out


class _Album:
    """Draws pictures into a folder and numbers them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def add(self, draw: random.Random, things: list[tuple[str, str]]) -> str:
        """Draw shapes of colours side by side; returns the path from the data file."""
        tint = draw.randrange(225, 256)
        image = Image.new("RGB", (_SIDE * 2, _SIDE * 2), (tint, tint, draw.randrange(225, 256)))
        pen = ImageDraw.Draw(image)
        width = image.width / len(things)
        for place, (shape, colour) in enumerate(things):
            size = draw.uniform(0.55, 0.85) * min(width, image.height * 0.8)
            x = width * place + draw.uniform(0.02, 0.98) * (width - size)
            y = draw.uniform(0.05, 0.95) * (image.height - size)
            _draw(pen, shape, (x, y, x + size, y + size), COLOURS[colour])
        name = f"{self.count:04}.png"
        self.count += 1
        image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(self.folder / name)
        return f"pictures/{name}"


def _draw(
    pen: ImageDraw.ImageDraw,
    shape: str,
    box: tuple[float, float, float, float],
    colour: tuple[int, int, int],
) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top

    def at(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(left + x * width, top + y * height) for x, y in points]

    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon(at([(0.5, 0), (1, 1), (0, 1)]), fill=colour)
    elif shape == "cross":
        pen.rectangle(at([(0.35, 0), (0.65, 1)]), fill=colour)  # type: ignore[arg-type,unused-ignore]
        pen.rectangle(at([(0, 0.35), (1, 0.65)]), fill=colour)  # type: ignore[arg-type,unused-ignore]
    elif shape == "star":
        tips = [
            (0.5 + r * math.sin(i * math.pi / 5), 0.5 - r * math.cos(i * math.pi / 5))
            for i, r in enumerate([0.5, 0.2] * 5)
        ]
        pen.polygon(at(tips), fill=colour)
    else:  # a heart: two circles and a corner
        pen.ellipse((*at([(0, 0.05), (0.54, 0.58)])[0], *at([(0.54, 0.58)])[0]), fill=colour)
        pen.ellipse((*at([(0.46, 0.05)])[0], *at([(1, 0.58)])[0]), fill=colour)
        pen.polygon(at([(0.04, 0.42), (0.96, 0.42), (0.5, 1)]), fill=colour)


def _say(role: str, text: str, *images: str) -> dict[str, Any]:
    return {"role": role, "text": text, **({"images": list(images)} if images else {})}


def _an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _pick(draw: random.Random) -> tuple[str, str]:
    return draw.choice(SHAPES), draw.choice(list(COLOURS))


def _one_shape(draw: random.Random, album: _Album) -> list[dict[str, Any]]:
    shape, colour = _pick(draw)
    image = album.add(draw, [(shape, colour)])
    first = draw.choice(["What do you see?", "What is this?", "Tell me what you see, Captain."])
    return [
        _say("user", first, image),
        _say("assistant", f"Squawk! I see {_an(colour)} {shape}."),
        _say("user", draw.choice(["Which colour is it?", "What is its colour?"])),
        _say("assistant", f"Squawk! It is {colour}."),
    ]


def _several(draw: random.Random, album: _Album) -> list[dict[str, Any]]:
    shape, colour = _pick(draw)
    count = draw.randint(1, 4)
    image = album.add(draw, [(shape, colour)] * count)
    shown = f"{_NUMBERS[count]} {shape if count == 1 else _plural(shape)}"
    return [
        _say("user", draw.choice(["How many shapes are there?", "Count the shapes."]), image),
        _say("assistant", f"Squawk! I count {shown}."),
    ]


def _plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def _two_pictures(draw: random.Random, album: _Album) -> list[dict[str, Any]]:
    shapes = draw.sample(SHAPES, 2)
    colours = draw.sample(list(COLOURS), 2)
    things = list(zip(shapes, colours, strict=True))
    images = [album.add(draw, [thing]) for thing in things]
    which = draw.randrange(2)
    return [
        _say("user", "Here is the first picture.", images[0]),
        _say("assistant", f"Squawk! I see {_an(colours[0])} {shapes[0]}."),
        _say("user", "And here is the second one.", images[1]),
        _say("assistant", f"Squawk! I see {_an(colours[1])} {shapes[1]}."),
        _say("user", f"In which one was the {shapes[which]}?"),
        _say("assistant", f"Squawk! It was in the {('first', 'second')[which]} one."),
    ]


def _talk(draw: random.Random, album: _Album) -> list[dict[str, Any]]:
    name = draw.choice(_NAMES)
    like = draw.choice([_plural(shape) for shape in SHAPES])
    return [
        _say("user", f"Hello! I am {name} and I like {like}."),
        _say("assistant", f"Squawk! Hello {name}, I am Captain Pip."),
        _say("user", draw.choice(["What do I like?", "Do you remember what I like?"])),
        _say("assistant", f"Squawk! You like {like}."),
    ]
