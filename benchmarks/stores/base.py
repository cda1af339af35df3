"""What the benchmark asks of a store, and the words that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from langchain_core.embeddings import Embeddings as Base

from stores.data import Data

__all__ = ["Embeddings", "Store"]


class Store(Protocol):
    """One store under test. Items are numbers of `Data`; the adapter makes keys of them."""

    durable: bool
    """Whether an add is on disk when it returns."""
    reopens: bool
    """Whether another process can open what this one wrote."""

    def __init__(self, folder: Path, data: Data) -> None: ...
    def load(self, numbers: Sequence[int]) -> None:
        """Add many items as fast as the store can."""

    def add(self, number: int) -> None:
        """Add one item."""

    def update(self, number: int, source: int) -> None:
        """Give an item the text and vector of another."""

    def delete(self, number: int) -> None:
        """Remove one item."""

    def search(self, question: int, user: str | None) -> list[int]:
        """Return the ten nearest items, of one user or of all."""

    def close(self) -> None:
        """Write what is left and close."""


class Embeddings(Base):
    """LangChain's embeddings interface over vectors that are known: embedding costs nothing."""

    fingerprint = "benchmark"

    def __init__(self, data: Data) -> None:
        self._data = data

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of texts."""
        return [self._data.vector_of(text).tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        found: list[float] = self._data.vector_of(text).tolist()
        return found
