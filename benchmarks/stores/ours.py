"""`FaissStore` of mmagent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from langgraph.store.base import PutOp

from mmagent_memory import FaissStore
from stores.base import Embeddings
from stores.data import Data

__all__ = ["Ours"]


class _Arrays(Embeddings):
    """Vectors as arrays, as an embedder in this process has them."""

    def embed_documents(self, texts: list[str]) -> Any:
        return np.stack([self._data.vector_of(text) for text in texts])


class Ours:
    """A folder with SQLite as the truth and vectors indexed in memory."""

    durable = True
    reopens = True

    def __init__(self, folder: Path, data: Data) -> None:
        self._data = data
        self._store = FaissStore(folder, _Arrays(data), fields=["text"])

    def load(self, numbers: Sequence[int]) -> None:
        data = self._data
        items = [
            ((data.user(number),), str(number), {"text": data.text(number)}) for number in numbers
        ]
        self._store.bulk(items, vectors=data.vectors[numbers[0] : numbers[-1] + 1])

    def make_full_text(self) -> None:
        """Do what the first search by words after a load would do."""
        self._store.settle()

    def wait(self) -> None:
        """Wait for what is made behind a load: full text, the log folded, the index."""
        self._store.wait_for_index()

    def add(self, number: int) -> None:
        self._store.batch([self._put(number)])

    def update(self, number: int, source: int) -> None:
        value = {"text": self._data.text(source)}
        self._store.put((self._data.user(number),), str(number), value)

    def delete(self, number: int) -> None:
        self._store.delete((self._data.user(number),), str(number))

    def search(self, question: int, user: str | None) -> list[int]:
        prefix = (user,) if user else ()
        return [int(hit.key) for hit in self._store.search(prefix, query=f"q{question}", limit=10)]

    def close(self) -> None:
        self._store.close()

    def _put(self, number: int) -> PutOp:
        value = {"text": self._data.text(number)}
        return PutOp((self._data.user(number),), str(number), value)
