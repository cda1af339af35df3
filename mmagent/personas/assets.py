"""The assets of a card (pictures of the character, backgrounds), where they are at hand.

An address on the web is never fetched: a card must not decide whom this machine talks to.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from mmagent.errors import PersonaError
from mmagent.personas.cards import CardSource
from mmagent.personas.charx import read_member
from mmagent.personas.png import read_text_chunks

__all__ = ["embedded_path", "is_remote", "main_icon", "read_asset"]

_EMBEDDED = re.compile(r"embed(?:d)?ed://", re.IGNORECASE)


def is_remote(uri: str) -> bool:
    """Whether an asset's address leads out of the card."""
    return re.match(r"(?i)\s*(https?|ftp|file|//)", uri) is not None


def embedded_path(uri: str) -> str:
    """Return the place in the archive that an asset's address names; "" if it names none."""
    return _EMBEDDED.sub("", uri, count=1) if _EMBEDDED.match(uri) else ""


def read_asset(card: CardSource, uri: str) -> bytes:
    """Return the bytes of an asset by the `uri` that the card gives it.

    Raises:
        PersonaError: It is not in the card, is damaged, or would have to be fetched.
    """
    if is_remote(uri):
        raise PersonaError("An asset on the web is not fetched; download it yourself.")
    if _EMBEDDED.match(uri):
        if card.archive is None:
            raise PersonaError("The asset is in the card's CHARX file, and this is not one.")
        return read_member(card.archive, _EMBEDDED.sub("", uri, count=1), "the card")
    if uri.startswith("data:"):
        _, _, packed = uri.partition(",")
        return _unpack(packed.encode("ascii", "replace"))
    if uri == "ccdefault:" and card.picture is not None:
        return card.picture
    if uri.startswith("__asset:") and card.picture is not None:
        # How Risu keeps assets in a PNG: one text chunk for each, by number.
        keyword = f"chara-ext-asset_:{uri.removeprefix('__asset:')}".lower()
        for _, text in read_text_chunks(card.picture, (keyword,)):
            return _unpack(text)
    raise PersonaError(f"The card holds no asset {uri[:80]!r}.")


def _unpack(packed: bytes) -> bytes:
    try:
        return base64.b64decode(packed, validate=True)
    except binascii.Error as error:
        raise PersonaError("An asset of the card is damaged (not base64).") from error


def main_icon(card: CardSource, assets: list[dict[str, Any]] | None) -> bytes | None:
    """Return the character's picture, if the card holds one."""
    icons = [asset for asset in assets or [] if asset.get("type") == "icon"]
    icons.sort(key=lambda asset: asset.get("name") != "main")
    for asset in icons:
        try:
            return read_asset(card, str(asset.get("uri", "")))
        except PersonaError:
            continue
    return card.picture
