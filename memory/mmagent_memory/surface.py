"""What `FaissStore` and `PostgresMemoryStore` are alike in: how operations come in and go out."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from mmagent_memory.embedding import Matrix
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.filters import check_filter
from mmagent_memory.rows import Put, Row

if TYPE_CHECKING:
    from mmagent_memory.retriever import StoreRetriever
    from mmagent_memory.vectorstore import StoreVectorStore

__all__ = ["ReadOp", "StoreSurface", "item_of", "search_item_of"]

ReadOp = GetOp | SearchOp | ListNamespacesOp


class _Embeds(Protocol):
    """What the vectors of questions are asked of."""

    @property
    def enabled(self) -> bool: ...
    def query(self, text: str) -> Matrix: ...


class StoreSurface(BaseStore):
    """A LangGraph store in which the reads of a batch see one moment, and its writes are one."""

    vectorizer: Any

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations: the reads first, all at one moment, then the writes, all or none.

        Of several puts to one key the last counts.
        """
        every = list(ops)
        results: list[Result] = [None] * len(every)
        puts: dict[tuple[tuple[str, ...], str], Put] = {}
        reads: list[tuple[int, ReadOp]] = []
        for place, op in enumerate(every):
            validate_op_namespace(op)
            if isinstance(op, PutOp):
                puts[op.namespace, op.key] = Put(op.namespace, op.key, op.value, op.index, op.ttl)
            elif isinstance(op, ReadOp):
                reads.append((place, op))
            else:
                raise MemoryUsageError(f"There is no operation of type {type(op).__name__}.")
        if reads:
            self._read(reads, results)
        if puts:
            self.write(list(puts.values()))
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations without stopping the event loop."""
        return await asyncio.to_thread(self.batch, list(ops))

    @abstractmethod
    def write(self, puts: Sequence[Put]) -> None:
        """Write and remove items in one transaction; kept when this returns."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    @abstractmethod
    def _read(self, reads: Sequence[tuple[int, ReadOp]], results: list[Result]) -> None:
        """Carry out the reads of a batch at one moment; each has its place in the results."""

    def as_vectorstore(self, namespace: Sequence[str] = ("documents",)) -> StoreVectorStore:
        """Return a namespace as a LangChain vector store."""
        from mmagent_memory.vectorstore import StoreVectorStore

        return StoreVectorStore(self, namespace)

    def as_retriever(self, namespace: Sequence[str] = ("documents",), k: int = 4) -> StoreRetriever:
        """Return what is below a namespace as a LangChain retriever."""
        from mmagent_memory.retriever import StoreRetriever

        return StoreRetriever(store=self, namespace=tuple(namespace), k=k)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _questions_of(self, reads: Sequence[tuple[int, ReadOp]]) -> dict[str, Matrix]:
        """Check the searches of a batch; return the vectors of their questions, each made once."""
        embeds: _Embeds = self.vectorizer
        found: dict[str, Matrix] = {}
        for _, op in reads:
            if isinstance(op, SearchOp):
                check_filter(op.filter)
                if op.query and embeds.enabled and op.query not in found:
                    found[op.query] = embeds.query(op.query)
        return found


def item_of(row: Row) -> Item:
    """Return a row as LangGraph's item."""
    return Item(
        value=row.value,
        key=row.key,
        namespace=row.namespace,
        created_at=row.created,
        updated_at=row.updated,
    )


def search_item_of(row: Row, score: float | None) -> SearchItem:
    """Return a row that was found as LangGraph's item, with its score."""
    return SearchItem(
        namespace=row.namespace,
        key=row.key,
        value=row.value,
        created_at=row.created,
        updated_at=row.updated,
        score=score,
    )
