"""Moving a whole memory from a folder to PostgreSQL or back: resumable, counted at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore

from mmagent_memory.endpoints import CopiedEmbedder, Endpoint, Totals, endpoint
from mmagent_memory.errors import MemoryStoreError, MemoryUsageError
from mmagent_memory.rows import Put

__all__ = ["Migration", "is_postgres", "migrate", "open_for_copying"]

_BATCH = 200
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Migration:
    """What was moved.

    Attributes:
        items: Items of the source, each of which is in the destination now.
        vectors: Their vectors.
        pictures: Their pictures.
        copied: Items that this run has written.
        already: Items that were there, as from a run that was cut off.
        different: Names of items that were there with another value, and were left so.
    """

    items: int
    vectors: int
    pictures: int
    copied: int
    already: int
    different: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "different": list(self.different)}


def migrate(
    source: BaseStore, destination: BaseStore, progress: Progress | None = None
) -> Migration:
    """Copy every item with its words, vectors and pictures; the source is left as it is.

    What is in the destination already is not written again: after an interruption the same call
    goes on where it stopped.

    Args:
        source: Where from; see `open_for_copying`.
        destination: Where to.
        progress: Told after each batch how many items are done, and of how many.

    Raises:
        MemoryUsageError: The destination holds vectors of another embedder.
        MemoryStoreError: A store failed, or the counts do not agree at the end.
    """
    here, there = endpoint(source), endpoint(destination)
    _check_same_embedder(here, there)
    before, total = there.totals(), here.totals()
    done = copied = 0
    different: list[str] = []
    moved = Totals()
    for puts in here.batches(_BATCH):
        known = there.values([(put.namespace, put.key) for put in puts])
        new = [put for put in puts if (put.namespace, put.key) not in known]
        if new:
            there.write(new)
        copied += len(new)
        different += [
            "/".join((*put.namespace, put.key))
            for put in puts
            if known.get((put.namespace, put.key), put.value) != put.value
        ]
        moved = _plus(moved, puts)
        done += len(puts)
        if progress:
            progress(done, max(done, total.items))
    _check_counts(here, there, moved, before, copied)
    return Migration(
        items=moved.items,
        vectors=moved.vectors,
        pictures=moved.pictures,
        copied=copied,
        already=moved.items - copied,
        different=tuple(different),
    )


def is_postgres(place: str) -> bool:
    """Whether a place is a database and not a folder."""
    return place.startswith(("postgresql://", "postgres://"))


@contextmanager
def open_for_copying(
    place: str | Path, *, like: BaseStore | None = None, schema: str = "public"
) -> Iterator[BaseStore]:
    """Open a store by its folder or address without loading a model; closed after the block.

    Args:
        place: A folder, or `postgresql://…`.
        like: Make the store if it is not there, for this one's vectors. Without it the store must
            be there.
        schema: In which schema of a database.

    Raises:
        MissingStoreError: There is no store, and `like` is not given.
    """
    identity = endpoint(like).identity() if like is not None else None
    embedder: Any = CopiedEmbedder(*identity) if identity else False
    store: Any
    if is_postgres(str(place)):
        from mmagent_memory.postgres import PostgresMemoryStore

        store = PostgresMemoryStore(str(place), embedder, schema=schema)
    else:
        from mmagent_memory.store import FaissStore

        store = FaissStore(place, embedder, create=like is not None)
    try:
        yield store
    finally:
        store.close()


def _check_same_embedder(here: Endpoint, there: Endpoint) -> None:
    mine, theirs = here.identity(), there.identity()
    if mine is not None and theirs is not None and mine != theirs:
        raise MemoryUsageError(
            f"The destination holds vectors of {theirs[0]} ({theirs[1]} numbers), the source of "
            f"{mine[0]} ({mine[1]}); choose an empty destination, or call reembed() on one of them."
        )


def _check_counts(
    here: Endpoint, there: Endpoint, moved: Totals, before: Totals, copied: int
) -> None:
    """Read both again: every item of the source must be there, with all that belongs to it."""
    missing = 0
    for puts in here.batches(_BATCH):
        names = [(put.namespace, put.key) for put in puts]
        missing += len(names) - len(there.values(names))
    after = there.totals()
    if missing or after.items < before.items + copied or after.vectors < moved.vectors:
        raise MemoryStoreError(
            f"{missing} of {moved.items} items are missing in the destination "
            f"({after.vectors} of {moved.vectors} vectors are there); run it again."
        )


def _plus(totals: Totals, puts: list[Put]) -> Totals:
    return Totals(
        items=totals.items + len(puts),
        vectors=totals.vectors + sum(len(put.vectors.kinds) for put in puts if put.vectors),
        pictures=totals.pictures + sum(len(put.pictures or ()) for put in puts),
    )
