"""Dialogues in persona: the name and the facts come from the system prompt, whoever it names."""

from __future__ import annotations

import random
from typing import Any

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
from mmagent.finetune.bundled.dialogues_text import SYSTEMS
from mmagent.personas.persona import Persona

__all__ = [
    "draw_name",
    "draw_persona",
    "draw_system",
    "draw_value",
    "made_up",
    "persona_dialogue",
    "random_persona",
    "small_talk",
]

_ENGLISH = ("mia", "mia", "mia", "ada", "theo", "wren")
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


def draw_name(rng: random.Random, split: Split) -> str:
    """A first name; those of measuring are never trained on."""
    if rng.random() < 0.15:  # a made-up one, so that names are read and not remembered
        return made_up(rng)
    return str(rng.choice(phrases("facts")[f"names_{split}"]))


def made_up(rng: random.Random) -> str:
    """A word that is no word, such as "Velimo"."""
    parts = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3)))]
    return "".join(parts).capitalize()


def draw_value(rng: random.Random, fact: dict[str, Any], split: Split) -> dict[str, str]:
    """Random values of a fact's placeholders: {v}, and {k} where the fact has a kind."""
    values: dict[str, str] = {}
    pools = phrases("facts")["pools"]
    if "pool" in fact:
        values["k" if "gen" in fact else "v"] = rng.choice(between(pools[fact["pool"]], split))
    match fact.get("gen"):
        case "person":
            values["v"] = draw_name(rng, split)
        case "made_up":
            values["v"] = made_up(rng)
        case "number":
            values["v"] = str(rng.randint(11, 999))
        case "age":
            values["v"] = str(rng.randint(18, 99))
        case "code":
            letters = "".join(rng.choices(_LETTERS, k=rng.choice((1, 1, 2))))
            values["v"] = f"{letters}-{rng.randint(10, 9999 if rng.random() < 0.5 else 99)}"
            if rng.random() < 0.2:
                values["v"] = str(rng.randint(1000, 99999))
        case "date":
            values["v"] = f"{rng.choice(pools['month'])} {rng.randint(1, 28)}"
        case "time":
            values["v"] = f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}"
        case _:
            pass
    return values


def random_persona(
    rng: random.Random, split: Split, at_least: int = 0
) -> tuple[Persona, list[tuple[dict[str, Any], str]]]:
    """A random persona and its facts, each with the answer that tells it."""
    blocks = phrases("personas")
    told = rng.sample(blocks["facts"], max(at_least, rng.choice((0, 1, 1, 2, 3))))
    second = rng.random() < 0.5
    lines, facts = [], []
    for fact in told:
        values = draw_value(rng, fact, split)
        lines.append(
            fact["tell2" if second else "tell"].format(**values).replace("{char}", "{{char}}")
        )
        facts.append((fact, fact["answer"].format(**values)))
    text = " ".join(lines)
    persona = Persona(
        name=draw_name(rng, split),
        instructions=" ".join(
            ("You are {{char}},", rng.choice(blocks["roles"]) + ".", rng.choice(blocks["manner"]))
        ),
        description=text,
        personality=", ".join(rng.sample(blocks["traits"], 3)) if rng.random() < 0.6 else "",
    )
    return persona, facts


def draw_persona(rng: random.Random, split: Split) -> Persona:
    """A persona of the catalogue or a random one."""
    if rng.random() < 0.4:
        return Persona.load(rng.choice(_ENGLISH))
    return random_persona(rng, split)[0]


def draw_system(rng: random.Random, split: Split, name: str) -> list[Message]:
    """What stands before a conversation with `name`: nothing, a plain system message, a persona."""
    draw = rng.random()
    if draw < 0.55:
        plain = rng.choice(SYSTEMS)
        return [] if plain is None or draw < 0.35 else [say(plain, "system")]
    if draw < 0.72:
        persona = Persona.load(rng.choice(_ENGLISH))
    else:
        persona, _ = random_persona(rng, split)
    return [say(persona.system_prompt(user=name), "system")]


def persona_dialogue(rng: random.Random, split: Split = "train") -> Dialogue:
    """Questions to a persona about herself and about the user."""
    blocks = phrases("personas")
    ask = "ask" if split == "train" else "ask_test"
    name = draw_name(rng, split)
    if split == "train" and rng.random() < 0.15:
        persona, facts = Persona.load(rng.choice(_ENGLISH)), list[tuple[dict[str, Any], str]]()
    else:
        persona, facts = random_persona(rng, split)
    char = persona.spoken_name
    system = say(persona.system_prompt(user=name), "system")
    talks = []

    def add(task: str, question: str, answer: str, accept: str) -> None:
        talks.append(Talk(task, (system, user(question), say(answer)), (accept,)))

    add(
        "persona_name",
        rng.choice(blocks["name"][ask]),
        blocks["name"]["answer"].format(char=char),
        char,
    )
    if name in system["content"][0]["text"]:
        add(
            "user_name",
            rng.choice(blocks["user"][ask]),
            blocks["user"]["answer"].format(user=name),
            name,
        )
    for fact, answer in facts:
        value = answer.removesuffix(".").rsplit(" ", 1)[-1]
        add("persona_fact", rng.choice(fact[ask]), answer, value)
    if rng.random() < 0.5:
        greeting = rng.choice(blocks["greet"]["answers"]).format(user=name)
        add("greet", rng.choice(blocks["greet"][ask]), greeting, name)
    if facts and rng.random() < 0.3:
        intro = blocks["intro"]["answer"].format(char=char, fact=facts[0][1])
        add("intro", rng.choice(blocks["intro"][ask]), intro, char)
    if split == "train":
        line, reply = rng.choice(phrases("talk")["train"])
        talks.append(Talk("talk", (system, user(line), say(reply))))
        rng.shuffle(talks)
    return Dialogue("persona", tuple(talks))


def small_talk(rng: random.Random, split: Split = "train") -> Dialogue:
    """Everyday exchanges with the same beginning; sometimes one follows another."""
    system = draw_system(rng, split, draw_name(rng, split))
    lines = rng.sample(phrases("talk")[split], 4)
    turns = [(user(ask), say(reply)) for ask, reply in lines]
    talks = [Talk("talk", (*system, *turn)) for turn in turns[:2]]
    talks.append(Talk("talk", (*system, *turns[2], *turns[3])))
    return Dialogue("talk", tuple(talks))
