"""From items to vectors: which texts are embedded, by which embedder, and is it still the same."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from langgraph.store.base import get_text_at_path

from mmagent_memory.database import Database
from mmagent_memory.embedding import (
    CheckedEmbedder,
    Matrix,
    TextEmbedder,
    checked,
    default_embedder,
)
from mmagent_memory.errors import EmbedderChangedError, EmbeddingError, MemoryUsageError
from mmagent_memory.rows import IMAGE, TEXT, FullText, Put, Vectors
from mmagent_memory.text import prepare

__all__ = ["Vectorizer", "body_of", "indexed_texts", "words_of"]


class Vectorizer:
    """The embedder of one store, found when first needed and held to what the store has.

    Args:
        database: The store, which keeps the embedder's fingerprint and dimension.
        embeddings: An embedder; None for the installed default; False for none.
        fields: Paths of the values that are embedded where a put does not say.
    """

    def __init__(
        self,
        database: Database,
        embeddings: TextEmbedder | Callable[..., Any] | Literal[False] | None,
        fields: Sequence[str],
    ) -> None:
        self._database = database
        self._given = embeddings
        self.fields = list(fields)
        self._embedder: CheckedEmbedder | None = None
        self._fingerprint: str | None = None
        self._dims: int | None = None
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether the store has vectors at all."""
        return self._given is not False

    @property
    def takes_images(self) -> bool:
        """Whether pictures are embedded too."""
        return self.enabled and self._resolve().takes_images

    def dims(self, db: sqlite3.Connection) -> int:
        """Return the length of the stored vectors; 0 while there are none."""
        if self._dims is None:
            found = db.execute("SELECT value FROM meta WHERE name = 'dims'").fetchone()
            if found:
                self._dims = int(found[0])
        return self._dims or 0

    def query(self, text: str) -> Matrix:
        """Return the vector of a question, [dims]."""
        vector = self._resolve().query(text)
        self._check_dims(len(vector))
        return vector

    def images(self, images: Sequence[bytes]) -> Matrix:
        """Return one vector a picture, [pictures, dims]."""
        vectors = self._resolve().images(images)
        self._check_dims(vectors.shape[1])
        return vectors

    def vectors_of(self, puts: Sequence[Put]) -> list[Vectors | None]:
        """Return the vectors of each put; equal texts are embedded once."""
        if not self.enabled:
            return [put.vectors for put in puts]
        if len(puts) == 1 and (found_one := self._vectors_of_one(puts[0])):
            return [found_one]
        texts: dict[str, int] = {}
        pictures: dict[bytes, tuple[int, bytes]] = {}
        wanted: list[tuple[list[int], list[int]]] = []
        for put in puts:
            mine: tuple[list[int], list[int]] = ([], [])
            if put.value is not None and put.vectors is None and put.index is not False:
                for text in indexed_texts(put.value, put.index, self.fields):
                    mine[0].append(texts.setdefault(text, len(texts)))
                for picture in put.pictures or ():
                    place = pictures.setdefault(picture.hash, (len(pictures), picture.data))
                    mine[1].append(place[0])
            wanted.append(mine)
        if not texts and not pictures:
            return [put.vectors for put in puts]
        embedder = self._resolve()
        of_texts = embedder.texts(list(texts))
        shown = [data for _, data in pictures.values()] if embedder.takes_images else []
        of_images = embedder.images(shown)
        for matrix in (of_texts, of_images):
            if matrix.size:
                self._check_dims(matrix.shape[1])
        found: list[Vectors | None] = []
        for put, (mine_texts, mine_images) in zip(puts, wanted, strict=True):
            mine_images = mine_images if shown else []
            kinds = bytes([TEXT] * len(mine_texts) + [IMAGE] * len(mine_images))
            if len(mine_texts) == 1 and not mine_images:
                found.append(Vectors(kinds, of_texts[mine_texts[0] : mine_texts[0] + 1]))
                continue
            parts = [m[i] for m, i in ((of_texts, mine_texts), (of_images, mine_images)) if i]
            found.append(Vectors(kinds, np.concatenate(parts)) if parts else put.vectors)
        return found

    def _vectors_of_one(self, put: Put) -> Vectors | None:
        """Return the vectors of a put of one text and no pictures, as most are; None for others."""
        if put.value is None or put.vectors is not None or put.pictures:
            return None
        texts = indexed_texts(put.value, put.index, self.fields)
        if len(texts) != 1:
            return None
        matrix = self._resolve().texts(texts)
        self._check_dims(matrix.shape[1])
        return Vectors(bytes([TEXT]), matrix)

    def given(self, vectors: Any, count: int) -> Matrix:
        """Return vectors that were made elsewhere, checked as those of the embedder are.

        Args:
            vectors: [count, dims] the vector of each item's text, by the store's embedder.
            count: How many there must be.
        """
        if not self.enabled:
            raise MemoryUsageError(
                "Vectors were given to a store without an embedder, which could not search them; "
                "open it with FaissStore(path, embeddings=…), with the embedder that made them."
            )
        matrix = checked(lambda: vectors, count, "that made the given vectors")
        if len(matrix):
            self._resolve()
            self._check_dims(matrix.shape[1])
        return matrix

    def _resolve(self) -> CheckedEmbedder:
        with self._lock:
            if self._embedder is None:
                given = default_embedder() if self._given is None else self._given
                assert given is not False
                embedder = CheckedEmbedder(given)
                self._hold_to_store(embedder)
                self._embedder = embedder
            return self._embedder

    def _hold_to_store(self, embedder: CheckedEmbedder) -> None:
        mine = embedder.fingerprint()
        with self._database.reading() as db:
            found = db.execute("SELECT value FROM meta WHERE name = 'embedder'").fetchone()
        if found is None:
            dims = len(embedder.query("dimension"))
            with self._database.writing() as db:
                # Another process may have been first: its word counts.
                db.execute("INSERT OR IGNORE INTO meta VALUES ('embedder', ?)", (mine,))
                db.execute("INSERT OR IGNORE INTO meta VALUES ('dims', ?)", (dims,))
                found = db.execute("SELECT value FROM meta WHERE name = 'embedder'").fetchone()
        if found[0] != mine:
            raise EmbedderChangedError(
                f"The memory in {self._database.folder} was embedded with {found[0]}, and "
                f"{mine} was given; pass the former, or call reembed() on "
                "FaissStore(path, embeddings=…) to embed everything anew."
            )
        self._fingerprint = mine

    def check_unchanged(self, db: sqlite3.Connection) -> None:
        """Refuse to write if another process has embedded everything anew meanwhile."""
        if self._fingerprint is None:
            return
        found = db.execute("SELECT value FROM meta WHERE name = 'embedder'").fetchone()
        if found and found[0] != self._fingerprint:
            raise EmbedderChangedError(
                f"The memory in {self._database.folder} is embedded with {found[0]} since a short "
                f"while, no longer with {self._fingerprint}; open it again with that embedder."
            )

    def adopt(self, db: sqlite3.Connection) -> None:
        """Make this embedder the store's, inside the transaction that embeds everything anew."""
        given = default_embedder() if self._given is None else self._given
        assert given is not False
        embedder = CheckedEmbedder(given)
        mine, dims = embedder.fingerprint(), len(embedder.query("dimension"))
        db.execute("INSERT OR REPLACE INTO meta VALUES ('embedder', ?)", (mine,))
        db.execute("INSERT OR REPLACE INTO meta VALUES ('dims', ?)", (dims,))
        self._embedder, self._fingerprint, self._dims = embedder, mine, dims

    def _check_dims(self, dims: int) -> None:
        if self._dims is None:
            with self._database.reading() as db:
                self.dims(db)
        stored = self._dims or 0
        if dims != stored:
            raise EmbeddingError(
                f"The embedder returned vectors of {dims} numbers, and the memory in "
                f"{self._database.folder} has vectors of {stored}; pass the embedder that it was "
                "made with, or embed everything anew with reembed()."
            )


def words_of(put: Put) -> FullText:
    """Return the words by which a put is found in full text.

    Raises:
        MemoryUsageError: Its value holds itself.
    """
    if put.texts is not None:
        return put.texts
    if put.value is None or put.index is False:
        return FullText()
    return FullText(body=body_of(put.value, put.key))


def body_of(value: Any, key: str) -> str:
    """Return the words by which a value is found where nothing else is said.

    Raises:
        MemoryUsageError: It holds itself.
    """
    try:
        return prepare("\n".join(_words_in(value)))
    except RecursionError:
        raise MemoryUsageError(
            f"The value of {key!r} holds itself, or is nested hundreds of levels deep; store "
            "strings, numbers, lists and mappings."
        ) from None


def indexed_texts(
    value: Any, index: Literal[False] | list[str] | None, fields: list[str]
) -> list[str]:
    """Return the texts of a value that are embedded, each as a vector of its own."""
    if index is False:
        return []
    paths = fields if index is None else index
    if len(paths) == 1 and paths[0].isidentifier() and type(value.get(paths[0])) is str:
        return [value[paths[0]]]  # What follows would find the same, slower.
    return [text for path in paths for text in get_text_at_path(dict(value), path)]


def _words_in(value: Any) -> list[str]:
    """Return every string in a value, however deep."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, dict | list | tuple):
        return []
    found: list[str] = []
    for inner in value.values() if isinstance(value, dict) else value:
        if type(inner) is str:
            found.append(inner)
        else:
            found += _words_in(inner)
    return found
