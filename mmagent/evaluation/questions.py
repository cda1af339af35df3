"""Short questions with known answers, with and without pictures, to compare ways of answering.

The built-in ones are drawn and composed by this module from fixed seeds, so that they are the
same everywhere: they ask to look (colour, position, count), to read, to reason over words, and to
do both. Yours are JSON lines: `question`, `answer` (a text or a list of accepted ones), and
perhaps `image` (a path beside the file) and `kind`.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmagent.errors import UsageError

__all__ = ["Question", "built_in_questions", "read_questions"]

_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple")
_NAMES = ("Ada", "Bilal", "Freya", "Gus", "Hazel", "Otto", "Petra", "Ravi")
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_MOST_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: What is asked.
        accepted: Answers that are right.
        kind: What it takes: "look", "read", "reason", or what a file says.
        picture: Bytes of a picture, if it has one.
    """

    text: str
    accepted: tuple[str, ...]
    kind: str = "all"
    picture: bytes | None = None


def read_questions(path: Path) -> list[Question]:
    """Read questions from a file of JSON lines.

    Raises:
        UsageError: The file cannot be read, or a line is no question.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} is larger than 20 MB; give fewer questions.")
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(_question(line, path, number))
    if not found:
        raise UsageError(f"{path} holds no questions; each line is a JSON object.")
    return found


def _question(line: str, path: Path, number: int) -> Question:
    where = f"{path.name}, line {number}"
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is not JSON.") from None
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise UsageError(f'{where} is no object with a text "question".')
    answer = row.get("answer")
    accepted = [answer] if isinstance(answer, str | int | float) else answer
    if not isinstance(accepted, list) or not accepted:
        raise UsageError(f'{where} has no "answer": a text, or a list of accepted ones.')
    picture = None
    if row.get("image") is not None:
        from mmagent.media import MediaPolicy, load_image

        file = path.parent / str(row["image"])
        policy = MediaPolicy(allowed_roots=(path.parent.resolve(),))
        picture = load_image(file, policy).data
    return Question(
        row["question"], tuple(map(str, accepted)), str(row.get("kind", "all")), picture
    )


def built_in_questions() -> list[Question]:
    """Return the 40 questions that come with the package, kinds in turn."""
    rng = random.Random(2026)
    made = [(_background, _which_side, _count, _colour_of_disc)[n % 4](rng) for n in range(20)]
    told = [(_called, _sum, _taller, _sister)[n % 4](rng) for n in range(20)]
    return [question for pair in zip(made, told, strict=True) for question in pair]


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _canvas(colour: str) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (160, 160), colour)
    return image, ImageDraw.Draw(image)


def _background(rng: random.Random) -> Question:
    colour = rng.choice(_COLOURS)
    image, _ = _canvas(colour)
    return Question("What colour is the background?", (colour,), "look", _png(image))


def _colour_of_disc(rng: random.Random) -> Question:
    colour = rng.choice(_COLOURS)
    image, draw = _canvas("white")
    draw.ellipse((40, 40, 120, 120), fill=colour)
    return Question("What colour is the circle?", (colour,), "look", _png(image))


def _which_side(rng: random.Random) -> Question:
    left, right = rng.sample(_COLOURS, 2)
    image, draw = _canvas("white")
    draw.rectangle((10, 50, 70, 110), fill=left)
    draw.rectangle((90, 50, 150, 110), fill=right)
    asked, answer = rng.choice((("left", left), ("right", right)))
    text = f"Two squares: what colour is the one on the {asked}?"
    return Question(text, (answer,), "look and reason", _png(image))


def _count(rng: random.Random) -> Question:
    number = rng.randint(1, 5)
    image, draw = _canvas("white")
    for place in rng.sample([(x, y) for x in (10, 60, 110) for y in (10, 60, 110)], number):
        draw.ellipse((*place, place[0] + 36, place[1] + 36), fill=rng.choice(_COLOURS))
    accepted = (str(number), _NUMBERS[number])
    return Question("How many circles are there?", accepted, "look and reason", _png(image))


def _called(rng: random.Random) -> Question:
    one, other = rng.sample(_NAMES, 2)
    text = f"The cat is called {one} and the dog is called {other}. What is the dog called?"
    return Question(text, (other,), "read")


def _sister(rng: random.Random) -> Question:
    one, other, third = rng.sample(_NAMES, 3)
    text = f"{one} lives in Oslo, {other} in Rome and {third} in Cairo. Who lives in Rome?"
    return Question(text, (other,), "read")


def _sum(rng: random.Random) -> Question:
    first, second = rng.randint(2, 5), rng.randint(1, 4)
    name = rng.choice(_NAMES)
    text = f"{name} has {first} apples and buys {second} more. How many apples are there now?"
    return Question(text, (str(first + second), _NUMBERS[first + second]), "reason")


def _taller(rng: random.Random) -> Question:
    one, other, third = rng.sample(_NAMES, 3)
    text = f"{one} is taller than {other}, and {other} is taller than {third}. Who is the tallest?"
    return Question(text, (one,), "reason")
