"""Any vision-language or language model of transformers as an engine.

The decoding loop is our own, on the hooks that `generate` itself is made of: `generate` prepares
everything (logits processors, masks, positions) and hands over before the first step. So an
answer is a plain iterator: whoever stops iterating has stopped the model, errors arrive where
they belong, and no thread is needed. The model is locked for one step at a time, which lets
conversations in several threads take turns by the token.

Shapes: `input_ids` (1, tokens); `logits` (1, 1, vocabulary).
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Any

from mmagent.engine.base import (
    Chunk,
    FinishReason,
    Form,
    Modality,
    Sampling,
    Usage,
    room_for_answer,
)
from mmagent.engine.decoding import Run, generation_config, hand_over
from mmagent.engine.guide import Guide, GuideMaker
from mmagent.engine.kvcache import ConversationCache, Remembered
from mmagent.engine.loading import attach_adapter, load_checkpoint
from mmagent.engine.prompt import Prompt, PromptBuilder
from mmagent.engine.reader import AnswerReader, ThoughtReader
from mmagent.engine.textstream import Detokenizer
from mmagent.errors import GenerationError, MMAgentError, UsageError
from mmagent.messages import Conversation

__all__ = ["TransformersEngine"]

_UNKNOWN = "unknown"  # which adapter is active: loading one may have changed it


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
    ) -> None:
        """Load a checkpoint.

        Args:
            path: A folder, or a name on the model hub.
            name: What the model is called in traces; by default the path.
            adapter: A PEFT adapter (a folder) to put on it.
            device: See `loading.load_checkpoint`.
            dtype: See `loading.load_checkpoint`.
            context_length: A smaller context window than the checkpoint's.
            cache_bytes: Budget for keys and values kept between turns; 0 keeps none.
            sanitize_control_tokens: Keep control tokens in messages from taking effect.
        """
        self._name = name or path
        self._checkpoint = load_checkpoint(path, device=device, dtype=dtype)
        self.model = self._checkpoint.model
        self._adapters: dict[str, str] = {}  # path of an adapter to its name in the model
        self._default_adapter = adapter
        self._active: str | None = None
        self._lock = threading.RLock()  # of the model, held for one step
        self._text_lock = threading.Lock()  # of the tokenizer, which is not safe by itself
        self.cache = ConversationCache(cache_bytes)
        self._reuses = self._checkpoint.reusable and cache_bytes > 0
        if adapter is not None:
            self._adapter_name(adapter)
        self._prompts = PromptBuilder(
            self._checkpoint.processor,
            image_token_id=self._checkpoint.image_token_id,
            sanitize=sanitize_control_tokens,
        )
        limit = self._checkpoint.context_length
        self._context_length = min(context_length or limit, limit)
        self._end_tokens = _end_tokens(self.model, self._prompts.tokenizer)
        self._guides = GuideMaker(
            self._prompts.tokenizer,
            ends=self._end_tokens,
            width=self.model.get_output_embeddings().weight.shape[0],
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
        return frozenset({"text", "image"} if self._prompts.sees else {"text"})

    @property
    def reasons(self) -> bool:
        """Whether the model writes thoughts before its answers."""
        return self._prompts.reasons

    def state(self) -> dict[str, Any]:
        """What is loaded and what is remembered, for people who look after it."""
        return {
            "model": self.name,
            "type": self.model.config.model_type,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "parameters": self.model.num_parameters(),
            "context_length": self.context_length,
            "adapters": sorted(self._adapters),
            "reuse": self._reuses,
            "remembered": self.cache.state(),
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
            ids: list[int] = self._prompts.tokenizer.encode(text, add_special_tokens=False)
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
        """Answer in pieces; closing the iterator stops the work at once.

        Raises:
            ContextOverflowError: The prompt leaves no room for an answer.
            MediaError: The model takes no pictures.
            UsageError: A form that cannot be held.
            GenerationError: The model failed.
        """
        prompt = self._prompt(conversation)
        room = room_for_answer(len(prompt.ids), self.context_length, sampling.max_tokens)
        name = self._adapter_name(adapter or self._default_adapter)
        guide = None
        if form is not None:
            if sampling.num_beams > 1:
                raise UsageError(
                    "num_beams cannot be combined with tools or a schema; leave one of them out."
                )
            guide = self._guides.guide(form, self._prompts.tool_format, room)
        return self._answer(prompt, sampling, room, name, form, guide)

    def _answer(
        self,
        prompt: Prompt,
        sampling: Sampling,
        room: int,
        adapter: str | None,
        form: Form | None,
        guide: Guide | None,
    ) -> Iterator[Chunk]:
        names = [function["name"] for function in form.functions] if form else []
        reader = AnswerReader(
            sampling.stop,
            self._prompts.tool_format if names else None,
            names,
            ThoughtReader(opened=prompt.thinks) if self._prompts.reasons else None,
        )
        text = Detokenizer(self._decode)
        reason: FinishReason = "length"
        produced = thought = 0
        entry = None
        if self._reuses and sampling.num_beams == 1:
            entry = self.cache.take(prompt, adapter)
        read = len(entry.keys) if entry else 0
        if sampling.num_beams > 1:
            tokens = self._search(prompt, sampling, room, adapter)
        else:
            tokens = self._sample(prompt, entry, sampling, room, adapter, guide)
        try:
            for token in tokens:
                produced += 1
                if token in self._end_tokens:
                    reason = "stop"
                    break
                chunk = reader.push(text.push(token))
                thought = produced if reader.thinking else thought
                if chunk is not None:
                    yield chunk
                if reader.stopped:
                    break
            else:
                if guide is not None and guide.finished:
                    reason = "stop"
        finally:
            tokens.close()
        usage = Usage(len(prompt.ids), produced, read, thought)
        yield reader.finish(text.finish(), reason, usage)

    def _decode(self, tokens: list[int]) -> str:
        with self._text_lock:
            decoded: str = self._prompts.tokenizer.decode(tokens, skip_special_tokens=True)
        return decoded

    def _sample(
        self,
        prompt: Prompt,
        entry: Remembered | None,
        sampling: Sampling,
        room: int,
        adapter: str | None,
        guide: Guide | None,
    ) -> Generator[int, None, None]:
        """Tokens one by one; what was computed for them is kept for the next turn."""
        import torch

        entry = entry or Remembered([], self._new_cache(), adapter)
        produced: list[int] = []
        at_rest = False  # not inside a step, where layers may be of different lengths
        try:
            with self._running(adapter), torch.no_grad():
                run = self._prepare(prompt, sampling, room, entry)
                run.guide = guide
                token = run.first()
            at_rest = True
            for _ in range(room):
                produced.append(token)
                yield token
                if len(produced) == room or run.finished:
                    return
                at_rest = False
                with self._running(adapter), torch.no_grad():
                    token = run.next(token)
                at_rest = True
        finally:
            if at_rest and self._reuses:
                length = entry.cache.get_seq_length()
                keys = (prompt.keys + produced)[:length]
                self.cache.put(Remembered(keys, entry.cache, adapter, len(prompt.ids)))

    def _search(
        self, prompt: Prompt, sampling: Sampling, room: int, adapter: str | None
    ) -> Generator[int, None, None]:
        """Tokens of the best beam, all at once."""
        import torch

        with self._running(adapter), torch.no_grad(), torch.random.fork_rng():
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            found = self.model.generate(
                **self._inputs(prompt, 0), generation_config=self._config(sampling, room)
            )
        yield from found[0, len(prompt.ids) :].tolist()

    def _prepare(self, prompt: Prompt, sampling: Sampling, room: int, entry: Remembered) -> Run:
        import torch

        run: Run = self.model.generate(
            **self._inputs(prompt, len(entry.keys)),
            past_key_values=entry.cache,
            generation_config=self._config(sampling, room),
            custom_generate=hand_over,
        )
        run.left = room
        if sampling.seed is not None:
            run.chance = torch.Generator(self.model.device).manual_seed(sampling.seed)
        return run

    def _inputs(self, prompt: Prompt, known: int) -> dict[str, Any]:
        """All tokens, and the pixels of the pictures that are not known yet."""
        import torch

        device = self.model.device
        new = [
            image
            for image, (_, end) in zip(prompt.images, prompt.spans, strict=True)
            if end > known
        ]
        with self._text_lock:
            pixels = self._prompts.pixels(new)
        inputs: dict[str, Any] = {}
        for name, value in pixels.items():
            if isinstance(value, torch.Tensor):
                value = value.to(device)
                value = value.to(self.model.dtype) if value.is_floating_point() else value
            inputs[name] = value
        ids = torch.tensor([prompt.ids], device=device)
        inputs["input_ids"] = ids
        inputs["attention_mask"] = torch.ones_like(ids)
        for name, numbers in prompt.extras.items():
            inputs[name] = torch.tensor([numbers], device=device)
        return inputs

    def _config(self, sampling: Sampling, room: int) -> Any:
        # A placeholder in an answer would claim a picture that is not there.
        image_token_id = self._checkpoint.image_token_id
        never = [] if image_token_id is None else [image_token_id]
        return generation_config(
            self.model.generation_config, sampling, room, ends=self._end_tokens, never=never
        )

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        # Without a config every layer keeps all it saw: one that slides could not be cropped.
        return DynamicCache() if self._reuses else None

    # ---- one model, several users ----------------------------------------------------------

    def _running(self, adapter: str | None) -> _Running:
        return _Running(self, adapter)

    def _adapter_name(self, adapter: str | None) -> str | None:
        if adapter is None:
            return None
        with self._lock:
            if adapter not in self._adapters:
                name = f"adapter{len(self._adapters)}"
                attach_adapter(self._checkpoint, adapter, name)
                self._adapters[adapter] = name
                self._active = _UNKNOWN
            return self._adapters[adapter]

    def _activate(self, adapter: str | None) -> None:
        """Switch the adapters; the caller holds the lock."""
        if adapter == self._active or not self._adapters:
            return
        peft_model = self.model._mmagent_peft
        if adapter is None:
            peft_model.base_model.disable_adapter_layers()
        else:
            peft_model.base_model.enable_adapter_layers()
            peft_model.set_adapter(adapter)
        self._active = adapter


class _Running:
    """Holds the model for one step, with the right adapter; translates what goes wrong."""

    def __init__(self, engine: TransformersEngine, adapter: str | None) -> None:
        self._engine = engine
        self._adapter = adapter

    def __enter__(self) -> None:
        self._engine._lock.acquire()
        self._engine._activate(self._adapter)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._engine._lock.release()
        if isinstance(error, MMAgentError) or not isinstance(error, Exception):
            return
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
            raise GenerationError(
                "The model ran out of memory; shorten the conversation, lower cache_bytes, "
                "or use a smaller model or dtype."
            ) from error
        raise GenerationError(
            f"The model failed while answering ({type(error).__name__}: {first})."
        ) from error


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer, by the checkpoint's settings and by its tokenizer."""
    ends = model.generation_config.eos_token_id
    found = set(ends) if isinstance(ends, list) else {ends}
    found.add(tokenizer.eos_token_id)
    return frozenset(token for token in found if token is not None)
