"""From prompts to tokens: reading a prompt in pieces, and one token more for many sequences.

`generate` of transformers prepares a sequence (logits processors, masks, positions) and hands
over before its first step; from there on the loop is ours. Where the architecture allows
(`rowcache`), all sequences take a step together; else each takes its own, on the hooks that
`generate` itself is made of.

Shapes: `input_ids` (1, tokens so far); logits (rows, vocabulary).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import SuppressTokensLogitsProcessor

from mmagent.engine.base import Sampling
from mmagent.engine.guide import Guide
from mmagent.engine.kvcache import Remembered
from mmagent.engine.prompt import Prompt
from mmagent.engine.rowcache import BatchCache
from mmagent.engine.rowtable import RowTable

__all__ = ["Row", "generation_config", "hand_over", "rows_agree", "step_rows"]

# What `generate` keeps one number per token in.
_PER_TOKEN = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")


@dataclass(eq=False)
class Row:
    """One sequence between two steps.

    Attributes:
        prompt: What is read first.
        sampling: How tokens are chosen.
        left: Tokens that the answer may still have.
        adapter: PEFT's name of the adapter.
        guide: Holds the answer to a form.
        entry: The keys and values known so far.
        token: What was chosen last and is not read yet.
        produced: All that was chosen.
        scores: The model's own logits (vocabulary,) that the last token was chosen from.
    """

    prompt: Prompt
    sampling: Sampling
    left: int
    adapter: str | None
    guide: Guide | None = None
    entry: Remembered | None = None
    token: int = -1
    produced: list[int] = field(default_factory=list)
    scores: torch.Tensor | None = None
    never: torch.Tensor | None = None  # tokens that no answer has
    _state: _Prepared | None = None
    _position: torch.Tensor | None = None
    _chance: torch.Generator | None = None
    _deltas: torch.Tensor | None = None  # what some models keep on themselves between two steps

    def prepare(self, model: Any, inputs: dict[str, Any], config: Any) -> None:
        """Let `generate` prepare the whole prompt, up to its first step."""
        assert self.entry is not None
        self._state = model.generate(
            **inputs,
            past_key_values=self.entry.cache,
            generation_config=config,
            custom_generate=hand_over,
        )
        # `never` has those; it would look for them in the whole vocabulary at every token.
        processors = self._state.processors
        kept = [one for one in processors if not isinstance(one, SuppressTokensLogitsProcessor)]
        self._state.processors = type(processors)(kept)
        if config.do_sample:
            seed = self.sampling.seed
            if seed is None:  # whoever seeds torch gets the same answers again
                seed = int(torch.randint(1 << 62, (1,)))
            self._chance = torch.Generator().manual_seed(seed)

    @property
    def prepared(self) -> bool:
        """Whether reading has begun."""
        return self._state is not None

    def read(self, model: Any, end: int, features: Any = None) -> None:
        """Read the prompt up to `end`; at its end, choose the first token.

        Args:
            model: The model.
            end: How many tokens of the prompt are known afterwards.
            features: Of the pictures in this piece, for `mm_encoder_outputs`.
        """
        state = self._prepared()
        whole = end == len(self.prompt.ids)
        kwargs = dict(state.kwargs)
        for name in _PER_TOKEN:
            if kwargs.get(name) is not None:
                kwargs[name] = kwargs[name][..., :end]
        if not whole and kwargs.get("attention_mask") is None:
            # Dropped where nothing is masked; but by its length `_prefill` knows what is new.
            kwargs["attention_mask"] = torch.ones_like(state.input_ids[:, :end])
        if features is not None:
            kwargs["mm_encoder_outputs"] = features
        outputs = model._prefill(state.input_ids[:, :end], state.config, kwargs)
        self._deltas = _deltas_of(model)
        if whole:
            kwargs.pop("mm_encoder_outputs", None)
            state.kwargs = model._update_model_kwargs_for_generation(outputs, kwargs)
            self.choose(outputs.logits[:, -1].to(copy=True, dtype=torch.float32))

    def advance(self, model: Any) -> None:
        """Read the last token, and choose the next; this sequence alone."""
        state = self._prepared()
        new = torch.tensor([[self.token]], device=state.input_ids.device)
        state.input_ids = torch.cat([state.input_ids, new], dim=1)
        if self._deltas is not None:
            model.base_model.rope_deltas = self._deltas
        outputs = model(**self._inputs(model), return_dict=True)
        state.kwargs = model._update_model_kwargs_for_generation(outputs, state.kwargs)
        self.choose(outputs.logits[:, -1].to(copy=True, dtype=torch.float32))

    def _inputs(self, model: Any) -> dict[str, Any]:
        state = self._prepared()
        inputs: dict[str, Any] = model.prepare_inputs_for_generation(
            state.input_ids,
            next_sequence_length=1 if state.kwargs.get("use_cache") else None,
            **state.kwargs,
        )
        return inputs

    def position(self, model: Any) -> torch.Tensor:
        """Where the last token stands: (1, 1), or (axes, 1, 1)."""
        if self._position is None:
            # Asked of the model once: some count from one, some have several axes.
            found: torch.Tensor = self._inputs(model)["position_ids"]
            self._position = found[..., -1:]
        return self._position

    def choose(self, logits: torch.Tensor, best: int | None = None) -> None:
        """Choose the next token from the logits (1, vocabulary), which may be overwritten.

        Args:
            logits: The model's, in float32.
            best: The likeliest token, where it is known already.
        """
        state = self._prepared()
        if self.sampling.logprobs is not None:
            self.scores = logits[0].clone()
        if best is None or not self.plain:
            if self.never is not None:
                logits.index_fill_(1, self.never, float("-inf"))
            if self.guide is not None:
                # Before the rest: of the likeliest tokens, a grammar might allow none.
                logits = self.guide.allow(logits)
            scores = state.processors(state.input_ids, logits) if state.processors else logits
            if self._chance is not None:
                chances = scores.softmax(dim=-1).cpu()
                best = int(torch.multinomial(chances, 1, generator=self._chance))
            else:
                best = int(scores.argmax(dim=-1))
        if self.guide is not None:
            best = self.guide.settle(best, self.left)
        self.token = best
        self.produced.append(best)
        self.left -= 1

    @property
    def plain(self) -> bool:
        """The likeliest token of the model is the one to take."""
        state = self._prepared()
        return self.guide is None and self._chance is None and not state.processors

    def moved(self) -> None:
        """The last token was read in a step of several rows."""
        state = self._prepared()
        if state.processors:  # nobody else looks at what was said
            new = torch.tensor([[self.token]], device=state.input_ids.device)
            state.input_ids = torch.cat([state.input_ids, new], dim=1)
        if self._position is not None:
            self._position = self._position + 1

    @property
    def finished(self) -> bool:
        """The form of the answer is complete, or there is no room for more."""
        return self.left <= 0 or (self.guide is not None and self.guide.finished)

    def _prepared(self) -> _Prepared:
        assert self._state is not None
        return self._state


@dataclass
class _Prepared:
    """What `generate` made ready."""

    input_ids: torch.Tensor
    processors: Any
    config: Any
    kwargs: dict[str, Any]


def hand_over(
    model: Any,
    input_ids: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **model_kwargs: Any,
) -> _Prepared:
    """In the place of a decoding loop: take over what `generate` prepared for one."""
    return _Prepared(input_ids, logits_processor, generation_config, model_kwargs)


def step_rows(
    model: Any, rows: Sequence[Row], table: RowTable | None = None
) -> list[tuple[torch.Tensor, int | None]]:
    """Read the last token of every row in one step.

    Args:
        model: The model.
        rows: At least one.
        table: Where their caches sit, in this order; None if they do not.

    Returns:
        For each row its logits (1, vocabulary) and, if that is all it takes, the likeliest token:
        what `Row.choose` is given.
    """
    logits = _row_logits(
        model,
        [row.token for row in rows],
        torch.cat([row.position(model) for row in rows], dim=-2),
        [row.entry.cache for row in rows if row.entry is not None],
        table,
    )
    plain = [row.plain for row in rows]
    best: list[int] = []
    if any(plain):
        never = rows[0].never  # the same for all rows of one model
        allowed = logits if never is None else logits.index_fill(1, never, float("-inf"))
        best = allowed.argmax(dim=-1).tolist()
    for row in rows:
        row.moved()
    return [
        (logits[number : number + 1], best[number] if plain[number] else None)
        for number in range(len(rows))
    ]


def _deltas_of(model: Any) -> torch.Tensor | None:
    found: torch.Tensor | None = getattr(model.base_model, "rope_deltas", None)
    return found


def _row_logits(
    model: Any,
    tokens: Sequence[int],
    positions: torch.Tensor,
    caches: Sequence[Any],
    table: RowTable | None,
) -> torch.Tensor:
    """Logits (rows, vocabulary) after one more token of each row."""
    outputs = model(
        input_ids=torch.tensor(tokens, device=positions.device).unsqueeze(1),
        position_ids=positions,
        past_key_values=BatchCache(caches, table),
        use_cache=True,
        return_dict=True,
    )
    logits: torch.Tensor = outputs.logits[:, -1]
    return logits.to(torch.float32)


def rows_agree(model: Any, vocabulary: int) -> bool:
    """Whether steps of several rows give what each row gives alone; asked of a model once."""
    from mmagent.engine.rowcache import RowCache

    device = model.device
    prompts = [[(7 * n + 3) % vocabulary for n in range(length)] for length in (3, 9)]
    alone, caches, positions, together = [], [], [], []
    try:
        for prompt in prompts:
            ids = torch.tensor([prompt], device=device)
            config = copy.deepcopy(model.generation_config)
            config.max_length, config.max_new_tokens = None, 2
            config.do_sample, config.num_beams = False, 1
            made = []
            for cache in (RowCache(), RowCache()):
                state = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache,
                    generation_config=config, custom_generate=hand_over,
                )  # fmt: skip
                outputs = model._prefill(ids, config, state.kwargs)
                state.kwargs = model._update_model_kwargs_for_generation(outputs, state.kwargs)
                longer = torch.cat([ids, ids[:, :1]], dim=1)
                inputs = model.prepare_inputs_for_generation(
                    longer, next_sequence_length=1, **state.kwargs
                )
                made.append((inputs, cache))
            alone.append(model(**made[0][0], return_dict=True).logits[0, -1].float())
            caches.append(made[1][1])
            positions.append(made[1][0]["position_ids"][..., -1:])
        table = RowTable()
        seated = [cache.copy(len(prompt)) for cache, prompt in zip(caches, prompts, strict=True)]
        sits = table.seat(seated) is not None
        for rows, place in ((caches, None), (seated, table if sits else None)):
            tokens = [prompt[0] for prompt in prompts]
            together.append(_row_logits(model, tokens, torch.cat(positions, dim=-2), rows, place))
    except Exception:  # an architecture of its own; each sequence then takes its own steps
        return False
    wanted = torch.stack(alone)
    spread = (wanted - wanted.mean(dim=-1, keepdim=True)).abs().max()
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return all(bool((found - wanted).abs().max() <= tolerance * spread) for found in together)


def generation_config(
    recommended: Any, sampling: Sampling, room: int, *, ends: Iterable[int]
) -> Any:
    """The checkpoint's own settings, with what was asked for in their place.

    Args:
        recommended: The checkpoint's `GenerationConfig`.
        sampling: What was asked for.
        room: Most tokens of the answer.
        ends: Tokens that end it.
    """
    config = copy.deepcopy(recommended)
    config.max_length = None
    config.max_new_tokens = room
    config.num_beams = sampling.num_beams
    config.return_dict_in_generate = False
    config.eos_token_id = sorted(ends)
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id[0] if config.eos_token_id else 0
    if sampling.samples is not None:
        config.do_sample = sampling.samples
    if config.do_sample:
        for name in ("temperature", "top_p", "top_k", "min_p"):
            value = getattr(sampling, name)
            if value is not None:
                setattr(config, name, value)
    else:
        config.temperature = config.top_p = config.top_k = config.min_p = None
    if sampling.repetition_penalty is not None:
        config.repetition_penalty = sampling.repetition_penalty
    return config
