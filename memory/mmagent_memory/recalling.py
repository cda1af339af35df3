"""The steps of recall: find, put together what belongs together, rank, rerank."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmagent_memory.asking import Asked, about
from mmagent_memory.backends import Backend, Candidate, Steps
from mmagent_memory.enrichment import captions_of
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.ranking import Signals, Weights, rank
from mmagent_memory.records import CAPTION, FACT, KINDS, SUMMARY, TURN, Stored, kind_of
from mmagent_memory.rerank import Reranker, rerank

__all__ = ["Recalled", "checked_kinds", "recall_steps"]

Namespace = tuple[str, ...]
_CANDIDATES = 200
"""Most memories that each way of finding may propose."""
_RERANKED = 40
"""Most memories that a reranker reads."""
_FETCHED = 20
"""Most turns that are fetched because a caption of theirs was found."""


@dataclass(frozen=True)
class Recalled:
    """A memory that was recalled, its score, and why."""

    stored: Stored
    score: float
    explain: dict[str, Any]


def checked_kinds(kinds: Collection[str] | None) -> frozenset[str]:
    """Return the kinds of memories that are wanted.

    Raises:
        MemoryUsageError: There is no such kind.
    """
    if kinds is None:
        return frozenset((TURN, FACT, SUMMARY))
    wanted = frozenset([kinds] if isinstance(kinds, str) else kinds)
    if not wanted <= set(KINDS):
        unknown = ", ".join(sorted(map(str, wanted - set(KINDS))))
        raise MemoryUsageError(f"There is no kind {unknown}; use some of {', '.join(KINDS)}.")
    return wanted


def recall_steps(
    backend: Backend,
    prefix: Namespace,
    asked: Asked,
    k: int,
    weights: Weights,
    kinds: frozenset[str],
    reranker: Reranker | None = None,
) -> Steps[list[Recalled]]:
    """Return the best k memories for a question, best first."""
    found = yield from backend.candidates(prefix, asked.question, max(_CANDIDATES, 2 * k))
    if any(kind_of(candidate.stored.value) != TURN for candidate in found):
        found = yield from _with_captions(backend, found, kinds)
    found = [one for one in found if kind_of(one.stored.value) in kinds]
    signals = [about(candidate, asked) for candidate in found]
    count = k if reranker is None else max(k, _RERANKED)
    best = [
        Recalled(found[ranked.place].stored, ranked.score, ranked.explain())
        for ranked in rank(signals, count, weights, asked.wanted)
    ]
    if reranker is not None and best:
        texts = [_read_as(one.stored) for one in best]
        before = [one.score for one in best]
        added: Sequence[float] = yield lambda: rerank(reranker, asked.question.text, texts, before)
        best = [_with_part(one, part) for one, part in zip(best, added, strict=True)]
        best.sort(key=lambda one: -one.score)
    return best[:k]


def _with_captions(
    backend: Backend, found: Sequence[Candidate], kinds: frozenset[str]
) -> Steps[list[Candidate]]:
    """Return the candidates, turns found by the captions of their pictures among them.

    So a picture that only a model has described is found by its turn, like one with a caption.
    """
    place_of = {(one.stored.namespace, one.stored.key): one for one in found}
    fetched = 0
    for one in found:
        if kind_of(one.stored.value) != CAPTION or TURN not in kinds:
            continue
        for source in one.stored.value.get("sources") or ():
            name = (one.stored.namespace[:3], source)
            turn = place_of.get(name)
            if turn is None:
                if fetched >= _FETCHED:
                    continue
                fetched += 1
                stored = yield from backend.get(*name)
                if stored is None or kind_of(stored.value) != TURN:
                    continue
                turn = Candidate(stored, Signals(vector=one.signals.vector))
            place_of[name] = Candidate(turn.stored, _both(turn.signals, one.signals))
    return list(place_of.values())


def _both(turn: Signals, caption: Signals) -> Signals:
    """Return the signals of a turn with a caption of its picture."""
    parts = turn.parts or caption.parts
    if turn.parts and caption.parts:
        parts = tuple(
            (_more(a[0], b[0]), _more(a[1], b[1]))
            for a, b in zip(turn.parts, caption.parts, strict=True)
        )
    return replace(
        turn,
        words=_more(turn.words, caption.words),
        meaning=_more(turn.meaning, caption.meaning),
        parts=parts,
    )


def _more(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)


def _with_part(one: Recalled, part: float) -> Recalled:
    parts = {**one.explain["parts"], "reranker": part}
    return Recalled(one.stored, sum(parts.values()), {**one.explain, "parts": parts})


def _read_as(stored: Stored) -> str:
    said = " ".join([stored.value.get("text") or "", *captions_of(stored.value)]).strip()
    speaker = stored.value.get("speaker")
    return f"{speaker}: {said}" if speaker else said
