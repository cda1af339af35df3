"""Loading many items at once: what makes each item cheap, and what two cores can do side by side.

Items of a bulk load are alike: nothing of them but their namespace, key and value is given. So
each becomes a plain tuple of what its row needs, its vector packed with all the others, and goes
into the database with the columns that are the same for all written into the statement.

While one batch is committed, the next is made ready. Only then: rows are written one by one, and
after each the writing thread would wait for the interpreter, up to 5 ms where another thread
computes in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import Any

from langgraph.store.base import PutOp, validate_op_namespace

from mmagent_memory.checksums import content_checksum
from mmagent_memory.embedding import Matrix
from mmagent_memory.rows import (
    TEXT,
    BulkRows,
    Put,
    Vectors,
    bytes_of,
    pack_each,
    pack_vectors,
    path_of,
    to_json,
)
from mmagent_memory.vectorizer import body_of

__all__ = ["BULK", "BulkItem", "Loader"]

BULK = 10_000
"""Items of one transaction in a bulk load."""

BulkItem = tuple[tuple[str, ...], str, dict[str, Any]]
"""Namespace, key and value of an item."""


class Loader:
    """Makes items ready and has them written, a batch at a time.

    Args:
        vectors_of: Makes the vectors of puts.
        given: Checks vectors that were made elsewhere.
        write: Writes rows; calls what it is given when only the commit is left to do.
    """

    def __init__(
        self,
        vectors_of: Callable[[Sequence[Put]], list[Vectors | None]],
        given: Callable[[Any, int], Matrix],
        write: Callable[[BulkRows, Callable[[], None]], None],
    ) -> None:
        self._vectors_of = vectors_of
        self._given = given
        self._write = write
        self._paths: dict[tuple[str, ...], bytes] = {}

    def load(self, items: Iterable[BulkItem], vectors: Any, told: Callable[[int], None]) -> int:
        """Write items; return how many.

        Args:
            items: The items.
            vectors: [items, dims] their vectors, if they are known.
            told: Called with how many are on disk, after each batch.
        """
        done = begun = 0
        with ThreadPoolExecutor(1, "mmagent-bulk") as disk:
            written: Future[None] | None = None
            try:
                for batch in _batches(items):
                    part = None if vectors is None else vectors[begun : begun + len(batch)]
                    ready = self._ready(batch, part)
                    if written is not None:
                        before, written = written, None
                        before.result()
                        done = begun
                        told(done)
                    begun += len(batch)
                    applied = Event()
                    written = disk.submit(self._write, ready, applied.set)
                    written.add_done_callback(lambda _, applied=applied: applied.set())  # type: ignore[misc]
                    applied.wait()
            finally:
                if written is not None:
                    written.result()
                    done = begun
                    told(done)
        return done

    def _ready(self, batch: list[BulkItem], vectors: Any) -> BulkRows:
        paths, parts = self._paths, []
        for namespace, key, value in batch:
            path = paths.get(namespace)
            if path is None:
                validate_op_namespace(PutOp(namespace, key, value))
                path = paths[namespace] = path_of(namespace)
            text = to_json(value, key)
            parts.append((path, bytes_of(key), text, body_of(value, key)))
        if vectors is None:
            made = self._vectors_of([Put(*item) for item in batch])
            packed = [pack_vectors(mine) for mine in made]
            kinds, numbers = [one for one, _ in packed], [one for _, one in packed]
        else:
            numbers = pack_each(self._given(vectors, len(batch)))
            kinds = [bytes([TEXT])] * len(batch)
        return BulkRows(
            [
                (
                    path,
                    key,
                    value,
                    body,
                    kind,
                    mine,
                    content_checksum(path, key, value, None, _columns(body), kind),
                )
                for (path, key, value, body), kind, mine in zip(parts, kinds, numbers, strict=True)
            ]
        )


def _columns(body: str) -> tuple[str | None, ...]:
    """Return the columns of full text of an item that says this and no more."""
    return (body, "", "", "") if body else (None, None, None, None)


def _batches(items: Iterable[BulkItem]) -> Iterator[list[BulkItem]]:
    """Yield items a batch at a time."""
    iterator = iter(items)
    while batch := list(islice(iterator, BULK)):
        yield batch
