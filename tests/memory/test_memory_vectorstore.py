"""Documents in a store: filters, namespaces, scores, and calls that cannot work."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document

from mmagent_memory import FaissStore, HashEmbedder
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.retriever import StoreRetriever
from mmagent_memory.vectorstore import StoreVectorStore


@pytest.fixture
def store(tmp_path):
    with FaissStore(tmp_path, HashEmbedder()) as opened:
        yield opened


def test_a_filter_on_metadata_comes_before_the_cut(store):
    documents = store.as_vectorstore()
    documents.add_texts(
        [f"tea {year}" for year in range(2000, 2030)],
        [{"year": year} for year in range(2000, 2030)],
    )
    late = documents.similarity_search("tea", k=2, filter={"year": {"$gte": 2028}})
    assert sorted(document.metadata["year"] for document in late) == [2028, 2029]
    assert documents.similarity_search("tea", k=0) == []
    (one,) = documents.similarity_search("tea", filter={"year": 2003})
    assert one.page_content == "tea 2003"


async def test_namespaces_are_apart(store):
    store.as_vectorstore(["a"]).add_texts(["tea"], ids=["1"])
    other = store.as_vectorstore(["ab"])
    assert await other.asimilarity_search("tea") == []
    assert await other.aget_by_ids(["1"]) == []
    await other.adelete(["1"])
    assert store.as_vectorstore(["a"]).get_by_ids(["1"])[0].page_content == "tea"


def test_scores_are_cosines_and_relevance_lies_between_0_and_1(store):
    documents = store.as_vectorstore()
    documents.add_documents([Document("green tea", id="x"), Document("a bicycle")])
    (best, score), (_, other) = documents.similarity_search_with_score("green tea")
    assert (best.id, round(score, 3)) == ("x", 1.0)
    assert other < score
    relevance = [s for _, s in documents.similarity_search_with_relevance_scores("green tea")]
    assert all(0 <= one <= 1 for one in relevance)


def test_calls_that_cannot_work_say_so(store, tmp_path):
    documents = store.as_vectorstore()
    with pytest.raises(MemoryUsageError, match="which documents"):
        documents.delete()
    with pytest.raises(MemoryUsageError, match=r"2 texts .* 1 ids"):
        documents.add_texts(["a", "b"], ids=["1"])
    with pytest.raises(MemoryUsageError, match="path="):
        StoreVectorStore.from_texts(["a"], HashEmbedder())


def test_from_texts_makes_a_store_that_stays(tmp_path):
    made = StoreVectorStore.from_texts(["tea", "coffee"], HashEmbedder(), path=tmp_path / "s")
    made.store.close()
    with FaissStore(tmp_path / "s", HashEmbedder()) as again:
        assert again.as_retriever(k=1).invoke("coffee")[0].page_content == "coffee"


def test_a_retriever_gives_other_items_with_what_they_say(store):
    store.put(("notes", "sam"), "n", {"text": "buy tea", "done": False, "by": None})
    (note,) = StoreRetriever(store=store, namespace=("notes",)).invoke("tea")
    assert note == Document(id="n", page_content="buy tea", metadata={"done": False})
    assert (
        StoreRetriever(store=store, namespace=("notes",), filter={"done": True}).invoke("t") == []
    )
