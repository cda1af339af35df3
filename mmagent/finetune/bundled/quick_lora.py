"""LoRA for training on a CPU: a layer and its adapter as one matrix.

PEFT computes `W x + s B (A x)` in three products and two sums, each of which writes all outputs.
While W is frozen, `(W + s B A) x` is the same with one product; the adapter's gradients need two
narrow ones more. On a core with AVX2 a step of stage B takes a tenth less time so.

Shapes: x [..., I], W [O, I], A [R, I], B [O, R].
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor

__all__ = ["quicken"]


class _Adapted(torch.autograd.Function):
    """`(W + s B A) x`, with gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        whole = torch.addmm(weight, b, a, alpha=scale)  # [O, I]
        ctx.save_for_backward(x, whole, a, b)
        ctx.scale = scale
        return torch.nn.functional.linear(x, whole)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, whole, a, b = ctx.saved_tensors
        dy = grads[0]
        dx = dy @ whole if ctx.needs_input_grad[0] else None  # [..., I]
        da = db = None
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            rows, out = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # [N, I], [N, O]
            da = ((out @ b).T @ rows) * ctx.scale  # [R, I]
            db = (out.T @ (rows @ a.T)) * ctx.scale  # [O, R]
        return dx, None, da, db, None


def quicken(peft: Any) -> int:
    """Let the LoRA layers of a model compute so; parameters and results stay what they are.

    Args:
        peft: a PEFT model with one active adapter on linear layers without bias or dropout.

    Returns:
        How many layers it is.

    Raises:
        ValueError: an adapter is of another kind.
    """
    from peft.tuners.lora import Linear

    layers = [module for module in peft.modules() if isinstance(module, Linear)]
    layer: Any  # PEFT's annotations are those of its base class
    for layer in layers:
        (name,) = layer.active_adapters
        base = layer.get_base_layer()
        if base.bias is not None or layer.use_dora.get(name):
            raise ValueError("Only plain LoRA on layers without bias can be computed at once.")
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    (name,) = self.active_adapters
    made: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
        x, self.get_base_layer().weight, self.lora_A[name].weight, self.lora_B[name].weight,
        self.scaling[name],
    )  # fmt: skip
    return made
