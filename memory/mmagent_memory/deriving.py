"""Deriving facts, summaries and captions from turns, step by step; each step is kept at once.

What was read is recorded with what came of it in one transaction, so that deriving again reads
only what is new, and deriving that was killed goes on where it was. The turns themselves are never
touched. Whose turns are gone, by whatever way, loses what was derived from them first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from mmagent_memory.answers import ModelCall, WrongAnswerError
from mmagent_memory.backends import Backend, NewMemory, Steps
from mmagent_memory.cascade import without_turns
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.facts import SYSTEM, apply_answer, is_valid, prompt
from mmagent_memory.names import ANY_PERSONA, decode_name, derived_namespace, is_derived
from mmagent_memory.records import CAPTION, FACT, PROGRESS, SUMMARY, Stored, image_entries, kind_of
from mmagent_memory.summaries import (
    CAPTION_SYSTEM,
    SUMMARY_SYSTEM,
    caption_content,
    caption_of,
    is_settled,
    sessions,
    summary_key,
    summary_of,
    summary_prompt,
)
from mmagent_memory.text import question_words

__all__ = ["WHAT", "DeriveReport", "derive_steps", "forget_steps"]

Namespace = tuple[str, ...]
WHAT = ("facts", "summaries", "captions")
_MOST_TURNS = 12
_MOST_CHARS = 6000
_MOST_FACTS = 40


@dataclass
class DeriveReport:
    """What one derivation did.

    Attributes:
        added: New facts.
        superseded: Facts that gave way to a new one.
        retracted: Facts that are no longer true.
        confirmed: Facts that were said again.
        summaries: Sessions summarised.
        captions: Pictures described.
        withdrawn: Derived records whose turns are gone, and that went too.
        read: Turns that were read for facts.
        ignored: Facts that were left out, each with the reason.
        failures: Answers that were wrong and changed nothing, each with the reason; what they
            were about is asked again next time.
    """

    added: int = 0
    superseded: int = 0
    retracted: int = 0
    confirmed: int = 0
    summaries: int = 0
    captions: int = 0
    withdrawn: int = 0
    read: int = 0
    ignored: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything derived is different now."""
        facts = self.added or self.superseded or self.retracted or self.confirmed
        return bool(facts or self.summaries or self.captions or self.withdrawn)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**self.__dict__, "ignored": list(self.ignored), "failures": list(self.failures)}


@dataclass
class _Book:
    """The turns of one memory and what is derived from them."""

    place: Namespace
    turns: list[Stored] = field(default_factory=list)
    derived: dict[str, Stored] = field(default_factory=dict)

    @property
    def home(self) -> Namespace:
        return derived_namespace(self.place)

    def of(self, kind: str) -> list[Stored]:
        return [one for one in self.derived.values() if kind_of(one.value) == kind]

    def keep(self, values: dict[str, dict[str, Any]], removed: Iterable[str] = ()) -> None:
        for key in removed:
            self.derived.pop(key, None)
        for key, value in values.items():
            self.derived[key] = Stored(self.home, key, value)


def derive_steps(
    backend: Backend,
    prefix: Namespace,
    model: Any,
    what: Sequence[str],
    now: datetime,
    settled: timedelta,
) -> Steps[DeriveReport]:
    """Derive what is not derived yet below a prefix."""
    unknown = [one for one in what if one not in WHAT]
    if unknown or isinstance(what, str):
        raise MemoryUsageError(f"What is derived must be some of {', '.join(WHAT)}, not {what!r}.")
    if not hasattr(model, "invoke"):
        raise MemoryUsageError(
            f"Deriving needs a LangChain chat model, not {type(model).__name__}."
        )
    report = DeriveReport()
    books: dict[Namespace, _Book] = {}
    for stored in (yield from backend.everything(prefix)):
        book = books.setdefault(stored.namespace[:3], _Book(stored.namespace[:3]))
        if is_derived(stored.namespace):
            book.derived[stored.key] = stored
        else:
            book.turns.append(stored)
    for book in books.values():
        yield from _withdraw(backend, book, report)
        if "captions" in what:
            yield from _captions(backend, book, model, report)
        if "facts" in what:
            yield from _facts(backend, book, model, report)
        if "summaries" in what:
            yield from _summaries(backend, book, model, now - settled, report)
    return report


def forget_steps(backend: Backend, stored: Stored) -> Steps[None]:
    """Withdraw what was derived from a turn, or from a fact, that is about to be forgotten."""
    home = derived_namespace(stored.namespace)
    derived = yield from backend.everything(home)
    if derived:
        changed, removed = without_turns(derived, {stored.key})
        yield from _write(backend, home, changed, removed)


def _withdraw(backend: Backend, book: _Book, report: DeriveReport) -> Steps[None]:
    """Let go of what was derived from turns that have expired or were deleted elsewhere."""
    known = {turn.key for turn in book.turns}
    named = {turn for one in book.derived.values() for turn in one.value.get("sources") or ()}
    if named - known:
        changed, removed = without_turns(book.derived.values(), named - known)
        yield from _write(backend, book.home, changed, removed)
        book.keep(changed, removed)
        report.withdrawn += len(removed)


def _facts(backend: Backend, book: _Book, model: Any, report: DeriveReport) -> Steps[None]:
    read = {turn for one in book.of(PROGRESS) for turn in one.value["sources"]}
    label = book.place[2]
    persona = None if label == ANY_PERSONA else decode_name(label)
    for turns in _batches([turn for turn in book.turns if turn.key not in read]):
        known = _offered(book.of(FACT), turns)
        answer = yield ModelCall(model, SYSTEM, prompt(known, turns))
        try:
            if isinstance(answer, WrongAnswerError):
                raise answer
            changes = apply_answer(answer, known, turns, persona)
        except WrongAnswerError as error:
            report.failures.append(f"facts of {len(turns)} turns from {turns[0].key}: {error}")
            continue
        if not (yield from _are_there(backend, turns)):
            continue  # Forgotten while the model read it; the rest is read next time.
        ids = [turn.key for turn in turns]
        records = {**changes.records, _progress_key(ids): _progress(ids)}
        yield from _write(backend, book.home, records, ())
        book.keep(records)
        report.read += len(turns)
        report.ignored += changes.ignored
        for name, count in changes.counts.items():
            setattr(report, name, getattr(report, name) + count)


def _summaries(
    backend: Backend, book: _Book, model: Any, before: datetime, report: DeriveReport
) -> Steps[None]:
    made = {one.key: list(one.value["sources"]) for one in book.of(SUMMARY)}
    for turns in sessions(book.turns):
        key, ids = summary_key(turns), [turn.key for turn in turns]
        if made.get(key) == ids or not is_settled(turns, before):
            continue
        answer = yield ModelCall(model, SUMMARY_SYSTEM, summary_prompt(turns))
        try:
            if isinstance(answer, WrongAnswerError):
                raise answer
            value = summary_of(answer, turns)
        except WrongAnswerError as error:
            report.failures.append(f"summary of {len(turns)} turns from {ids[0]}: {error}")
            continue
        if (yield from _are_there(backend, turns)):
            # One that began with a turn since forgotten is another's key, and covers the same.
            stale = [k for k, sources in made.items() if k != key and set(sources) & set(ids)]
            yield from _write(backend, book.home, {key: value}, stale)
            book.keep({key: value}, stale)
            report.summaries += 1


def _captions(backend: Backend, book: _Book, model: Any, report: DeriveReport) -> Steps[None]:
    if (getattr(model, "profile", None) or {}).get("image_inputs") is False:
        return
    made = {(one.value["sources"][0], one.value.get("image")) for one in book.of(CAPTION)}
    for turn in book.turns:
        for entry in image_entries(turn.value):
            known = entry.get("caption") or (turn.key, entry["id"]) in made
            if known or not entry.get("stored", True):
                continue
            data = yield from backend.picture(turn.namespace, entry["id"])
            if data is None:
                continue
            content = caption_content(data, entry.get("mime_type") or "")
            answer = yield ModelCall(model, CAPTION_SYSTEM, content)
            try:
                if isinstance(answer, WrongAnswerError):
                    raise answer
                key, value = caption_of(answer, turn, entry["id"])
            except WrongAnswerError as error:
                report.failures.append(f"caption of a picture of {turn.key}: {error}")
                continue
            if (yield from _are_there(backend, [turn])):
                yield from _write(backend, book.home, {key: value}, ())
                book.keep({key: value})
                report.captions += 1


def _write(
    backend: Backend, home: Namespace, values: dict[str, dict[str, Any]], removed: Iterable[str]
) -> Steps[None]:
    memories = [NewMemory(key, value) for key, value in values.items()]
    yield from backend.change(home, memories, list(removed))


def _are_there(backend: Backend, turns: Sequence[Stored]) -> Steps[bool]:
    """Whether no turn was forgotten meanwhile: what a model made of it must not come back."""
    for turn in turns:
        found = yield from backend.get(turn.namespace, turn.key)
        if found is None:
            return False
    return True


def _batches(turns: Sequence[Stored]) -> list[list[Stored]]:
    """Return turns in the portions in which a model reads them, each of one conversation."""
    found: list[list[Stored]] = []
    open_ones: dict[Any, tuple[list[Stored], int]] = {}
    for turn in turns:
        thread = turn.value.get("thread")
        part, size = open_ones.get(thread, ([], 0))
        length = len(turn.value.get("text") or "")
        if not part or len(part) >= _MOST_TURNS or size + length > _MOST_CHARS:
            part, size = [], 0
            found.append(part)
        part.append(turn)
        open_ones[thread] = (part, size + length)
    return found


def _offered(facts: Sequence[Stored], turns: Sequence[Stored]) -> list[Stored]:
    """Return the facts that hold, at most so many, those nearest to the turns by their words."""
    moment = "9999"
    holding = [fact for fact in facts if is_valid(fact.value, moment)]
    if len(holding) <= _MOST_FACTS:
        return holding
    said = {word for turn in turns for word in question_words(turn.value.get("text") or "")}
    near = [len(said & set(question_words(fact.value["text"]))) for fact in holding]
    places = sorted(range(len(holding)), key=lambda place: (-near[place], -place))[:_MOST_FACTS]
    return [holding[place] for place in sorted(places)]


def _progress(ids: list[str]) -> dict[str, Any]:
    return {
        "text": "",
        "speaker": None,
        "at": None,
        "thread": None,
        "importance": None,
        "images": [],
        "kind": PROGRESS,
        "what": "facts",
        "sources": ids,
    }


def _progress_key(ids: Sequence[str]) -> str:
    told = "\0".join(ids).encode("utf-8", "surrogatepass")
    return f"progress-{hashlib.sha256(told).hexdigest()[:24]}"
