"""What the scheduler's thread does with one model: read, step, remember."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmagent.engine.adapters import AdapterRack
from mmagent.engine.base import Chunk
from mmagent.engine.decoding import Row, generation_config, rows_agree, step_rows
from mmagent.engine.kvcache import ConversationCache, Remembered
from mmagent.engine.loading import Checkpoint, vocabulary
from mmagent.engine.prompt import Prompt, PromptBuilder
from mmagent.engine.rowcache import RowCache, use_rows
from mmagent.engine.rowtable import RowTable
from mmagent.engine.scheduler import Job
from mmagent.engine.vision import Eye
from mmagent.engine.writing import AnswerWriter
from mmagent.errors import GenerationError, MMAgentError
from mmagent.media import LoadedImage
from mmagent.sounds import LoadedSound

__all__ = ["Answer", "ModelWorker"]

# Tokens of a prompt that are read at a time: while others are decoding, and otherwise.
_PIECE, _LONG_PIECE = 256, 1024


class Answer(Job):
    """One request: its sequence, and where its chunks go."""

    def __init__(
        self, row: Row, writer: AnswerWriter, put: Callable[[Chunk | BaseException], None]
    ) -> None:
        super().__init__(timeout=row.sampling.timeout)
        self.row = row
        self.writer = writer
        self.put = put

    def fail(self, error: BaseException) -> None:
        """Tell the consumer."""
        self.put(error)

    def emit(self) -> None:
        """Pass on what the last token has made certain."""
        chunk = self.writer.push(self.row.token, self.row.scores)
        if chunk is not None:
            self.put(chunk)
        if self.writer.reason is None and self.row.finished:
            guide = self.row.guide
            self.writer.reason = "stop" if guide is not None and guide.finished else "length"
        if self.writer.reason is not None:
            self.finished = True
            self.put(self.writer.finish(self.writer.reason))


class ModelWorker:
    """Works on the answers of one model; all but the properties on the scheduler's thread."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompts: PromptBuilder,
        *,
        cache_bytes: int,
        text_lock: threading.Lock,
    ) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model
        self.prompts = prompts
        self._text_lock = text_lock
        self.lock = threading.RLock()  # of the model, held for one step
        self.adapters = AdapterRack(checkpoint, self.lock)
        self.by_rows = checkpoint.reusable and use_rows(self.model)
        self._agreed: bool | None = None
        self._table = RowTable()
        self._takes = frozenset(inspect.signature(type(self.model).forward).parameters)
        self._places = checkpoint.reusable and "position_ids" in self._takes
        self.reuses = cache_bytes > 0 and checkpoint.reusable
        sight = cache_bytes // 8 if prompts.sees else 0
        self.cache = ConversationCache(cache_bytes - sight, whole=checkpoint.looks_ahead)
        self.eye = Eye(self.model, self._pixels, sight)
        self.ends = _end_tokens(self.model, prompts.tokenizer)
        # A placeholder in an answer would claim a picture that is not there.
        marks = (checkpoint.image_token_id, checkpoint.audio_token_id)
        never = {mark for mark in marks if mark is not None}
        never |= set(self.model.generation_config.suppress_tokens or ())
        width = vocabulary(self.model)
        self.never = sorted(token for token in never if token < width)
        self._never = torch.tensor(self.never, device=self.model.device) if self.never else None

    # ---- reading a prompt ------------------------------------------------------------------

    def read(self, job: Answer, *, alone: bool, between: Callable[[], None]) -> bool:
        """Read a piece of the prompt; see `scheduler.Worker`."""
        row = job.row
        if row.sampling.num_beams > 1:
            self._search(job, between)
            return False
        with _Running(self, (row.adapter,)):
            if not row.prepared:
                self._begin(job)
            assert row.entry is not None
            known = len(row.entry.keys)
            end = self._piece(row, known, _LONG_PIECE if alone else _PIECE)
            features = None
            if self.eye.separable and (new := _between(row.prompt, known, end, LoadedImage)):
                features = self.eye.features(new, self.adapters.sight(row.adapter))
            try:
                row.read(self.model, end, features)
            except BaseException:
                self._forget(row)
                raise
            row.entry.keys.extend(row.prompt.keys[known:end])
        if end < len(row.prompt.ids):
            return True
        job.emit()
        return False

    def _begin(self, job: Answer) -> None:
        row = job.row
        if self.reuses:
            row.entry = self.cache.take(row.prompt, row.adapter)
        job.writer.cached = len(row.entry.keys) if row.entry else 0
        if row.entry is None:
            row.entry = Remembered(
                [], RowCache() if self.checkpoint.reusable else None, row.adapter
            )
        row.entry.asked = len(row.prompt.ids)
        self.cache.lend(row.entry)
        row.never = self._never
        inputs = self.inputs(row.prompt, len(row.entry.keys), pixels=not self.eye.separable)
        row.prepare(self.model, inputs, self._config(row))

    def _piece(self, row: Row, known: int, size: int) -> int:
        """Where the next piece ends: not inside a picture, and not a token before the end."""
        length = len(row.prompt.ids)
        end = known + size
        whole = not self.checkpoint.reusable or self.checkpoint.looks_ahead
        # What goes through the model itself is read in one piece with the text around it.
        raw = _between(row.prompt, known, length, LoadedSound)
        raw += row.prompt.images if not self.eye.separable else []
        if whole or raw or end >= length - 8:
            return length
        for first, last in row.prompt.spans:
            if first < end < last:
                end = last
        return end if end < length - 8 else length

    def inputs(self, prompt: Prompt, known: int, *, pixels: bool = True) -> dict[str, Any]:
        """All tokens, and pixels and sound of the media that are not known yet."""
        device = self.model.device
        length = len(prompt.ids)
        inputs = self._pixels(_between(prompt, known, length, LoadedImage) if pixels else [])
        inputs |= self._tensors(self.prompts.sounds, _between(prompt, known, length, LoadedSound))
        ids = torch.tensor([prompt.ids], device=device)
        inputs["input_ids"] = ids
        inputs["attention_mask"] = torch.ones_like(ids)
        for name, numbers in prompt.extras.items():
            if name in self._takes:  # processors tell some models more than they ask for
                inputs[name] = torch.tensor([numbers], device=device)
        if self._places:
            inputs["position_ids"] = self._positions(prompt, inputs)
        return inputs

    def _positions(self, prompt: Prompt, inputs: dict[str, Any]) -> torch.Tensor:
        """Positions (1, tokens); or (1 + axes, 1, tokens) where pictures have rows and columns.

        Models of the second kind would keep them from one call to the next, which mixes
        conversations up.
        """
        ids = inputs["input_ids"]
        plain = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        if not hasattr(self.model.base_model, "get_rope_index"):
            return plain
        kinds = inputs.get("mm_token_type_ids")
        if kinds is None:
            kinds = (ids == self.checkpoint.image_token_id).to(torch.int32)
        axes, _ = self.model.base_model.get_rope_index(
            ids, mm_token_type_ids=kinds,
            image_grid_thw=torch.tensor(prompt.grids, device=ids.device) if prompt.grids else None,
            attention_mask=inputs["attention_mask"],
        )  # fmt: skip
        return torch.cat([plain.unsqueeze(0), axes.to(plain.dtype)])

    def _pixels(self, images: Sequence[Any]) -> dict[str, Any]:
        return self._tensors(self.prompts.pixels, images)

    def _tensors(self, read: Callable[[Any], dict[str, Any]], media: Any) -> dict[str, Any]:
        """What the processor makes of media, on the model's device and in its dtype."""
        if not media:
            return {}
        with self._text_lock:
            made = read(media)
        found: dict[str, Any] = {}
        for name, value in made.items():
            if isinstance(value, torch.Tensor):
                value = value.to(self.model.device)
                value = value.to(self.model.dtype) if value.is_floating_point() else value
            found[name] = value
        return found

    def _config(self, row: Row) -> Any:
        room = row.left
        return generation_config(self.model.generation_config, row.sampling, room, ends=self.ends)

    # ---- one token more --------------------------------------------------------------------

    def step(self, jobs: Sequence[Answer]) -> None:
        """One token more for each; see `scheduler.Worker`."""
        if not self.by_rows or not self._agree():
            for job in jobs:
                self._alone(job)
            return
        names = [job.row.adapter for job in jobs]
        if self.adapters.can_mix(names):
            self._together(jobs, sit=True)
            return
        for name in dict.fromkeys(names):
            self._together([job for job in jobs if job.row.adapter == name])

    def _together(self, jobs: Sequence[Answer], *, sit: bool = False) -> None:
        """All in one step; if it fails, find out for whom by taking it one by one."""
        try:
            order = self._seat(jobs) if sit else None
            jobs = jobs if order is None else [jobs[number] for number in order]
            before = [job.row.token for job in jobs]
            with _Running(self, [job.row.adapter for job in jobs]):
                rows = [job.row for job in jobs]
                found = step_rows(self.model, rows, None if order is None else self._table)
        except BaseException as error:
            for job in jobs:
                self._rewind(job.row)
            if len(jobs) == 1 or not isinstance(error, Exception):
                for job in jobs:
                    self._failed(job, error)
                return
            if len({job.row.adapter for job in jobs}) > 1:
                self.adapters.refuse_mixing()
            for job in jobs:
                self._together([job])
            return
        for job, token, (logits, best) in zip(jobs, before, found, strict=True):
            try:
                if job.row.entry is not None:
                    job.row.entry.keys.append(token)
                job.row.choose(logits, best)
                job.emit()
            except BaseException as error:
                self._failed(job, error)

    def _seat(self, jobs: Sequence[Answer]) -> list[int] | None:
        entries = [job.row.entry for job in jobs]
        return self._table.seat([entry.cache for entry in entries if entry is not None])

    def _alone(self, job: Answer) -> None:
        try:
            with _Running(self, (job.row.adapter,)):
                job.row.advance(self.model)
            job.emit()
        except BaseException as error:
            self._failed(job, error)

    def _failed(self, job: Answer, error: BaseException) -> None:
        job.fail(error)
        job.finished = True

    def _agree(self) -> bool:
        if self._agreed is None:
            kind = self.model.config.get_text_config(decoder=True).model_type
            with _Running(self, (None,)):
                # The plainest one is known to; for all others the numbers decide.
                width = min(vocabulary(self.model), 256)
                self._agreed = kind == "llama" or rows_agree(self.model, width)
        return self._agreed

    def _rewind(self, row: Row) -> None:
        """After a step that broke off in the middle: every layer as it was before."""
        if row.entry is not None and isinstance(row.entry.cache, RowCache):
            row.entry.cache.cut(len(row.entry.keys))

    def _forget(self, row: Row) -> None:
        """After a piece that broke off in the middle."""
        if row.entry is not None:
            row.entry.keys.clear()

    # ---- the end ---------------------------------------------------------------------------

    def leave(self, job: Answer) -> None:
        """Remember what was computed; see `scheduler.Worker`."""
        entry = job.row.entry
        if entry is not None:
            self._table.release(entry.cache)
            self.cache.put(entry, keep=self.reuses)
            job.row.entry = None

    # ---- beams -----------------------------------------------------------------------------

    def _search(self, job: Answer, between: Callable[[], None]) -> None:
        """Tokens of the best beam, all at once; other answers advance between its steps."""
        row = job.row

        def stop(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            between()
            self.adapters.activate(row.adapter)
            over = job.cancelled or job.late
            return torch.full((ids.shape[0],), over, device=ids.device, dtype=torch.bool)

        config = self._config(row)
        config.suppress_tokens = self.never or None
        with _Running(self, (row.adapter,)), torch.random.fork_rng():
            if row.sampling.seed is not None:
                torch.manual_seed(row.sampling.seed)
            found = self.model.generate(
                **self.inputs(row.prompt, 0), generation_config=config, stopping_criteria=[stop]
            )
        room = row.left
        for token in found[0, len(row.prompt.ids) :].tolist():
            if job.finished or job.cancelled or job.late:
                return
            row.token, row.left = token, row.left - 1
            job.emit()
        if not job.finished and not job.late:
            job.finished = True
            job.put(job.writer.finish("length" if row.left <= 0 < room else "stop"))


class _Running:
    """Holds the model for one step, with the right adapters; translates what goes wrong."""

    def __init__(self, worker: ModelWorker, adapters: Sequence[str | None]) -> None:
        self._worker = worker
        self._rows = worker.adapters.rows(adapters)
        self._grad = torch.no_grad()

    def __enter__(self) -> None:
        self._worker.lock.acquire()
        try:
            self._rows.__enter__()
            self._grad.__enter__()
        except BaseException:
            self._worker.lock.release()
            raise

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._grad.__exit__(None, None, None)
        self._rows.__exit__(None, None, None)
        self._worker.lock.release()
        if isinstance(error, MMAgentError) or not isinstance(error, Exception):
            return
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
            raise GenerationError(
                "The model ran out of memory; shorten the conversation, lower cache_bytes or "
                "max_batch, or use a smaller model or dtype."
            ) from error
        raise GenerationError(
            f"The model failed while answering ({type(error).__name__}: {first})."
        ) from error


def _between(prompt: Prompt, known: int, end: int, kind: type[Any]) -> list[Any]:
    """The pictures (or recordings) that end in this part of a prompt."""
    return [
        medium
        for medium, (_, last) in zip(prompt.media, prompt.spans, strict=True)
        if known < last <= end and isinstance(medium, kind)
    ]


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer, by the checkpoint's settings and by its tokenizer."""
    ends = model.generation_config.eos_token_id
    found = set(ends) if isinstance(ends, list) else {ends}
    found.add(tokenizer.eos_token_id)
    return frozenset(token for token in found if token is not None)
