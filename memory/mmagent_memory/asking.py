"""From a question to what is looked for, and from what was found to what is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date, datetime

from mmagent_memory.backends import Candidate, Question
from mmagent_memory.dates import Period, periods
from mmagent_memory.names import ANY_PERSONA, decode_name
from mmagent_memory.pictures import GivenPicture
from mmagent_memory.questions import only_asks, parts_of, wanted_of, without_instructions
from mmagent_memory.ranking import Signals, Wanted
from mmagent_memory.records import Stored, image_entries
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
    stored = candidate.stored
    value = stored.value
    day = _day_of(stored, asked.now)
    previous = value.get("previous")
    moment = moment_of(stored)
    label = stored.namespace[2]
    persona = None if label == ANY_PERSONA else decode_name(label)
    shows = bool(image_entries(value))
    return replace(
        candidate.signals,
        told=asked.voice.of(value.get("speaker"), asked.user, persona),
        only_asks=not shows and only_asks(value.get("text") or ""),
        on_date=day is not None and any(period.holds(day) for period in asked.periods),
        shows=shows,
        ended=bool(value.get("valid_to")) and not asked.wanted.first,
        age_days=None if math.isinf(moment) else (asked.now.timestamp() - moment) / 86_400,
        importance=value.get("importance"),
        name=(stored.namespace, stored.key),
        previous=(stored.namespace, previous) if previous else None,
        group=(stored.namespace[:3], value.get("thread"), day),
        order=stored.order,
    )


def moment_of(stored: Stored) -> float:
    """Return when a memory is of, in seconds since 1970."""
    at = value_at(stored)
    return -math.inf if at is None else at.timestamp()


def value_at(stored: Stored) -> datetime | None:
    """Return when a memory is of."""
    at = stored.value.get("at")
    return datetime.fromisoformat(at) if at else None


def _day_of(stored: Stored, now: datetime) -> date | None:
    at = value_at(stored)
    if at is None:
        return None
    # "Yesterday" is meant where the question is asked.
    return (at.astimezone(now.tzinfo) if at.tzinfo and now.tzinfo else at).date()
