"""Runs a lorebook: which entries speak now, given the conversation.

Pure: the same book, messages, memory of earlier turns and seed give the same entries. Chance is
drawn from a hash of the seed, the entry and the number of messages, so that a repeated call
(a retry, a tool loop) does not roll again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mmagent.personas.lore_keys import Key, found_in
from mmagent.personas.lorebook import Lorebook, LoreEntry
from mmagent.personas.macros import chance

__all__ = ["Activation", "LoreClock", "activate", "estimate_tokens"]

_COMMENT = re.compile(r"\{\{\s*(?://|comment\s*:)[^{}]*\}\}", re.IGNORECASE)
MAX_ROUNDS = 8
"""How often contents may wake further entries in one turn."""

LoreClock = Mapping[str, int]
"""By entry id, the number of messages at which it last awoke; plain data to keep with a thread."""


@dataclass(frozen=True)
class Activation:
    """What speaks in one turn.

    Attributes:
        entries: In the order in which they are placed.
        clock: To be given back in the next turn.
        dropped: Entries that would have spoken, with the reason why they do not.
    """

    entries: tuple[LoreEntry, ...] = ()
    clock: LoreClock = field(default_factory=dict)
    dropped: tuple[tuple[LoreEntry, str], ...] = ()


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, for want of a tokenizer; rather too many."""
    wide = sum(ord(letter) > 0x2E7F for letter in text)
    return wide + -(-(len(text) - wide) // 3)


def activate(
    book: Lorebook,
    messages: Sequence[str],
    *,
    clock: LoreClock | None = None,
    seed: str = "",
    count_tokens: Callable[[str], int] = estimate_tokens,
    budget: int | None = None,
    answers: int | None = None,
) -> Activation:
    """Return the entries that speak after these messages.

    Args:
        book: The book.
        messages: The conversation's texts, oldest first.
        clock: From the turn before.
        seed: For chance; for instance the thread's id.
        count_tokens: Measures contents for the budget.
        budget: Most tokens of lore, if the book's own budget is not smaller.
        answers: How many of the messages are the character's; half of them, if not given.
    """
    said = len(messages) // 2 if answers is None else answers
    turn = _Turn(book, messages, dict(clock or {}), seed, said)
    awake = turn.wake()
    chosen = turn.one_of_each_group(awake)
    limits = [limit for limit in (budget, book.token_budget) if limit is not None]
    spoken = turn.within(chosen, min(limits) if limits else None, count_tokens)
    now = len(messages)
    fresh = {
        entry.id: now for entry in spoken if turn.needs_clock(entry) and not turn.is_held(entry)
    }
    # What was written at a later message belongs to a branch of the conversation that is gone.
    kept = {name: at for name, at in turn.clock.items() if at <= now}
    return Activation(tuple(spoken), kept | fresh, tuple(turn.dropped))


class _Turn:
    """The rules of one turn."""

    def __init__(
        self,
        book: Lorebook,
        messages: Sequence[str],
        clock: dict[str, int],
        seed: str,
        answers: int,
    ) -> None:
        self.book = book
        self.answers = answers
        self.messages = messages
        self.clock = {name: at for name, at in clock.items() if at <= len(messages)}
        self.seed = seed
        self.dropped: list[tuple[LoreEntry, str]] = []

    # Time

    def needs_clock(self, entry: LoreEntry) -> bool:
        return bool(entry.sticky or entry.cooldown or entry.once_only or entry.stays)

    def is_held(self, entry: LoreEntry) -> bool:
        """Whether it still speaks from an earlier turn."""
        awoke = self.clock.get(entry.id)
        if awoke is None:
            return False
        age = len(self.messages) - awoke
        return entry.stays or age == 0 or age < entry.sticky

    def _may_speak(self, entry: LoreEntry) -> bool:
        now = len(self.messages)
        if not entry.enabled or now < entry.delay or self.answers < entry.after_answers:
            return False
        if entry.every and self.answers % entry.every:
            return False
        awoke = self.clock.get(entry.id)
        if awoke is None or awoke == now:
            return True
        return not entry.once_only and now - awoke >= entry.sticky + entry.cooldown

    # Keys

    def _text_for(self, entry: LoreEntry, said: str) -> str:
        depth = self.book.scan_depth if entry.scan_depth is None else entry.scan_depth
        recent = self.messages[-depth:] if depth else []
        return "\n".join([*recent, said]) if said and entry.from_recursion else "\n".join(recent)

    def _is_called(self, entry: LoreEntry, said: str) -> bool:
        if entry.only_recursion and not said:
            return False
        text = said if entry.only_recursion else self._text_for(entry, said)
        if _any(entry.excluded, text) or (
            entry.additional and not entry.constant and not _any(entry.additional, text)
        ):
            return False
        if entry.constant:
            return True
        if not _any(entry.keys, text):
            return False
        if not entry.secondary:
            return True
        hits = [found_in(key, text) for key in entry.secondary]
        return {
            "and_any": any(hits),
            "and_all": all(hits),
            "not_any": not any(hits),
            "not_all": not all(hits),
        }[entry.logic]

    def _is_lucky(self, entry: LoreEntry) -> bool:
        drawn = chance(self.seed, "probability", entry.id, len(self.messages)) * 100
        return drawn < entry.probability

    def wake(self) -> list[LoreEntry]:
        """Return who wants to speak, waking others by what the first ones say."""
        awake = [e for e in self.book.entries if e.enabled and self.is_held(e)]
        held = {entry.id for entry in awake}
        waiting = [e for e in self.book.entries if e.id not in held and self._may_speak(e)]
        said = ""
        for _ in range(MAX_ROUNDS):
            called = {entry.id for entry in waiting if self._is_called(entry, said)}
            lucky = [entry for entry in waiting if entry.id in called and self._is_lucky(entry)]
            chosen = {entry.id for entry in lucky}
            self.dropped += [(e, "chance") for e in waiting if e.id in called - chosen]
            waiting = [entry for entry in waiting if entry.id not in called]
            awake += lucky
            contents = (_aloud(e.content) for e in awake if e.feeds_recursion)
            said_before, said = said, "\n".join(contents)
            if not self.book.recursive or said == said_before:
                break
        return awake

    # Groups and budget

    def one_of_each_group(self, awake: list[LoreEntry]) -> list[LoreEntry]:
        """Keep one entry of every group."""
        kept = list(awake)
        for group in sorted({name for entry in awake for name in entry.groups}):
            members = [entry for entry in kept if group in entry.groups]
            if len(members) < 2:
                continue
            winner = self._winner(group, members)
            self.dropped += [(e, f"group {group}") for e in members if e is not winner]
            kept = [e for e in kept if e is winner or e not in members]
        return kept

    def _winner(self, group: str, members: list[LoreEntry]) -> LoreEntry:
        held = [entry for entry in members if self.is_held(entry)]
        if held:
            return held[0]
        first = [entry for entry in members if entry.group_first]
        if first:
            return max(first, key=lambda entry: entry.order)
        total = sum(entry.group_weight for entry in members)
        drawn = chance(self.seed, "group", group, len(self.messages)) * total
        for entry in members:
            drawn -= entry.group_weight
            if drawn < 0:
                return entry
        return members[-1]

    def within(
        self, entries: Iterable[LoreEntry], budget: int | None, count_tokens: Callable[[str], int]
    ) -> list[LoreEntry]:
        """Keep what fits, the constant and the important first, and put it into its order."""
        kept = []
        spent = 0
        ranked = sorted(entries, key=lambda e: (not e.constant, -e.priority, e.order))
        for entry in ranked:
            cost = count_tokens(entry.content)
            if budget is not None and spent + cost > budget and not entry.over_budget:
                self.dropped.append((entry, "budget"))
                continue
            spent += cost
            kept.append(entry)
        place = {entry.id: number for number, entry in enumerate(self.book.entries)}
        return sorted(kept, key=lambda entry: place[entry.id])


def _aloud(content: str) -> str:
    """Return a content without its comments, which wake nobody; hidden keys do."""
    return _COMMENT.sub("", content)


def _any(keys: Iterable[Key], text: str) -> bool:
    return any(found_in(key, text) for key in keys)
