"""Stores and memories as LangChain retrievers."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langgraph.store.base import BaseStore
from pydantic import ConfigDict, Field

from mmagent_memory.memory import LongTermMemory
from mmagent_memory.records import MemoryHit
from mmagent_memory.vectorstore import DOCUMENTS, document_of

__all__ = ["MemoryRetriever", "StoreRetriever"]


class StoreRetriever(BaseRetriever):
    """Finds items of a LangGraph store; `invoke(question, k=…)` overrides how many.

    Attributes:
        store: Where to look.
        namespace: Below which namespace.
        k: Most documents.
        filter: Conditions on the items' values, as in `BaseStore.search`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: BaseStore
    namespace: tuple[str, ...] = DOCUMENTS
    k: int = Field(default=4, ge=0)
    filter: dict[str, Any] | None = None

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
    ) -> list[Document]:
        limit = self.k if k is None else k
        found = self.store.search(self.namespace, query=query, filter=self.filter, limit=limit)
        return [document_of(item) for item in found]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
    ) -> list[Document]:
        limit = self.k if k is None else k
        found = await self.store.asearch(
            self.namespace, query=query, filter=self.filter, limit=limit
        )
        return [document_of(item) for item in found]


class MemoryRetriever(BaseRetriever):
    """Recalls memories of one user: words, meaning, dates and pictures, as `recall` does.

    Attributes:
        memory: Whose memories.
        k: Most documents.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: LongTermMemory
    k: int = Field(default=4, ge=0)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
    ) -> list[Document]:
        return [_remembered(hit) for hit in self.memory.recall(query, k=self.k if k is None else k)]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
    ) -> list[Document]:
        hits = await self.memory.arecall(query, k=self.k if k is None else k)
        return [_remembered(hit) for hit in hits]


def _remembered(hit: MemoryHit) -> Document:
    about = hit.as_dict()
    del about["id"], about["text"], about["explain"]
    metadata = {name: value for name, value in about.items() if value not in (None, [])}
    return Document(page_content=hit.text, metadata=metadata, id=hit.id)
