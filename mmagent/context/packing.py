"""Which part of a conversation still fits, so that its beginning changes as seldom as possible.

A prompt's prefix is worth keeping: a model with a cache reads only what follows it. So turns are
evicted oldest first and in big steps, down to a low-water mark, and the choice depends on
nothing but the turns' sizes: the same conversation is packed alike in every process, and one
more turn leaves the beginning as it was unless a step is due.

Pure: knows sizes, not tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AnyMessage, HumanMessage

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Block", "Packing", "Plan", "first_kept", "plan_turns", "split_turns"]

LOW_WATER = 0.6
"""Down to what share of the budget a step of eviction goes."""


@dataclass(frozen=True)
class Block:
    """One part of a prompt.

    Attributes:
        source: What it is, for instance "system" or "turn 12".
        tokens: Its size.
        kept: Whether it is in the prompt.
        reason: Why, in a few words.
    """

    source: str
    tokens: int
    kept: bool
    reason: str


@dataclass(frozen=True)
class Packing:
    """What was kept of a conversation for one call of the model.

    Attributes:
        budget: Most tokens of the prompt.
        blocks: Its parts in order, with those that were dropped.
        prompt_tokens: Exactly what the prompt has as it is sent on, counted by the model in one
            piece; without what is set aside for memories. The sizes of blocks are counted one by
            one, so that they add up to a little more.
    """

    budget: int
    blocks: tuple[Block, ...] = ()
    prompt_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of what was kept, with what is set aside for memories."""
        return sum(block.tokens for block in self.blocks if block.kept)

    def explain(self) -> list[dict[str, Any]]:
        """Return every block as plain data."""
        return [asdict(block) for block in self.blocks]

    def table(self) -> str:
        """Return the blocks as lines of text for people."""
        width = max((len(block.source) for block in self.blocks), default=0)
        lines = [
            f"{block.source:{width}}  {block.tokens:>7,}  "
            f"{'kept' if block.kept else 'dropped'}: {block.reason}"
            for block in self.blocks
        ]
        return "\n".join([*lines, f"{'total':{width}}  {self.tokens:>7,}  of {self.budget:,}"])

    def rich_table(self) -> Table:
        """Return the blocks as a table for `rich.print`."""
        from rich.table import Table

        table = Table(title=f"{self.tokens:,} of {self.budget:,} tokens")
        for name in ("part", "tokens", "", "why"):
            table.add_column(name, justify="right" if name == "tokens" else "left")
        for block in self.blocks:
            table.add_row(
                block.source,
                f"{block.tokens:,}",
                "kept" if block.kept else "dropped",
                block.reason,
                style=None if block.kept else "dim",
            )
        return table


@dataclass(frozen=True)
class Plan:
    """What of a conversation goes into the prompt.

    Attributes:
        start: Number of the first turn that is kept.
        has_examples: Whether the persona's examples are kept.
    """

    start: int
    has_examples: bool


def plan_turns(sizes: Sequence[int], room: int, *, examples: int = 0, summary: int = 0) -> Plan:
    """Decide what to leave out: the examples first, then the oldest turns, in big steps.

    What is pinned and what is set aside for lore and memories is not in the room any more.

    Args:
        sizes: Tokens of each turn, oldest first.
        room: Tokens for the turns, the summary and the examples.
        examples: Tokens of the examples.
        summary: Most tokens of a summary of what is left out.
    """
    total = sum(sizes)
    if total + examples <= room:
        return Plan(0, True)
    if total <= room:
        return Plan(0, False)
    # Turns only grow: once there is a summary there is one for good, so its room is set aside.
    return Plan(first_kept(sizes, max(0, room - summary)), False)


def split_turns(messages: Iterable[AnyMessage]) -> list[list[AnyMessage]]:
    """Split a conversation before each message of the user.

    A tool call and its results never come apart, nor a picture and what was said of it. What
    stands before the first message of the user (a greeting) goes with it.
    """
    turns: list[list[AnyMessage]] = []
    asked = False
    for message in messages:
        is_user = isinstance(message, HumanMessage)
        if not turns or (is_user and asked):
            turns.append([])
        asked = asked or is_user
        turns[-1].append(message)
    return turns


def first_kept(sizes: Sequence[int], budget: int, low_water: float = LOW_WATER) -> int:
    """Return the number of the first turn that is kept; the last one always is.

    Args:
        sizes: Tokens of each turn, oldest first.
        budget: Most tokens of all that are kept; a last turn that is larger alone is for the
            caller to refuse.
        low_water: Share of the budget that a step of eviction goes down to.
    """
    start = 0
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if total <= budget:
            continue
        while start < number and total > budget * low_water:
            total -= sizes[start]
            start += 1
    return start
