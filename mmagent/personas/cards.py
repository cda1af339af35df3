"""Reads and writes Character Cards V1, V2 and V3 without losing a field.

The document a card was read from is kept beside the persona. Writing starts from it and
changes only what the persona changed, so that unknown fields, extensions and the order of keys
survive. Source: the Character Card V2 and V3 specifications.

    V1  {"name": …, "first_mes": …}                                 no spec field
    V2  {"spec": "chara_card_v2", "spec_version": …, "data": {…}}
    V3  {"spec": "chara_card_v3", "spec_version": …, "data": {…}}
"""

from __future__ import annotations

import base64
import binascii
import copy
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from mmagent.errors import PersonaError
from mmagent.personas.png import PNG_SIGNATURE, read_text_chunks

__all__ = [
    "CARD_FIELDS",
    "MAX_FILE",
    "CardSource",
    "Spec",
    "build_document",
    "fields_of",
    "png_texts",
    "read_card",
    "spec_of",
]

Spec = Literal["v1", "v2", "v3"]

MAX_FILE = 64 * 1024 * 1024
"""Largest card file, in bytes."""
MAX_JSON_DEPTH = 64
"""Deepest nesting of a card's JSON."""

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
_REQUIRED: dict[Spec, list[str]] = {"v1": _V1, "v2": _V2, "v3": [*_V2, "group_only_greetings"]}
"""Fields that the specification wants present, empty or not."""


@dataclass(frozen=True)
class CardSource:
    """Where a persona came from: the card's own document, and the picture around it."""

    spec: Spec
    document: dict[str, Any]
    # Not compared: the same card in a PNG and in a JSON file is the same card.
    raw_json: bytes | None = field(default=None, compare=False, repr=False)
    picture: bytes | None = field(default=None, compare=False, repr=False)


def read_card(data: bytes, source: str) -> CardSource:
    """Read a card from the bytes of a PNG or JSON file.

    Args:
        data: The file.
        source: What to call it in errors.

    Raises:
        PersonaError: It is no card, is damaged, or passes a bound of this module.
    """
    if len(data) > MAX_FILE:
        raise PersonaError(f"{source} is larger than {MAX_FILE:,} bytes; no card is that big.")
    if data.startswith(PNG_SIGNATURE):
        return _from_png(data, source)
    document = _parse_json(data, source)
    return CardSource(spec_of(document), document, raw_json=data)


def _from_png(data: bytes, source: str) -> CardSource:
    # V3 first, as its specification asks; a damaged one must not hide a good V2 beside it.
    chunks = read_text_chunks(data, ("ccv3", "chara"))
    if not chunks:
        raise PersonaError(
            f"{source} is a picture without a character card in it (no `ccv3` or `chara` text); "
            "some sites and chat programs strip it: download the original file."
        )
    problem: PersonaError | None = None
    for _, text in sorted(chunks, key=lambda chunk: chunk[0] != "ccv3"):
        try:
            raw = _unpack(text, source)
            document = _parse_json(raw, source)
        except PersonaError as error:
            problem = problem or error
            continue
        return CardSource(spec_of(document), document, raw_json=raw, picture=data)
    assert problem is not None
    raise problem


def _unpack(text: bytes, source: str) -> bytes:
    packed = b"".join(text.split())
    if packed.startswith(b"{"):
        return text
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise PersonaError(
            f"{source}: the card in the picture is damaged (not base64); get the original file."
        ) from error


def _parse_json(raw: bytes, source: str) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PersonaError(
            f"{source} is not a character card: its JSON cannot be read; get the original file."
        ) from error
    if not isinstance(document, dict):
        raise PersonaError(f"{source} is not a character card: its JSON is not an object.")
    waiting: list[tuple[Any, int]] = [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_JSON_DEPTH:
            raise PersonaError(f"{source}: its JSON is nested deeper than {MAX_JSON_DEPTH} levels.")
        if isinstance(value, dict):
            waiting.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            waiting.extend((inner, depth + 1) for inner in value)
    return document


def spec_of(document: dict[str, Any]) -> Spec:
    """Return the version by what the document holds, not by what it claims.

    Files exist that claim V2 and hold V1's flat fields, and V2 files without a spec field.
    """
    data = document.get("data")
    if not isinstance(data, dict):
        return "v1"
    if document.get("spec") == "chara_card_v3":
        return "v3"
    return "v2" if document.get("spec") == "chara_card_v2" or "name" in data else "v1"


def fields_of(source: CardSource) -> dict[str, Any]:
    """Return the persona's fields that the card holds; null counts as absent."""
    data = source.document if source.spec == "v1" else source.document["data"]
    return {
        name: _as_persona_value(card_name, data[card_name])
        for card_name, name in CARD_FIELDS.items()
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
    data = document if spec == "v1" else document["data"]
    for card_name, name in CARD_FIELDS.items():
        value = values[name]
        wanted = bool(value) or (not same and card_name in _REQUIRED[spec])
        if before[name] != value if name in before else wanted:
            data[card_name] = copy.deepcopy(value)
    return document


def _empty(source: CardSource | None, spec: Spec) -> dict[str, Any]:
    """Return an empty document of the version, with the unknown fields of the source."""
    inner: dict[str, Any] = {}
    outer: dict[str, Any] = {}
    if source is not None:
        flat = source.spec == "v1"
        known = {"spec", "spec_version", "data", *CARD_FIELDS}
        data = source.document if flat else source.document["data"]
        inner = {key: copy.deepcopy(value) for key, value in data.items() if key not in known}
        if not flat:
            top = source.document.items()
            outer = {key: copy.deepcopy(value) for key, value in top if key not in known}
    if spec == "v1":
        return outer | inner
    number = "2.0" if spec == "v2" else "3.0"
    return {"spec": f"chara_card_{spec}", "spec_version": number, "data": inner} | outer


def png_texts(document: dict[str, Any], raw_json: bytes) -> dict[str, bytes]:
    """Return the PNG text chunks of a card: `ccv3` for V3, `chara` for the older versions."""
    keyword = "ccv3" if spec_of(document) == "v3" else "chara"
    return {keyword: base64.b64encode(raw_json)}
