"""What the model remembers of prompts, kept between turns.

A chat model without state reads the whole conversation anew at every turn. Here the keys and
values of attention of the last few conversations stay, and the next prompt continues from the
longest beginning that it shares with one of them. Pictures are compared by content (see
`prompt.Prompt.keys`), and a shared beginning never ends inside a picture.

An entry that a running answer uses is lent: nobody else may continue it, but others may copy the
beginning that they share with it, so that answers asked for at once read a common persona once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from mmagent.engine.prompt import Prompt

__all__ = ["ConversationCache", "Remembered", "RowLike"]


class RowLike(Protocol):
    """What is needed of a sequence's keys and values; see `rowcache.RowCache`."""

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens."""

    def copy(self, length: int) -> Self:
        """A cache of its own with the first `length` tokens."""

    def nbytes(self) -> int:
        """Bytes of all layers."""


@dataclass(eq=False)
class Remembered:
    """Keys and values of attention for the tokens of `keys`, made with one adapter.

    The first `asked` of the tokens were a prompt; the others are its answer.
    """

    keys: list[int]
    cache: Any  # a RowLike; or None or a cache of transformers, which is never remembered
    adapter: str | None = None
    asked: int = 0

    def size(self) -> int:
        """Bytes of all tensors."""
        size: int = self.cache.nbytes()
        return size

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if len(self.keys) > length:
            self.cache.cut(length)
            del self.keys[length:]

    def branch(self, length: int) -> Remembered:
        """A copy of the first `length` tokens; this one stays whole."""
        return Remembered(self.keys[:length], self.cache.copy(length), self.adapter, self.asked)


@dataclass
class ConversationCache:
    """The conversations used last, within a budget of bytes. Safe to share between threads.

    Attributes:
        max_bytes: The budget of what is kept; lent entries are not in it.
        whole: Attention over the prompt goes in both directions, so that only a prompt that is
            wholly the same is known.
    """

    max_bytes: int
    whole: bool = False
    _entries: OrderedDict[int, Remembered] = field(default_factory=OrderedDict)
    _lent: list[Remembered] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: int = 0

    def take(self, prompt: Prompt, adapter: str | None = None) -> Remembered | None:
        """The longest known beginning of this prompt, ready to be continued, or None."""
        with self._lock:
            best, length = None, 0
            for number, entry in self._entries.items():
                if (common := self._common(entry, prompt, adapter)) > length:
                    best, length = number, common
            shared = None
            for entry in self._lent:
                # Only if it is worth a copy.
                if (common := self._common(entry, prompt, adapter)) > length:
                    shared, length = entry, common
            if shared is not None:
                return shared.branch(length)
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

    def _common(self, entry: Remembered, prompt: Prompt, adapter: str | None) -> int:
        if entry.adapter != adapter:
            return 0
        common = shared_beginning(entry.keys, prompt)
        if self.whole and not (entry.asked == len(prompt.keys) == common + 1):
            return 0
        return common

    def lend(self, entry: Remembered) -> None:
        """A running answer continues this entry from now on."""
        with self._lock:
            self._lent.append(entry)

    def put(self, entry: Remembered, *, keep: bool = True) -> None:
        """Keep this conversation, and let the ones go that were not used for longest."""
        with self._lock:
            self._lent = [lent for lent in self._lent if lent is not entry]
            if not keep or not entry.keys or entry.size() > self.max_bytes:
                return
            self._next += 1
            self._entries[self._next] = entry
            total = sum(kept.size() for kept in self._entries.values())
            while total > self.max_bytes:
                _, dropped = self._entries.popitem(last=False)
                total -= dropped.size()

    def clear(self) -> None:
        """Forget all that is not lent."""
        with self._lock:
            self._entries.clear()

    def state(self) -> dict[str, int]:
        """Conversations, tokens and bytes that are kept now, and how many more are in use."""
        with self._lock:
            entries = list(self._entries.values())
            lent = len(self._lent)
        return {
            "conversations": len(entries),
            "tokens": sum(len(entry.keys) for entry in entries),
            "bytes": sum(entry.size() for entry in entries),
            "max_bytes": self.max_bytes,
            "in_use": lent,
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
