"""Attention's keys and values row by row: what lets sequences share a step without padding.

Each sequence keeps a `RowCache` of its own. For a step of several sequences the model is given a
`BatchCache`, which appends every row's new key and value to that row's cache and hands attention
the rows as they are (`Ragged`); `attend_rows` then attends row by row, while all linear layers
work on the whole batch. So a sequence joins and leaves between two tokens without a copy, rows
of any lengths lie side by side, and a row's attention is computed exactly as if it were alone.

Shapes: queries (rows, heads, 1, size); a row's keys and values (1, key heads, tokens, size).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["BatchCache", "Masks", "Padded", "Ragged", "RowCache", "attend_rows", "use_rows"]

NAME = "mmagent_rows"
Buffers = tuple[torch.Tensor, torch.Tensor]
_STEP = 64  # tokens of room that a cache grows by, at least


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer in a buffer with room: a new token copies none of the others."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None
        self._length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin with nothing."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states[..., :0, :]
        self.values = value_states[..., :0, :]
        self._buffers = None
        self._length = 0
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values (1, heads, new tokens, size); give all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self._length, self._length + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._grow(key_states, value_states, end)
        assert self._buffers is not None
        keys, values = self._buffers
        keys[..., begin:end, :] = key_states
        values[..., begin:end, :] = value_states
        self._length = end
        self.keys = keys[..., :end, :]
        self.values = values[..., :end, :]
        return self.keys, self.values

    def known(self) -> Buffers:
        """The keys and the values (1, heads, tokens, size)."""
        if self._buffers is None:
            assert self.keys is not None
            assert self.values is not None
            return self.keys, self.values
        keys, values = self._buffers
        return keys[..., : self._length, :], values[..., : self._length, :]

    def move(self, buffers: Buffers | None) -> None:
        """Lie in these buffers (1, heads, room, size) from now on; for None, in its own."""
        if buffers is None:
            self._grow(*self.known(), self._length)
        else:
            for before, buffer in zip(self.known(), buffers, strict=True):
                buffer[..., : self._length, :] = before
                buffer[..., self._length :, :] = 0  # no number of somebody else's
            self._buffers = buffers
        self.keys, self.values = self.known()  # the old ones would keep their buffers

    def lies_in(self, buffers: Buffers) -> bool:
        """Whether it is these that it lies in."""
        return self._buffers is buffers

    def grew(self) -> None:
        """A token more was written into its buffers."""
        self._length += 1

    def _grow(self, key_states: torch.Tensor, value_states: torch.Tensor, needed: int) -> None:
        room = needed + max(_STEP, needed // 8)
        made = []
        for before, like in zip(self.known(), (key_states, value_states), strict=True):
            buffer = like.new_empty((*like.shape[:-2], room, like.shape[-1]))
            buffer[..., : self._length, :] = before[..., : self._length, :]
            made.append(buffer)
        self._buffers = (made[0], made[1])

    def get_seq_length(self) -> int:
        """How many tokens are known."""
        return self._length

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; a negative number says how many."""
        self.cut(self._length - abs(tokens_to_remove))

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if not self.is_initialized or self._length <= length:
            return
        self._length = length
        self.keys, self.values = self.known()

    def nbytes(self) -> int:
        """Bytes of the buffers, room included."""
        return sum(buffer.nbytes for buffer in self._buffers or ())

    def copy(self, length: int) -> GrowingLayer:
        """A layer of its own with the first `length` tokens."""
        twin = GrowingLayer()
        if self.is_initialized:
            keys, values = self.known()
            twin.update(keys[..., :length, :], values[..., :length, :])
        return twin


class RowCache(DynamicCache):
    """The keys and values of one sequence, in all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer

    @property
    def grown(self) -> list[GrowingLayer]:
        """The layers."""
        return cast("list[GrowingLayer]", self.layers)

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens, also where layers differ after a failure."""
        for layer in self.grown:
            layer.cut(length)

    def copy(self, length: int) -> RowCache:
        """A cache of its own with the first `length` tokens."""
        twin = RowCache()
        twin.layers = [layer.copy(length) for layer in self.grown]
        return twin

    def nbytes(self) -> int:
        """Bytes of all layers, room included."""
        return sum(layer.nbytes() for layer in self.grown)


class Ragged:
    """Keys (or values) of several rows, each of its own length; stands where a tensor would."""

    __slots__ = ("rows",)

    def __init__(self, rows: list[torch.Tensor]) -> None:
        self.rows = rows


class Masks:
    """Which of the tokens of padded rows are a row's own."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths
        self._made: dict[int | None, torch.Tensor | None] = {}

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """What is added to attention's scores (rows, 1, 1, tokens); None if it is nothing.

        Args:
            window: How many of the last tokens a row attends to; None for all.
            like: Something of the right dtype.
        """
        if window is not None and window >= max(self._lengths):
            window = None
        if window not in self._made:
            ends = torch.tensor(self._lengths).view(-1, 1)
            places = torch.arange(max(self._lengths))
            beyond = places >= ends
            if window is not None:
                beyond |= places < ends - window
            mask = torch.zeros(beyond.shape, dtype=like.dtype).masked_fill_(beyond, float("-inf"))
            self._made[window] = mask[:, None, None] if bool(beyond.any()) else None
        return self._made[window]


class Padded:
    """Keys (or values) of several rows, padded to one length; stands where a tensor would."""

    __slots__ = ("masks", "rows")

    def __init__(self, rows: torch.Tensor, masks: Masks) -> None:
        self.rows = rows
        self.masks = masks


class Table(Protocol):
    """What is needed of `rowtable.RowTable`."""

    def append(
        self, layer: int, key_states: torch.Tensor, value_states: torch.Tensor
    ) -> tuple[Padded, Padded]:
        """One token more for each row."""


class BatchCache(Cache):
    """The caches of several sequences, for one token of each."""

    def __init__(self, rows: Sequence[RowCache], table: Table | None = None) -> None:
        """Begin a step.

        Args:
            rows: The caches, in the order of the step's rows.
            table: Where they sit, in this order; None if they do not.
        """
        super().__init__(layers=list(rows[0].layers))
        self._rows = rows
        self._table = table

    def update(  # type: ignore[override]
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Ragged, Ragged] | tuple[Padded, Padded]:
        """Append one token to each row; (rows, heads, 1, size)."""
        if self._table is not None:
            return self._table.append(layer_idx, key_states, value_states)
        keys, values = [], []
        for number, row in enumerate(self._rows):
            key, value = row.grown[layer_idx].update(
                key_states[number : number + 1], value_states[number : number + 1]
            )
            keys.append(key)
            values.append(value)
        return Ragged(keys), Ragged(values)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As if nothing were known: rows need no mask, so none shall be made."""
        return query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """See `get_mask_sizes`."""
        return 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Of the longest row; models only ask whether it is the first step."""
        return max(row.get_seq_length(layer_idx) for row in self._rows)


def attend_rows(
    module: Any,
    query: torch.Tensor,
    key: Any,
    value: Any,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over rows of different lengths; over tensors it is transformers' own for SDPA."""
    if not isinstance(key, Ragged | Padded):
        made: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return made
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"attention with {name} is not done by rows")
    window = kwargs.get("sliding_window") or getattr(module, "sliding_window", None)
    rows, heads, _, size = query.shape
    if isinstance(key, Padded):
        shared = key.rows.shape[1]
        found = torch.nn.functional.scaled_dot_product_attention(
            query.view(rows, shared, heads // shared, size),
            key.rows,
            value.rows,
            attn_mask=key.masks.mask(window or None, query),
            scale=scaling,
        )
        return found.reshape(rows, 1, heads, -1), None
    attended = []
    for number, (keys, values) in enumerate(zip(key.rows, value.rows, strict=True)):
        if window and keys.shape[-2] > window:
            keys, values = keys[..., -window:, :], values[..., -window:, :]
        shared = keys.shape[1]
        # Heads that share a key take the place of queries: (1, key heads, heads per key, size).
        asked = query[number].view(1, shared, heads // shared, size)
        found = torch.nn.functional.scaled_dot_product_attention(asked, keys, values, scale=scaling)
        attended.append(found.reshape(1, 1, heads, -1))
    return (attended[0] if rows == 1 else torch.cat(attended)), None


AttentionInterface.register(NAME, attend_rows)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use_rows(model: Any) -> bool:
    """Let the language model of a checkpoint attend row by row; whether that is possible.

    Only its structure is looked at here; `decoding.Decoder` checks the numbers once.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config._attn_implementation != "sdpa" or kinds - {"full_attention", "sliding_attention"}:
        return False
    nested = next((name for name in model.config.sub_configs
                   if getattr(model.config, name, None) is config), None)  # fmt: skip
    try:
        if config is model.config:
            model.set_attn_implementation(NAME)
        elif nested is not None:
            model.set_attn_implementation({nested: NAME})
    except (ValueError, KeyError, AttributeError):
        return False
    return bool(config._attn_implementation == NAME)
