"""Functions put together from parts, so that names and arguments are read and not learnt by heart.

A written function (`phrases/tools.yaml`) has a meaning that can be guessed from the question. One
that is put together has neighbours that differ in a single word (`close_ticket`, `open_ticket`,
`close_account`), so that only its name and the names of its arguments tell it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

__all__ = ["made_function"]

_VERBS = (
    "create", "open", "close", "check", "find", "start", "stop", "ship", "rate", "copy", "print",
    "sell", "clean", "update", "delete", "pay", "move", "assign", "archive", "approve", "reject",
    "rename", "pause", "unlock", "lock", "repair", "rent", "share", "inspect", "renew",
)  # fmt: skip
_NOUNS = (
    "invoice", "ticket", "account", "room", "lamp", "parcel", "poster", "playlist", "contract",
    "machine", "seat", "photo", "page", "sensor", "garden", "lesson", "trip", "camera", "door",
    "report", "survey", "licence", "server", "coupon", "member", "shelf", "boat", "job", "label",
    "channel",
)  # fmt: skip
# Arguments: name, type, what it says of itself, where its values come from.
_ARGS: tuple[tuple[str, str, str, Any], ...] = (
    ("customer", "string", "Who it is for.", "person"),
    ("owner", "string", "Who has it.", "person"),
    ("amount", "number", "How much money.", "decimal"),
    ("weight", "number", "In kilograms.", "decimal"),
    ("count", "integer", "How many.", "few"),
    ("level", "integer", "From 1 to 60.", "small"),
    ("pages", "integer", "Number of pages.", "number"),
    ("size", "string", "How big.", ["small", "medium", "large"]),
    ("priority", "string", "How important.", ["low", "normal", "high"]),
    ("unit", "string", "The unit.", ["metre", "mile", "foot"]),
    ("colour", "string", "The colour.", "colour"),
    ("city", "string", "Where.", "city"),
    ("date", "string", "The date.", "date"),
    ("day", "string", "The day.", "weekday"),
    ("time", "string", "The time.", "time"),
    ("code", "string", "Its code.", "code"),
    ("key", "string", "Its key.", "made_up"),
    ("language", "string", "Which language.", "language"),
    ("note", "string", "A note.", "message"),
    ("express", "boolean", "Whether it is urgent.", "yesno"),
    ("private", "boolean", "Whether only the owner sees it.", "yesno"),
    ("people", "array", "Names.", "person"),
    ("tags", "array", "Words to find it by.", "hobby"),
    ("address", "object", "Where it is.",
     {"city": ["string", "", "city"], "number": ["integer", "", "number"]}),
)  # fmt: skip
_WITH = (
    "{V} the {noun}: {pairs}.", "Please {verb} the {noun} with {pairs}.", "{V} a {noun}, {pairs}.",
    "I want to {verb} a {noun}. {pairs}.", "{verb} {noun}: {pairs}", "{V} {noun} {pairs}.",
    "We have to {verb} the {noun}, {pairs}.",
)  # fmt: skip
_ALONE = ("{V} the {noun}.", "Please {verb} the {noun}.", "I want to {verb} the {noun}.")


def _pairs(rng: random.Random, args: Sequence[str]) -> str:
    """As in: owner {owner}, size {size}; in any order."""
    said = []
    for name in rng.sample(args, len(args)):
        value = "city {city}, number {number}" if name == "address" else f"{{{name}}}"
        gap = rng.choice((" ", " ", ": ", " is "))
        said.append(value if name == "address" else f"{name}{gap}{value}")
    return ", ".join(said) if rng.random() < 0.5 else " and ".join(said)


def _lines(rng: random.Random, verb: str, noun: str, args: Sequence[str]) -> list[str]:
    """Ways to ask for it, with places for the values."""
    out = []
    for form in rng.sample(_WITH if args else _ALONE, 3):
        pairs = _pairs(rng, args)
        out.append(form.format(V=verb.capitalize(), verb=verb, noun=noun, pairs=pairs))
    return out


def made_function(rng: random.Random, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """A function as `phrases/tools.yaml` describes them.

    Args:
        rng: draws everything.
        like: one that was made; the new one shares its verb or its noun, and often its arguments.
    """
    verb, noun = rng.choice(_VERBS), rng.choice(_NOUNS)
    chosen = rng.sample(_ARGS, rng.choices((0, 1, 2, 3), (1, 4, 4, 2))[0])
    if like is not None:
        if rng.random() < 0.5:
            verb = like["verb"]
        else:
            noun = like["noun"]
        if rng.random() < 0.5:
            chosen = list(like["chosen"])
    if {"address", "city"} <= {c[0] for c in chosen}:
        chosen = [c for c in chosen if c[0] != "city"]
    args = {name: [kind, about, source] for name, kind, about, source in chosen}
    optional = [chosen[-1][0]] if len(chosen) > 1 and rng.random() < 0.3 else []
    number = rng.random() < 0.5
    short = [a for a in args if a not in optional]
    return {
        "verb": verb,
        "noun": noun,
        "chosen": chosen,
        "names": [f"{verb}_{noun}", f"{noun}_{verb}", f"{verb}{noun.capitalize()}"],
        "about": [f"{verb.capitalize()} a {noun}.", f"{verb.capitalize()}s one {noun}.", ""],
        "args": args,
        "optional": optional,
        "ask": _lines(rng, verb, noun, list(args)),
        "short": _lines(rng, verb, noun, short),
        "result": rng.choice(("{r3}", '{"id": {r3}}')) if number else rng.choice(("ok", "done")),
        "answer": f"Done. The number of the {noun} is {{r3}}." if number else "Done.",
        # The same as a form that a text fills in.
        "form": noun,
        "text": [f"{noun.capitalize()}: {_pairs(rng, short)}.",
                 f"The {noun} has {_pairs(rng, short)}.",
                 f"{_pairs(rng, short)}. That is all about the {noun}."],
    }  # fmt: skip
