"""Dialogues that go on for a while: who the persona and who the user is, asked after other talk.

What the persona is stands in the system message, what the user told in memories or in earlier
turns, often about the same things ("I live in Oslo" of the one, "Where do you live?" of the
other). The two must not be mixed up, nor drowned by what was said in between.
"""

from __future__ import annotations

import random

from mmagent.finetune.bundled.dialogues import Dialogue, Message, Split, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_memory import (
    Remembered,
    Told,
    ask_about,
    distractors,
    draw_facts,
    remember,
    tell,
    told_answer,
    unknown_answer,
    with_block,
)
from mmagent.finetune.bundled.dialogues_persona import draw_name, random_persona

__all__ = ["kept_dialogue"]

# Topics that personas and users both tell of, by the keys of their facts.
_ALIKE = {"home": "city", "hobby": "hobby", "food": "favourite_food", "pet": "pet_name",
          "instrument": "instrument", "colour": "favourite_colour"}  # fmt: skip
_MOST_TALK = 5


def kept_dialogue(rng: random.Random, split: Split = "train") -> Dialogue:
    """Questions about the persona and about the user after some turns of other talk."""
    ask = "ask" if split == "train" else "ask_test"
    name = draw_name(rng, split)
    persona, facts = random_persona(rng, split, at_least=1)
    char = persona.spoken_name
    system = say(persona.system_prompt(user=name), "system")
    told = _told_by_user(rng, split, name, {fact["topic"] for fact, _ in facts})
    in_talk = rng.random() < 0.3
    before = _talk(rng, split, told if in_talk else [])
    lines = [] if in_talk else [item.line for item in told]
    if rng.random() < 0.6:
        lines += distractors(rng, name, rng.choice((1, 1, 2, 3)))
    if rng.random() < 0.5:
        lines.append(remember(rng, char, rng.choice(facts)[1]))
    talks: list[Talk] = []

    def add(task: str, question: str, answer: str, accept: str, shown: list[Remembered]) -> None:
        turns = (system, *before, user(with_block(shown, question)), say(answer))
        talks.append(Talk(task, turns, (accept,) if accept else ()))

    of_persona = [line for line in lines if line.speaker == char]
    for fact, answer in facts[:2]:
        # Memory shows a question about the persona alone only her own words, or everything.
        shown = lines if rng.random() < 0.3 else of_persona
        value = answer.removesuffix(".").rsplit(" ", 1)[-1]
        add("persona_fact", rng.choice(fact[ask]), answer, value, shown)
    blocks = phrases("personas")
    who = rng.choice(blocks["name"][ask])
    add("persona_name", who, blocks["name"]["answer"].format(char=char), char, lines)
    for item in told[:2]:
        question = ask_about(rng, item.fact, split, item.values)
        add("memory", question, told_answer(rng, item, question), item.value, lines)
    missing = next(f for f in draw_facts(rng, split, 12) if f["key"] not in _keys(told))
    values = dict.fromkeys(("v", "k"), "pet")
    question = ask_about(rng, missing, split, values)
    add("unknown", question, unknown_answer(rng, None, {}), "haven't told", lines)
    if split == "train":
        line, reply = rng.choice(phrases("talk")["train"])
        add("talk", line, reply, "", lines if rng.random() < 0.5 else [])
        rng.shuffle(talks)
    return Dialogue("kept", tuple(talks))


def _keys(told: list[Told]) -> set[str]:
    return {item.fact["key"] for item in told}


def _told_by_user(rng: random.Random, split: Split, speaker: str, topics: set[str]) -> list[Told]:
    """One to three facts about the user, often on what the persona has told of herself."""
    alike = {_ALIKE[topic] for topic in topics if topic in _ALIKE}
    drawn = draw_facts(rng, split, 12)
    drawn.sort(key=lambda fact: fact["key"] not in alike or rng.random() < 0.4)
    return [tell(rng, fact, split, speaker) for fact in drawn[: rng.choice((1, 1, 2, 3))]]


def _talk(rng: random.Random, split: Split, told: list[Told]) -> list[Message]:
    """Earlier turns: what is told, and small talk before and after it."""
    book = phrases("talk")[split]
    turns = rng.sample(book, min(len(book), rng.randint(0, _MOST_TALK)))
    pairs = [(user(line), say(reply)) for line, reply in turns]
    for item in told:
        clause = item.fact["clause"].format(**item.values)
        heard = rng.choice(("Good to know.", f"I will remember that {clause}.", "Thank you."))
        pairs.insert(rng.randint(0, len(pairs)), (user(item.line.text), say(heard)))
    return [message for pair in pairs for message in pair]
