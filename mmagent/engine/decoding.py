"""One sequence, token by token, on the hooks that transformers' `generate` is made of.

Shapes: `input_ids` (1, tokens so far); `logits` (1, 1, vocabulary).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmagent.engine.base import Sampling

if TYPE_CHECKING:
    import torch

    from mmagent.engine.guide import Guide

__all__ = ["Run", "generation_config", "hand_over"]


@dataclass
class Run:
    """One sequence between two steps of decoding."""

    model: Any
    input_ids: torch.Tensor  # (1, tokens so far)
    processors: Any
    config: Any
    kwargs: dict[str, Any]
    chance: torch.Generator | None = None
    guide: Guide | None = None
    left: int = 0  # tokens that the answer may still have

    def first(self) -> int:
        """Read the prompt (what is not known of it) and choose a token."""
        outputs = self.model._prefill(self.input_ids, self.config, self.kwargs)
        return self._choose(outputs)

    def next(self, token: int) -> int:
        """Read one token more and choose the next."""
        import torch

        new = torch.tensor([[token]], device=self.input_ids.device)
        self.input_ids = torch.cat([self.input_ids, new], dim=1)
        use_cache = self.kwargs.get("use_cache")
        inputs = self.model.prepare_inputs_for_generation(
            self.input_ids, next_sequence_length=1 if use_cache else None, **self.kwargs
        )
        return self._choose(self.model(**inputs, return_dict=True))

    def _choose(self, outputs: Any) -> int:
        import torch

        self.kwargs = self.model._update_model_kwargs_for_generation(outputs, self.kwargs)
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)  # (1, vocabulary)
        if self.guide is not None:
            # Before the rest: of the likeliest tokens, a grammar might allow none.
            logits = self.guide.allow(logits)
        scores = self.processors(self.input_ids, logits)
        if self.config.do_sample:
            chances = scores.softmax(dim=-1)
            token = int(torch.multinomial(chances, 1, generator=self.chance))
        else:
            token = int(scores.argmax(dim=-1))
        if self.guide is not None:
            token = self.guide.settle(token, self.left)
        self.left -= 1
        return token

    @property
    def finished(self) -> bool:
        """The form of the answer is complete: nothing may follow."""
        return self.guide is not None and self.guide.finished


def hand_over(
    model: Any,
    input_ids: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **model_kwargs: Any,
) -> Run:
    """In the place of a decoding loop: take over what `generate` prepared for one."""
    return Run(model, input_ids, logits_processor, generation_config, model_kwargs)


def generation_config(
    recommended: Any, sampling: Sampling, room: int, *, ends: Iterable[int], never: list[int]
) -> Any:
    """The checkpoint's own settings, with what was asked for in their place.

    Args:
        recommended: The checkpoint's `GenerationConfig`.
        sampling: What was asked for.
        room: Most tokens of the answer.
        ends: Tokens that end it.
        never: Tokens that must not be in it.
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
    if never:
        config.suppress_tokens = [*(config.suppress_tokens or []), *never]
    return config
