"""Character Card documents to a persona's fields and back, without losing a field.

The document a card was read from is kept beside the persona. Writing starts from it and
changes only what the persona changed, so that unknown fields, extensions and the order of keys
survive. Source: the Character Card V2 and V3 specifications; the two older forms as
Pygmalion's and text-generation-webui's own examples have them.

    v1         {"name": …, "first_mes": …}                                 no spec field
    v2         {"spec": "chara_card_v2", "spec_version": …, "data": {…}}
    v3         {"spec": "chara_card_v3", "spec_version": …, "data": {…}}
    pygmalion  {"char_name": …, "char_persona": …, "char_greeting": …}
    ooba       {"name": …, "context": …, "greeting": …}
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "CARD_FIELDS",
    "CardSource",
    "Container",
    "Spec",
    "build_document",
    "data_of",
    "fields_of",
    "form_of",
    "spec_of",
]

Spec = Literal["v1", "v2", "v3", "pygmalion", "ooba"]
Container = Literal["png", "json", "charx", "yaml", "object"]

CARD_FIELDS = {
    "name": "name",
    "description": "description",
    "personality": "personality",
    "scenario": "scenario",
    "first_mes": "greeting",
    "mes_example": "examples",
    # since V2
    "creator_notes": "creator_notes",
    "system_prompt": "instructions",
    "post_history_instructions": "post_history_instructions",
    "alternate_greetings": "alternate_greetings",
    "character_book": "lorebook",
    "tags": "tags",
    "creator": "creator",
    "character_version": "character_version",
    "extensions": "extensions",
    # since V3
    "assets": "assets",
    "nickname": "nickname",
    "creator_notes_multilingual": "creator_notes_multilingual",
    "source": "source",
    "group_only_greetings": "group_only_greetings",
    "creation_date": "creation_date",
    "modification_date": "modification_date",
}
"""Persona field by card field. Every version is read and written with all of them: cards hold
fields of newer versions than they claim, and older readers skip what they do not know."""

_V1 = list(CARD_FIELDS)[:6]
_V2 = [name for name in list(CARD_FIELDS)[:15] if name != "character_book"]
_REQUIRED: dict[Spec, list[str]] = {
    "v1": _V1,
    "v2": _V2,
    "v3": [*_V2, "group_only_greetings"],
    "pygmalion": ["char_name", "char_persona"],
    "ooba": ["name", "context"],
}
"""Fields that the specification wants present, empty or not."""
_OPTIONAL = {"character_book", "assets", "nickname", "creation_date", "modification_date"}
"""Fields that may be absent, which says something else than that they are empty."""
_OWN_NAMES: dict[Spec, dict[str, str]] = {
    "pygmalion": {
        "char_name": "name",
        "char_persona": "description",
        "world_scenario": "scenario",
        "char_greeting": "greeting",
        "example_dialogue": "examples",
    },
    "ooba": {
        "name": "name",
        "context": "description",
        "greeting": "greeting",
        "example_dialogue": "examples",
    },
}


@dataclass(frozen=True)
class CardSource:
    """Where a persona came from: the card's own document, and the file around it.

    Attributes:
        spec: The version that the document has.
        document: The whole document.
        container: The kind of file.
        raw_json: The document's bytes.
        picture: The PNG that held it.
        archive: The CHARX file that held it.
        notes: What had to be guessed while reading the file.
    """

    spec: Spec
    document: dict[str, Any]
    # Not compared: the same card in a PNG and in a JSON file is the same card.
    container: Container = field(default="object", compare=False)
    raw_json: bytes | None = field(default=None, compare=False, repr=False)
    picture: bytes | None = field(default=None, compare=False, repr=False)
    archive: bytes | None = field(default=None, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False)


def spec_of(document: dict[str, Any]) -> Spec:
    """Return the version by what the document holds, not by what it claims.

    Files exist that claim V2 and hold V1's flat fields, and V2 files without a spec field.
    """
    data = document.get("data")
    if isinstance(data, dict):
        if document.get("spec") == "chara_card_v3":
            return "v3"
        if document.get("spec") == "chara_card_v2" or "name" in data:
            return "v2"
    if document.get("char_name") and not document.get("name"):
        return "pygmalion"
    if "context" in document and not {"description", "first_mes"} & document.keys():
        return "ooba"
    return "v1"


def form_of(spec: Spec) -> dict[str, str]:
    """Return the persona's field by the name that it has in documents of a version."""
    own = _OWN_NAMES.get(spec, {})
    rest = {card: name for card, name in CARD_FIELDS.items() if name not in own.values()}
    return own | rest


def data_of(source: CardSource) -> dict[str, Any]:
    """Return the part of the document that holds the character's fields."""
    data = source.document["data"] if source.spec in ("v2", "v3") else source.document
    assert isinstance(data, dict)
    return data


def fields_of(source: CardSource) -> dict[str, Any]:
    """Return the persona's fields that the card holds; null counts as absent."""
    data = data_of(source)
    return {
        name: _as_persona_value(card_name, data[card_name])
        for card_name, name in form_of(source.spec).items()
        if data.get(card_name) is not None
    }


def _as_persona_value(card_name: str, value: Any) -> Any:
    """Mend the slips that real cards are full of: numbers for texts, a text for a list."""
    if card_name in ("tags", "source", "alternate_greetings", "group_only_greetings"):
        value = [value] if isinstance(value, str) and value else value or []
        if not isinstance(value, list):
            return value
        return [str(item) for item in value if item is not None]
    if card_name in ("extensions", "creator_notes_multilingual"):
        return value or {}
    if card_name in ("creation_date", "modification_date"):
        return int(value) if isinstance(value, float) else value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return copy.deepcopy(value)


def build_document(
    values: dict[str, Any], source: CardSource | None, spec: Spec | None = None
) -> dict[str, Any]:
    """Return a persona as a card document.

    Args:
        values: All card fields of the persona, by the persona's names.
        source: The card that it was read from, if any.
        spec: The version to write; that of the source, or V3, if not given.
    """
    spec = spec or (source.spec if source else "v3")
    same = source is not None and source.spec == spec
    before = fields_of(source) if source is not None and same else {}
    document = copy.deepcopy(source.document) if source and same else _empty(source, spec)
    data = document["data"] if spec in ("v2", "v3") else document
    for card_name, name in form_of(spec).items():
        value = values[name]
        wanted = bool(value) or (not same and card_name in _REQUIRED[spec])
        wanted = wanted or (card_name in _OPTIONAL and value is not None)
        if before[name] != value if name in before else wanted:
            # SillyTavern repeats the fields of V1 beside `data`, for readers that know no more.
            is_repeated = data is not document and card_name in document
            if is_repeated and document[card_name] == data.get(card_name):
                document[card_name] = copy.deepcopy(value)
            data[card_name] = copy.deepcopy(value)
    return document


def _empty(source: CardSource | None, spec: Spec) -> dict[str, Any]:
    """Return an empty document of the version, with the unknown fields of the source."""
    inner: dict[str, Any] = {}
    outer: dict[str, Any] = {}
    if source is not None:
        known = {"spec", "spec_version", "data", *form_of(source.spec), *CARD_FIELDS}
        data = data_of(source)
        inner = {key: copy.deepcopy(value) for key, value in data.items() if key not in known}
        if data is not source.document:
            top = source.document.items()
            outer = {key: copy.deepcopy(value) for key, value in top if key not in known}
    if spec not in ("v2", "v3"):
        return outer | inner
    number = "2.0" if spec == "v2" else "3.0"
    return {"spec": f"chara_card_{spec}", "spec_version": number, "data": inner} | outer
