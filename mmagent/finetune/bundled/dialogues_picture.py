"""Dialogues over pictures: name what is there, its colour, its place, its number; remember it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmagent.finetune.bundled.concepts import CONCEPTS, Concept, concept_named, with_article
from mmagent.finetune.bundled.dialogues import Dialogue, Message, Split, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_memory import (
    Image,
    Remembered,
    distractors,
    remember,
    with_block,
)
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_system
from mmagent.finetune.bundled.scenes import SHADES, Scene

__all__ = [
    "NUMBERS", "Gallery", "Shown", "absent_asked", "accepted", "asked_about", "picture_dialogue",
    "plural_of", "remembered_picture", "shown_of",
]  # fmt: skip

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_IRREGULAR = {"mouse": "mice", "fish": "fish", "sheep": "sheep", "deer": "deer", "tooth": "teeth",
              "wolf": "wolves", "leaf": "leaves", "sushi": "pieces of sushi",
              "dice": "dice"}  # fmt: skip
_OF = {"on the left": "left of", "on the right": "right of",
       "at the top": "above", "at the bottom": "below"}  # fmt: skip
# (task, question, answer, accepted)
_Asked = tuple[str, str, str, tuple[str, ...]]


@dataclass(frozen=True)
class Shown:
    """What a picture of the gallery shows.

    Attributes:
        kind: "single", "pair", "several", "count", "other" (beyond the concepts) or "nothing".
        names: concept of every object; what it is in words where it is none.
        colours: its colour where it has one.
        boxes: (left, top, right, bottom) of every object as fractions of the side.
        background: the colour of the background where it has one.
    """

    kind: str
    names: tuple[str, ...]
    colours: tuple[str | None, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    background: str | None


def shown_of(scene: Scene, kind: str) -> Shown:
    """The facts of a scene."""
    return Shown(
        kind,
        tuple(p.concept.name if p.concept else p.item.text for p in scene.objects),
        tuple(p.colour for p in scene.objects),
        tuple(tuple(float(edge) for edge in p.box) for p in scene.objects),  # type: ignore[misc]
        scene.background,
    )


@dataclass
class Gallery:
    """The pictures of which dialogues are made; rows are as in the cache of features."""

    pictures: Sequence[Shown]
    by_kind: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_kind = {}
        for row, picture in enumerate(self.pictures):
            self.by_kind.setdefault(picture.kind, []).append(row)


def _plural(concept: Concept) -> bool:
    return concept.phrase == concept.name and concept.name.endswith("s")


def plural_of(name: str) -> str:
    """Several of a concept: "cats"."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if _plural(concept_named(name)):
        return name
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def _forms(concept: Concept) -> dict[str, str]:
    many = _plural(concept)
    it, this = ("they are", "these are") if many else ("it is", "this is")
    a = concept.phrase
    return {"a": a, "A": a.capitalize(), "n": concept.name, "it": it, "It": it.capitalize(),
            "this": this, "This": this.capitalize()}  # fmt: skip


def accepted(name: str) -> tuple[str, ...]:
    """The words that name a concept rightly."""
    return (name, *concept_named(name).also)


def asked_about(question: str, concept: Concept) -> str:
    """A question of `phrases/doubt.yaml` about a thing, there or not."""
    words = {"is": "are", "do": "do"} if _plural(concept) else {"is": "is", "do": "does"}
    capitals = {key.capitalize(): value.capitalize() for key, value in words.items()}
    return question.format(n=concept.name, **words, **capitals)


def absent_asked(rng: random.Random, asks: Sequence[str], there: Sequence[Concept]) -> _Asked:
    """One of these questions about something else than what is there.

    What is there comes first in the answer: then it is a word to compare with.
    """
    other = rng.choice([c for c in CONCEPTS if c not in there])
    question = asked_about(rng.choice(asks), other)
    answer = f"I see {' and '.join(c.phrase for c in there)}, but no {other.name}."
    return "absent", question, answer, (f"no {other.name}",)


def _single(rng: random.Random, split: Split, shown: Shown) -> list[_Asked]:
    """(task, question, answer, accepted) about a picture of one thing."""
    book = phrases("pictures")
    concept = concept_named(shown.names[0])
    forms, names = _forms(concept), accepted(concept.name)
    colour, behind = shown.colours[0], shown.background
    asked: list[_Asked] = []
    for question, answer in rng.sample(book["name"][split], 3 if split == "train" else 1):
        asked.append(("name", question, answer.format(**forms), names))
    if behind is None:
        question, _ = rng.choice(book["background"][split])
        asked.append(("mixed", question.format(**forms), book["mixed_background"], ("more than",)))
    else:
        question, answer = rng.choice(book["background"][split])
        values = {**forms, "bg": behind, "Bg": behind.capitalize()}
        asked.append(("background", question.format(**values), answer.format(**values), (behind,)))
        if rng.random() < 0.25:
            question, yes, no = rng.choice(book["is_background"][split])
            guess = behind if rng.random() < 0.5 else rng.choice(list(SHADES))
            answer = (yes if guess == behind else no).format(bg=behind)
            asked.append(
                ("is_background", question.format(x=guess), answer, (answer[:3].strip(","),))
            )
        if rng.random() < 0.3:
            many = _plural(concept) or concept.phrase == concept.name
            words = f"{colour} {concept.name}" if colour else concept.name
            question, answer = rng.choice(book["describe"][split])
            ca = words if many else with_article(words)
            asked.append(("describe", question, answer.format(ca=ca, bg=behind), names))
    if colour is not None and not _plural(concept):
        question, answer = rng.choice(book["colour"][split])
        values = {**forms, "c": colour}
        asked.append(("colour", question.format(**values), answer.format(**values), (colour,)))
    if rng.random() < 0.5:
        other = concept if rng.random() < 0.5 else rng.choice(CONCEPTS)
        question, yes, no = rng.choice(book["is_it"][split])
        answer = (yes if other is concept else no).format(**forms)
        asked.append(("is_it", question.format(x=other.phrase), answer, (answer[:3].strip(","),)))
    if rng.random() < 0.25 and concept.phrase != concept.name:
        question, answer = rng.choice(book["told"][split])
        asked.append(("told", question.format(**forms), answer.format(**forms), names))
    return asked


def _pair(rng: random.Random, split: Split, shown: Shown) -> list[_Asked]:
    """The same about a picture of two things."""
    book = phrases("pictures")["pair"]
    first, second = (concept_named(n) for n in shown.names)
    across = abs(shown.boxes[0][0] - shown.boxes[1][0]) > abs(shown.boxes[0][1] - shown.boxes[1][1])
    sides = ("on the left", "on the right") if across else ("at the top", "at the bottom")
    before = shown.boxes[0][0 if across else 1] < shown.boxes[1][0 if across else 1]
    if not before:
        first, second = second, first
    asked: list[_Asked] = []
    placed = [(first, sides[0], second), (second, sides[1], first)]
    rng.shuffle(placed)
    for concept, side, _ in placed:
        question, answer = rng.choice(book["side"][split])
        values = {"on": side, "On": side.capitalize(), "a": concept.phrase}
        asked.append(
            ("side", question.format(**values), answer.format(**values), accepted(concept.name))
        )
    question, answer = rng.choice(book["both"][split])
    asked.append(
        ("both", question, answer.format(a=first.phrase, b=second.phrase), accepted(first.name))
    )
    # In training both are asked for, so that neither the words nor the picture alone tell.
    kinds = rng.sample(("next", "where", "where", "beside", "number"), 2)
    if split == "train":
        kinds = ["where", rng.choice(("next", "beside", "beside", "number"))]
    for concept, side, other in placed if split == "train" else placed[:1]:
        of = _OF[sides[0] if side == sides[1] else sides[1]]  # where the other lies, from here
        values = {"n": concept.name, "a": concept.phrase, "b": other.phrase, "on": side, "of": of,
                  "Of": of.capitalize(), "is": "are" if _plural(concept) else "is"}  # fmt: skip
        for kind in kinds:
            question, answer = rng.choice(book[kind][split])
            accept: tuple[str, ...] = accepted(other.name)
            if kind in ("where", "number"):
                accept = (side if kind == "where" else "two",)
            asked.append((kind, question.format(**values), answer.format(**values), accept))
    if split == "train" and rng.random() < 0.1:  # more often, and what is there is denied too
        asks = phrases("doubt")["absent"]["train"]
        asked.append(absent_asked(rng, asks, (first, second)))
    for name, colour in zip(shown.names, shown.colours, strict=True):
        if colour is not None and not _plural(concept_named(name)):
            question, answer = rng.choice(phrases("pictures")["colour"][split][:2])
            words = {"n": name, "c": colour}
            if "{n}" in question:
                asked.append(
                    ("colour_of", question.format(**words), answer.format(**words), (colour,))
                )
    return asked


def _count(rng: random.Random, split: Split, shown: Shown) -> list[_Asked]:
    """The same about several of one thing."""
    book = phrases("pictures")["count"]
    number = len(shown.names)
    name = shown.names[0]
    thing = name if number == 1 else plural_of(name)
    values = {
        "ns": plural_of(name),
        "k": f"{NUMBERS[number]} {thing}",
        "are": "is" if number == 1 else "are",
    }
    asked: list[_Asked] = []
    for question, answer in rng.sample(book[split], 2 if split == "train" else 1):
        asked.append(
            ("count", question.format(**values), answer.format(**values), (NUMBERS[number],))
        )
    return asked


_ABOUT = {"single": _single, "pair": _pair, "count": _count}


def picture_dialogue(
    rng: random.Random, gallery: Gallery, kind: str = "single", split: Split = "train",
    row: int | None = None,
) -> Dialogue:  # fmt: skip
    """Questions about a picture, alone or after memories that have nothing to do with it."""
    row = rng.choice(gallery.by_kind[kind]) if row is None else row
    shown = gallery.pictures[row]
    speaker = draw_name(rng, split)
    system = draw_system(rng, split, speaker)
    lines = distractors(rng, speaker, rng.choice((1, 2, 3))) if rng.random() < 0.15 else []
    asked = _ABOUT[shown.kind](rng, split, shown)
    rng.shuffle(asked)

    def first(question: str) -> Message:
        return user(with_block(lines, question), 1)

    talks = [Talk(t, (*system, first(q), say(a)), ok) for t, q, a, ok in asked]
    if split == "train" and len(asked) > 1 and rng.random() < 0.35:
        # One question after another: the last two talks become one of two turns.
        (_, q1, a1, _), (task, q2, a2, ok) = asked[-2:]
        turns = (*system, first(q1), say(a1), user(q2), say(a2))
        talks = [*talks[:-2], Talk(task, turns, ok)]
    return Dialogue(f"picture-{shown.kind}", tuple(talks), (row,))


def remembered_picture(
    rng: random.Random, gallery: Gallery, split: Split = "train", row: int | None = None
) -> Dialogue:
    """A recalled picture stands before the memories: what was it that the user showed?"""
    row = rng.choice(gallery.by_kind["single"]) if row is None else row
    name = gallery.pictures[row].names[0]
    concept = concept_named(name)
    forms = _forms(concept)
    book = phrases("pictures")["memory"]
    speaker = draw_name(rng, split)
    system = draw_system(rng, split, speaker)
    line = rng.choice(book["lines" if split == "train" else "lines_test"]).format(**forms)
    memory: Remembered = remember(rng, speaker, line)
    memory.images.append(Image(memory.id))
    lines = [memory, *distractors(rng, speaker, rng.choice((0, 0, 1, 2)))]
    asks = list(book["ask" if split == "train" else "ask_test"])
    if name in book["pets"] and split == "train":
        asks = [rng.choice(asks), *book["ask_pet"]]
    talks = []
    for question in rng.sample(asks, 2):
        words = with_block(lines, question, {memory.id})
        answer = book["answer"].format(**forms)
        if not question.startswith("Do"):
            answer = answer.removeprefix("Yes, you").strip()
            answer = f"You {answer}"
        talks.append(Talk("recalled", (*system, user(words, 1), say(answer)), accepted(name)))
    return Dialogue("recalled", tuple(talks), (row,))
