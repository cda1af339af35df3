"""Keeping FAISS to one thread: its pool makes small searches many times slower on busy cores."""

from __future__ import annotations

from typing import Any

__all__ = ["one_thread"]


class one_thread:
    """A context in which FAISS uses the calling thread alone."""

    # No generator: it is entered for every search, and takes a tenth of one.
    __slots__ = ("_before", "_faiss")

    def __enter__(self) -> None:
        import faiss

        self._faiss: Any = faiss
        self._before = faiss.omp_get_max_threads()
        if self._before != 1:
            faiss.omp_set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        if self._before != 1:
            self._faiss.omp_set_num_threads(self._before)
