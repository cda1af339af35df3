"""The image ledger of an agent's messages: which pictures stand where, and their pixels again."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage

from mmagent.context.colours import colours_of
from mmagent.context.ledger import ImageLedger, ShownPicture
from mmagent.errors import UsageError
from mmagent.messages import ImageShelf, to_conversation
from mmagent.middleware.turns import is_user_turn, turn_id, words_of

if TYPE_CHECKING:
    from mmagent.media import LoadedImage, MediaPolicy

__all__ = ["PictureReader", "block_from_memory", "image_blocks"]

_log = logging.getLogger(__name__)
_KINDS = ("image", "image_url", "input_image")
_KEPT = 2_000


def image_blocks(message: BaseMessage) -> list[dict[str, Any]]:
    """Return the content blocks of a message that are pictures."""
    content = message.content if isinstance(message.content, list) else []
    return [b for b in content if isinstance(b, dict) and _is_picture(b)]


def _is_picture(block: Mapping[str, Any]) -> bool:
    if block.get("type") in ("file", "media"):
        return str(block.get("mime_type", "")).lower().startswith("image/")
    return block.get("type") in _KINDS


class PictureReader:
    """Reads ledgers, and each picture once."""

    def __init__(self, policy: MediaPolicy | None = None) -> None:
        self.policy = policy
        self._shelf = ImageShelf(max_bytes=32 * 1024 * 1024)
        self._memories: OrderedDict[tuple[Any, ...], str] = OrderedDict()
        self._known: OrderedDict[tuple[Any, ...], tuple[str, dict[str, float]]] = OrderedDict()

    def ledger(
        self, messages: Sequence[AnyMessage], stored: ImageLedger, thread: str | None
    ) -> ImageLedger:
        """Return the ledger of these messages, and of those that are stored in it already."""
        return stored.merged(self._shown(messages, thread))

    def _shown(self, messages: Sequence[AnyMessage], thread: str | None) -> Iterator[ShownPicture]:
        for place, message in enumerate(messages):
            blocks = image_blocks(message)
            if not blocks:
                continue
            name = _name_of(message)
            memory = self._memory_of(thread, name, message)
            for number, block in enumerate(blocks):
                id_, colours = self._read(name, number, block)
                yield ShownPicture(
                    number=0,
                    id=id_,
                    caption=words_of(message) if isinstance(message, HumanMessage) else "",
                    said=_answer_after(messages, place),
                    speaker=_speaker(message),
                    message=name,
                    place=number,
                    memory=memory,
                    colours=colours,
                )

    def _memory_of(self, thread: str | None, name: str, message: AnyMessage) -> str:
        """Return the id that a message is remembered by, hashed once for as long as it stays."""
        marks = tuple(b if isinstance(b, str) else _mark(b) for b in message.content)
        key = (thread, name, message.type, marks)
        if key not in self._memories:
            self._memories[key] = turn_id(thread, message)
            if len(self._memories) > _KEPT:
                self._memories.popitem(last=False)
        return self._memories[key]

    def _read(self, name: str, number: int, block: dict[str, Any]) -> tuple[str, dict[str, float]]:
        key = (name, number, _mark(block))
        if key not in self._known:
            self._known[key] = self._look(block)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[key]

    def _look(self, block: dict[str, Any]) -> tuple[str, dict[str, float]]:
        try:
            loaded = to_conversation([HumanMessage([block])], self.policy, shelf=self._shelf)
            picture: LoadedImage = loaded.images[0]
            return hashlib.sha256(picture.data).hexdigest(), colours_of(picture.pil())
        except UsageError as error:
            # It is the model's to refuse or to fetch; here it only gets a name.
            _log.info("A picture is known by its address alone: %s", error)
            text = json.dumps(block, sort_keys=True, default=str)
            return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), {}


def _mark(block: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """Return what tells a block from another one in its place, without reading all of it."""
    texts = [str(v) if not isinstance(v, str) else v for v in block.values()]
    return tuple((len(text), text[-64:]) for text in texts)


def _name_of(message: BaseMessage) -> str:
    if message.id:
        return message.id
    digest = hashlib.sha256(str(message.content).encode("utf-8", "replace")).hexdigest()
    return f"content-{digest[:32]}"


def _speaker(message: BaseMessage) -> str:
    if isinstance(message, ToolMessage):
        return "tool"
    return "assistant" if isinstance(message, AIMessage) else "user"


def _answer_after(messages: Sequence[AnyMessage], place: int) -> str:
    """What was answered before the user spoke again."""
    for message in messages[place + 1 :]:
        if is_user_turn(message):
            break
        if isinstance(message, AIMessage) and (words := words_of(message)):
            return words
    return ""


def block_from_memory(hit: Any, picture: ShownPicture) -> dict[str, Any] | None:
    """Return a picture as a content block out of the memory that keeps it, if it still does."""
    for image in getattr(hit, "images", ()):
        if image.id != picture.id:
            continue
        try:
            data = image.data() if callable(image.data) else image.data
        except LookupError:
            return None
        packed = base64.b64encode(data).decode("ascii")
        return {"type": "image", "base64": packed, "mime_type": image.mime_type}
    return None
