"""From a question to what is looked for, and from what was found to what is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from mmagent_memory.backends import Candidate, Question
from mmagent_memory.dates import Period, periods
from mmagent_memory.names import ANY_PERSONA, decode_name
from mmagent_memory.pictures import GivenPicture
from mmagent_memory.questions import only_asks, parts_of, wanted_of, without_instructions
from mmagent_memory.ranking import Signals, Wanted
from mmagent_memory.records import Stored
from mmagent_memory.voices import Voice, voice_of

__all__ = ["Asked", "about", "ask", "moment_of"]

_LONGEST = 8000
"""Characters of a question that are looked at; the patterns take long over a megabyte."""


@dataclass(frozen=True)
class Asked:
    """A question as it was understood, at the time it was asked."""

    question: Question
    periods: tuple[Period, ...]
    wanted: Wanted
    voice: Voice
    user: str
    now: datetime
    # Whether somebody's words are asked for, by who and to whom: few speak in a memory.
    _told: dict[tuple[Any, Any], bool] = field(default_factory=dict, repr=False, compare=False)

    def tells(self, speaker: str | None, label: str) -> bool:
        """Whether the words of a speaker are asked for, said to the persona of a namespace."""
        known = self._told.get((speaker, label))
        if known is None:
            persona = None if label == ANY_PERSONA else decode_name(label)
            known = self._told[speaker, label] = self.voice.of(speaker, self.user, persona)
        return known


def ask(text: str, pictures: tuple[GivenPicture, ...], now: datetime, user: str = "") -> Asked:
    """Return what a question of a user looks for."""
    plain = without_instructions(text[:_LONGEST])
    return Asked(
        question=Question(plain, pictures, tuple(parts_of(plain))),
        periods=tuple(periods(plain, now.date())),
        wanted=wanted_of(plain),
        voice=voice_of(plain),
        user=user,
        now=now,
    )


def about(candidate: Candidate, asked: Asked) -> Signals:
    """Return what is known of a candidate, its time and its conversation included."""
    found, stored = candidate.signals, candidate.stored
    value, namespace = stored.value, stored.namespace
    at = value_at(stored)
    day = _day_of(at, asked.now)
    previous = value.get("previous")
    shows = bool(value.get("images"))
    # Anew and not by `replace`, which takes as long as all the rest.
    return Signals(
        words=found.words,
        meaning=found.meaning,
        picture=found.picture,
        parts=found.parts,
        on_date=day is not None and any(period.holds(day) for period in asked.periods),
        shows=shows,
        told=asked.tells(value.get("speaker"), namespace[2]),
        only_asks=not shows and only_asks(value.get("text") or ""),
        ended=bool(value.get("valid_to")) and not asked.wanted.first,
        age_days=None if at is None else (asked.now.timestamp() - at.timestamp()) / 86_400,
        importance=value.get("importance"),
        name=(namespace, stored.key),
        previous=(namespace, previous) if previous else None,
        group=(namespace[:3], value.get("thread"), day),
        order=stored.order,
        vector=found.vector,
    )


def moment_of(stored: Stored) -> float:
    """Return when a memory is of, in seconds since 1970."""
    at = value_at(stored)
    return -math.inf if at is None else at.timestamp()


def value_at(stored: Stored) -> datetime | None:
    """Return when a memory is of."""
    at = stored.value.get("at")
    return datetime.fromisoformat(at) if at else None


def _day_of(at: datetime | None, now: datetime) -> date | None:
    if at is None:
        return None
    # "Yesterday" is meant where the question is asked.
    return (at.astimezone(now.tzinfo) if at.tzinfo and now.tzinfo else at).date()
