"""`HashEmbedder`: a deterministic embedder that needs no model, for tests and offline trials."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

__all__ = ["HashEmbedder"]

_WORDS = re.compile(r"[㐀-鿿豈-﫿぀-ヿ가-힯]|\w+", re.UNICODE)


class HashEmbedder(Embeddings):
    """Embeds a text by hashing its words and their parts; a picture by its coarse colours.

    Texts that share words or word stems are near each other; nothing is known of meaning. A
    picture that cannot be decoded is embedded by its bytes, so that equal ones still match.
    The same input gives the same vector on every machine and in every version.

    Args:
        dims: Length of the vectors.
    """

    def __init__(self, dims: int = 256) -> None:
        if dims < 8:
            raise ValueError(f"dims must be at least 8, not {dims}.")
        self.dims = dims
        self.fingerprint = f"hash-embedder-1:{dims}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""
        return [self._embed(self._features(text)) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question, in the space of the texts."""
        return self._embed(self._features(text))

    def embed_images(self, images: list[bytes]) -> list[list[float]]:
        """Return one vector for each picture, in a corner of the same space."""
        return [self._embed_image(image) for image in images]

    def _features(self, text: str) -> Iterable[tuple[str, float]]:
        words = [word.lower() for word in _WORDS.findall(text)]
        for word in words:
            yield word, 1.0
            # The beginning of a word stands in for its stem.
            if len(word) > 4:
                yield f"^{word[:4]}", 0.5
        for first, second in pairwise(words):
            yield f"{first} {second}", 0.5

    def _embed(self, features: Iterable[tuple[str, float]]) -> list[float]:
        vector = np.zeros(self.dims)
        for feature, weight in features:
            digest = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8)
            number = int.from_bytes(digest.digest(), "little")
            sign = 1.0 if number >> 63 else -1.0
            vector[number % self.dims] += sign * weight
        return self._unit(vector)

    def _embed_image(self, image: bytes) -> list[float]:
        cells = _coarse_colours(image)
        if cells is None:
            return self._embed([(f"bytes {hashlib.sha256(image).hexdigest()}", 1.0)])
        # A fixed random projection keeps near pictures near.
        projection = np.random.default_rng(1).standard_normal((cells.size, self.dims))
        return self._unit((cells - cells.mean() + 1e-3) @ projection)

    def _unit(self, vector: NDArray[np.float64]) -> list[float]:
        length = float(np.linalg.norm(vector))
        unit: list[float] = (vector / length if length else vector).tolist()
        return unit


def _coarse_colours(image: bytes) -> NDArray[np.float64] | None:
    """Return the colours of a picture on a grid, [8 * 8 * 3] in 0–1; None if unreadable."""
    import io
    import warnings

    try:
        from PIL import Image
    except ImportError:  # Pillow is optional for this package.
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(image)) as opened:
                opened.draft("RGB", (64, 64))
                small = opened.convert("RGB").resize((8, 8))
    except Exception:
        return None
    return np.asarray(small, dtype=np.float64).reshape(-1) / 255.0
