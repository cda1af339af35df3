"""Chroma, LanceDB and Qdrant in their local forms, and mem0 over FAISS without its model."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stores.data import DIMS, Data

__all__ = ["Chroma", "Lance", "Mem0", "Qdrant"]


class Chroma:
    """A persistent client, HNSW, cosine."""

    durable = True
    reopens = True

    def __init__(self, folder: Path, data: Data) -> None:
        import chromadb
        from chromadb.config import Settings

        self._data = data
        self._client = chromadb.PersistentClient(
            str(folder), settings=Settings(anonymized_telemetry=False)
        )
        self._items: Any = self._client.get_or_create_collection(
            "items", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )

    def load(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), 5_000):
            self._items.add(**self._rows(numbers[start : start + 5_000]))

    def add(self, number: int) -> None:
        self._items.add(**self._rows([number]))

    def update(self, number: int, source: int) -> None:
        self._items.update(
            ids=[str(number)],
            embeddings=self._data.vectors[source : source + 1],
            documents=[self._data.text(source)],
        )

    def delete(self, number: int) -> None:
        self._items.delete(ids=[str(number)])

    def search(self, question: int, user: str | None) -> list[int]:
        found = self._items.query(
            query_embeddings=self._data.questions[question : question + 1],
            n_results=10,
            where={"user": user} if user else None,
            include=["documents", "distances"],
        )
        return [int(key) for key in found["ids"][0]]

    def close(self) -> None:
        pass

    def _rows(self, numbers: Sequence[int]) -> dict[str, Any]:
        return {
            "ids": [str(number) for number in numbers],
            "embeddings": np.ascontiguousarray(self._data.vectors[np.asarray(numbers)]),
            "documents": [self._data.text(number) for number in numbers],
            "metadatas": [{"user": self._data.user(number)} for number in numbers],
        }


class Lance:
    """A table of Lance files; the search is exact, as it comes, filtered beforehand."""

    durable = False  # Files are written, but not synchronised.
    reopens = True

    def __init__(self, folder: Path, data: Data) -> None:
        import lancedb
        import pyarrow

        self._data = data
        self._arrow = pyarrow
        self._db = lancedb.connect(str(folder))
        self._schema = pyarrow.schema(
            [
                ("id", pyarrow.int64()),
                ("user", pyarrow.string()),
                ("text", pyarrow.string()),
                ("vector", pyarrow.list_(pyarrow.float32(), DIMS)),
            ]
        )
        self._items: Any = self._db.create_table("items", schema=self._schema, exist_ok=True)

    def load(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), 20_000):
            self._items.add(self._rows(numbers[start : start + 20_000]))

    def add(self, number: int) -> None:
        self._items.add(self._rows([number]))

    def update(self, number: int, source: int) -> None:
        values = {
            "text": self._data.text(source),
            "vector": self._data.vectors[source].tolist(),
        }
        self._items.update(where=f"id = {number}", values=values)

    def delete(self, number: int) -> None:
        self._items.delete(f"id = {number}")

    def search(self, question: int, user: str | None) -> list[int]:
        query = self._items.search(self._data.questions[question]).distance_type("cosine")
        if user:
            query = query.where(f"user = '{user}'", prefilter=True)
        rows = query.limit(10).select(["id", "text"]).to_list()
        return [int(row["id"]) for row in rows]

    def close(self) -> None:
        pass

    def _rows(self, numbers: Sequence[int]) -> Any:
        flat = np.ascontiguousarray(self._data.vectors[np.asarray(numbers)]).reshape(-1)
        columns = [
            list(numbers),
            [self._data.user(number) for number in numbers],
            [self._data.text(number) for number in numbers],
            self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(flat), DIMS),
        ]
        return self._arrow.table(columns, schema=self._schema)


class Qdrant:
    """The local mode of the client, in a folder."""

    durable = True
    reopens = True

    def __init__(self, folder: Path, data: Data) -> None:
        import warnings

        from qdrant_client import QdrantClient, models

        warnings.simplefilter("ignore")  # It warns that it is not made for this many.
        self._data = data
        self._models = models
        self._client = QdrantClient(path=str(folder))
        if not self._client.collection_exists("items"):
            size = models.VectorParams(size=DIMS, distance=models.Distance.COSINE)
            self._client.create_collection("items", vectors_config=size)

    def load(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), 1_000):
            part = [self._point(number, number) for number in numbers[start : start + 1_000]]
            self._client.upsert("items", part)

    def add(self, number: int) -> None:
        self._client.upsert("items", [self._point(number, number)])

    def update(self, number: int, source: int) -> None:
        self._client.upsert("items", [self._point(number, source)])

    def delete(self, number: int) -> None:
        self._client.delete("items", [number])

    def search(self, question: int, user: str | None) -> list[int]:
        models = self._models
        condition = None
        if user:
            match = models.FieldCondition(key="user", match=models.MatchValue(value=user))
            condition = models.Filter(must=[match])
        query = self._data.questions[question].tolist()
        found = self._client.query_points("items", query, query_filter=condition, limit=10)
        return [int(point.id) for point in found.points]

    def close(self) -> None:
        self._client.close()

    def _point(self, number: int, source: int) -> Any:
        data = self._data
        payload = {"user": data.user(number), "text": data.text(source)}
        vector = data.vectors[source].tolist()
        return self._models.PointStruct(id=number, vector=vector, payload=payload)


class Mem0:
    """mem0 over its FAISS store, `infer=False`.

    Bulk loading goes to its vector store directly, since its own `add` takes one at a time.
    """

    durable = True
    reopens = True

    def __init__(self, folder: Path, data: Data) -> None:
        os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": str(folder / "mem0")}
        os.environ.setdefault("OPENAI_API_KEY", "unused")
        from mem0 import Memory

        from stores.base import Embeddings

        self._data = data
        self._keys: dict[int, str] = {}
        path = str(folder / "faiss")
        self._memory: Any = Memory.from_config(
            {
                "embedder": {"provider": "langchain", "config": {"model": Embeddings(data)}},
                "vector_store": {
                    "provider": "faiss",
                    "config": {
                        "path": path,
                        "collection_name": "items",
                        "embedding_model_dims": DIMS,
                        "distance_strategy": "cosine",
                    },
                },
                "history_db_path": str(folder / "history.db"),
            }
        )

    def load(self, numbers: Sequence[int]) -> None:
        data = self._data
        keys = [str(uuid.UUID(int=number)) for number in numbers]
        payloads = [
            {"user_id": data.user(number), "data": data.text(number), "number": number}
            for number in numbers
        ]
        self._memory.vector_store.insert(
            vectors=data.vectors[np.asarray(numbers)].tolist(), payloads=payloads, ids=keys
        )

    def add(self, number: int) -> None:
        text, user = self._data.text(number), self._data.user(number)
        answer = self._memory.add(text, user_id=user, infer=False, metadata={"number": number})
        self._keys[number] = answer["results"][0]["id"]

    def update(self, number: int, source: int) -> None:
        self._memory.update(self._keys[number], self._data.text(source))

    def delete(self, number: int) -> None:
        self._memory.delete(self._keys[number])

    def search(self, question: int, user: str | None) -> list[int]:
        if user is None:
            raise NotImplementedError("mem0 asks for a user")
        found = self._memory.search(f"q{question}", filters={"user_id": user}, top_k=10)
        return [int(hit["memory"].split(" ", 1)[0][1:]) for hit in found["results"]]

    def close(self) -> None:
        pass
