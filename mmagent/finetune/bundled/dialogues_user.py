"""Dialogues about who the user is: named by the persona, in a memory, in the talk, or nowhere."""

from __future__ import annotations

import random

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
from mmagent.finetune.bundled.dialogues_memory import distractors, remember, with_block
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_persona, draw_system

__all__ = ["order_dialogue", "user_dialogue"]

UNKNOWN = "You haven't told me your name yet."
_NOBODY = "User"  # how a user without a name is called
_TOLD = ("My name is {n}.", "I am {n}.", "I'm {n}, by the way.", "Call me {n}.", "Hi, this is {n}!",
         "Hello, I am {n}.", "People call me {n}.", "{n} is my name.", "{n} speaking.",
         "It's {n}, hi!", "The name is {n}.", "Everybody knows me as {n}.", "I go by {n}.",
         "My friends say {n} to me.", "{n} again. Good evening!", "You are talking to {n}.",
         "Please use my name, {n}.", "I was named {n}.", "Hey, {n} is back.",
         "Good evening! {n} it is.", "Just so you know, I'm called {n}.")  # fmt: skip
_TOLD_TEST = ("You may call me {n}.", "Good day, {n} here.")
_GREETED = ("Nice to meet you, {n}!", "Hello {n}! How are you?", "Good to meet you, {n}.")
_ASKS_CHAR = ("What is your name?", "Who are you?", "What are you called?", "And your name?")
_ORDINALS = ("first", "second", "third")
_NAMED = ("I have three ideas: {0}, {1} and {2}.", "My list: {0}, {1}, {2}.",
          "I like {0}, {1} and {2}.", "We can choose between {0}, {1} and {2}.")  # fmt: skip
_WHICH = ("What was the {o} one?", "Which was the {o}?", "What did I name as the {o}?",
          "I take the {o} one. Which is that?", "Tell me the {o} one.")  # fmt: skip
_WHICH_TEST = ("And the {o} one was?", "Let's do the {o} one. What is it?")


def _answer(rng: random.Random, question: str, name: str) -> str:
    if question.startswith(("Do you", "You know", "Have I", "Can you", "Could you", "Is my")):
        return f"Yes, you are {name}."
    return rng.choice((f"Your name is {name}.", f"You are {name}."))


def user_dialogue(
    rng: random.Random, split: Split = "train", known: bool | None = None
) -> Dialogue:
    """Asks for the user's name, and for the persona's so that the two are kept apart.

    Args:
        rng: draws everything.
        split: which phrasings and names.
        known: whether the name can be known; None draws it.
    """
    book = phrases("personas")
    asks = book["user"]["ask" if split == "train" else "ask_test"]
    told = _TOLD if split == "train" else _TOLD_TEST
    name = draw_name(rng, split)
    where = rng.choice(
        ("persona", "persona", "speaker", "memory", "talk", "talk", "nowhere", "nowhere")
    )
    if known is not None:
        where = rng.choice(("persona", "speaker", "memory", "talk")) if known else "nowhere"
    speaker = name if where in ("speaker", "persona") else _NOBODY
    char = ""
    system: list[Message] = []
    if where == "persona":
        persona = draw_persona(rng, split)
        text = persona.system_prompt(user=name)
        if name not in text:
            text = f"You are {persona.spoken_name}. Talk with {name} and stay in character.\n{text}"
        system, char = [say(text, "system")], persona.spoken_name
    elif rng.random() < 0.5:
        persona = draw_persona(rng, split)
        shown = name if where == "speaker" else _NOBODY
        system = [say(persona.system_prompt(user=shown), "system")]
        char = persona.spoken_name
    lines = []
    if where in ("speaker", "memory") or rng.random() < 0.35:
        lines = distractors(rng, speaker, rng.choice((1, 1, 2, 3)))
        if char and rng.random() < 0.4:
            lines.append(remember(rng, char, "That sounds good. Tell me more about it."))
    if where == "memory":
        lines.append(remember(rng, speaker, rng.choice(told).format(n=name)))
    before: list[Message] = []
    if where == "talk":
        greeted = rng.choice(_GREETED).format(n=name)
        before = [user(rng.choice(told).format(n=name)), say(greeted)]
        if rng.random() < 0.4:
            line, reply = rng.choice(phrases("talk")[split])
            before += [user(line), say(reply)]
    talks = []
    for question in rng.sample(asks, 3 if split == "train" else 1):
        answer = UNKNOWN if where == "nowhere" else _answer(rng, question, name)
        accept = ("haven't told",) if where == "nowhere" else (name,)
        turns = (*system, *before, user(with_block(lines, question)), say(answer))
        task = "user_unknown" if where == "nowhere" else "user_name"
        talks.append(Talk(task, turns, accept))
    if char and split == "train":
        question = user(with_block(lines, rng.choice(_ASKS_CHAR)))
        answer = f"I am {char}."
        talks.append(Talk("persona_name", (*system, *before, question, say(answer)), (char,)))
    return Dialogue("user", tuple(talks))


def order_dialogue(rng: random.Random, split: Split = "train") -> Dialogue:
    """What was "the second one" of three things that the user named?"""
    pools = phrases("facts")["pools"]
    pool = rng.choice(("hobby", "city", "dish", "job", "language", "sport", "drink"))
    while len(values := between(pools[pool], split)) < 3:
        pool = rng.choice(("hobby", "city", "dish", "job"))
    things = rng.sample(values, 3)
    system = draw_system(rng, split, draw_name(rng, split))
    start = (*system, user(rng.choice(_NAMED).format(*things)), say("Good, which one?"))
    asks = _WHICH if split == "train" else _WHICH_TEST
    talks = []
    for place in rng.sample(range(3), 2):
        question = rng.choice(asks).format(o=_ORDINALS[place])
        answer = f"The {_ORDINALS[place]} one was {things[place]}."
        talks.append(Talk("ordinal", (*start, user(question), say(answer)), (things[place],)))
    return Dialogue("order", tuple(talks))
