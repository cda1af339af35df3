"""`FaissStore` as vector store and as retriever passes LangChain's own suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.retriever import MemoryRetriever, StoreRetriever

TEXTS = ["green tea", "black coffee", "a red kettle", "a bicycle", "the blue house"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaissStore]:
    with FaissStore(tmp_path, HashEmbedder()) as opened:
        yield opened


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, store: FaissStore) -> VectorStore:
        return store.as_vectorstore()

    @property
    def has_get_by_ids(self) -> bool:
        return True


class OnStore(RetrieversIntegrationTests):
    """A retriever needs a store that holds something."""

    @pytest.fixture(autouse=True)
    def _filled(self, store: FaissStore) -> None:
        self.store = store
        store.as_vectorstore().add_texts(TEXTS)

    @property
    def retriever_query_example(self) -> str:
        return "a kettle of tea"


class TestStoreRetriever(OnStore):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return StoreRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store}

    def test_the_store_makes_one(self) -> None:
        found = self.store.as_retriever(k=2).invoke("kettle")
        assert found[0].page_content == "a red kettle"
        assert len(found) == 2


class TestMemoryRetriever(OnStore):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return MemoryRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        memory = LongTermMemory(self.store, user="sam")
        for text in TEXTS:
            memory.remember(text, speaker="Sam", id=text)
        return {"memory": memory}

    def test_a_document_says_who_said_it(self) -> None:
        params = self.retriever_constructor_params
        document = MemoryRetriever(**params).invoke("kettle", k=1)[0]
        assert isinstance(document, Document)
        assert (document.id, document.page_content) == ("a red kettle", "a red kettle")
        assert document.metadata["speaker"] == "Sam"
        assert document.metadata["score"] > 0
