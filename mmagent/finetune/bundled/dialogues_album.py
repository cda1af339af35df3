"""Dialogues over two pictures, and over pictures in which nothing can be named.

With two pictures: what was in the first, which of them shows a thing, do they show the same. With
none that can be named: say that one cannot tell. With one: say what is not there.
"""

from __future__ import annotations

import random

from mmagent.finetune.bundled.concepts import CONCEPTS, concept_named
from mmagent.finetune.bundled.dialogues import Dialogue, Message, Split, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_system
from mmagent.finetune.bundled.dialogues_picture import (
    NUMBERS,
    Gallery,
    absent_asked,
    accepted,
    asked_about,
)

__all__ = ["absent_dialogue", "album_dialogue", "doubt_dialogue"]

_ORDINALS = ("first", "second")


def doubt_dialogue(
    rng: random.Random, gallery: Gallery, split: Split = "train", row: int | None = None
) -> Dialogue:
    """Questions about a picture in which nothing can be named.

    Noise or a blank sheet is drawn; a thing beyond the concepts only where its row is given.
    """
    book = phrases("doubt")
    if row is None:
        row = rng.choice(gallery.by_kind["nothing"])
    shown = gallery.pictures[row]
    system = draw_system(rng, split, draw_name(rng, split))
    names = phrases("pictures")["name"][split]
    questions = [q for q, _ in names if q.endswith("?") or split == "test"]
    talks = []
    for question in rng.sample(questions, 2 if split == "train" else 1):
        answer = rng.choice(book["answers"][shown.kind])
        talks.append(Talk("doubt", (*system, user(question, 1), say(answer)), ("cannot tell",)))
    if shown.kind == "nothing" and split == "train":
        other = rng.choice(CONCEPTS)
        question = rng.choice(phrases("pictures")["is_it"][split])[0].format(x=other.phrase)
        answer = f"No, I see no {other.name} in the picture."
        talks.append(Talk("absent", (*system, user(question, 1), say(answer)), ("no",)))
    return Dialogue("doubt", tuple(talks), (row,))


def absent_dialogue(
    rng: random.Random, gallery: Gallery, split: Split = "train", row: int | None = None
) -> Dialogue:
    """Questions about something that is not in the picture, and about what is."""
    row = rng.choice(gallery.by_kind["single"]) if row is None else row
    concept = concept_named(gallery.pictures[row].names[0])
    system = draw_system(rng, split, draw_name(rng, split))
    book = phrases("doubt")
    asks = [book["absent"][split]]
    if split == "train":
        asks = [book["beyond"], *asks]
    talks = []
    for pool in asks:
        task, question, answer, accept = absent_asked(rng, pool, (concept,))
        talks.append(Talk(task, (*system, user(question, 1), say(answer)), accept))
    if split == "train":
        told = (rng.choice(book["beyond"]), book["untold"])
        if rng.random() < 0.5:
            told = rng.choice(book["present"])
        question, answer = asked_about(told[0], concept), told[1].format(a=concept.phrase)
        talks.append(Talk("present", (*system, user(question, 1), say(answer)), (concept.name,)))
        question, answer = rng.choice(phrases("pictures")["name"][split])
        forms = {"a": concept.phrase, "A": concept.phrase.capitalize()}
        if "{It}" not in answer and "{it}" not in answer and "{This}" not in answer:
            turns = (*system, user(question, 1), say(answer.format(**forms)))
            talks.append(Talk("name", turns, accepted(concept.name)))
    return Dialogue("absent", tuple(talks), (row,))


def album_dialogue(
    rng: random.Random, gallery: Gallery, split: Split = "train",
    rows: tuple[int, int] | None = None,
) -> Dialogue:  # fmt: skip
    """Two pictures, one after the other or together, and questions about either and both."""
    book = phrases("doubt")["album"]
    if rows is None:
        kind = "count" if rng.random() < 0.15 else "single"
        first, second = (rng.choice(gallery.by_kind[kind]) for _ in range(2))
        if kind == "single" and rng.random() < 0.5:
            name = gallery.pictures[first].names[0]
            alike = [r for r in gallery.by_kind[kind] if gallery.pictures[r].names[0] == name]
            second = rng.choice([r for r in alike if r != first] or alike)
        rows = (first, second)
    shown = [gallery.pictures[row] for row in rows]
    one, two = (concept_named(s.names[0]) for s in shown)
    system = draw_system(rng, split, draw_name(rng, split))
    start: list[Message] = list(system)
    together = rng.random() < 0.4
    if not together:
        question, answer = rng.choice(book["start"])
        start += [user(question, 1), say(answer.format(a=one.phrase))]
        question, answer = rng.choice(book["again"])
        start += [user(question, 1), say(answer.format(a=two.phrase))]
    if shown[0].kind == "count":
        start = list(system)
        together = True
    talks: list[Talk] = []

    def add(task: str, question: str, answer: str, *accept: str) -> None:
        turns = (*start, user(question, 2 if together else 0), say(answer))
        talks.append(Talk(task, turns, accept))

    numbers = [len(s.names) for s in shown]
    if shown[0].kind == "count":
        more = "both have the same number"
        if numbers[0] != numbers[1]:
            more = f"the {_ORDINALS[int(numbers[1] > numbers[0])]} has more"
        counted = [NUMBERS[number] for number in numbers]
        answer = f"{counted[0].capitalize()} and {counted[1]}: {more}."
        add("more", rng.choice(book["more"][split]), answer, more)
        return Dialogue("album", tuple(talks), rows)
    for index in rng.sample((0, 1), 2):
        concept = (one, two)[index]
        question = rng.choice(book["which"][split]).format(o=_ORDINALS[index])
        if index == 0 and not together and rng.random() < 0.3 and split == "train":
            question = rng.choice(book["before"])
        answer = f"The {_ORDINALS[index]} picture shows {concept.phrase}."
        add("ordinal_picture", question, answer, *accepted(concept.name))
    # The names come first: said before them, the verdict would be a guess.
    names = f"The first shows {one.phrase} and the second shows {two.phrase}"
    if one is not two:
        for index in rng.sample((0, 1), 2 if split == "train" else 1):
            question = rng.choice(book["where"][split]).format(a=(one, two)[index].phrase)
            verdict = f"the {_ORDINALS[index]} one"
            add("where_picture", question, f"{names}, so it is {verdict}.", verdict)
    verdict = "yes, it is the same" if one is two else "no"
    for question in rng.sample(book["same"][split], 2 if split == "train" else 1):
        add("same", question, f"{names}, so {verdict}.", verdict.split(",")[0])
    return Dialogue("album", tuple(talks), rows)
