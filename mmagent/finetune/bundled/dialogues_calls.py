"""Dialogues with functions on offer: call the right one, use what it gives, or do without.

The talks of one dialogue share the functions, so that each function is asked for beside requests
for its neighbours, and beside words that need none of them or one that is not there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from mmagent.finetune.bundled.dialogues import Dialogue, Message, Split, Talk, phrases, say, user
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_system
from mmagent.finetune.bundled.dialogues_tools import (
    Asked,
    Said,
    Tool,
    ask,
    offers,
    rendered,
    specs_of,
)

__all__ = ["offered_dialogue", "tool_dialogue"]

_ERRORS = ("not found", "no connection", "not allowed", "timeout", "invalid value", "no such name",
           "the service is closed", "try again later")  # fmt: skip
_ERROR_FORMS = ("Error: {e}", '{{"error": "{e}"}}', "Error: {e}.", "failed: {e}", "ERROR {e}")
_SORRY = ("That did not work: {e}.", "I am sorry, that did not work: {e}.")
_MISSING = ("I have no function for that.", "I cannot do that here. I have no function for it.")
_WHICH = ("Which functions do you have?", "What can you call?", "Which tools are there?",
          "List your functions.")  # fmt: skip


def _result(content: str) -> Message:
    return say(content, "tool")


def _no_call(
    rng: random.Random, tools: Sequence[Tool], lines: Sequence[tuple[str, str]]
) -> tuple[str, str, str]:
    """(task, words, answer) where nothing is to be called."""
    draw = rng.random()
    if draw < 0.2:
        named = [t.name for t in tools]
        for other in offers(rng, 1):
            if other.name not in named and other.about not in [t.about for t in tools]:
                return "tool_missing", ask(rng, other, "train").question, rng.choice(_MISSING)
    if draw < 0.27:
        listed = ", ".join(t.name for t in tools)
        return "tool_list", rng.choice(_WHICH), f"I can call {listed}."
    if draw < 0.6 and lines:
        return ("tool_plain", *rng.choice(lines))
    pool = phrases("tools")["plain"] if rng.random() < 0.5 else phrases("talk")["train"]
    return ("tool_plain", *rng.choice(pool))


def _one_call(
    rng: random.Random, tools: Sequence[Tool], asked: Asked, lines: Sequence[tuple[str, str]]
) -> tuple[str, list[Message]]:
    """A call; most often its result, sometimes an error, and what the user says then."""
    turns = [user(asked.question), say(asked.call)]
    draw = rng.random()
    if draw < 0.4:
        return "tool", turns
    if draw < 0.52:
        error = rng.choice(_ERRORS)
        turns += [_result(rng.choice(_ERROR_FORMS).format(e=error))]
        return "tool_error", [*turns, say(rng.choice(_SORRY).format(e=error))]
    turns += [_result(asked.result), say(asked.answer)]
    if draw < 0.8:
        return "tool_answer", turns
    if draw < 0.9:
        again = ask(rng, rng.choice(tools), "train")
        return "tool", [*turns, user(again.question), say(again.call)]
    task, words, reply = _no_call(rng, tools, lines)
    return task, [*turns, user(words), say(reply)]


def _several(rng: random.Random, tools: Sequence[Tool]) -> tuple[str, list[Message]]:
    """Two or three calls at once, of the same function or of others."""
    number = 3 if rng.random() < 0.2 else 2
    asked = [ask(rng, rng.choice(tools), "train") for _ in range(number)]
    question = " ".join(a.question for a in asked)
    if rng.random() < 0.4:
        question = " And ".join(a.question[:1].lower() + a.question[1:] for a in asked)
        question = question[:1].upper() + question[1:]
    turns = [user(question), say("\n".join(a.call for a in asked))]
    if rng.random() < 0.5:
        return "tool", turns
    turns += [_result(a.result) for a in asked]
    return "tool_answer", [*turns, say(" ".join(a.answer for a in asked))]


def _in_turn(rng: random.Random, tools: Sequence[Tool]) -> tuple[str, list[Message]] | None:
    """A call whose argument is what another one gives."""
    firsts = [t for t in tools if t.about["result"] == "{r3}"]
    seconds = [
        t for t in tools if [how[0] for how in t.about["args"].values()] == ["integer"]
    ]  # one number and nothing else
    if not firsts or not seconds:
        return None
    first = ask(rng, rng.choice(firsts), "train")
    second = rng.choice(seconds)
    (arg,) = second.about["args"]
    given = {arg: Said(int(first.result), rng.choice(("the result", "what comes out", "that")))}
    then = ask(rng, replace(second, about={**second.about, "optional": []}), "train", given)
    lowered = then.question[:1].lower() + then.question[1:]
    question = f"{first.question} Then {lowered}"
    turns = [user(question), say(first.call), _result(first.result), say(then.call)]
    if rng.random() < 0.5:
        return "tool", turns
    return "tool_answer", [*turns, _result(then.result), say(then.answer)]


def _talks(
    rng: random.Random, system: Sequence[Message], tools: Sequence[Tool],
    lines: Sequence[tuple[str, str]],
) -> list[Talk]:  # fmt: skip
    """What is said to a model with these functions."""
    said: list[tuple[str, list[Message]]] = []
    chosen = [*tools[:3], *(rng.choice(tools) for _ in range(3))][: rng.choice((3, 4))]
    said += [_one_call(rng, tools, ask(rng, tool, "train"), lines) for tool in chosen]
    if rng.random() < 0.3:
        said.append(_several(rng, tools))
    if rng.random() < 0.4 and (turns := _in_turn(rng, tools)) is not None:
        said.append(turns)
    for _ in range(rng.choice((1, 1, 2))):
        task, words, reply = _no_call(rng, tools, lines)
        said.append((task, [user(words), say(reply)]))
    functions = specs_of(tools)
    return [
        Talk(task, rendered([*system, *turns], tools), functions=functions) for task, turns in said
    ]


def tool_dialogue(
    rng: random.Random, split: Split = "train", lines: Sequence[tuple[str, str]] = ()
) -> Dialogue:
    """Requests to a model that is offered one to six functions; three when measuring.

    Args:
        rng: draws everything.
        split: which functions and words.
        lines: requests that need no function, with their answers.
    """
    speaker = draw_name(rng, split)
    system = draw_system(rng, split, speaker) if rng.random() < 0.4 else []
    if split == "train":
        tools = offers(rng, rng.choices((1, 2, 3, 4, 5, 6), (3, 5, 4, 2, 1, 1))[0])
        return Dialogue("tool", tuple(_talks(rng, system, tools, lines)))
    tools = offers(rng, 3, split)
    talks: list[Talk] = []

    def add(task: str, turns: Sequence[Message], *accept: str) -> None:
        talks.append(Talk(task, rendered([*system, *turns], tools), accept, specs_of(tools)))

    asked = ask(rng, rng.choice(tools), split)
    turns = [user(asked.question), say(asked.call)]
    add("tool", turns, asked.call)
    after = [*turns, _result(asked.result), say(asked.answer)]
    add("tool_answer", after, *([asked.key] if asked.key else [asked.answer]))
    line, reply = rng.choice(phrases("tools")["plain_test"])
    add("tool_plain", [user(line), say(reply)])
    return Dialogue("tool", tuple(talks))


def offered_dialogue(rng: random.Random, inner: Dialogue) -> Dialogue:
    """A dialogue that needs no function with some on offer, and requests that do need one.

    Args:
        rng: draws everything.
        inner: about a picture, memories, a persona …
    """
    tools = offers(rng, rng.choice((1, 2, 3)))
    functions = specs_of(tools)
    talks = [
        replace(talk, messages=rendered(talk.messages, tools), functions=functions)
        for talk in inner.talks[:4]
    ]
    for tool in rng.sample(tools, min(2, len(tools))):
        asked = ask(rng, tool, "train")
        before = rng.choice(inner.talks).messages
        turns = [*before, user(asked.question), say(asked.call)]
        talks.append(Talk("tool", rendered(turns, tools), functions=functions))
    return Dialogue("offered", tuple(talks), inner.pictures)
