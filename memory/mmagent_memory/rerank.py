"""An optional reranker: any function, sentence-transformers' CrossEncoder, or LangChain's kind.

It sees the best few of what recall found and gives each a score. Who reads both question and text
knows better, so that its scores are spread three times as far as those of the ranking before it.
Off unless one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmagent_memory.errors import MemoryUsageError

__all__ = ["Reranker", "rerank", "reranker_of"]

_SAY = 3.0
Reranker = Callable[[str, list[str]], Sequence[float]]
"""From a question and texts to how well each answers it; more is better."""


@runtime_checkable
class _CrossEncoder(Protocol):
    def predict(self, sentences: Any) -> Any:
        """Return a score a pair."""


@runtime_checkable
class _Compressor(Protocol):
    def compress_documents(self, documents: Any, query: str) -> Any:
        """Return the documents that are worth keeping, best first."""


def reranker_of(given: Any) -> Reranker | None:
    """Return what a caller gave as a function.

    Raises:
        MemoryUsageError: It is none of the kinds.
    """
    if given is None:
        return None
    if isinstance(given, _Compressor):
        return lambda question, texts: _compressed(given, question, texts)
    if isinstance(given, _CrossEncoder):
        return lambda question, texts: given.predict([(question, text) for text in texts])
    if callable(given):
        return given  # type: ignore[no-any-return]
    raise MemoryUsageError(
        "A reranker must be a function of a question and texts, a CrossEncoder or a "
        f"BaseDocumentCompressor, not {type(given).__name__}."
    )


def rerank(
    reranker: Reranker, question: str, texts: list[str], before: Sequence[float]
) -> list[float]:
    """Return what a reranker adds to each score.

    Raises:
        MemoryUsageError: It returned another number of scores, or something that is no number.
    """
    try:
        scores = np.asarray(reranker(question, texts), dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise MemoryUsageError(f"The reranker returned no list of numbers: {error}.") from error
    if len(scores) != len(texts) or not np.isfinite(scores).all():
        raise MemoryUsageError(
            f"The reranker returned {len(scores)} scores for {len(texts)} texts; it must return "
            "one finite number a text."
        )
    spread = _SAY * (float(np.ptp(before)) or 1.0)
    width = float(np.ptp(scores)) or 1.0
    return [float(value) for value in (scores - scores.min()) / width * spread]


def _compressed(compressor: Any, question: str, texts: list[str]) -> list[float]:
    from langchain_core.documents import Document

    documents = [
        Document(page_content=text, metadata={"place": place}) for place, text in enumerate(texts)
    ]
    scores = [0.0] * len(texts)
    kept = list(compressor.compress_documents(documents, question))
    for number, document in enumerate(kept):
        # By order: not every compressor says how well.
        scores[document.metadata["place"]] = 1.0 - number / len(kept)
    return scores
