"""Dialogues in words alone about things that pictures are asked about too.

What is told in a message answers a question about it, and no picture is spoken of where none was
shown: whoever learns to name things from pictures, and to deny them, soon does so without any.
"""

from __future__ import annotations

import random

from mmagent.finetune.bundled.concepts import CONCEPTS, with_article
from mmagent.finetune.bundled.dialogues import (
    Dialogue,
    Message,
    Split,
    Talk,
    between,
    phrases,
    say,
    user,
)
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_system
from mmagent.finetune.bundled.dialogues_picture import asked_about, plural_of
from mmagent.finetune.bundled.scenes import SHADES

__all__ = ["read_dialogue"]

_PLACES = ("in the kitchen", "in the garden", "under the bed", "on the table", "in the car",
           "behind the house", "on the roof", "at work", "in my bag",
           "next to the door")  # fmt: skip
_MORE = (("older", "oldest"), ("faster", "fastest"), ("stronger", "strongest"),
         ("younger", "youngest"), ("louder", "loudest"), ("richer", "richest"))  # fmt: skip
# (what is told, question, answer): {x}, {y} are things, {ax}, {ay} with their articles; {p}, {q}
# people; {a}, {b} of a pool
_NAMED = (
    ("I named my {x} {p} and my {y} {q}.", "Which name has the {y}?", "The {y} is named {q}."),
    ("Our {x} has the name {p}, our {y} {q}.", "What is the name of the {x}?",
     "The {x} has the name {p}."),
    ("{p} owns {ax}; {q} owns {ay}.", "Who owns the {x}?", "{p} owns the {x}."),
    ("{p} gave me this {x}, and {q} gave me {ay}.", "Who gave me the {y}?",
     "{q} gave you the {y}."),
)  # fmt: skip
_COLOURED = (
    ("My {x} is {a} and my {y} is {b}.", "What colour is my {y}?", "Your {y} is {b}."),
    ("I painted the {x} {a}, then the {y} {b}.", "Which colour has the {x}?", "The {x} is {a}."),
)
_PLACED = (
    ("The {x} is {a} and the {y} is {b}.", "Where is the {x}?", "The {x} is {a}."),
    ("I left the {x} {a} and the {y} {b}.", "Where do I find the {y}?", "The {y} is {b}."),
)
_PEOPLE = (
    ("{p} works in {a}; {q} works in {b}.", "Who works in {b}?", "{q} works in {b}."),
    ("{p} comes from {a}, {q} from {b}.", "Where does {p} come from?", "{p} comes from {a}."),
    ("In {a} we met {p}, later {q} in {b}.", "Whom did we meet in {a}?", "You met {p} in {a}."),
)
_MISSING = "You have not shown me a picture yet."


def read_dialogue(rng: random.Random, split: Split = "train") -> Dialogue:
    """What is told is asked for, and something that no picture shows, for there is none.

    Args:
        rng: draws everything.
        split: whose names and values.
    """
    system = draw_system(rng, split, draw_name(rng, split))
    talks = []
    for kind in rng.sample(("named", "coloured", "placed", "people", "more", "sum"), 3):
        told, question, answer = _told(rng, split, kind)
        turns: tuple[Message, ...] = (user(f"{told} {question}"),)
        if rng.random() < 0.3:  # asked in a message of its own
            turns = (user(told), say("I see." if rng.random() < 0.2 else "Good to know."),
                     user(question))  # fmt: skip
        talks.append(Talk("read", (*system, *turns, say(answer)), (answer,)))
    if rng.random() < 0.5:
        asks = phrases("doubt")["absent"][split]
        question = asked_about(rng.choice(asks), rng.choice(CONCEPTS))
        talks.append(Talk("unseen", (*system, user(question), say(_MISSING)), (_MISSING,)))
    return Dialogue("read", tuple(talks))


def _told(rng: random.Random, split: Split, kind: str) -> tuple[str, str, str]:
    """What is told, a question about it and its answer."""
    things = rng.sample([c.name for c in CONCEPTS if c.phrase != c.name], 2)
    people = list(dict.fromkeys(draw_name(rng, split) for _ in range(12)))[:3]
    values = {"x": things[0], "y": things[1], "p": people[0], "q": people[1]}
    values |= {f"a{key}": with_article(values[key]) for key in "xy"}
    if kind == "more":
        more, most = rng.choice(_MORE)
        told = f"{people[0]} is {more} than {people[1]}. {people[1]} is {more} than {people[2]}."
        return told, f"Who is the {most} of them?", f"{people[0]} is the {most}."
    if kind == "sum":
        one, two = rng.randint(1, 9), rng.randint(1, 9)
        many = plural_of(things[0])
        told = f"There were {one} {many}, and {two} more came."
        return told, f"How many {many} are that?", f"{one} and {two} make {one + two} {many}."
    forms, pool = {
        "named": (_NAMED, ["", ""]),
        "coloured": (_COLOURED, list(SHADES)),
        "placed": (_PLACED, _PLACES),
        "people": (_PEOPLE, between(phrases("facts")["pools"]["city"], split)),
    }[kind]
    values["a"], values["b"] = rng.sample(pool, 2)
    told, question, answer = (part.format(**values) for part in rng.choice(forms))
    return told, question, answer
