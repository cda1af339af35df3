"""A table where the sequences that decode together sit: attention of all of them in one call.

Attention row by row (`rowcache`) asks the kernel once for every row of every layer, and on a CPU
the asking takes longer than the answer. Here the rows of a step have their keys and values side by
side, one buffer a layer; a row's cache is a view into it, and works as it does anywhere else. A
row that sits down is copied to its seat, and one that leaves takes its numbers with it: once each,
not at every step.

Rows of different lengths are padded, and what lies beyond a row's end is masked: it adds nothing,
not even to the rounding of what is there. Where most of the table would be padding (one very long
row), nobody sits, and rows are attended to one by one.

Shapes: buffers (seats, key heads, room, size).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmagent.engine.rowcache import Buffers, Masks, Padded, RowCache

__all__ = ["RowTable"]

_STEP = 64  # tokens of room at least
_SEATS = 4  # are made at a time
_WASTE = 2.0  # times of what the rows hold that attention may look at


class RowTable:
    """The seats of one model."""

    def __init__(self) -> None:
        self._seated: list[tuple[RowCache, list[Buffers]]] = []
        self._buffers: list[Buffers] = []
        self._lengths = torch.empty(0, dtype=torch.long)
        self._numbers = torch.empty(0, dtype=torch.long)
        self._longest = 0
        self._masks = Masks(())

    def seat(self, caches: Sequence[RowCache]) -> list[int] | None:
        """Seat these for a step, and nobody else.

        Returns:
            In which order they sit; None if they do not.
        """
        lengths = [cache.get_seq_length() for cache in caches]
        longest = max(lengths, default=0) + 1
        if (
            len(caches) < 2
            or min(lengths) == 0
            or len(caches) * longest > _WASTE * (sum(lengths) + len(caches))
            or caches[0].grown[0].device.type != "cpu"  # measured on no other
        ):
            self.clear()
            return None
        wanted = {id(cache): number for number, cache in enumerate(caches)}
        for place in reversed(range(len(self._seated))):
            if id(self._seated[place][0]) not in wanted or self._moved(place):
                self._leave(place)
        if not self._has_room(len(caches), longest):
            self._make(caches, longest)
        known = {id(cache) for cache, _ in self._seated}
        for cache in caches:
            if id(cache) not in known:
                self._sit(cache)
        order = [wanted[id(cache)] for cache, _ in self._seated]
        self._lengths = torch.tensor([lengths[number] for number in order])
        self._numbers = torch.arange(len(order))
        self._longest = longest
        self._masks = Masks([lengths[number] + 1 for number in order])
        return order

    def release(self, cache: RowCache) -> None:
        """This one leaves; a cache that does not sit here stays as it is."""
        for place, (seated, _) in enumerate(self._seated):
            if seated is cache:
                self._leave(place)
                return

    def clear(self) -> None:
        """All leave."""
        while self._seated:
            self._leave(len(self._seated) - 1)
        self._buffers = []

    def append(
        self, layer: int, key_states: torch.Tensor, value_states: torch.Tensor
    ) -> tuple[Padded, Padded]:
        """One more token for each that sits; (rows, heads, 1, size) in the order of `seat`."""
        keys, values = self._buffers[layer]
        keys[self._numbers, :, self._lengths] = key_states[:, :, 0]
        values[self._numbers, :, self._lengths] = value_states[:, :, 0]
        for cache, _ in self._seated:
            cache.grown[layer].grew()
        rows, longest = len(self._seated), self._longest
        return (
            Padded(keys[:rows, :, :longest], self._masks),
            Padded(values[:rows, :, :longest], self._masks),
        )

    # ---- sitting down and leaving ----------------------------------------------------------

    def _has_room(self, count: int, longest: int) -> bool:
        if not self._buffers:
            return False
        seats, _, room, _ = self._buffers[0][0].shape
        return count <= seats and longest <= room

    def _make(self, caches: Sequence[RowCache], longest: int) -> None:
        """A larger table; whoever sat at the old one moves."""
        seats = -(-len(caches) // _SEATS) * _SEATS
        room = longest + max(_STEP, longest // 8)
        before, self._seated = self._seated, []

        def empty(like: torch.Tensor) -> torch.Tensor:
            return like.new_empty((seats, like.shape[1], room, like.shape[3]))

        known = [layer.known() for layer in caches[0].grown]
        self._buffers = [(empty(keys), empty(values)) for keys, values in known]
        for cache, _ in before:
            self._sit(cache)

    def _sit(self, cache: RowCache) -> None:
        place = len(self._seated)
        views = [(k[place : place + 1], v[place : place + 1]) for k, v in self._buffers]
        for layer, view in zip(cache.grown, views, strict=True):
            layer.move(view)
        self._seated.append((cache, views))

    def _leave(self, place: int) -> None:
        """Free a seat; whoever sits last takes it, so that no seat between two is empty."""
        cache, views = self._seated[place]
        for layer, view in zip(cache.grown, views, strict=True):
            if layer.lies_in(view):
                layer.move(None)
        last, _ = self._seated.pop()
        if last is not cache:
            behind, self._seated = self._seated[place + 1 :], self._seated[:place]
            self._sit(last)
            self._seated += behind

    def _moved(self, place: int) -> bool:
        """A cache that has grown by itself may be elsewhere, in some of its layers."""
        cache, views = self._seated[place]
        return any(not layer.lies_in(view) for layer, view in zip(cache.grown, views, strict=True))
