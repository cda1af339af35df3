"""A LangGraph store as a LangChain vector store: documents are items of one namespace.

A document is the item `{"text": page_content, "metadata": metadata}` under its id; its text is
embedded, by the store's own embedder. Whatever else the store promises (durability, filters
before the cut, expiry) holds for documents too.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langgraph.store.base import BaseStore, GetOp, Item, Op, PutOp, SearchOp

from mmagent_memory.errors import MemoryUsageError

__all__ = ["DOCUMENTS", "StoreVectorStore", "document_of"]

DOCUMENTS = ("documents",)
"""Where documents are kept if nothing else is said."""


class StoreVectorStore(VectorStore):
    """Documents in a LangGraph store that embeds, such as `FaissStore`.

    Args:
        store: Where they are kept.
        namespace: Under which namespace.
    """

    def __init__(self, store: BaseStore, namespace: Sequence[str] = DOCUMENTS) -> None:
        self.store = store
        self.namespace = tuple(namespace)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store in the folder `path` and keep texts in it.

        Raises:
            MemoryUsageError: No `path` is given.
        """
        from mmagent_memory.store import FaissStore

        if path is None:
            raise MemoryUsageError("Say where to keep the texts: from_texts(…, path='FOLDER').")
        made = cls(FaissStore(path, embedding), **kwargs)
        made.add_texts(texts, metadatas, ids=ids)
        return made

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Keep texts, over those of the same ids; return their ids."""
        puts = self._puts(list(texts), metadatas, ids)
        self.store.batch(puts)
        return [put.key for put in puts]

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Keep texts, over those of the same ids; return their ids."""
        puts = self._puts(list(texts), metadatas, ids)
        await self.store.abatch(puts)
        return [put.key for put in puts]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Remove documents; ids that are not there are no error."""
        self.store.batch(self._removals(ids))
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Remove documents; ids that are not there are no error."""
        await self.store.abatch(self._removals(ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return documents by their ids; those that are not there are left out."""
        found = self.store.batch([GetOp(self.namespace, key) for key in ids])
        return [document_of(item) for item in found if isinstance(item, Item)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return documents by their ids; those that are not there are left out."""
        found = await self.store.abatch([GetOp(self.namespace, key) for key in ids])
        return [document_of(item) for item in found if isinstance(item, Item)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the documents nearest to a question; see `similarity_search_with_score`."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the documents nearest to a question; see `similarity_search_with_score`."""
        found = await self.asimilarity_search_with_score(query, k, **kwargs)
        return [document for document, _ in found]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the documents nearest to a question, with their cosines, best first.

        Args:
            query: The question.
            k: Most documents.
            filter: Conditions on their metadata, as in LangGraph: `{"year": {"$gte": 2024}}`.
            kwargs: Nothing else is used.
        """
        (found,) = self.store.batch([self._question(query, k, filter)])
        return _scored(found)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the documents nearest to a question; see `similarity_search_with_score`."""
        (found,) = await self.store.abatch([self._question(query, k, filter)])
        return _scored(found)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (1.0 + cosine) / 2.0

    def _puts(
        self,
        texts: list[str],
        metadatas: list[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[PutOp]:
        metadatas = metadatas or [{} for _ in texts]
        ids = ids or [None] * len(texts)
        if not len(texts) == len(metadatas) == len(ids):
            raise MemoryUsageError(
                f"{len(texts)} texts came with {len(metadatas)} metadatas and {len(ids)} ids; "
                "give one of each."
            )
        return [
            PutOp(
                self.namespace,
                key or str(uuid.uuid4()),
                {"text": text, "metadata": dict(metadata or {})},
                index=["text"],
            )
            for text, metadata, key in zip(texts, metadatas, ids, strict=True)
        ]

    def _removals(self, ids: list[str] | None) -> list[Op]:
        if ids is None:
            raise MemoryUsageError(
                "Say which documents to remove: delete(ids=[…]). To remove all, use a namespace "
                "or a folder of their own and erase that."
            )
        return [PutOp(self.namespace, key, None) for key in ids]

    def _question(self, query: str, k: int, conditions: Mapping[str, Any] | None) -> SearchOp:
        wanted = {"metadata": dict(conditions)} if conditions else None
        return SearchOp(self.namespace, wanted, limit=k, query=query)


def document_of(item: Item) -> Document:
    """Return an item as a document: its text, and everything else that it says as metadata."""
    value = dict(item.value)
    text = value.pop("text", None)
    metadata = value.pop("metadata", None)
    if metadata is None:
        metadata = {name: one for name, one in value.items() if one is not None}
    return Document(page_content=text or "", metadata=metadata, id=item.key)


def _scored(found: Any) -> list[tuple[Document, float]]:
    return [(document_of(item), 0.0 if item.score is None else item.score) for item in found]
