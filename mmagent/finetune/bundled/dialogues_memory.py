"""Dialogues over recalled memories: answer from what is given, and say when nothing is.

The memories stand in the last user message in the form that the memory middleware writes:

    [Memories]
    - (2026-05-03, Sam) I am allergic to nuts.
    - (2026-05-04, Sam, picture below) Look at my new cat
    [/Memories]
    What do you remember about my allergies?

The block is written by the middleware's own function, so that the two cannot drift apart.
"""

from __future__ import annotations

import datetime as dt
import functools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmagent.context.recall_format import format_memories, with_memories
from mmagent.finetune.bundled.dialogues import Dialogue, Split, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_system, draw_value

__all__ = [
    "Image",
    "Remembered",
    "Told",
    "ask_about",
    "distractors",
    "draw_facts",
    "memory_dialogue",
    "remember",
    "tell",
    "told_answer",
    "told_dialogue",
    "unknown_answer",
    "with_block",
]


_THANKS = ("Thank you for telling me.", "Good to know.", "I will remember that.")


@dataclass
class Image:
    """The picture of a memory, as far as the block speaks of it."""

    id: str
    caption: str | None = None


@dataclass
class Remembered:
    """One memory; the fields are those that `format_memories` reads."""

    id: str
    text: str
    speaker: str
    at: dt.datetime
    images: list[Image] = field(default_factory=list)


def remember(rng: random.Random, speaker: str, text: str) -> Remembered:
    """A memory of a random day of the years 2023 to 2027."""
    day = dt.datetime(2023, 1, 1, 12) + dt.timedelta(days=rng.randrange(1800))
    return Remembered(f"{rng.getrandbits(32):08x}", text, speaker, day)


def with_block(lines: Sequence[Remembered], words: str, below: Collection[str] = ()) -> str:
    """The user's words after the memories; `below` are the ids of those with a picture shown."""
    return with_memories(format_memories(lines, dt.datetime(2028, 1, 1), below=below), words)


def distractors(rng: random.Random, speaker: str, number: int) -> list[Remembered]:
    """Memories that answer no question; some have a picture that is not shown."""
    texts = rng.sample(phrases("facts")["distractors"], number)
    lines = [remember(rng, speaker, text) for text in texts]
    for line in lines:
        if rng.random() < 0.1:
            line.images.append(Image(f"{rng.getrandbits(32):08x}"))
    return lines


@dataclass(frozen=True)
class Told:
    """A fact that a user told: which, with what values, and how memory keeps it."""

    fact: dict[str, Any]
    values: dict[str, str]
    line: Remembered

    @property
    def value(self) -> str:
        """What an answer must hold."""
        return self.values["v"]


def draw_facts(rng: random.Random, split: Split, number: int) -> list[dict[str, Any]]:
    """Different facts that a user may tell; some are kept for measuring."""
    known = [f for f in phrases("facts")["facts"] if split == "test" or not f.get("only_test")]
    return rng.sample(known, number)


def tell(rng: random.Random, fact: dict[str, Any], split: Split, speaker: str) -> Told:
    """A fact with random values, in the user's words."""
    values = draw_value(rng, fact, split)
    said = rng.choice(fact["say"]).format(**values)
    said = said[0].upper() + said[1:]
    return Told(fact, values, remember(rng, speaker, said))


def ask_about(
    rng: random.Random, fact: dict[str, Any], split: Split, values: dict[str, str]
) -> str:
    """A question about a fact."""
    return str(rng.choice(fact["ask" if split == "train" else "ask_test"])).format(**values)


def _and(first: str, second: str) -> str:
    """Two sentences as one: "My order is A-17 and I am allergic to nuts."."""
    lowered = second if second.startswith("I") else second[0].lower() + second[1:]
    return f"{first.removesuffix('.')} and {lowered}"


def told_answer(rng: random.Random, told: Told, question: str) -> str:
    """The answer to a question about a fact that was told."""
    clause = told.fact["clause"].format(**told.values)
    if "remember" in question or "know" in question or rng.random() < 0.4:
        return f"You told me that {clause}."
    return f"{clause[0].upper()}{clause[1:]}."


def unknown_answer(rng: random.Random, fact: dict[str, Any] | None, values: dict[str, str]) -> str:
    """The answer to a question about what nobody told."""
    if fact is None or rng.random() < 0.6:
        return "You haven't told me that yet."
    return f"You haven't told me {fact['topic'].format(**values)} yet."


def memory_dialogue(rng: random.Random, split: Split = "train") -> Dialogue:
    """Questions about a block of memories: what it holds, what it does not, and small talk."""
    speaker = draw_name(rng, split)
    facts = draw_facts(rng, split, 8)
    told = [tell(rng, fact, split, speaker) for fact in facts[: rng.choice((0, 1, 1, 2, 2, 3, 4))]]
    missing = facts[4:]
    lines = [t.line for t in told]
    if len(lines) > 1 and rng.random() < 0.25:  # two facts told in one breath
        first, second = lines[:2]
        lines = [replace(first, text=_and(first.text, second.text)), *lines[2:]]
    lines += distractors(rng, speaker, rng.choice((0, 0, 1, 2, 3)))
    if told and rng.random() < 0.25:  # what the persona answered then is remembered as well
        clause = told[0].fact["clause"].format(**told[0].values)
        reply = f"{rng.choice(_THANKS)} You told me that {clause}."
        lines.append(replace(remember(rng, draw_name(rng, split), reply), at=told[0].line.at))
    system = draw_system(rng, split, speaker)
    talks: list[Talk] = []

    def add(task: str, question: str, answer: str, *accept: str) -> None:
        talks.append(Talk(task, (*system, user(with_block(lines, question)), say(answer)), accept))

    for item in told[:3]:
        question = ask_about(rng, item.fact, split, item.values)
        add("memory", question, told_answer(rng, item, question), item.value)
    for fact in missing[: 1 if told else 3]:
        values = draw_value(rng, fact, split)
        question = ask_about(rng, fact, split, values)
        add("unknown", question, unknown_answer(rng, fact, values), "haven't told")
    if split == "test":
        question = rng.choice(phrases("facts")["unknown_test"])
        add("unknown", question, unknown_answer(rng, None, {}), "haven't told")
        return Dialogue("memory", tuple(talks))
    if told and rng.random() < 0.3:
        clauses = [t.fact["clause"].format(**t.values) for t in told[:2]]
        question = rng.choice(("What do you know about me?", "What did I tell you?",
                               "What do you remember about me?"))  # fmt: skip
        add("summary", question, f"You told me that {' and that '.join(clauses)}.")
    if rng.random() < 0.5:
        line, reply = rng.choice(phrases("talk")["train"])
        add("talk", line, reply)
    return Dialogue("memory", tuple(talks))


def told_dialogue(rng: random.Random, split: Split = "train") -> Dialogue:
    """The user tells one or two facts, is understood, and asks for them later in the talk."""
    speaker = draw_name(rng, split)
    system = draw_system(rng, split, speaker)
    facts = draw_facts(rng, split, 4)
    told = [tell(rng, fact, split, speaker) for fact in facts[: rng.choice((1, 1, 2))]]
    clauses = " and that ".join(t.fact["clause"].format(**t.values) for t in told)
    said = functools.reduce(_and, [t.line.text for t in told])
    thanks = rng.choice(_THANKS)
    start = (*system, user(said), say(f"{thanks} You told me that {clauses}."))
    talks = [Talk("told", start, (told[0].value,))]
    for item in told:
        question = ask_about(rng, item.fact, split, item.values)
        answer = told_answer(rng, item, question)
        talks.append(Talk("memory", (*start, user(question), say(answer)), (item.value,)))
    values = draw_value(rng, facts[3], split)
    question = ask_about(rng, facts[3], split, values)
    talks.append(
        Talk(
            "unknown",
            (*start, user(question), say(unknown_answer(rng, facts[3], values))),
            ("haven't told",),
        )
    )
    return Dialogue("told", tuple(talks))
