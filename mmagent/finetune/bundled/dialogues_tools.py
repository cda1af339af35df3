"""Dialogues with functions and forms: choose, fill in, use the result; or answer in plain words.

What the model reads is written by the engine's own `ToolFormat`, so that training and use cannot
drift apart. The form of calls and of JSON is held by a grammar when the model is used; what is
taught is which function, and which values out of the user's words.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmagent.engine.toolformat import ToolFormat
from mmagent.finetune.bundled.concepts import CONCEPTS
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
from mmagent.finetune.bundled.dialogues_functions import made_function
from mmagent.finetune.bundled.dialogues_persona import draw_name, draw_value, made_up

__all__ = [
    "Asked",
    "Said",
    "Tool",
    "ask",
    "call_text",
    "form_dialogue",
    "offers",
    "rendered",
    "specs_of",
]

FORMAT = ToolFormat()  # the bundled template knows nothing of functions
_GENERATED = ("person", "made_up", "number", "age", "code", "date", "time")
_ORDERS = ("Give me JSON.", "You extract data and answer in JSON.", "You fill in forms.")
_CALL = (
    "Call {f} with {v}.", "Use {f} on {v}.", "What does {f} give for {v}?", "Compute {f} of {v}.",
    "I want the {f} of {v}.", "Run {f}: {v}.", "How much is {f}({v})?", "Please do {f}({v}).",
)  # fmt: skip
_NO_ARGUMENTS = ("Call {f}.", "What does {f} say?", "Run {f}.", "How much is {f}()?")
_NO_ARGUMENTS_TEST = ("Let {f} work.", "Ask {f}.")
# Characters that the tokenizer spells in bytes: to be copied, not understood.
_FOREIGN = (
    "山川田中大小日月水火木金土人天上下北京东西南風花鳥海"
    "空石雨雪春秋商会书店李王張陈明文ЖивоБелаÉñøßçĞŁž"
)
_CALL_TEST = ("Let {f} work on {v}.", "Ask {f} about {v}.")


@dataclass(frozen=True)
class Said:
    """A drawn value: as JSON has it, and as people say it."""

    data: Any
    said: str


@dataclass(frozen=True)
class Tool:
    """A function as it is offered in one dialogue."""

    about: dict[str, Any]
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """As the model calls it."""
        return str(self.spec["function"]["name"])


@functools.cache
def _things() -> list[str]:
    """Names of concepts that no pool keeps for measuring."""
    pools = {**phrases("facts")["pools"], **phrases("tools")["pools"]}
    kept = {value for pool in pools.values() for value in between(pool, "test")}
    return [c.name for c in CONCEPTS if c.name not in kept and c.phrase != c.name]


def _draw(rng: random.Random, source: Any, split: Split) -> Said:
    """A value from an enumeration, a generator or a pool."""
    pools = {**phrases("facts")["pools"], **phrases("tools")["pools"]}
    if isinstance(source, list):
        chosen = str(rng.choice(source))
        return Said(chosen, chosen)
    if source in _GENERATED:
        text = draw_value(rng, {"gen": source}, split)["v"]
        number = source in ("number", "age")
        return Said(int(text) if number else text, text)
    match source:
        case "small" | "few" | "warm":
            low, high = {"small": (2, 60), "few": (2, 12), "warm": (14, 28)}[source]
            whole = rng.randint(low, high)
            return Said(whole, str(whole))
        case "decimal":
            amount = rng.choice((float(rng.randint(5, 300)) + 0.5, rng.randint(100, 9999) / 100))
            return Said(amount, str(amount))
        case "foreign":
            chosen = "".join(rng.choices(_FOREIGN, k=rng.randint(2, 4)))
            return Said(chosen, chosen)
        case "thing":
            chosen = rng.choice(_things())
            return Said(chosen, chosen)
        case "onoff":
            on = rng.random() < 0.5
            return Said(on, "on" if on else "off")
        case "yesno":
            yes = rng.random() < 0.5
            return Said(yes, "yes" if yes else "no")
        case "urgent":
            urgent = rng.random() < 0.5
            return Said(urgent, "urgent" if urgent else "not urgent")
        case _:
            chosen = str(rng.choice(between(pools[source], split)))
            return Said(chosen, chosen)


def _property(rng: random.Random, kind: str, about: str, source: Any, bare: bool) -> dict[str, Any]:
    """The JSON schema of one argument."""
    made: dict[str, Any] = {"type": kind}
    if isinstance(source, list):
        made["enum"] = list(source)
    if kind == "array":
        made["items"] = {"type": "string"}
    if kind == "object":
        inner = {k: _property(rng, t, a, s, True) for k, (t, a, s) in source.items()}
        made |= {"properties": inner, "required": list(inner)}
    if about and not bare:
        made = (
            {"description": about, **made} if rng.random() < 0.6 else {**made, "description": about}
        )
    return made


def _spec(
    rng: random.Random, name: str, words: str, args: dict[str, Any], optional: Sequence[str] = ()
) -> dict[str, Any]:
    bare = rng.random() < 0.5
    properties = {
        k: _property(rng, kind, about, source, bare) for k, (kind, about, source) in args.items()
    }
    required = [k for k in args if k not in optional]
    parameters = {"properties": properties, "required": required, "type": "object"}
    if not required:
        del parameters["required"]
    function = {"name": name, "description": words, "parameters": parameters}
    return {"type": "function", "function": function}


def _offer(rng: random.Random, split: Split, like: dict[str, Any] | None = None) -> Tool:
    """A random function; in measuring mostly one that was never trained on."""
    book = [*phrases("tools")["tools"], *phrases("tools_more")["tools"]]
    if like is not None or (split == "train" and rng.random() < 0.35):
        about = made_function(rng, like)
        name, words = rng.choice(about["names"]), rng.choice(about["about"])
        return Tool(about, _spec(rng, name, words, about["args"], about["optional"]))
    if rng.random() < 0.18:  # a function of no meaning, so that names and numbers are read
        name = made_up(rng).lower() + rng.choice(("", "_score", "_of", "_check", "ify"))
        kind, source = rng.choice((("integer", "small"), ("integer", "number"), ("string", "code"),
                                   ("string", "made_up"), ("number", "decimal"),
                                   ("string", "foreign"), ("string", "thing"),
                                   ("string", "person"), ("", "")))  # fmt: skip
        arg = rng.choice(("x", "n", "value", "amount", "text", "key", "arg", "data"))
        asks = {"ask": _CALL, "ask_test": _CALL_TEST}
        if not kind:
            asks = {"ask": _NO_ARGUMENTS, "ask_test": _NO_ARGUMENTS_TEST}
        about = {
            key: [a.replace("{f}", name).replace("{v}", f"{{{arg}}}") for a in lines]
            for key, lines in asks.items()
        } | {
            "args": {arg: [kind, "", source]} if kind else {},
            "result": "{r3}",
            "answer": f"The {name} of {{{arg}}} is {{r3}}." if kind else f"{name} gives {{r3}}.",
        }
        words = rng.choice(
            (f"The {name} of a value.", "A function of our own.", f"Calculate {name}.")
        )
        return Tool(about, _spec(rng, name, words, about["args"]))
    unseen = split == "test" and rng.random() < 0.6
    asked = "ask" if split == "train" else "ask_test"
    about = rng.choice([t for t in book if bool(t.get("only_test")) == unseen and asked in t])
    name, words = rng.choice(about["names"]), rng.choice(about["about"])
    if rng.random() < 0.15:  # another habit of writing names
        name = "".join(part.capitalize() for part in name.split("_"))
    return Tool(about, _spec(rng, name, words, about["args"]))


def _results(rng: random.Random, split: Split) -> dict[str, str]:
    book = phrases("tools")
    drawn = {key: rng.choice(book[key]) for key in ("sky", "state", "street", "topicfact",
                                                    "errorfact")}  # fmt: skip
    return drawn | {
        "r1": str(rng.randint(2, 40)), "r2": str(rng.randint(2, 9)),
        "r3": str(rng.randint(11, 9999)),
        "rcode": draw_value(rng, {"gen": "code"}, split)["v"], "rword": made_up(rng).lower(),
        "rword2": made_up(rng), "rname": draw_name(rng, split),
        "rphone": str(rng.randint(10**6, 10**7)),
        "rtime": draw_value(rng, {"gen": "time"}, split)["v"],
        "rjob": rng.choice(between(phrases("facts")["pools"]["job"], split)),
    }  # fmt: skip


def _fill(form: str, values: dict[str, str]) -> str:
    for key, value in values.items():
        form = form.replace(f"{{{key}}}", value).replace(
            f"{{{key.capitalize()}}}", value[:1].upper() + value[1:]
        )
    return form


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A call as the engine writes and reads it."""
    return FORMAT.mark + FORMAT.head(name) + json.dumps(arguments, ensure_ascii=False) + FORMAT.tail


@dataclass(frozen=True)
class Asked:
    """A request, the call that it needs, what the function gives, and what is made of that."""

    question: str
    call: str
    result: str
    answer: str
    key: str


def _values(
    rng: random.Random, args: dict[str, Any], split: Split
) -> tuple[dict[str, Any], dict[str, str]]:
    """Drawn arguments as JSON has them, and as people say them."""
    data: dict[str, Any] = {}
    said: dict[str, str] = {}
    for key, (kind, _, source) in args.items():
        if kind == "array":
            drawn = {str(_draw(rng, source, split).data) for _ in range(rng.choice((1, 2, 3)))}
            data[key] = sorted(drawn)
            said[key] = _listed(data[key])
        elif kind == "object":
            inner = {k: _draw(rng, s, split) for k, (_, _, s) in source.items()}
            data[key] = {k: v.data for k, v in inner.items()}
            said |= {k: v.said for k, v in inner.items()}
        else:
            value = _draw(rng, source, split)
            data[key], said[key] = value.data, value.said
    return data, said


def ask(
    rng: random.Random, tool: Tool, split: Split, given: dict[str, Said] | None = None
) -> Asked:
    """A request for this function.

    Args:
        rng: draws everything.
        tool: the function.
        split: which words and values.
        given: arguments that are not drawn.
    """
    about = tool.about
    args, lines = about["args"], about["ask" if split == "train" else "ask_test"]
    if about.get("optional") and rng.random() < 0.5:
        args = {k: how for k, how in args.items() if k not in about["optional"]}
        lines = about["short"]
    data, said = _values(rng, args, split)
    for key, value in (given or {}).items():
        data[key], said[key] = value.data, value.said
    drawn = _results(rng, split)
    question = _fill(rng.choice(lines), said)
    if split == "train" and rng.random() < 0.12:
        question += rng.choice((" Use the tool.", " Use your functions.", f" Use {tool.name}."))
    result = _fill(about["result"], {**said, **drawn})
    answer = _fill(about["answer"], {**said, **drawn})
    key = next((drawn[k] for k in drawn if f"{{{k}}}" in about["answer"]), "")
    call = call_text(tool.name, data)
    return Asked(question[:1].upper() + question[1:], call, result, answer, key)


def specs_of(tools: Sequence[Tool]) -> tuple[dict[str, Any], ...]:
    """The functions as the engine's grammar takes them."""
    return tuple(t.spec["function"] for t in tools)


def rendered(turns: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The turns with the functions written into them, as the engine writes them."""
    return tuple(FORMAT.prepare(list(turns), [t.spec for t in tools]))


def offers(rng: random.Random, number: int, split: Split = "train") -> list[Tool]:
    """Different functions; in training some that differ in little from one another."""
    tools: list[Tool] = []
    while len(tools) < number:
        like = tools[-1].about if tools and split == "train" and rng.random() < 0.5 else {}
        tool = _offer(rng, split, like if "verb" in like else None)
        if tool.name not in [t.name for t in tools] and tool.about not in [t.about for t in tools]:
            tools.append(tool)
    rng.shuffle(tools)
    return tools


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _form(rng: random.Random, form: dict[str, Any], split: Split) -> tuple[str, dict[str, Any]]:
    """A text and the form filled in from it."""
    if form.get("moods"):
        moods = phrases("tools")["moods"]
        mood = rng.choice(list(moods))
        lines = moods[mood]
        return rng.choice(lines[:-1] if split == "train" else lines[-1:]), {"mood": mood}
    data, said = _values(rng, form["args"], split)
    text = _fill(rng.choice(form["text" if split == "train" else "text_test"]), said)
    if rng.random() < 0.35:
        parts = [text, rng.choice(phrases("tools")["extra"])]
        rng.shuffle(parts)
        text = " ".join(parts)
    return text, data


def form_dialogue(rng: random.Random, split: Split = "train") -> Dialogue:
    """Texts to be put into JSON, as an answer or as the call of a function named for the form."""
    book = phrases("tools")
    asks = book["form_asks" if split == "train" else "form_asks_test"]
    number = 3 if split == "train" else 1
    unseen = split == "test" and rng.random() < 0.6
    written = [*book["forms"], *phrases("tools_more")["forms"]]
    forms = [
        f for f in written
        if bool(f.get("only_test")) == unseen and (split == "train" or "text_test" in f
                                                   or f.get("moods"))
    ]  # fmt: skip
    system = [say(rng.choice(_ORDERS), "system")] if rng.random() < 0.3 else []
    called = rng.random() < 0.3
    if split == "train" and rng.random() < 0.35:
        made = [made_function(rng) for _ in range(3)]
        forms = [
            {"args": {k: v for k, v in f["args"].items() if k not in f["optional"]},
             "text": f["text"], "about": f["form"]}
            for f in made if len(f["args"]) > len(f["optional"])
        ] or forms  # fmt: skip
    form = rng.choice(forms)
    name = form["about"].capitalize() if rng.random() < 0.6 else f"save_{form['about']}"
    tool = Tool(form, _spec(rng, name, rng.choice(("", f"A {form['about']}.")), form["args"]))
    talks = []
    for _ in range(number):
        chosen = form if called else rng.choice(forms)
        text, data = _form(rng, chosen, split)
        words = rng.choice(asks).format(keys=_listed(list(data)), about=chosen["about"])
        lines = [text, words] if rng.random() < 0.5 else [words, text]
        question = user("\n".join(line for line in lines if line))
        if called:
            call = call_text(tool.name, data)
            turns = rendered([*system, user(text), say(call)], [tool])
            talks.append(Talk("form_call", turns, (call,), (tool.spec["function"],)))
            continue
        answer = json.dumps(data, ensure_ascii=False)
        schema = _spec(rng, "form", "", chosen["args"])["function"]["parameters"]
        talks.append(Talk("json", (*system, question, say(answer)), (answer,), schema=schema))
    return Dialogue("form", tuple(talks))
