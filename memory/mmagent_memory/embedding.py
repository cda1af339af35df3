"""Embedders: what the store asks of them, and what it checks before it believes them.

An embedder is a LangChain `Embeddings`. Where it also has `embed_images`, pictures are found by
what they show; otherwise only by their captions and by the words said with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from mmagent_memory.errors import EmbeddingError, MemoryUsageError, NoEmbedderError

__all__ = [
    "ENTRY_POINTS",
    "CheckedEmbedder",
    "ImageEmbedder",
    "Matrix",
    "TextEmbedder",
    "checked",
    "default_embedder",
]

ENTRY_POINTS = "mmagent_memory.embedders"
_UNIT = 4e-6
"""How far the square of a length may be from 1: what float32 can tell."""
_PROBE = "A probe: the quick brown fox jumps over the lazy dog. 敏捷的棕色狐狸。"

Matrix = NDArray[np.float32]


@runtime_checkable
class TextEmbedder(Protocol):
    """What is needed to find texts by meaning; every LangChain `Embeddings` has it."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""
        ...

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question, in the space of the texts."""
        ...


@runtime_checkable
class ImageEmbedder(TextEmbedder, Protocol):
    """An embedder that puts pictures into the same space as texts."""

    def embed_images(self, images: list[bytes]) -> list[list[float]]:
        """Return one vector for each encoded picture, in the space of the texts."""
        ...


class _FromFunction(Embeddings):
    """A plain function from texts to vectors, as LangGraph's stores also take."""

    def __init__(self, function: Callable[[Sequence[str]], list[list[float]]]) -> None:
        self._function = function
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self.fingerprint = f"{getattr(function, '__module__', '')}.{name}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._function(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._function([text])[0]


def default_embedder() -> TextEmbedder:
    """Return the installed default embedder.

    Raises:
        NoEmbedderError: None is installed, or it cannot be loaded.
    """
    found = [point for point in entry_points(group=ENTRY_POINTS) if point.name == "default"]
    remedy = (
        "Pass FaissStore(path, embeddings=…): any LangChain Embeddings, HashEmbedder(), or "
        "embeddings=False for full text alone."
    )
    if not found:
        raise NoEmbedderError(f"No default text embedder is installed. {remedy}")
    try:
        return cast("TextEmbedder", found[0].load()())
    except Exception as error:
        raise NoEmbedderError(
            f"The default embedder cannot be loaded: {error}. {remedy}"
        ) from error


class CheckedEmbedder:
    """An embedder whose vectors are checked and brought to length 1.

    Attributes:
        takes_images: Whether pictures can be embedded too.
    """

    def __init__(
        self, embedder: TextEmbedder | Callable[[Sequence[str]], list[list[float]]]
    ) -> None:
        if not isinstance(embedder, TextEmbedder):
            if not callable(embedder):
                raise MemoryUsageError(
                    f"{type(embedder).__name__} is no embedder; pass an object with "
                    "embed_documents and embed_query, such as any LangChain Embeddings."
                )
            embedder = _FromFunction(embedder)
        self._embedder = embedder
        self.takes_images = isinstance(embedder, ImageEmbedder)

    @property
    def name(self) -> str:
        """How the embedder is called in messages."""
        return type(self._embedder).__name__

    def texts(self, texts: Sequence[str]) -> Matrix:
        """Return one unit vector a text: [texts, dims] (a zero vector stays zero)."""
        return self._checked(lambda: self._embedder.embed_documents(list(texts)), len(texts))

    def query(self, text: str) -> Matrix:
        """Return the unit vector of a question: [dims]."""
        row: Matrix = self._checked(lambda: [self._embedder.embed_query(text)], 1)[0]
        return row

    def images(self, images: Sequence[bytes]) -> Matrix:
        """Return one unit vector a picture: [pictures, dims]."""
        embedder = cast("ImageEmbedder", self._embedder)
        return self._checked(lambda: embedder.embed_images(list(images)), len(images))

    def fingerprint(self) -> str:
        """Return what tells this embedder from others: its own word for it, or its vectors."""
        own = getattr(self._embedder, "fingerprint", None)
        if isinstance(own, str) and own:
            return own
        # Rounded, so that another processor's last bits do not make it another embedder.
        rounded = np.round(self.texts([_PROBE])[0], 2) + 0.0
        digest = hashlib.sha256(rounded.astype("<f4").tobytes()).hexdigest()[:16]
        return f"{type(self._embedder).__qualname__}:{len(rounded)}:{digest}"

    def _checked(self, embed: Callable[[], Any], count: int) -> Matrix:
        return checked(embed, count, self.name)


def checked(embed: Callable[[], Any], count: int, name: str) -> Matrix:
    """Return the vectors that an embedder makes, brought to length 1: [count, dims].

    Raises:
        EmbeddingError: It fails, or they are not what they should be.
    """
    if count == 0:
        return np.zeros((0, 0), dtype=np.float32)
    try:
        rows = np.asarray(embed(), dtype=np.float32)
    except Exception as error:
        raise EmbeddingError(
            f"The embedder {name} failed: {error}. Nothing was stored; try again or pass "
            "another embedder."
        ) from error
    if rows.ndim != 2 or len(rows) != count or rows.shape[1] == 0:
        raise EmbeddingError(
            f"The embedder {name} returned an array of shape {rows.shape} for {count} "
            "inputs; it must return one vector for each. Nothing was stored."
        )
    squares = np.einsum("ij,ij->i", rows, rows)
    if (np.abs(squares - 1.0) <= _UNIT).all():  # As most embedders make them.
        return np.ascontiguousarray(rows)
    # In double precision: the square of a large float32 overflows.
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    if not np.isfinite(lengths).all():
        raise EmbeddingError(
            f"The embedder {name} returned NaN or infinity; such a vector finds nothing. "
            "Nothing was stored; check the model."
        )
    lengths[lengths == 0] = 1.0
    return np.ascontiguousarray(rows / lengths[:, None], dtype=np.float32)
