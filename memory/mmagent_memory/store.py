"""`FaissStore`: a durable LangGraph store in one folder.

SQLite is the truth; vectors are searched in memory, in blocks that are caches of it (`blocks`)
and, across more than one user's memories, in a FAISS index that is one too (`faiss_index`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    Result,
    SearchOp,
    TTLConfig,
)

from mmagent_memory.blocks import BlockCache
from mmagent_memory.committing import Committer
from mmagent_memory.database import Database
from mmagent_memory.embedding import Matrix, TextEmbedder
from mmagent_memory.erasing import INDEX_FOLDER, pay
from mmagent_memory.errors import MemoryStoreError, StoreBusyError
from mmagent_memory.faiss_index import FaissIndex
from mmagent_memory.filters import matches
from mmagent_memory.indexer import Indexer
from mmagent_memory.loading import BulkItem, Loader
from mmagent_memory.nearest_rows import Wanted
from mmagent_memory.reembedding import reembed
from mmagent_memory.rows import BulkRows, Put, Row, now_us
from mmagent_memory.search import Reader, nearest
from mmagent_memory.surface import ReadOp, StoreSurface, item_of, search_item_of
from mmagent_memory.text import question_words
from mmagent_memory.vectorizer import Vectorizer, words_of
from mmagent_memory.words import index_words
from mmagent_memory.writer import PreparedPut, Writer

__all__ = ["EXACT_LIMIT", "FaissStore"]

EXACT_LIMIT = 20_000
"""Items up to which a search compares every vector of its scope."""
_SETTLE_MS = 500
"""How long a search waits for other writers, to take new words into full text."""
_BEHIND = 20_000
"""Changes that a search takes into the index, after which a snapshot of it is written."""


class FaissStore(StoreSurface):
    """A LangGraph store that keeps items, their vectors and pictures in one folder.

    What a call has stored is on disk when it returns. Threads and processes may share a folder;
    each sees what the others wrote. Expired items are invisible at once.

    Args:
        path: The folder; made if it is not there.
        embeddings: What turns texts (and pictures, where it has `embed_images`) into vectors:
            any LangChain `Embeddings`, or a function from texts to vectors. None is the default
            embedder that is installed, loaded when first needed; False means none, and search
            by words alone.
        fields: Paths of the values that are embedded where a put does not say.
        ttl: As in LangGraph: `default_ttl` in minutes, `refresh_on_read`.
        create: Whether to make the store if there is none.

    Raises:
        MissingStoreError: There is no store, and `create` is off.
        NewerStoreError: A newer version wrote it.
        ReadOnlyStoreError: The folder cannot be written.
        CorruptStoreError: The database is damaged.
    """

    supports_ttl = True

    def __init__(
        self,
        path: str | Path,
        embeddings: TextEmbedder
        | Callable[[Sequence[str]], list[list[float]]]
        | Literal[False]
        | None = None,
        *,
        fields: Sequence[str] = ("$",),
        ttl: TTLConfig | None = None,
        create: bool = True,
    ) -> None:
        self.path = Path(path).expanduser()
        self.ttl_config = ttl
        self.database = Database(self.path, create=create)
        self.vectorizer = Vectorizer(self.database, embeddings, fields)
        self.blocks = BlockCache()
        self.index = FaissIndex(self.path / INDEX_FOLDER)
        self.exact_limit = EXACT_LIMIT
        self._committer = Committer(self.database, self.vectorizer.check_unchanged)
        self._indexer = Indexer(self.database, self.index)
        pay(self.database)  # What an erasure that was cut off still owes.

    def write(self, puts: Sequence[Put]) -> None:
        """Write and remove items in one transaction; on disk when this returns."""
        # All that can be done before the transaction: JSON, words, vectors, checksums.
        prepared = [PreparedPut(put, words_of(put)) for put in puts]
        for one, vectors in zip(prepared, self.vectorizer.vectors_of(puts), strict=True):
            one.with_vectors(vectors)
        self._commit(prepared)

    def _commit(
        self,
        ready: Sequence[PreparedPut] | BulkRows,
        applied: Callable[[], None] | None = None,
    ) -> None:
        newest = self._committer.write(ready, applied)
        if self._committer.words_due:
            self._indexer.follow_up()
        if self.vectorizer.enabled and newest > self.exact_limit:
            self._indexer.notice(newest)

    def bulk(
        self,
        items: Iterable[BulkItem],
        *,
        vectors: Any = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Write many items, in batches; return how many.

        Each batch is one transaction and on disk when `progress` hears of it: a load that was
        broken off is taken up again by loading the same items once more. While one batch is
        written, the next is made ready.

        Args:
            items: (namespace, key, value) of each.
            vectors: [items, dims] where they are known already: of each item's text, as the
                store's embedder makes them. None: they are made now.
            progress: Called with how many items are stored, after each batch.
        """
        loader = Loader(self.vectorizer.vectors_of, self.vectorizer.given, self._commit)
        try:
            with self._indexer.held(), self.database.loading():
                return loader.load(items, vectors, progress or (lambda _: None))
        finally:
            self._indexer.follow_up()

    def sweep_ttl(self) -> int:
        """Remove every expired item; return how many went.

        Without this they go along with later writes, a few at a time; they are invisible anyway.
        """
        with self.database.writing() as db:
            return Writer(db).sweep(-1)

    def reembed(self) -> int:
        """Embed everything anew with this store's embedder; return how many items have vectors."""
        count = reembed(self.database, self.vectorizer)
        self.blocks.clear()
        self.index.clear()
        return count

    def reader(self, db: Any) -> Reader:
        """Return a reader on a connection of `database.reading()`."""
        return Reader(db, now_us(), self.blocks, self.settle)

    def settle(self) -> None:
        """Take the words of all items into full text, which a search does by itself.

        Nothing is done while somebody else writes for long; a search then goes without.
        """
        with (
            suppress(StoreBusyError),
            self.database.writing(durable=False, patience_ms=_SETTLE_MS) as db,
        ):
            index_words(db)

    def close(self) -> None:
        """Close the files. The store is whole without this too."""
        self._indexer.finish()
        if not self.database.closed:
            with suppress(MemoryStoreError), self.database.reading() as db:
                self.index.save(db)
        self.database.close()

    def __repr__(self) -> str:
        return f"FaissStore({str(self.path)!r})"

    def _read(self, reads: Sequence[tuple[int, ReadOp]], results: list[Result]) -> None:
        queries = self._questions_of(reads)
        touched: list[int] = []
        with self.database.reading() as db:
            reader = self.reader(db)
            for place, op in reads:
                if isinstance(op, ListNamespacesOp):
                    results[place] = reader.namespaces(op)
                    continue
                if isinstance(op, GetOp):
                    row = reader.get(op.namespace, op.key)
                    results[place] = item_of(row) if row else None
                    rows = [row] if row else []
                else:
                    found = self._search(reader, op, queries)
                    results[place] = [search_item_of(row, score) for row, score in found]
                    rows = [row for row, _ in found]
                if op.refresh_ttl:
                    touched += [row.id for row in rows if row.has_ttl]
        if touched:
            with self.database.writing() as db:
                Writer(db).refresh(touched)

    def _search(
        self, reader: Reader, op: SearchOp, queries: dict[str, Matrix]
    ) -> list[tuple[Row, float | None]]:
        prefix, start, end = op.namespace_prefix, op.offset, op.offset + op.limit
        if not op.query:
            return [(row, None) for row in reader.page(prefix, op.filter, op.limit, start)]
        if self.vectorizer.enabled:
            ranked = self._nearest(reader, op, queries[op.query])
        else:
            allowed = reader.allowed(prefix, op.filter)
            ranked = reader.by_words(prefix, question_words(op.query), end, allowed=allowed)
        rows = reader.rows(list(ranked)[start:end])
        found: list[tuple[Row, float | None]] = [
            (rows[number], ranked[number]) for number in list(ranked)[start:end] if number in rows
        ]
        if self.vectorizer.enabled and len(found) < op.limit:
            # As in InMemoryStore: what has no vector comes after all that has one.
            skip = max(0, start - len(ranked))
            rest = reader.page(prefix, op.filter, op.limit - len(found), skip, without=ranked)
            found += [(row, None) for row in rest]
        return found

    def _nearest(self, reader: Reader, op: SearchOp, query: Matrix) -> dict[int, float]:
        """Return the nearest items, best first: exactly in a small scope, else by the index."""
        prefix, limit = op.namespace_prefix, op.offset + op.limit
        dims = self.vectorizer.dims(reader.db)
        if limit > 0 and dims and not reader.is_small(prefix, self.exact_limit):
            found = self._nearest_by_index(reader, op, query, dims)
            if found is not None:
                return found
        return nearest(
            reader.vectors(prefix, dims),
            query,
            limit=limit,
            allowed=reader.allowed(prefix, op.filter),
            expired=reader.expired(),
        )

    def _nearest_by_index(
        self, reader: Reader, op: SearchOp, query: Matrix, dims: int
    ) -> dict[int, float] | None:
        """Return the nearest items by the index over everything; None where it is of no use."""
        prefix, db, moment = op.namespace_prefix, reader.db, reader.moment
        self.index.load(db, dims)
        if prefix and reader.is_small(prefix, (self.index.size or moment.newest) // 4):
            return None  # Most of what it finds would be others'.
        if self.index.stale(moment) or moment.newest - self.index.seen > _BEHIND:
            self._indexer.start(dims)
        self.index.prepare(db, moment, dims)
        conditions = op.filter
        found = self.index.search(
            db,
            query,
            op.offset + op.limit,
            Wanted(
                now=reader.now,
                namespaces=reader.namespace_numbers(prefix) if prefix else None,
                fits=(lambda value: matches(json.loads(value), conditions)) if conditions else None,
            ),
        )
        if found is not None and not prefix:
            self.blocks.drop(b"")  # It served while the store was small.
        return found

    def wait_for_index(self) -> None:
        """Wait until the index that is being made in the background, if any, is done."""
        self._indexer.wait()
