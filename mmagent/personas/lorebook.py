"""A card's book of lore, read into entries: what each says, and when it wants to be said.

Every entry states its rules in up to three places: the specification's fields, SillyTavern's
`extensions`, and V3's decorators, which are lines `@@name value` before the content. Reading
puts them into one form; `lore_engine` runs it. Sources: the Character Card V2 ("character_book")
and V3 ("lorebook", "decorators") specifications, and SillyTavern's world info files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmagent.personas.lore_keys import Key, read_keys
from mmagent.personas.report import Dialect, entries_of

__all__ = ["DEFAULT_SCAN_DEPTH", "LoreEntry", "Lorebook", "read_lorebook"]

DEFAULT_SCAN_DEPTH = 4
"""How many of the last messages are searched for keys where a book does not say."""
MAX_ENTRIES = 5_000

Logic = Literal["and_any", "and_all", "not_all", "not_any"]
Place = Literal["before", "after", "depth"]
Role = Literal["system", "user", "assistant"]

_LOGICS: tuple[Logic, ...] = ("and_any", "not_all", "not_any", "and_all")
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class LoreEntry:
    """One piece of lore and its rules; counts of time are messages of the conversation.

    Attributes:
        id: Tells it from the others of its book.
        content: What is said.
        keys: Any of these in the last messages makes it speak.
        secondary: Further keys, judged by `logic`; empty: not judged.
        logic: How the secondary keys count.
        additional: Keys of which one must be there besides (`@@additional_keys`).
        excluded: Keys that silence it (`@@exclude_keys`).
        enabled: False: never.
        constant: True: always.
        order: Small numbers stand first.
        priority: Small numbers are dropped first when the budget is short.
        place: Before or after the character's description, or at a depth.
        depth: Messages from the end of the conversation, for `place="depth"`.
        role: Who seems to say it there.
        scan_depth: Messages searched for its keys; None: the book's.
        probability: Percent.
        from_recursion: Whether other entries' contents may wake it.
        feeds_recursion: Whether its content may wake others.
        only_recursion: Whether nothing but other entries' contents wakes it.
        sticky: Messages for which it stays, once awake.
        cooldown: Messages for which it then stays silent.
        delay: Messages there must be before it may speak.
        after_answers: Answers of the character there must be before it may speak.
        every: It may speak only at every so many answers of the character.
        once_only: After its first time it never speaks again.
        stays: After its first time it always speaks.
        groups: Of each group only one speaks.
        group_first: Whether it beats the others of its group.
        group_weight: Its chance among them.
        over_budget: Whether it is said even where the budget is spent.
    """

    id: str
    content: str
    keys: tuple[Key, ...] = ()
    secondary: tuple[Key, ...] = ()
    logic: Logic = "and_any"
    additional: tuple[Key, ...] = ()
    excluded: tuple[Key, ...] = ()
    enabled: bool = True
    constant: bool = False
    order: int = 100
    priority: int = 100
    place: Place = "after"
    depth: int = 4
    role: Role = "system"
    scan_depth: int | None = None
    probability: float = 100.0
    from_recursion: bool = True
    feeds_recursion: bool = True
    only_recursion: bool = False
    sticky: int = 0
    cooldown: int = 0
    delay: int = 0
    after_answers: int = 0
    every: int = 0
    once_only: bool = False
    stays: bool = False
    groups: tuple[str, ...] = ()
    group_first: bool = False
    group_weight: int = 100
    over_budget: bool = False

    @property
    def is_static(self) -> bool:
        """Whether it is said in every turn alike, so that it belongs to the fixed prompt."""
        keys = self.additional or self.excluded or self.groups
        times = self.delay or self.after_answers or self.every or self.cooldown
        chance = self.probability < 100 or self.once_only or self.only_recursion
        is_ruled = bool(keys) or bool(times) or chance
        return self.enabled and self.constant and self.place != "depth" and not is_ruled


@dataclass(frozen=True)
class Lorebook:
    """All entries of a book, in the order in which they are placed."""

    entries: tuple[LoreEntry, ...] = ()
    scan_depth: int = DEFAULT_SCAN_DEPTH
    token_budget: int | None = None
    recursive: bool = False


def read_lorebook(
    book: Mapping[str, Any] | None,
    dialect: Dialect = "spec",
    names: Mapping[str, str] | None = None,
) -> Lorebook:
    """Read a card's `character_book`; what is missing or of a wrong kind takes its default.

    Args:
        book: As it stands in the card.
        dialect: Whose habits it follows; see `report.dialect_of`.
        names: What `{{char}}` and `{{user}}` stand for in keys.
    """
    if not book:
        return Lorebook()
    raw = entries_of({"character_book": dict(book)})[:MAX_ENTRIES]
    whole_words: Any = None
    if dialect == "risu":
        # Risu finds a key inside of a word, unless the book says otherwise.
        extensions = book.get("extensions")
        named = extensions.get("risu_fullWordMatching") if isinstance(extensions, dict) else None
        whole_words = bool(named)
    entries: list[LoreEntry] = []
    taken: set[str] = set()
    for number, fields in enumerate(raw):
        entry = _entry(fields, number, dialect, names or {}, whole_words)
        if entry.id in taken:
            entry = replace(entry, id=f"{entry.id}#{number}")
        taken.add(entry.id)
        entries.append(entry)
    entries.sort(key=lambda entry: entry.order)
    budget = _int(book.get("token_budget"), 0)
    return Lorebook(
        entries=tuple(entries),
        scan_depth=max(0, _int(book.get("scan_depth"), DEFAULT_SCAN_DEPTH)),
        token_budget=budget if budget > 0 else None,
        recursive=bool(book.get("recursive_scanning")),
    )


def _int(value: Any, default: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return default
    try:
        return int(float(value))
    except (ValueError, OverflowError):
        return default


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.split(",")
    items = value if isinstance(value, list) else []
    return [name for item in items if item is not None and (name := str(item).strip())]


def _entry(
    raw: Mapping[str, Any],
    number: int,
    dialect: Dialect,
    names: Mapping[str, str],
    whole_words: Any,
) -> LoreEntry:
    found = raw.get("extensions")
    extensions = _snake_case(found) if isinstance(found, dict) else {}
    is_regex = bool(raw.get("use_regex"))
    # SillyTavern sets `use_regex` on every entry and means a key only where it is /…/.
    strict = is_regex and dialect != "sillytavern"
    options = {
        "case_sensitive": bool(raw.get("case_sensitive", extensions.get("case_sensitive"))),
        "whole_words": extensions.get("match_whole_words", raw.get("whole_words", whole_words)),
        "all_regex": strict,
        "names": names,
    }
    place, role = _place(raw, extensions)
    entry = LoreEntry(
        id=str(raw.get("id") if raw.get("id") not in (None, "") else f"#{number}"),
        content=str(raw.get("content") or ""),
        keys=read_keys(_names(raw.get("keys")), **options),
        # V3: under `use_regex`, `constant` and `secondary_keys` do not count.
        secondary=(
            read_keys(_names(raw.get("secondary_keys")), **options)
            if raw.get("selective") and not strict
            else ()
        ),
        logic=_LOGICS[_int(extensions.get("selectiveLogic"), 0) % 4],
        enabled=bool(raw.get("enabled", True)),
        constant=bool(raw.get("constant")) and not strict,
        order=_int(raw.get("insertion_order"), 100),
        priority=_int(raw.get("priority"), _int(raw.get("insertion_order"), 100)),
        place=place,
        depth=max(0, _int(extensions.get("depth"), 4)),
        role=role,
        scan_depth=_optional(extensions.get("scan_depth")),
        probability=_probability(extensions),
        from_recursion=not extensions.get("exclude_recursion"),
        feeds_recursion=not extensions.get("prevent_recursion"),
        only_recursion=bool(extensions.get("delay_until_recursion")),
        sticky=max(0, _int(extensions.get("sticky"), 0)),
        cooldown=max(0, _int(extensions.get("cooldown"), 0)),
        delay=max(0, _int(extensions.get("delay"), 0)),
        groups=tuple(_names(extensions.get("group"))),
        group_first=bool(extensions.get("group_override")),
        group_weight=max(1, _int(extensions.get("group_weight"), 100)),
        over_budget=bool(extensions.get("ignore_budget")),
    )
    return _decorated(entry, options)


def _snake_case(extensions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add to SillyTavern's names those that chub writes in camel case, as its server had them."""
    spelled = {re.sub(r"(?<=[a-z])[A-Z]", lambda m: f"_{m[0].lower()}", k): v
               for k, v in extensions.items()}  # fmt: skip
    return {**spelled, **extensions}


def _optional(value: Any) -> int | None:
    return None if value is None else max(0, _int(value, DEFAULT_SCAN_DEPTH))


def _probability(extensions: Mapping[str, Any]) -> float:
    if extensions.get("useProbability") is False:
        return 100.0
    return float(min(100, max(0, _int(extensions.get("probability"), 100))))


def _place(raw: Mapping[str, Any], extensions: Mapping[str, Any]) -> tuple[Place, Role]:
    role = _ROLES[_int(extensions.get("role"), 0) % 3]
    number = extensions.get("position")
    if number is not None:
        # 0 and 1 stand around the character; 4 is a depth; the rest stand beside notes and
        # examples, which follow the character here.
        return {0: "before", 4: "depth"}.get(_int(number, 1), "after"), role  # type: ignore[return-value]
    return ("before" if raw.get("position") == "before_char" else "after"), role


# Decorators


def _decorated(entry: LoreEntry, options: Mapping[str, Any]) -> LoreEntry:
    """Take the decorators off the content and obey those that are known.

    A line `@@@name value` is obeyed where the decorator before it was not.
    """
    lines = entry.content.replace("\r\n", "\n").split("\n")
    if not entry.content.lstrip().startswith("@@"):
        return entry
    obeyed = True
    was_enabled = entry.enabled
    done: set[str] = set()
    while lines and (not lines[0].strip() or lines[0].startswith("@@")):
        line = lines.pop(0)
        if not line.strip() or (line.startswith("@@@") and obeyed):
            continue
        name, _, value = line.lstrip("@").strip().partition(" ")
        name = name.lower()
        # Of several with one name the first counts; a place beats a depth, "always" a "never".
        beaten = name in done or _BEATS.get(name) in done
        changed = None if beaten else _obey(entry, name, value.strip(), options)
        obeyed = changed is not None
        entry = changed or entry
        done |= {name} if obeyed else set()
    if "activate" in done:
        entry = replace(entry, enabled=was_enabled)
    return replace(entry, content="\n".join(lines))


_BEATS = {"depth": "position", "dont_activate": "activate"}


def _obey(entry: LoreEntry, name: str, value: str, options: Mapping[str, Any]) -> LoreEntry | None:
    """Return the entry as a decorator wants it, or None if the decorator is not known."""
    number = _int(value, -1)
    match name:
        case "depth" if number >= 0:
            return replace(entry, place="depth", depth=number)
        case "role" if value in _ROLES:
            return replace(entry, role=value)
        case "position" if value in ("before_desc", "after_desc"):
            return replace(entry, place="before" if value == "before_desc" else "after")
        case "scan_depth" if number >= 0:
            return replace(entry, scan_depth=number)
        case "probability" if number >= 0:
            return replace(entry, probability=float(min(number, 100)))
        case "activate_only_after" if number >= 0:
            return replace(entry, after_answers=number)
        case "activate_only_every" if number > 0:
            return replace(entry, every=number)
        case "keep_activate_after_match":
            return replace(entry, stays=True)
        case "dont_activate_after_match":
            return replace(entry, once_only=True)
        case "activate" | "constant":
            return replace(entry, constant=True)
        case "dont_activate":
            return replace(entry, enabled=False)
        case "ignore_on_max_context":
            # The specification's word for "drop this one first".
            return replace(entry, priority=-1_000_000)
        case "additional_keys":
            return replace(entry, additional=read_keys(_names(value), **options))
        case "exclude_keys":
            return replace(entry, excluded=read_keys(_names(value), **options))
    return None
