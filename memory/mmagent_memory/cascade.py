"""What goes when a turn goes: all that was derived from it alone, and nothing else. Pure.

A wording that needed the turn goes with it, since it may repeat what was said there; a fact that
other turns say too keeps their wording. What the turn had ended holds again. The other turns of a
wording that went are marked as not yet read, so that the next derivation reads them anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmagent_memory.facts import with_evidence
from mmagent_memory.records import FACT, PROGRESS, Stored, kind_of

__all__ = ["without_turns"]

Values = dict[str, dict[str, Any]]


def without_turns(derived: Iterable[Stored], gone: Collection[str]) -> tuple[Values, list[str]]:
    """Return the derived records that change, by key, and the keys of those that go.

    Args:
        derived: All derived records of one memory.
        gone: Ids of turns, or of facts, that are no more.
    """
    before: Mapping[str, Mapping[str, Any]] = {one.key: one.value for one in derived}
    after: Values = {}
    unread: set[str] = set()
    for key, value in before.items():
        if key in gone:
            continue
        kind = kind_of(value)
        if kind == FACT:
            kept = [one for one in value["evidence"] if not set(one["sources"]) & set(gone)]
            if not kept:
                unread |= set(value["sources"]) - set(gone)
                continue
            changed = dict(value)
            if len(kept) < len(value["evidence"]):
                lost = [one for one in value["evidence"] if one not in kept]
                unread |= {turn for one in lost for turn in one["sources"]} - set(gone)
                changed = with_evidence(value, kept)
            after[key] = changed
        elif kind == PROGRESS or not set(value.get("sources") or ()) & set(gone):
            after[key] = dict(value)
    for value in after.values():
        if kind_of(value) == FACT:
            _restore(value, after, gone)
        elif kind_of(value) == PROGRESS:
            value["sources"] = [t for t in value["sources"] if t not in unread and t not in gone]
    after = {
        key: value for key, value in after.items() if kind_of(value) != PROGRESS or value["sources"]
    }
    changed = {key: value for key, value in after.items() if value != before[key]}
    return changed, [key for key in before if key not in after]


def _restore(value: dict[str, Any], after: Values, gone: Collection[str]) -> None:
    """Let a fact hold again if what ended it is no more."""
    value["supersedes"] = [key for key in value.get("supersedes") or () if key in after]
    ended = value.get("ended")
    if not ended:
        return
    by = ended.get("by")
    if (by and by not in after) or (not by and set(ended["sources"]) & set(gone)):
        value |= {"ended": None, "valid_to": None}
