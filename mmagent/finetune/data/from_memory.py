"""Dialogues from what mmagent has remembered: a persona improves from what it lived.

A rating is what `LongTermMemory.rate` was told: 1 for a good answer, -1 for a bad one. Bad
answers are never learned from; they stay as context, since what followed refers to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmagent.errors import UsageError
from mmagent.finetune.config import MemorySettings
from mmagent.finetune.data.redact import Redactor
from mmagent.finetune.data.rows import Dialogue, PictureRef, Role, Turn
from mmagent.untrusted import display_name

if TYPE_CHECKING:
    from mmagent_memory import LongTermMemory, MemoryHit

__all__ = ["Lived", "dialogues_of", "read_memory"]

_MOST_TURNS = 16
"""Longest row; longer conversations become several rows of one conversation."""


@dataclass(frozen=True)
class Lived:
    """What came out of a memory.

    Attributes:
        dialogues: The rows.
        redacted: How often each kind of private detail was taken out.
        rated: How many answers have a rating.
    """

    dialogues: list[Dialogue]
    redacted: dict[str, int]
    rated: int


def read_memory(settings: MemorySettings) -> Lived:
    """The conversations of one user in a memory folder.

    Raises:
        UsageError: The user has not agreed, or there is nothing to learn from.
    """
    if settings.folder is None:
        raise UsageError("Name the memory folder to learn from.")
    if not settings.consent:
        raise UsageError(
            f"Learning from what {settings.user} said puts it into the model for good, where "
            "erasing the memory does not reach. If they have agreed to that, say so with "
            "--consent."
        )
    from mmagent.embedders import default_embedder
    from mmagent_memory import FaissStore, LongTermMemory

    with closing(FaissStore(settings.folder, default_embedder(), create=False)) as store:
        memory = LongTermMemory(store, user=settings.user, persona=settings.persona)
        return dialogues_of(memory, settings)


def dialogues_of(memory: LongTermMemory, settings: MemorySettings) -> Lived:
    """The conversations of a memory, oldest first.

    Raises:
        UsageError: There is nothing to learn from.
    """
    hits = [h for h in memory.list(newest_first=False) if getattr(h, "kind", "turn") == "turn"]
    if not hits:
        raise UsageError(f"Nothing is remembered of {memory.user} in this folder yet.")
    redact = Redactor([*settings.names, *_spellings(memory.user)]) if settings.redact else None
    threads: dict[tuple[str, str], list[MemoryHit]] = {}
    for hit in hits:
        day = hit.at.date().isoformat() if hit.at else ""
        threads.setdefault((hit.persona or "", hit.thread or f"day {day}"), []).append(hit)
    ratings = {hit.id: hit.rating for hit in hits}
    dialogues = []
    for number, ((persona, thread), said) in enumerate(threads.items(), start=1):
        speaker = settings.assistant or _speaker_of(persona)
        system = _system_prompt(persona, memory.user)
        rows = _rows(said, speaker, ratings, settings.rated_only, redact)
        for turns, pictures in rows:
            first: tuple[Turn, ...] = (Turn("system", (system,)),) if system else ()
            dialogues.append(
                Dialogue(
                    where=f"conversation {number} ({thread})",
                    turns=first + turns,
                    pictures=pictures,
                    conversation=f"{persona}/{thread}",
                )
            )
    rated = sum(rating is not None for rating in ratings.values())
    if not dialogues:
        wanted = "answers that were rated good" if settings.rated_only else "answers"
        raise UsageError(
            f"There are no {wanted} in the {len(hits)} memories of {memory.user}: name who "
            "answers with --from-memory-assistant, or rate answers with `mmagent finetune rate`."
        )
    return Lived(dialogues, dict(redact.found) if redact else {}, rated)


def _rows(
    said: Sequence[MemoryHit],
    speaker: str,
    ratings: dict[str, int | None],
    rated_only: bool,
    redact: Redactor | None,
) -> list[tuple[tuple[Turn, ...], tuple[PictureRef, ...]]]:
    """A conversation as rows of turns in which somebody asks first and an answer is learned."""
    rows = []
    turns: list[Turn] = []
    pictures: list[PictureRef] = []
    for place, hit in enumerate(said):
        answers = (hit.speaker or "").casefold() == speaker.casefold()
        if not turns and answers:
            continue  # an answer to something that is not remembered
        if not answers and len(turns) >= _MOST_TURNS:
            rows.append((tuple(turns), tuple(pictures)))
            turns, pictures = [], []
        parts: list[str | int] = []
        if not answers:
            for image in hit.images:
                if image.stored:
                    pictures.append(PictureRef(image.data()))
                    parts.append(len(pictures) - 1)
        text = redact(hit.text) if redact else hit.text
        if text:
            parts.append(text)
        rating = ratings[hit.id]
        learned = answers and (rating == 1 if rated_only else rating != -1)
        role: Role = "assistant" if answers else "user"
        if turns and turns[-1].role == role and parts:
            gap: tuple[str, ...] = ("\n",) if turns[-1].text else ()
            before = turns.pop()
            learned = learned and before.trained
            parts = [*before.parts, *gap, *parts]
        if parts:
            turns.append(Turn(role, tuple(parts), trained=learned if answers else True))
        if place == len(said) - 1 and turns:
            rows.append((tuple(turns), tuple(pictures)))
    return [
        (turns, pictures)
        for turns, pictures in rows
        if any(turn.role == "assistant" and turn.trained for turn in turns)
    ]


def _spellings(user: str) -> list[str]:
    return [] if user == "user" else [user, display_name(user)]


def _speaker_of(persona: str) -> str:
    loaded = _persona(persona)
    return str(loaded.spoken_name) if loaded is not None else display_name(persona or "assistant")


def _system_prompt(persona: str, user: str) -> str:
    loaded = _persona(persona)
    return str(loaded.system_prompt(user="the user")) if loaded is not None else ""


def _persona(name: str) -> Any:
    """The persona of a name in the catalogue or on the shelf, if there is one."""
    from mmagent.errors import PersonaError
    from mmagent.personas.persona import Persona

    if not name or Path(name).name != name:
        return None
    try:
        return Persona.load(name)
    except (PersonaError, ValueError):
        return None
