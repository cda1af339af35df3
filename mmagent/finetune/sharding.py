"""Weights spread over several processes: fully sharded data parallel, as `fsdp.yaml` sets it."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from mmagent.errors import UsageError
from mmagent.finetune.towers import tower_of, towers_of

__all__ = ["ShardingCallback", "prepare_sharding"]


def prepare_sharding(trainer: Any) -> None:
    """Where weights are spread: let all processes exchange the same ones in the same order.

    By itself accelerate gathers every class one by one that a model does not want split. Those of
    composite models name parts that are not there, such as the text side of an eye, for which it
    refuses them; and a layer of the eye is gathered by those processes alone whose rows have
    pictures, while the others wait for one of theirs. So whatever is no layer of the language model
    is gathered with the whole.

    Raises:
        UsageError: Some processes would wait for gradients that others do not have.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    model = trainer.model
    towers = towers_of(model)
    trained = {tower_of(name, towers) for name, w in model.named_parameters() if w.requires_grad}
    if trained - {"language"} and not _waits_for_none():
        raise UsageError(
            "With the weights spread (FSDP), this torch would wait for ever once a process has no "
            "picture in a step: install a newer torch (2.13 will do), or train the language model "
            "alone, with freeze.vision and freeze.projector set to true."
        )
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = _layers(model, towers)
    # Words that need no gradient, in a process without pictures, would let its first layer be
    # done after the projector, not before it.
    model.enable_input_require_grads()
    saved = model.state_dict()
    if any(name in saved for name, _ in model.named_buffers()):
        # Accelerate sends weights alone, no statistics of batch norms; every process has read both.
        plugin.cpu_ram_efficient_loading = False
    # Of weights in pieces the trainer would make no adapter.
    plugin.set_state_dict_type("FULL_STATE_DICT")


def _waits_for_none() -> bool:
    """Whether torch can reduce gradients that some processes lack."""
    from torch.distributed.fsdp import FSDPModule

    return hasattr(FSDPModule, "set_reduce_scatter_unused_params")


def _layers(model: Any, towers: dict[str, str]) -> list[str]:
    """The classes that the model does not want split and that its language part alone has."""
    parts: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        parts.setdefault(type(module).__name__, set()).add(tower_of(name, towers))
    named = getattr(model, "_no_split_modules", None) or ()
    return sorted(kind for kind in named if parts.get(kind) == {"language"})


class ShardingCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Lets all processes reduce the same gradients, though only some have pictures in a step."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Give weights that a process had no use for a gradient of zero."""
        told = getattr(model, "set_reduce_scatter_unused_params", None)
        if told is not None:  # only a model whose weights are spread has it
            told(True)
