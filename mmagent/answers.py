"""From an engine's chunks to LangChain's messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from mmagent.engine.base import CallPiece, Chunk, TokenChance, Usage
from mmagent.errors import GenerationError

__all__ = ["to_chunk", "to_result"]


def to_chunk(chunk: Chunk, model: str) -> ChatGenerationChunk:
    """One piece for a stream; only the last one carries usage, as LangChain adds them up."""
    pieces = [
        tool_call_chunk(name=piece.name, args=piece.arguments, id=piece.id, index=piece.index)
        for piece in _joined(chunk.calls)
    ]
    # Where LangChain looks for the thoughts of any provider, to make them a reasoning block.
    thought = {"reasoning_content": chunk.thought} if chunk.thought else {}
    chances = {"logprobs": _logprobs(chunk.chances)} if chunk.chances else {}
    if chunk.finish_reason is None:
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content=chunk.text,
                tool_call_chunks=pieces,
                additional_kwargs=thought,
                response_metadata=chances,
            )
        )
    message = AIMessageChunk(
        content=chunk.text,
        tool_call_chunks=pieces,
        additional_kwargs=thought,
        response_metadata={
            "finish_reason": chunk.finish_reason,
            "model_name": model,
            "model_provider": "mmagent",
            **chances,
        },
        usage_metadata=_usage(chunk.usage) if chunk.usage else None,
        chunk_position="last",
    )
    return ChatGenerationChunk(
        message=message, generation_info={"finish_reason": chunk.finish_reason}
    )


def _joined(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """One piece for each call: LangChain joins those of several chunks, but not those of one."""
    calls: dict[int, CallPiece] = {}
    for piece in pieces:
        begun = calls.get(piece.index)
        calls[piece.index] = piece if begun is None else replace(
            begun, id=begun.id or piece.id, name=begun.name or piece.name,
            arguments=begun.arguments + piece.arguments,
        )  # fmt: skip
    return list(calls.values())


def _logprobs(chances: Sequence[TokenChance]) -> dict[str, Any]:
    """In the shape that OpenAI's chat models made common."""

    def told(chance: TokenChance) -> dict[str, Any]:
        return {"token": chance.text, "bytes": list(chance.raw), "logprob": chance.logprob}

    return {
        "content": [
            {**told(chance), "top_logprobs": [told(other) for other in chance.others]}
            for chance in chances
        ]
    }


def _usage(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cache_read),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning),
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
    if chances := [chance for chunk in chunks for chance in chunk.chances]:
        last.response_metadata["logprobs"] = _logprobs(chances)
    calls, broken = _calls(chunks)
    thought = "".join(chunk.thought for chunk in chunks)
    message = AIMessage(
        content="".join(chunk.text for chunk in chunks),
        additional_kwargs={"reasoning_content": thought} if thought else {},
        tool_calls=calls,
        invalid_tool_calls=broken,
        response_metadata=last.response_metadata,
        usage_metadata=last.usage_metadata,
    )
    info = {"finish_reason": chunks[-1].finish_reason}
    return ChatResult(
        generations=[ChatGeneration(message=message, generation_info=info)],
        llm_output={"model_name": model},
    )


def _calls(chunks: Sequence[Chunk]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The calls of an answer; those that the limit of tokens cut are told apart."""
    ids: dict[int, tuple[str, str | None]] = {}
    arguments: dict[int, str] = {}
    for piece in (piece for chunk in chunks for piece in chunk.calls):
        if piece.name is not None:
            ids[piece.index] = (piece.name, piece.id)
        arguments[piece.index] = arguments.get(piece.index, "") + piece.arguments
    calls: list[ToolCall] = []
    broken: list[InvalidToolCall] = []
    for index, (name, id_) in ids.items():
        try:
            args = json.loads(arguments[index])
        except ValueError:
            text = arguments[index]
            broken.append(invalid_tool_call(name=name, args=text, id=id_, error="cut off"))
        else:
            calls.append(tool_call(name=name, args=args, id=id_))
    return calls, broken
