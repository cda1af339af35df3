"""Vectors of a memory in PostgreSQL: made by the embedder, written, and read back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from langgraph.store.base import get_text_at_path

from mmagent_memory.embedding import CheckedEmbedder, Matrix, TextEmbedder, default_embedder
from mmagent_memory.errors import EmbedderChangedError, EmbeddingError
from mmagent_memory.rows import IMAGE, TEXT, Put, Vectors

__all__ = ["NamedVectors", "PostgresVectorizer", "from_binary", "to_text"]

NamedVectors = list[tuple[str, int, Matrix]]
"""Vectors of an item: the name of each among its fields, its kind, and its numbers."""


class PostgresVectorizer:
    """The embedder of one store, found when first needed and held to what the store has."""

    def __init__(
        self,
        embeddings: TextEmbedder | Callable[..., Any] | Literal[False] | None,
        fields: Sequence[str],
        where: str,
    ) -> None:
        self._given = embeddings
        self.fields = list(fields)
        self._where = where
        self._embedder: CheckedEmbedder | None = None
        self._lock = threading.Lock()
        self.fingerprint: str | None = None
        self.size = 0

    @property
    def enabled(self) -> bool:
        """Whether the store has vectors at all."""
        return self._given is not False

    @property
    def takes_images(self) -> bool:
        """Whether pictures are embedded too."""
        return self.enabled and self.embedder().takes_images

    def know(self, said: Mapping[str, str]) -> None:
        """Take what the database says of its vectors."""
        self.fingerprint = said.get("embedder")
        self.size = int(said.get("dims", 0))

    def identity(self) -> tuple[str, int] | None:
        """Return the embedder's fingerprint and dimension; None without an embedder."""
        if not self.enabled:
            return None
        embedder = self._make()
        return embedder.fingerprint(), len(embedder.query("dimension"))

    def embedder(self) -> CheckedEmbedder:
        """Return the embedder.

        Raises:
            EmbedderChangedError: The store's vectors are another one's.
        """
        with self._lock:
            if self._embedder is None:
                embedder = self._make()
                mine = embedder.fingerprint()
                if self.fingerprint is not None and mine != self.fingerprint:
                    raise EmbedderChangedError(
                        f"The memory in {self._where} was embedded with {self.fingerprint}, and "
                        f"{mine} was given; pass the former, or call reembed() to embed "
                        "everything anew."
                    )
                self._embedder = embedder
            return self._embedder

    def adopt(self) -> tuple[str, int]:
        """Make the embedder that was given the store's, whatever it had before."""
        with self._lock:
            self._embedder = self._make()
            self.fingerprint = self._embedder.fingerprint()
            self.size = len(self._embedder.query("dimension"))
            return self.fingerprint, self.size

    def query(self, text: str) -> Matrix:
        """Return the vector of a question, [dims]."""
        vector = self.embedder().query(text)
        self._check(len(vector))
        return vector

    def images(self, images: Sequence[bytes]) -> Matrix:
        """Return one vector a picture, [pictures, dims]."""
        vectors = self.embedder().images(images)
        self._check(vectors.shape[1])
        return vectors

    def vectors_of(self, puts: Sequence[Put]) -> list[NamedVectors]:
        """Return the vectors of each put; equal texts are embedded once."""
        if not self.enabled:
            return [[] for _ in puts]
        texts: dict[str, int] = {}
        shown: dict[bytes, tuple[int, bytes]] = {}
        wanted: list[list[tuple[str, int, int]]] = []
        for put in puts:
            mine: list[tuple[str, int, int]] = []
            if put.value is not None and put.vectors is None and put.index is not False:
                for name, text in self._texts(put):
                    mine.append((name, TEXT, texts.setdefault(text, len(texts))))
                for picture in put.pictures or ():
                    place = shown.setdefault(picture.hash, (len(shown), picture.data))[0]
                    mine.append((f"image:{picture.hash.hex()}", IMAGE, place))
            wanted.append(mine)
        of_texts = of_images = np.zeros((0, 0), dtype=np.float32)
        if texts:
            of_texts = self.embedder().texts(list(texts))
            self._check(of_texts.shape[1])
        if shown and self.takes_images:
            of_images = self.images([data for _, data in shown.values()])
        found = []
        for put, mine in zip(puts, wanted, strict=True):
            if put.vectors is not None:
                found.append(_named(put.vectors))
                continue
            sources = {TEXT: of_texts, IMAGE: of_images}
            found.append(
                [(name, kind, sources[kind][at]) for name, kind, at in mine if len(sources[kind])]
            )
        return found

    def _texts(self, put: Put) -> list[tuple[str, str]]:
        paths = self.fields if put.index is None or put.index is False else put.index
        found = []
        for path in paths:
            texts = get_text_at_path(dict(put.value or {}), path)
            for number, text in enumerate(texts):
                found.append((f"{path}.{number}" if len(texts) > 1 else path, text))
        return found

    def _make(self) -> CheckedEmbedder:
        given = default_embedder() if self._given is None else self._given
        assert given is not False
        return CheckedEmbedder(given)

    def _check(self, dims: int) -> None:
        if self.size and dims != self.size:
            raise EmbeddingError(
                f"The embedder returned vectors of {dims} numbers, and the memory in "
                f"{self._where} has vectors of {self.size}; pass the embedder that it was made "
                "with, or embed everything anew with reembed()."
            )


def to_text(vector: Matrix) -> str:
    """Return a vector as pgvector reads it; nine digits keep every bit of a float32."""
    return "[" + ",".join(f"{number:.9g}" for number in vector.tolist()) + "]"


def from_binary(data: bytes) -> Matrix:
    """Return a vector from what pgvector's `vector_send` gives."""
    return np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32)


def _named(vectors: Vectors) -> NamedVectors:
    return [
        (f"{'image' if kind == IMAGE else 'text'}:{number}", kind, vectors.matrix[number])
        for number, kind in enumerate(vectors.kinds)
    ]
