"""SQLite's write-ahead log as bytes: is it whole, and what of it can be saved if it is not.

SQLite believes a log up to the first frame whose checksum does not fit, and drops whatever
comes after without a word: a single flipped bit takes every later commit with it. Here each
frame is held to the checksum that the frame before it *states*, so that a damaged frame stands
alone. One flipped bit is set right by the checksum, a frame that is worse is left out, and all
the others can still be folded into a copy of the database.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LogState", "examine", "fold"]

_HEADER, _FRAME = 32, 24
_MAGIC = 0x377F0682  # The last bit says that the checksums are of big-endian words.
_VERSION = 3007000
_SIZES = (2048, 4096)
"""The sizes of pages that stores have been made with."""
_MASK = 0xFFFFFFFF
_LEFT_OUT = "left out"

Words = NDArray[np.uint32]


@dataclass
class LogState:
    """What is in a log.

    Attributes:
        frames: Frames of its present generation, damaged or not.
        damaged: Places of the frames that do not match their checksums.
        header: Whether its header is whole.
        commits: Commits that SQLite does not see any more because of the damage.
    """

    frames: int = 0
    damaged: list[int] = field(default_factory=list)
    header: bool = True
    commits: int = 0

    @property
    def whole(self) -> bool:
        """Whether SQLite reads all of it."""
        return self.commits == 0 and self.header

    def __str__(self) -> str:
        what = "its header" if not self.header else f"{len(self.damaged)} of {self.frames} frames"
        return f"the write-ahead log is damaged ({what}); {self.commits} commits hang on it"


def examine(path: Path) -> LogState:
    """Look at a log without changing it; one that is not there is whole."""
    log = _Log.read(path)
    return log.state() if log else LogState()


def fold(path: Path, database: Path) -> list[str]:
    """Write what a log holds into a database file; return what was amiss, in words.

    Neither may be in use; what was not committed, and what comes after the last commit that is
    whole, is left out. The log itself is not changed.
    """
    log = _Log.read(path)
    if log is None:
        return []
    kept, pages, said = log.committed()
    with database.open("r+b") as file:
        for place in kept:
            file.seek((int(log.heads[place, 0]) - 1) * log.page)
            file.write(log.content(place))
        if pages:
            file.truncate(pages * log.page)
    return said


class _Log:
    """A log in memory.

    `heads` [n, 6] are the frames' headers (page, pages after a commit or 0, two salts, two
    checksums); `pages` [n, page size / 4] the words that are summed.
    """

    def __init__(self, data: bytes) -> None:
        self.header_whole, self.order, self.page, self.salts = _read_header(data)
        if not self.header_whole:
            self.page, self.salts = _guess(data, self.page)
        count = (len(data) - _HEADER) // (_FRAME + self.page)
        raw = np.frombuffer(data, np.uint8, count * (_FRAME + self.page), _HEADER)
        raw = raw.reshape(count, _FRAME + self.page)
        heads = np.ascontiguousarray(raw[:, :_FRAME]).view(">u4").astype(np.uint32)
        mine = np.flatnonzero((heads[:, 2:4] == self.salts).all(axis=1))
        # What follows the last frame of this generation is left over from an earlier one.
        count = int(mine[-1]) + 1 if len(mine) else 0
        self.heads: Words = heads[:count]
        summed = np.concatenate([raw[:count, :8], raw[:count, _FRAME:]], axis=1)
        self.kind = ">u4" if self.order else "<u4"
        self.words: Words = np.ascontiguousarray(summed).view(self.kind).astype(np.uint32)
        # Of the two sums that the first frame may go on from, the stated one may be damaged.
        self.start: Words = np.array(struct.unpack(">2I", data[24:_HEADER]), dtype=np.uint32)
        computed = _sum(
            np.frombuffer(data[:24], self.kind).astype(np.uint32), np.zeros(2, np.uint32)
        )
        if count and (_sum(self.words[0], computed) == self.heads[0, 4:6]).all():
            self.start = computed

    @classmethod
    def read(cls, path: Path) -> _Log | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return cls(data) if len(data) >= _HEADER + _FRAME + min(_SIZES) else None

    def state(self) -> LogState:
        """Say what is whole."""
        good = self._good()
        damaged = [int(place) for place in np.flatnonzero(~good)]
        commits = 0
        if damaged or not self.header_whole:
            after = self.heads[damaged[0] if self.header_whole else 0 :]
            commits = int((after[:, 1] != 0).sum())
            if self.header_whole and damaged[0] == len(self.heads) - 1:
                # The last one alone may be a write that was cut off before it was acknowledged.
                commits = 0
        return LogState(len(self.heads), damaged, self.header_whole or not len(self.heads), commits)

    def committed(self) -> tuple[list[int], int, list[str]]:
        """Return the frames to be written, the pages that the database then has, and words."""
        good, said = self._good(), []
        kept: list[int] = []
        for place in range(len(self.heads)):
            if not good[place]:
                before = self.heads[place - 1, 4:6] if place else self.start
                done = self._set_right(place, before)
                said.append(f"Frame {place + 1} of the write-ahead log was {done}.")
                if done == _LEFT_OUT:
                    continue
            kept.append(place)
        last = next((place for place in reversed(kept) if self.heads[place, 1]), -1)
        if not self.header_whole and len(self.heads):
            said.insert(0, "The header of the write-ahead log was damaged.")
        pages = int(self.heads[last, 1]) if last >= 0 else 0
        return [place for place in kept if place <= last], pages, said

    def content(self, place: int) -> bytes:
        """Return the page that a frame holds."""
        return self.words[place, 2:].astype(self.kind).tobytes()

    def _good(self) -> NDArray[np.bool_]:
        """Return which frames fit the sum that the frame before states, [n]."""
        before = np.concatenate([self.start[None, :], self.heads[:-1, 4:6]])[: len(self.heads)]
        fits: NDArray[np.bool_] = (_sums(self.words, before) == self.heads[:, 4:6]).all(axis=1)
        fits &= (self.heads[:, 2:4] == self.salts).all(axis=1)
        return fits

    def _set_right(self, place: int, before: Words) -> str:
        """Undo one flipped bit, if that is all; return what was done."""
        stated, is_so = self.heads[place, 4:6], _sum(self.words[place], before)
        if (stated == is_so).all():
            return "given its salt again"
        if place + 1 < len(self.heads):
            follows = _sum(self.words[place + 1], is_so)
            if (follows == self.heads[place + 1, 4:6]).all():
                return "given its checksum again"
        previous = self.heads[place - 1, 4:6] if place else None
        if previous is not None:
            # The frame before may state a wrong sum and be right itself.
            own = before if place < 2 else _sum(self.words[place - 1], self.heads[place - 2, 4:6])
            if (_sum(self.words[place], own) == stated).all():
                return "found whole"
        # A flipped bit b of word k changes both sums by its coefficients times 2^b.
        away = stated - is_so
        bits = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
        effect = _coefficients(len(self.words[place]))[:, :, None] * bits  # [words, 2, 32]
        was_set = (self.words[place][:, None] & bits) != 0  # [words, 32]
        change = np.where(was_set[:, None, :], np.uint32(0) - effect, effect)
        hits = np.argwhere((change == away[None, :, None]).all(axis=1))
        if len(hits) != 1:
            return _LEFT_OUT
        word, bit = hits[0]
        self.words[place, word] ^= bits[bit]
        if word < 2:
            self.heads[place, :2] = self.words[place, :2].astype(self.kind).view(">u4")
        return "set right by one bit"


def _read_header(data: bytes) -> tuple[bool, bool, int, Words]:
    """Return whether a header is whole, the order of its words, its page size, its salts."""
    magic, version, page, _, *rest = struct.unpack(">8I", data[:_HEADER])
    order = bool(magic & 1)
    words = np.frombuffer(data[:24], ">u4" if order else "<u4").astype(np.uint32)
    sums = _sum(words, np.zeros(2, np.uint32))
    known = magic & ~1 == _MAGIC and version == _VERSION and page in _SIZES
    whole = known and rest[2:] == [int(one) for one in sums]
    # Elsewhere than here nobody writes big-endian sums: a damaged header does not decide that.
    return whole, order and whole, page, np.array(rest[:2], dtype=np.uint32)


def _guess(data: bytes, stated: int) -> tuple[int, Words]:
    """Return the page size and the salts that the first frames agree on."""
    salts = struct.unpack(">2I", data[_HEADER + 8 : _HEADER + 16])
    for page in (stated, *_SIZES):
        second = _HEADER + _FRAME + page
        if page in _SIZES and data[second + 8 : second + 16] == data[_HEADER + 8 : _HEADER + 16]:
            return page, np.array(salts, dtype=np.uint32)
    return stated if stated in _SIZES else _SIZES[0], np.array(salts, dtype=np.uint32)


@lru_cache(maxsize=4)
def _coefficients(count: int) -> Words:
    """Return by how much each of `count` words counts in the two sums, [count, 2]."""
    result = np.zeros((count, 2), dtype=np.uint32)
    a, b, c, d = 1, 0, 0, 1  # A power of [[1, 1], [1, 2]], which is what a pair of words does.
    for pair in range(count // 2 - 1, -1, -1):
        result[2 * pair] = (a + b) & _MASK, (c + d) & _MASK
        result[2 * pair + 1] = b, d
        a, b, c, d = a + b & _MASK, a + 2 * b & _MASK, c + d & _MASK, c + 2 * d & _MASK
    return result


@lru_cache(maxsize=4)
def _power(count: int) -> Words:
    """Return what becomes of the sums before `count` words: a matrix, [2, 2]."""
    matrix: Any = np.eye(2, dtype=np.uint32)
    for _ in range(count // 2):
        matrix = matrix @ np.array([[1, 1], [1, 2]], dtype=np.uint32)
    power: Words = matrix
    return power


def _sums(words: Words, before: Words) -> Words:
    """Return the checksums of frames, [n, 2], from their words [n, count] and the sums before."""
    count = words.shape[1]
    sums: Words = words @ _coefficients(count) + before @ _power(count).T
    return sums


def _sum(words: Words, before: Words) -> Words:
    one: Words = _sums(words[None, :], before[None, :])[0]
    return one
