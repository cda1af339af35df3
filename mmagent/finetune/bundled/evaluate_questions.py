"""What the bundled model is measured on: questions with held-out styles, words, names and values.

Every question is one conversation with its reference answer. Nothing here loads a model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.dialogues import Dialogue, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_album import (
    absent_dialogue,
    album_dialogue,
    doubt_dialogue,
)
from mmagent.finetune.bundled.dialogues_calls import tool_dialogue
from mmagent.finetune.bundled.dialogues_chinese import chinese_dialogue
from mmagent.finetune.bundled.dialogues_memory import memory_dialogue, told_dialogue
from mmagent.finetune.bundled.dialogues_persona import persona_dialogue
from mmagent.finetune.bundled.dialogues_picture import (
    Gallery,
    picture_dialogue,
    remembered_picture,
    shown_of,
)
from mmagent.finetune.bundled.dialogues_screen import screen_dialogue, shown_on
from mmagent.finetune.bundled.dialogues_tools import form_dialogue
from mmagent.finetune.bundled.dialogues_user import order_dialogue, user_dialogue
from mmagent.finetune.bundled.scenes import Scene, SceneMaker
from mmagent.finetune.bundled.screens import ScreenMaker

__all__ = [
    "IN_WORDS",
    "PHOTOGRAPHS",
    "TASKS",
    "Question",
    "photographs",
    "picture_questions",
    "text_questions",
]

# task → (what the card calls it, target share if there is one)
TASKS: dict[str, tuple[str, float | None]] = {
    "name": ("object named, 100 everyday concepts, plain pictures", 0.85),
    "name-disturbed": ("object named, 100 everyday concepts, disturbed pictures", None),
    "background-usual": ("background colour, plain pictures, asked in the usual words", 0.97),
    "background": ("background colour, plain pictures, in words never read", None),
    "is_it": ('"is this …?" answered yes or no', None),
    "absent": ("says that the thing asked about is not in the picture", None),
    "doubt": ("says that it cannot tell: noise, blank, textures", None),
    "doubt-other": ("says that it cannot tell: things beyond its 216 concepts", None),
    "side": ("which of two objects is on which side", 0.75),
    "where": ("on which side one of two objects is", 0.75),
    "count": ("one to six objects counted", 0.8),
    "code": ("code of six characters read off a screen, to the letter", 0.7),
    "unread": ("or says that it cannot read the code", None),
    "recalled": ("object of a recalled picture named", None),
    "ordinal_picture": ("what the first, the second of two pictures showed", None),
    "where_picture": ("which of two pictures shows a thing", None),
    "same": ("whether two pictures show the same thing", None),
    "memory": ("fact answered from the given memories", 0.85),
    "unknown": ("says so where no memory tells", 0.85),
    "persona_name": ("name of the persona", 0.9),
    "persona_fact": ("fact about the persona", 0.9),
    "user_name": ("name of the user", None),
    "user_unknown": ("says so where nothing tells the user's name", None),
    "ordinal": ('"the second one" of three things that the user named', None),
    "tool-name": ("the right one of three functions called", 0.85),
    "tool": ("the right function with the right arguments", 0.85),
    "tool_answer": ("answer made of the function's result", None),
    "tool_plain": ("answers in words where no function is needed", None),
    "form_call": ("form filled in by a forced call", None),
    "json": ("JSON of a schema, all values right", None),
    "zh_name": ("Chinese: thing named, of 53", None),
    "zh_background": ("Chinese: background colour", None),
    "zh_count": ("Chinese: one to six objects counted", None),
    "zh_persona": ("Chinese: name of the persona", None),
}
IN_WORDS = frozenset(
    ("memory", "unknown", "persona_name", "persona_fact", "user_name", "user_unknown", "ordinal",
     "tool-name", "tool", "tool_answer", "tool_plain", "form_call", "json", "zh_persona")
)  # fmt: skip
"""The tasks that need no picture: the base is asked them too."""
PHOTOGRAPHS = {
    "chelsea": ("a cat", ("cat", "kitten")),
    "coffee": ("a cup of coffee", ("coffee", "cup", "mug")),
    "rocket": ("a rocket", ("rocket",)),
    "astronaut": ("an astronaut", ("astronaut", "person", "woman")),
    "camera": ("a man with a camera", ("camera", "man", "person")),
    "motorcycle_left": ("a motorcycle", ("motorcycle", "motorbike", "bicycle")),
    "coins": ("coins", ("coin",)),
    "grass": ("grass", ("grass",)),
    "hubble_deep_field": ("stars", ("star",)),
    "horse": ("a horse", ("horse",)),
    "moon": ("the moon", ("moon",)),
    "page": ("a page", ("page", "book", "text")),
    "china.jpg": ("a temple", ("temple", "house", "building", "castle")),
    "flower.jpg": ("a flower", ("flower",)),
}
"""Sample pictures of scikit-image and scikit-learn: what each shows, and the words for it."""


@dataclass(frozen=True)
class Question:
    """One conversation to continue.

    Attributes:
        task: row of the report.
        talk: the conversation with its reference answer.
        images: the pictures, in the order in which they are shown.
    """

    task: str
    talk: Talk
    images: tuple[Image.Image, ...] = ()


def _named(maker: SceneMaker, quick: bool) -> list[Question]:
    out: list[Question] = []
    everyday = [i for i, c in enumerate(CONCEPTS) if c.everyday]
    for disturbed in (False, True):
        rng, words = np.random.default_rng(2026), random.Random(2026)
        for label in everyday if not quick else everyday[::2]:
            for _ in range(1 if quick else 3):
                try:
                    scene = maker.single(rng, "test", label, clean=not disturbed)
                except (IndexError, KeyError, ValueError):
                    continue  # no held-out style has it
                gallery = Gallery([shown_of(scene, "single")])
                dialogue = picture_dialogue(words, gallery, split="test", row=0)
                wanted = ("name",) if disturbed else ("name", "background", "is_it")
                for talk in dialogue.talks:
                    if talk.task not in wanted or len(talk.messages) > 3:
                        continue
                    if talk.task == "background":
                        usual = (user("What colour is the background?", 1), talk.messages[-1])
                        again = Talk("background-usual", usual, talk.accept)
                        out.append(Question(again.task, again, (scene.image,)))
                    task = f"{talk.task}-disturbed" if disturbed else talk.task
                    out.append(Question(task, talk, (scene.image,)))
    return out


def picture_questions(
    maker: SceneMaker, quick: bool, screens: ScreenMaker | None = None
) -> list[Question]:
    """Questions about pictures of held-out styles.

    Args:
        maker: draws scenes.
        quick: ask a third.
        screens: draws screens; without it no code is asked for.
    """
    out = _named(maker, quick)
    number = 30 if quick else 100
    rng, words = np.random.default_rng(7), random.Random(7)

    def gather(tasks: Iterable[str], kinds: tuple[str, ...],
               talk_of: Callable[[Gallery], Dialogue]) -> None:  # fmt: skip
        """Ask `number` questions of each task, about new scenes of these kinds each time."""
        left = dict.fromkeys(tasks, number)
        for _ in range(20 * number):  # not every talk has every question
            if not any(left.values()):
                break
            scenes: list[Scene] = [getattr(maker, k)(rng, "test", clean=True) for k in kinds]
            shown = [shown_of(s, k) for s, k in zip(scenes, kinds, strict=True)]
            dialogue = talk_of(Gallery(shown))
            for task in [t for t in left if left[t]]:
                talk = next((t for t in dialogue.talks if t.task == task), None)
                if talk is not None:
                    left[task] -= 1
                    # In the order in which the talk shows them.
                    images = tuple(scenes[row].image for row in dialogue.pictures)
                    out.append(Question(task, talk, images))

    def asked(kind: str) -> Callable[[Gallery], Dialogue]:
        return lambda gallery: picture_dialogue(words, gallery, kind, "test", row=0)

    gather(("side", "where"), ("pair",), asked("pair"))
    gather(("count",), ("count",), asked("count"))
    if screens is not None:
        eyes = np.random.default_rng(8)
        for _ in range(number):
            screen = screens.draw(eyes, "test", clean=True)
            dialogue = screen_dialogue(words, Gallery([shown_on(screen)]), "test", row=0)
            out.append(Question("code", dialogue.talks[0], (screen.image,)))
    gather(("recalled",), ("single",), lambda g: remembered_picture(words, g, "test", row=0))
    gather(("absent",), ("single",), lambda g: absent_dialogue(words, g, "test", row=0))
    gather(("doubt",), ("nothing",), lambda g: doubt_dialogue(words, g, "test", row=0))
    start = len(out)
    gather(("doubt",), ("other",), lambda g: doubt_dialogue(words, g, "test", row=0))
    out[start:] = [Question("doubt-other", q.talk, q.images) for q in out[start:]]
    gather(("ordinal_picture", "where_picture"), ("single", "single"),
           lambda g: album_dialogue(words, g, "test", rows=(0, 1)))  # fmt: skip
    known = phrases("chinese")["things"]
    for kind, tasks in (("single", ("zh_name", "zh_background")), ("count", ("zh_count",))):
        asked_so_far = 0
        while asked_so_far < number:
            scene = getattr(maker, kind)(rng, "test", clean=True)
            shown = shown_of(scene, kind)
            if shown.names[0] not in known:
                continue
            asked_so_far += 1
            talks = chinese_dialogue(words, Gallery([shown]), "test", row=0).talks
            out += [Question(t.task, t, (scene.image,)) for t in talks if t.task in tasks]
    # Half of the pairs must be of one thing; that of another style or colour where there is one.
    start = len(out)
    for index in range(number):
        label = int(rng.integers(len(CONCEPTS)))
        other = label if index % 2 else int(rng.integers(len(CONCEPTS)))
        try:
            scenes = [maker.single(rng, "test", one, clean=True) for one in (label, other)]
        except (IndexError, KeyError, ValueError):
            continue
        gallery = Gallery([shown_of(s, "single") for s in scenes])
        dialogue = album_dialogue(words, gallery, "test", rows=(0, 1))
        talk = next(t for t in dialogue.talks if t.task == "same")
        out.append(Question("same", talk, tuple(s.image for s in scenes)))
    return out


def text_questions(quick: bool) -> list[Question]:
    """Questions about memories, personas, functions and forms."""
    rng = random.Random(99)
    out: list[Question] = []
    for _ in range(15 if quick else 60):
        drawn: list[Dialogue] = [memory_dialogue(rng, "test"), persona_dialogue(rng, "test")]
        if rng.random() < 0.3:
            drawn.append(told_dialogue(rng, "test"))
        for dialogue in drawn:
            out += [Question(t.task, t) for t in dialogue.talks if t.task in TASKS]
    for _ in range(10 if quick else 40):
        out += [Question(t.task, t) for t in chinese_dialogue(rng, Gallery([]), "test").talks]
    rng = random.Random(100)
    for index in range(30 if quick else 120):
        talks = list(user_dialogue(rng, "test", known=index % 3 != 0).talks)
        talks += order_dialogue(rng, "test").talks[:1]
        talks += tool_dialogue(rng, "test").talks
        talks += form_dialogue(rng, "test").talks
        out += [Question(t.task, t) for t in talks]
    return out


def photographs(folder: Path) -> list[Question]:
    """One question about each photograph; those that are not there are left out.

    Args:
        folder: where the wheel of scikit-image was unpacked.
    """
    out = []
    for name, (shows, accept) in PHOTOGRAPHS.items():
        image = _photograph(name, folder)
        if image is not None:
            turns = (user("What do you see?", 1), say(f"I see {shows}."))
            out.append(Question(f"photograph:{name}", Talk("photograph", turns, accept), (image,)))
    return out


def _photograph(name: str, folder: Path) -> Image.Image | None:
    places: list[Any] = [folder / "skimage" / "data" / f"{name}.{e}" for e in ("png", "jpg")]
    if "." in name:
        try:
            places = [files("sklearn.datasets").joinpath(f"images/{name}")]
        except ModuleNotFoundError:
            return None
    for place in places:
        if place.is_file():
            with place.open("rb") as file:
                return Image.open(file).convert("RGB")
    return None
