"""What was read of a card, what had to be guessed, and what has no effect here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mmagent.personas.assets import embedded_path, is_remote
from mmagent.personas.cards import CardSource, Container, Spec, data_of, form_of
from mmagent.personas.charx import member_names

__all__ = ["Dialect", "ImportReport", "dialect_of", "report_on"]

Dialect = Literal["spec", "sillytavern", "risu"]

_TAVERN_TOP = {"create_date", "chat", "talkativeness", "fav", "avatar"}
_TAVERN_EXTENSIONS = {"talkativeness", "fav", "world", "depth_prompt"}
_TAVERN_ENTRY = {"probability", "useProbability", "selectiveLogic", "exclude_recursion", "depth"}
_TEXT_LISTS = {"tags", "source", "alternate_greetings", "group_only_greetings"}
# What V3's decorators may be called that have an effect here; see `lorebook`.
DECORATORS = frozenset(
    [
        "activate",
        "activate_only_after",
        "activate_only_every",
        "additional_keys",
        "constant",
        "depth",
        "dont_activate",
        "dont_activate_after_match",
        "exclude_keys",
        "ignore_on_max_context",
        "keep_activate_after_match",
        "position",
        "probability",
        "role",
        "scan_depth",
    ]
)
_TEXTS = {"name", "description", "personality", "scenario", "first_mes", "character_version"}


@dataclass(frozen=True)
class ImportReport:
    """An account of one import.

    Attributes:
        container: The kind of file.
        spec: The version that the document has.
        claimed: The version that it says it has; "" if it says nothing.
        dialect: Whose habits it follows where the specification leaves room.
        read: Names of the fields that hold something and are used.
        guessed: What was mended or decided, in sentences.
        ignored: What is kept but has no effect here, in sentences.
    """

    container: Container
    spec: Spec
    claimed: str
    dialect: Dialect
    read: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def entries_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of a card's book, whose list may be a mapping by number."""
    book = data.get("character_book")
    entries = book.get("entries") if isinstance(book, dict) else None
    if isinstance(entries, dict):
        entries = list(entries.values())
    return [entry for entry in entries if isinstance(entry, dict)] if entries else []


def dialect_of(document: dict[str, Any]) -> Dialect:
    """Return whose habits a card follows, by marks that only that program leaves."""
    inner = document.get("data")
    data: dict[str, Any] = inner if isinstance(inner, dict) else document
    extensions = data.get("extensions")
    names = set(extensions) if isinstance(extensions, dict) else set()
    assets = data.get("assets")
    types = [a.get("type") for a in assets if isinstance(a, dict)] if assets else []
    if "risuai" in names or "x-risu-asset" in types:
        return "risu"
    if names & _TAVERN_EXTENSIONS or _TAVERN_TOP & document.keys():
        return "sillytavern"
    for entry in entries_of(data):
        inner = entry.get("extensions")
        if isinstance(inner, dict) and inner.keys() & _TAVERN_ENTRY:
            return "sillytavern"
    return "spec"


def report_on(source: CardSource) -> ImportReport:
    """Return the account of a card that was read."""
    data = data_of(source)
    known = form_of(source.spec)
    claimed = source.document.get("spec")
    return ImportReport(
        container=source.container,
        spec=source.spec,
        claimed=claimed if isinstance(claimed, str) else "",
        dialect=dialect_of(source.document),
        read=tuple(name for name in known if data.get(name)),
        guessed=(*source.notes, *_guesses(source, data)),
        ignored=tuple(_without_effect(source, data, known)),
    )


def _guesses(source: CardSource, data: dict[str, Any]) -> Iterator[str]:
    claimed = source.document.get("spec")
    if claimed and claimed != f"chara_card_{source.spec}":
        yield f"It claims {claimed!r} and holds the fields of {source.spec.upper()}."
    elif source.spec == "v3" and (version := _number(source.document.get("spec_version"))) > 3:
        yield f"It is of version {version:g} of the specification; read as 3.0."
    elif not claimed and source.spec == "v2":
        yield "It names no version; its fields are those of V2."
    for name in form_of(source.spec):
        value = data.get(name)
        if name in _TEXTS and isinstance(value, int | float):
            yield f"`{name}` is a number; read as text."
        elif name in _TEXT_LISTS and isinstance(value, str) and value:
            yield f"`{name}` is a text; read as a list of one."
    entries = entries_of(data)
    book = data.get("character_book")
    if isinstance(book, dict) and isinstance(book.get("entries"), dict):
        yield "The book's entries are a mapping; read as a list."
    plain = [entry for entry in entries if entry.get("use_regex") and not _has_regex(entry)]
    if plain:
        yield f"{len(plain)} book entries claim regular expressions and hold plain words."
    if any("extensions" not in entry for entry in entries):
        yield "Book entries without `extensions`; read as if it were empty."


def _number(version: Any) -> float:
    try:
        return float(version)
    except (TypeError, ValueError):
        return 0.0


def _has_regex(entry: dict[str, Any]) -> bool:
    keys = entry.get("keys")
    return isinstance(keys, list) and any(
        isinstance(key, str) and len(key) > 2 and key.startswith("/") and key.rfind("/") > 0
        for key in keys
    )


def _without_effect(
    source: CardSource, data: dict[str, Any], known: dict[str, str]
) -> Iterator[str]:
    unknown = [name for name in data if name not in known and name not in ("spec", "spec_version")]
    if unknown:
        yield f"Unknown fields, kept: {', '.join(sorted(unknown))}."
    if data is not source.document:
        outer = sorted(set(source.document) - {"spec", "spec_version", "data"})
        if outer:
            yield f"Fields beside `data`, kept: {', '.join(outer)}."
    extensions = data.get("extensions")
    foreign = set(extensions) - {"depth_prompt"} if isinstance(extensions, dict) else ()
    if foreign:
        yield f"Extensions of other programs, kept: {', '.join(sorted(foreign))}."
    strange = {name for entry in entries_of(data) for name in _decorators(entry)} - DECORATORS
    if strange:
        yield f"Decorators of the book, kept: {', '.join(sorted(strange))}."
    assets = data.get("assets")
    remote = [a for a in assets or [] if isinstance(a, dict) and is_remote(str(a.get("uri", "")))]
    if remote:
        yield f"{len(remote)} assets on the web, not fetched."
    if source.archive is not None:
        named = {embedded_path(str(a.get("uri", ""))) for a in assets or [] if isinstance(a, dict)}
        others = [name for name in member_names(source.archive) if name not in named]
        if others:
            yield f"Files in the archive that no asset names, kept: {_some(others)}."


def _decorators(entry: dict[str, Any]) -> Iterator[str]:
    for line in str(entry.get("content") or "").splitlines():
        if line.strip() and not line.startswith("@@"):
            return
        if name := line.lstrip("@").strip().partition(" ")[0].lower():
            yield name


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
