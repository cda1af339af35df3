"""What the model remembers of prompts, kept between turns.

A chat model without state reads the whole conversation anew at every turn. Here the keys and
values of attention of the last few conversations stay, and the next prompt continues from the
longest beginning that it shares with one of them. Pictures are compared by content (see
`prompt.Prompt.keys`), and a shared beginning never ends inside a picture.

An entry that a running answer uses is not in here: it is taken out, and put back longer.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from mmagent.engine.prompt import Prompt

__all__ = ["ConversationCache", "Remembered"]


@dataclass
class Remembered:
    """Keys and values of attention for the tokens of `keys`, made with one adapter.

    The first `asked` of the tokens were a prompt; the others are its answer.
    """

    keys: list[int]
    cache: Any
    adapter: str | None = None
    asked: int = 0

    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(
            tensor.nbytes
            for layer in self.cache.layers
            for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if tensor is not None
        )

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        surplus = len(self.keys) - length
        if surplus:
            self.cache.crop(-surplus)  # a negative number is how many to remove
            del self.keys[length:]

    def branch(self, length: int) -> Remembered:
        """A copy of the first `length` tokens; this one stays whole."""
        twin = copy.copy(self.cache)
        twin.layers = []
        for layer in self.cache.layers:
            part = copy.copy(layer)
            if getattr(layer, "keys", None) is not None:
                part.keys = layer.keys[..., :length, :].clone()
                part.values = layer.values[..., :length, :].clone()
            twin.layers.append(part)
        return Remembered(self.keys[:length], twin, self.adapter, self.asked)


@dataclass
class ConversationCache:
    """The conversations used last, within a budget of bytes. Safe to share between threads."""

    max_bytes: int
    _entries: OrderedDict[int, Remembered] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: int = 0

    def take(self, prompt: Prompt, adapter: str | None = None) -> Remembered | None:
        """The longest known beginning of this prompt, ready to be continued, or None."""
        with self._lock:
            best, length = None, 0
            for number, entry in self._entries.items():
                if entry.adapter == adapter:
                    common = shared_beginning(entry.keys, prompt)
                    if common > length:
                        best, length = number, common
            if best is None:
                return None
            entry = self._entries[best]
            # The same question again, or the next turn, shares the whole former prompt and may
            # have the entry. A sibling (same persona, other user; an edited turn) gets a copy.
            if length < entry.asked - 1:
                self._entries.move_to_end(best)
                return entry.branch(length)
            del self._entries[best]
        entry.crop(length)
        return entry

    def put(self, entry: Remembered) -> None:
        """Keep this conversation, and let the ones go that were not used for longest."""
        if not entry.keys or entry.size() > self.max_bytes:
            return
        with self._lock:
            self._next += 1
            self._entries[self._next] = entry
            total = sum(kept.size() for kept in self._entries.values())
            while total > self.max_bytes:
                _, dropped = self._entries.popitem(last=False)
                total -= dropped.size()

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()

    def state(self) -> dict[str, int]:
        """Conversations, tokens and bytes that are kept now."""
        with self._lock:
            entries = list(self._entries.values())
        return {
            "conversations": len(entries),
            "tokens": sum(len(entry.keys) for entry in entries),
            "bytes": sum(entry.size() for entry in entries),
            "max_bytes": self.max_bytes,
        }


def shared_beginning(keys: list[int], prompt: Prompt) -> int:
    """How many first tokens of the prompt are known, leaving at least one to compute."""
    common = 0
    for known, wanted in zip(keys, prompt.keys, strict=False):
        if known != wanted:
            break
        common += 1
    common = min(common, len(prompt.keys) - 1)
    for first, end in prompt.spans:
        if first < common < end:  # a picture's pixels are passed whole or not at all
            common = first
    return common
