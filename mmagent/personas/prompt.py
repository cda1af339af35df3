"""Writes a persona into the words that a model reads. Pure: a persona and names in, text out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from mmagent.personas.macros import MacroContext, fill_macros
from mmagent.untrusted import display_name, neutralise

__all__ = [
    "DEFAULT_INSTRUCTIONS",
    "Dialogue",
    "parse_examples",
    "render",
    "render_system_prompt",
    "with_original",
]

DEFAULT_INSTRUCTIONS = {
    "en": "You are {{char}}. Talk with {{user}} and stay in character.",
    "zh": "你是{{char}}。以{{char}}的身份与{{user}}交谈，不要脱离角色。",
}
"""What a persona without instructions of its own says, and what `{{original}}` stands for."""

_BELOW_DEVELOPER = {
    "en": "You play the character described below. Where it conflicts with the above, "
    "the above holds.",
    "zh": "你扮演下面描述的角色。若与以上要求冲突，以以上要求为准。",
}
_LABELS = {
    "en": {
        "personality": "Personality: ",
        "scenario": "Scenario: ",
        "examples": "Examples of how {{char}} talks:\n",
    },
    "zh": {"personality": "性格：", "scenario": "场景：", "examples": "{{char}}说话的例子：\n"},
}
_ORIGINAL = re.compile(r"\{\{\s*original\s*\}\}", re.IGNORECASE)
_START = re.compile(r"^[ \t]*<START>[ \t\r]*$", re.IGNORECASE | re.MULTILINE)

Dialogue = list[tuple[str, str]]
"""Turns of one example conversation: (speaker, words); the speaker is "user" or "char"."""


class _Described(Protocol):
    """The fields of a persona that reach the system prompt."""

    @property
    def spoken_name(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def instructions(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def personality(self) -> str: ...
    @property
    def scenario(self) -> str: ...
    @property
    def examples(self) -> str: ...


def render(text: str, char: str, user: str, macros: MacroContext | None = None) -> str:
    """Fill a persona's text and disarm what is not words in it."""
    names = {"char": neutralise(char), "user": display_name(user)}
    macros = macros or MacroContext()
    filled = fill_macros(text, replace(macros, values={**macros.values, **names}))
    return neutralise(filled).strip()


def with_original(text: str, original: str) -> str:
    """Put what the host would have said into the place that the card leaves for it."""
    return _ORIGINAL.sub(lambda _: original, text)


def render_system_prompt(
    persona: _Described,
    user: str,
    developer: str | None,
    max_example_chars: int,
    macros: MacroContext | None = None,
    lore: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> str:
    """Return the developer's words, if any, and below them the persona's.

    Args:
        persona: Whose prompt it is.
        user: Whom it talks with.
        developer: The application's own instructions.
        max_example_chars: How much of the example conversations to add.
        macros: What macros depend on.
        lore: What is always said, before and after the description.
    """
    language = "zh" if persona.language.lower().startswith("zh") else "en"
    labels = _LABELS[language]
    original = DEFAULT_INSTRUCTIONS[language]
    parts = [with_original(persona.instructions or original, original)]
    parts += [*lore[0], persona.description, *lore[1]]
    for name, text in (("personality", persona.personality), ("scenario", persona.scenario)):
        parts.append(labels[name] + text if text.strip() else "")
    examples = _examples_within(persona.examples, max_example_chars)
    parts.append(labels["examples"] + examples if examples else "")
    filled = [render(part, persona.spoken_name, user, macros) for part in parts]
    if developer and developer.strip():
        filled = [developer.strip(), _BELOW_DEVELOPER[language], *filled]
    return "\n\n".join(part for part in filled if part)


def _examples_within(examples: str, max_chars: int) -> str:
    """Return as many whole example conversations, from the first, as the characters allow."""
    kept: list[str] = []
    for block in _START.split(examples):
        words = block.strip()
        if words and sum(map(len, kept)) + len(words) <= max_chars:
            kept.append(words)
    return "\n\n".join(kept)


def parse_examples(examples: str, char: str, user: str) -> list[Dialogue]:
    """Split a card's example dialogues into conversations and turns.

    A line that starts with a name and a colon opens a turn; further lines belong to it. Words
    before the first name are the character's (some cards hold only those).
    """
    speaker_of = {char.lower(): "char", "{{char}}": "char", "<bot>": "char"}
    speaker_of |= {user.lower(): "user", "{{user}}": "user", "<user>": "user"}
    opening = re.compile(
        rf"^[ \t]*({'|'.join(map(re.escape, speaker_of))})[ \t]*[:：][ \t]*",
        re.IGNORECASE | re.MULTILINE,
    )
    dialogues = []
    for block in _START.split(examples):
        pieces = opening.split(block.strip())
        turns: Dialogue = [("char", pieces[0])] if pieces[0].strip() else []
        for name, words in zip(pieces[1::2], pieces[2::2], strict=True):
            turns.append((speaker_of[name.lower()], words))
        filled = [(who, render(words, char, user)) for who, words in turns]
        if filled:
            dialogues.append(filled)
    return dialogues
