"""From an engine's chunks to LangChain's messages."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from mmagent.engine.base import Chunk, Usage
from mmagent.errors import GenerationError

__all__ = ["to_chunk", "to_result"]


def to_chunk(chunk: Chunk, model: str) -> ChatGenerationChunk:
    """One piece for a stream; only the last one carries usage, as LangChain adds them up."""
    if chunk.finish_reason is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=chunk.text))
    message = AIMessageChunk(
        content=chunk.text,
        response_metadata={
            "finish_reason": chunk.finish_reason,
            "model_name": model,
            "model_provider": "mmagent",
        },
        usage_metadata=_usage(chunk.usage) if chunk.usage else None,
        chunk_position="last",
    )
    return ChatGenerationChunk(
        message=message, generation_info={"finish_reason": chunk.finish_reason}
    )


def _usage(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cache_read),
    )


def to_result(chunks: Sequence[Chunk], model: str) -> ChatResult:
    """The whole answer.

    Raises:
        GenerationError: The chunks have no end.
    """
    if not chunks or chunks[-1].finish_reason is None:
        raise GenerationError("The model broke off without saying why; ask again.")
    last = to_chunk(chunks[-1], model).message
    assert isinstance(last, AIMessageChunk)
    message = AIMessage(
        content="".join(chunk.text for chunk in chunks),
        response_metadata=last.response_metadata,
        usage_metadata=last.usage_metadata,
    )
    info = {"finish_reason": chunks[-1].finish_reason}
    return ChatResult(
        generations=[ChatGeneration(message=message, generation_info=info)],
        llm_output={"model_name": model},
    )
