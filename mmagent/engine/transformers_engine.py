"""Any vision-language or language model of transformers as an engine.

    generate / agenerate ── prompt ──> Scheduler ── one thread ──> ModelWorker ──> chunks

A call makes its prompt in the caller's thread, where mistakes are named before anything runs, and
puts a request in the scheduler's queue; chunks come back as they are certain. Whoever stops
iterating has stopped the model after the token at hand.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

from mmagent.engine.base import Chunk, Form, Modality, Sampling, room_for_answer
from mmagent.engine.decoding import Row
from mmagent.engine.guide import GuideMaker
from mmagent.engine.kvcache import ConversationCache
from mmagent.engine.loading import load_checkpoint, vocabulary
from mmagent.engine.packing import weight_bytes
from mmagent.engine.prompt import Prompt, PromptBuilder, encodable
from mmagent.engine.reader import AnswerReader, ThoughtReader
from mmagent.engine.scheduler import Scheduler
from mmagent.engine.worker import Answer, ModelWorker
from mmagent.engine.writing import AnswerWriter
from mmagent.errors import UsageError
from mmagent.messages import Conversation

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """Loads a checkpoint once and answers conversations with it; safe to share by threads."""

    def __init__(
        self,
        path: str,
        *,
        name: str | None = None,
        adapter: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        context_length: int | None = None,
        cache_bytes: int = 512 * 1024 * 1024,
        sanitize_control_tokens: bool = True,
        max_batch: int = 16,
        max_queue: int = 256,
        quantization: str | None = None,
        compile: bool = False,
    ) -> None:
        """Load a checkpoint.

        Args:
            path: A folder, or a name on the model hub.
            name: What the model is called in traces; by default the path.
            adapter: A PEFT adapter (a folder) to put on it.
            device: See `loading.load_checkpoint`.
            dtype: See `loading.load_checkpoint`.
            context_length: A smaller context window than the checkpoint's.
            cache_bytes: Budget for keys and values, and features of pictures, kept between turns;
                0 keeps none.
            sanitize_control_tokens: Keep control tokens in messages from taking effect.
            max_batch: Most answers that are written at once.
            max_queue: Most requests that wait besides.
            quantization: See `placement`.
            compile: See `placement`.
        """
        self._name = name or path
        self._checkpoint = load_checkpoint(
            path, device=device, dtype=dtype, quantization=quantization, compile=compile
        )
        self.model = self._checkpoint.model
        self._default_adapter = adapter
        self._text_lock = threading.Lock()  # of the tokenizer, which is not safe by itself
        self._prompts = PromptBuilder(
            self._checkpoint.processor,
            image_token_id=self._checkpoint.image_token_id,
            audio_token_id=self._checkpoint.audio_token_id,
            sanitize=sanitize_control_tokens,
        )
        self._worker = ModelWorker(
            self._checkpoint, self._prompts, cache_bytes=cache_bytes, text_lock=self._text_lock
        )
        self._scheduler = Scheduler(self._worker, rows=max_batch, queue=max_queue)
        self._worker.adapters.name_of(adapter)
        limit = self._checkpoint.context_length
        self._context_length = min(context_length or limit, limit)
        self._guides = GuideMaker(
            self._prompts.tokenizer,
            ends=self._worker.ends,
            width=vocabulary(self.model),
        )

    # ---- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's name, for traces."""
        return self._name

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context_length

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the model can be shown."""
        found: set[Modality] = {"text"}
        if self._prompts.sees:
            found.add("image")
        if self._prompts.hears:
            found.add("audio")
        return frozenset(found)

    @property
    def reasons(self) -> bool:
        """Whether the model writes thoughts before its answers."""
        return self._prompts.reasons

    @property
    def cache(self) -> ConversationCache:
        """What is remembered of conversations."""
        return self._worker.cache

    def state(self) -> dict[str, Any]:
        """What is loaded, remembered and under way, for people who look after it."""
        return {
            "model": self.name,
            "type": self.model.config.model_type,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "parameters": self._checkpoint.parameters,
            "packed": self._checkpoint.packed,
            "weights": weight_bytes(self.model),
            "context_length": self.context_length,
            "adapters": self._worker.adapters.paths,
            "reuse": self._worker.reuses,
            "batched": self._worker.by_rows,
            "remembered": self.cache.state(),
            "pictures": self._worker.eye.kept.state(),
            "requests": self._scheduler.state(),
        }

    def count_tokens(self, conversation: Conversation) -> int:
        """Exactly the tokens that the prompt of this conversation has."""
        return len(self._prompt(conversation).ids)

    def prompt_text(self, conversation: Conversation) -> str:
        """The prompt of this conversation as the model is given it, one mark a picture."""
        with self._text_lock:
            return self._prompts.text(conversation)

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""
        with self._text_lock:
            ids: list[int] = self._prompts.tokenizer.encode(
                encodable(text), add_special_tokens=False
            )
        return ids

    def _prompt(self, conversation: Conversation) -> Prompt:
        with self._text_lock:
            return self._prompts.build(conversation)

    # ---- answering -------------------------------------------------------------------------

    def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        adapter: str | None = None,
        form: Form | None = None,
    ) -> Iterator[Chunk]:
        """Answer in pieces; closing the iterator stops the work after the token at hand.

        Raises:
            ContextOverflowError: The prompt leaves no room for an answer.
            MediaError: The model takes no pictures, or no sound.
            UsageError: A form that cannot be held.
            ModelBusyError: Too many requests wait already; at the first piece.
            GenerationError: The model failed.
        """
        pieces: queue.SimpleQueue[Chunk | BaseException] = queue.SimpleQueue()
        job = self._job(conversation, sampling, adapter, form, pieces.put)
        return self._pieces(job, pieces)

    def _pieces(
        self, job: Answer, pieces: queue.SimpleQueue[Chunk | BaseException]
    ) -> Generator[Chunk, None, None]:
        self._scheduler.submit(job)
        try:
            while True:
                piece = pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            job.cancel()
            job.over.wait()  # so that what was read is known to whoever asks next

    async def agenerate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        adapter: str | None = None,
        form: Form | None = None,
    ) -> AsyncIterator[Chunk]:
        """`generate` without a thread that waits; closing or cancelling it frees its place."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Chunk | BaseException] = asyncio.Queue()

        def put(piece: Chunk | BaseException) -> None:
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:  # the loop is closed: nobody listens
                job.cancel()

        job = await asyncio.to_thread(self._job, conversation, sampling, adapter, form, put)
        self._scheduler.submit(job)
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            job.cancel()

    def _job(
        self,
        conversation: Conversation,
        sampling: Sampling,
        adapter: str | None,
        form: Form | None,
        put: Callable[[Chunk | BaseException], None],
    ) -> Answer:
        prompt = self._prompt(conversation)
        room = room_for_answer(len(prompt.ids), self.context_length, sampling.max_tokens)
        name = self._worker.adapters.name_of(adapter or self._default_adapter)
        guide = None
        if form is not None:
            if sampling.num_beams > 1:
                raise UsageError(
                    "num_beams cannot be combined with tools or a schema; leave one of them out."
                )
            guide = self._guides.guide(form, self._prompts.tool_format, room)
        names = [function["name"] for function in form.functions] if form else []
        reader = AnswerReader(
            sampling.stop,
            self._prompts.tool_format if names else None,
            names,
            ThoughtReader(opened=prompt.thinks) if self._prompts.reasons else None,
        )
        writer = AnswerWriter(
            reader,
            self._decode,
            self._worker.ends,
            asked=len(prompt.ids),
            logprobs=sampling.logprobs,
        )
        return Answer(Row(prompt, sampling, room, name, guide), writer, put)

    def _decode(self, tokens: list[int]) -> str:
        with self._text_lock:
            decoded: str = self._prompts.tokenizer.decode(tokens, skip_special_tokens=True)
        return decoded
