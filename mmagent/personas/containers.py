"""The files that character cards come in: PNG, JSON and CHARX, read and written within bounds.

Sources: the Character Card V3 specification ("embedding methods"); PNG, third edition.
"""

from __future__ import annotations

import base64
import binascii
import json
import zipfile
from io import BytesIO
from typing import Any

from mmagent.errors import PersonaError
from mmagent.personas import charx
from mmagent.personas.cards import CardSource, Spec, spec_of
from mmagent.personas.png import PNG_SIGNATURE, read_text_chunks, write_text_chunks

__all__ = ["MAX_FILE", "card_in_png", "check_depth", "is_card_file", "read_card"]

MAX_FILE = 256 * 1024 * 1024
"""Largest card file, in bytes: a CHARX with many pictures may come near it."""
MAX_JSON = 16 * 1024 * 1024
"""Largest JSON of a card, in bytes."""
MAX_JSON_DEPTH = 64
"""Deepest nesting of a card's JSON."""
_KEYWORDS = ("ccv3", "chara")


def is_card_file(data: bytes) -> bool:
    """Whether the bytes are of a PNG, a JSON object or a zip archive, by their content."""
    if data.startswith(PNG_SIGNATURE) or data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return True
    return zipfile.is_zipfile(BytesIO(data))


def read_card(data: bytes, source: str) -> CardSource:
    """Read a card from the bytes of a PNG, JSON or CHARX file.

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
    if not data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and zipfile.is_zipfile(
        BytesIO(data)
    ):
        raw, notes = charx.read_card_json(data, source)
        document = _parse_json(raw, source)
        return CardSource(
            spec_of(document), document, "charx", raw_json=raw, archive=data, notes=notes
        )
    document = _parse_json(data, source)
    return CardSource(spec_of(document), document, "json", raw_json=data)


def _from_png(data: bytes, source: str) -> CardSource:
    # V3 first, as its specification asks; a damaged one must not hide a good V2 beside it.
    chunks = read_text_chunks(data, _KEYWORDS)
    if not chunks:
        raise PersonaError(
            f"{source} is a picture without a character card in it (no `ccv3` or `chara` text); "
            "some sites and chat programs strip it: download the original file."
        )
    problem: PersonaError | None = None
    for keyword, text in sorted(chunks, key=lambda chunk: chunk[0] != "ccv3"):
        try:
            raw = _unpack(text, source)
            document = _parse_json(raw, source)
        except PersonaError as error:
            problem = problem or error
            continue
        notes = (f"Another text chunk is damaged; `{keyword}` was read.",) if problem else ()
        return CardSource(
            spec_of(document), document, "png", raw_json=raw, picture=data, notes=notes
        )
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
    if len(raw) > MAX_JSON:
        raise PersonaError(f"{source}: the card's JSON is larger than {MAX_JSON:,} bytes.")
    try:
        document = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PersonaError(
            f"{source} is not a character card: its JSON cannot be read; get the original file."
        ) from error
    if not isinstance(document, dict):
        raise PersonaError(f"{source} is not a character card: its JSON is not an object.")
    check_depth(document, source)
    return document


def check_depth(document: Any, source: str) -> None:
    """Refuse a document that recursive code could not walk."""
    waiting: list[tuple[Any, int]] = [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_JSON_DEPTH:
            raise PersonaError(f"{source}: its JSON is nested deeper than {MAX_JSON_DEPTH} levels.")
        if isinstance(value, dict):
            waiting.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            waiting.extend((inner, depth + 1) for inner in value)


def card_in_png(picture: bytes, raw_json: bytes, spec: Spec, older: bytes) -> bytes:
    """Return the picture with a card in it, and with no other card.

    V3 stands under `ccv3`, the older versions under `chara`. A card that was left there beside
    would be what some readers go by: a picture that had both gets both, of the same character.

    Args:
        picture: A PNG.
        raw_json: The card.
        spec: Its version.
        older: The same card as V2, for readers that know no V3.
    """
    keyword = "ccv3" if spec == "v3" else "chara"
    texts = {keyword: base64.b64encode(raw_json)}
    if keyword == "ccv3" and read_text_chunks(picture, ("chara",)):
        texts = {"chara": base64.b64encode(older), **texts}
    return write_text_chunks(picture, texts, drop=_KEYWORDS)
