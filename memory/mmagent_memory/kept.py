"""Rows that were read lately, whole and decoded: the same memories are found again and again.

An item is written once; all that can become of it is a new time of expiry, and its end. So a row
kept here is right if it is still there with the checksum it had, which costs a fraction of reading
it. So long as nothing in the store has changed, even that need not be asked (`moments`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmagent_memory.moments import Moment
from mmagent_memory.rows import Row

__all__ = ["KeptRow", "KeptRows"]

_BUDGET = 8 << 20
"""Bytes, about, of each of two generations: what was not asked for in the last one is let go."""
_A_ROW = 1000
_DECODE: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_CHUNK = 500
"""Most ids in one SQL statement."""
_SIZES = (10, 16, 64, _CHUNK)
"""Numbers of ids of a statement: few, so that SQLite has it ready."""


def _statements(columns: str) -> dict[int, str]:
    return {
        size: f"SELECT {columns} FROM items WHERE items.id IN ({', '.join('?' * size)}) "  # noqa: S608
        "AND (items.expires IS NULL OR items.expires > ?)"
        for size in _SIZES
    }


_WHOLE = _statements(Row.COLUMNS_WITHOUT_PATH)
_CHECKSUMS = _statements("items.id, items.crc")
_VALUE, _CRC = 3, 10
"""Where they stand among the columns of a row."""


@dataclass(slots=True)
class KeptRow:
    """A row, what it was read from, and when that was last seen to be so.

    Attributes:
        row: The row; what it holds must not be changed.
        text: Its value as JSON.
        crc: Its checksum.
        moment: When it was last seen to be there.
    """

    row: Row
    text: str
    crc: int
    moment: Moment

    def fresh(self) -> Row:
        """Return the row with a value of its own, which the caller may change."""
        row = self.row
        return Row(
            row.id,
            row.namespace,
            row.key,
            _DECODE(self.text, 0)[0],
            row.created,
            row.updated,
            row.has_ttl,
        )


class KeptRows:
    """The rows of one store that were read last, within a budget of bytes."""

    # Without a lock: what two threads do at once can only lose rows that are then read again.

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._young: dict[int, KeptRow] = {}
        self._old: dict[int, KeptRow] = {}
        self._size = 0
        self._scrubs = 0

    def get(
        self,
        db: sqlite3.Connection,
        moment: Moment,
        now: int,
        numbers: Sequence[int],
        path: Callable[[int], bytes],
    ) -> dict[int, KeptRow]:
        """Return items by their numbers; those that are gone or expired are left out.

        Args:
            db: A reading connection.
            moment: What it sees.
            now: Items that expire up to then are not there.
            numbers: The items.
            path: Gives the path of a namespace by its number.

        Raises:
            CorruptStoreError: An item is damaged.
        """
        if moment.scrubs != self._scrubs:
            self.clear()  # What was erased for good should not be in memory either.
            self._scrubs = moment.scrubs
        unchanged = moment.expiry is None or moment.expiry > now
        found: dict[int, KeptRow] = {}
        doubtful: dict[int, KeptRow] = {}
        unknown: list[int] = []
        for number in numbers:
            kept = self._young.get(number) or self._from_old(number)
            if kept is None:
                unknown.append(number)
            elif unchanged and kept.moment is moment:
                found[number] = kept
            else:
                doubtful[number] = kept
        if doubtful:
            for number, crc in _read(db, _CHECKSUMS, list(doubtful), now):
                kept = doubtful[number]
                if kept.crc == crc:
                    kept.moment = moment
                    found[number] = kept
                else:
                    unknown.append(number)
        for columns in _read(db, _WHOLE, unknown, now):
            # An item whose namespace is lost is damaged, not absent.
            row = Row.from_columns(columns, path(columns[1]))
            found[row.id] = KeptRow(row, columns[_VALUE], columns[_CRC], moment)
            self._keep(row.id, found[row.id])
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old, self._size = {}, {}, 0

    def _from_old(self, number: int) -> KeptRow | None:
        kept = self._old.pop(number, None)
        if kept is not None:
            self._keep(number, kept)
        return kept

    def _keep(self, number: int, kept: KeptRow) -> None:
        self._size += _A_ROW + 4 * len(kept.text)
        if self._size > _BUDGET:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[number] = kept


def _read(
    db: sqlite3.Connection, statements: dict[int, str], numbers: Sequence[int], now: int
) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(numbers), _CHUNK):
        wanted = numbers[start : start + _CHUNK]
        room = next(size for size in _SIZES if size >= len(wanted))
        padding = (-1,) * (room - len(wanted))
        found += db.execute(statements[room], (*wanted, *padding, now))
    return found
