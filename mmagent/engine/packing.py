"""Linear layers with their weights in float16 and their sums in float32, on a CPU, by FBGEMM.

A token needs all weights once, and reading them is what it waits for: half of the bytes takes
little more than half of the time. They also lie in the order of the kernel, made once after
loading, where torch brings a whole matrix into that order anew at every step of several rows.

Taken where nothing is lost: the weights are float16's or bfloat16's, as most checkpoints' are,
whatever they were stored in; or where it was asked for (`dtype="float16"`). Only the language
model's layers are packed, since the others work once a picture. The weights are held once: a
layer's `weight` is made anew for whoever asks.

Shapes: weights (outputs, inputs); rows (..., inputs).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

__all__ = ["PackedLinear", "can_pack", "pack", "weight_bytes"]

# What rounding may change, relative to a matrix's largest number: float32's own noise. It is what
# the smallest of bfloat16's numbers lose.
_NOISE = 2.0**-20
_LARGEST = 65504.0  # of float16
_SAMPLE = 1 << 16  # numbers of a matrix that are looked at
_WORTHWHILE = 1 << 16  # numbers of a matrix that gains by it


class PackedLinear(nn.Linear):
    """A linear layer for answering, not for training; PEFT's adapters sit on it as on any."""

    def __init__(self, source: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make the weights
        self.in_features = source.in_features
        self.out_features = source.out_features
        self.register_parameter("bias", source.bias)
        self._packed = torch.ops.quantized.linear_prepack_fp16(
            source.weight.detach().contiguous(), source.bias
        )
        # An overload that is named need not be looked for at every call.
        self._multiply = torch.ops.quantized.linear_dynamic_fp16.default
        self.train(source.training)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weights in float32, made for this call."""
        made: torch.Tensor = torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return made

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        made: torch.Tensor = self._multiply(input, self._packed)
        return made

    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return 2 * self.in_features * self.out_features

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight


def can_pack() -> bool:
    """Whether this build of torch can, and does it right; tried on a small matrix."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False  # measured on no other
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    with torch.device("meta"):  # which draws no numbers
        plain = nn.Linear(40, 48)
    plain = plain.to_empty(device="cpu")
    rows = torch.linspace(-1, 1, 3 * 40).view(3, 1, 40)
    try:
        with torch.no_grad():
            plain.weight.copy_(torch.linspace(-1, 1, 48 * 40).view(48, 40).half())
            plain.bias.copy_(torch.linspace(-1, 1, 48))
            packed = PackedLinear(plain)
            made, wanted = packed(rows), plain(rows)
            return torch.equal(packed.weight, plain.weight) and torch.allclose(
                made, wanted, atol=1e-4
            )
    except (RuntimeError, AttributeError):
        return False


def pack(model: Any, *, lossy: bool = False) -> int:
    """Pack the linear layers of a checkpoint's language model, in place.

    Args:
        model: A transformers model.
        lossy: Also those whose weights float16 rounds.

    Returns:
        How many were packed.
    """

    def work(found: tuple[nn.Module, str, nn.Linear]) -> bool:
        parent, name, layer = found
        if not _fits(layer.weight.detach(), lossy=lossy):
            return False
        setattr(parent, name, PackedLinear(layer))
        del layer.weight  # `layers` still holds the layer
        return True

    layers = [found for found in _layers(model) if found[2].weight.numel() >= _WORTHWHILE]
    # Packing uses one thread and lets others run.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return sum(pool.map(work, layers))


def weight_bytes(model: Any) -> int:
    """Bytes of all weights, packed ones included."""
    packed = sum(m.nbytes() for m in model.modules() if isinstance(m, PackedLinear))
    plain: int = sum(parameter.nbytes for parameter in model.parameters())
    return packed + plain


def _layers(model: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The plain linear layers that every step goes through, with where they are."""
    head = model.get_output_embeddings()
    decoder = model.get_decoder()
    inner = set(decoder.modules()) if isinstance(decoder, nn.Module) else set()
    seen: set[nn.Module] = set()
    for parent in model.modules():
        for name, layer in parent.named_children():
            if type(layer) is not nn.Linear or layer in seen:
                continue
            if layer is not head and parent not in inner:
                continue
            seen.add(layer)
            if layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu":
                yield parent, name, layer


def _fits(weight: torch.Tensor, *, lossy: bool) -> bool:
    """Whether float16 holds these weights: all of them, and (by a sample) without a loss."""
    least, most = weight.aminmax()
    largest = max(-float(least), float(most))
    if not largest < _LARGEST:
        return False
    sample = weight.flatten()[:: -(-weight.numel() // _SAMPLE)]
    return lossy or float((sample.half().float() - sample).abs().max()) <= _NOISE * largest
