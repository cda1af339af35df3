"""Where a model's weights go and in which precision: devices, dtypes, quantisation, compilation.

    device        auto, cpu, cuda, cuda:1, mps, or "balanced": spread over all GPUs (accelerate)
    dtype         auto, float32, bfloat16, float16. On a CPU "auto" computes in float32, and keeps
                  the weights in float16 where that loses nothing; "float16" keeps them so anyway,
                  "float32" never (see `packing`)
    quantization  int8 (torchao, weights alone), 8bit, 4bit (bitsandbytes)
    compile       torch.compile of the model's forward pass

What cannot go together is refused before anything is loaded, with the reason.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

from mmagent.errors import MissingDependencyError, UsageError

__all__ = ["QUANTIZATIONS", "Placement", "choose_device", "choose_dtype", "place"]

QUANTIZATIONS = {"int8": "torchao", "8bit": "bitsandbytes", "4bit": "bitsandbytes"}
"""Each way of quantising, with the package that does it."""
_BALANCED = "balanced"


@dataclass(frozen=True)
class Placement:
    """How a checkpoint is to be loaded.

    Attributes:
        device: Where inputs go; None moves nothing, since the weights are placed while loading.
        options: For `from_pretrained`.
        compiles: Whether the forward pass is compiled.
        packs: Whether weights are kept in float16 where that loses nothing; see `packing`.
        rounds: Whether they are even where it does.
    """

    device: str | None
    options: dict[str, Any] = field(default_factory=dict)
    compiles: bool = False
    packs: bool = False
    rounds: bool = False


def place(
    device: str = "auto",
    dtype: str = "auto",
    quantization: str | None = None,
    compile: bool = False,
) -> Placement:
    """Decide how a checkpoint is loaded.

    Raises:
        UsageError: Something unknown, not there, or that cannot go together.
        MissingDependencyError: The package that quantises is not installed.
    """
    spread = device == _BALANCED
    if spread:
        _need_gpus()
    where = "cuda" if spread else choose_device(device)
    kind = choose_dtype(dtype, where)
    import torch

    if quantization is None:
        options: dict[str, Any] = {"dtype": kind}
        if spread:
            options["device_map"] = "balanced"
        if compile and spread:
            raise UsageError(
                "compile=True needs the model on one device, and device='balanced' spreads it; "
                "leave one of them out."
            )
        packs = where == "cpu" and not compile and dtype in ("auto", "float16") and _can_pack()
        rounds = packs and kind == torch.float16
        if rounds:
            options["dtype"] = torch.float32
        return Placement(None if spread else where, options, compile, packs, rounds)
    if quantization not in QUANTIZATIONS:
        raise UsageError(
            f"{quantization!r} is no way of quantising; use {', '.join(QUANTIZATIONS)}, or None."
        )
    if where == "mps":
        raise UsageError(
            f"quantization={quantization!r} does not run on Apple's GPU: neither torchao nor "
            "bitsandbytes has kernels for it here; use dtype='float16'."
        )
    if compile and quantization != "int8":
        raise UsageError(
            f"compile=True cannot be combined with quantization={quantization!r}: bitsandbytes' "
            "kernels are opaque to torch.compile; use quantization='int8', or leave it out."
        )
    package = QUANTIZATIONS[quantization]
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"quantization={quantization!r} needs {package}: pip install 'mmagent[quantization]'."
        )
    return Placement(
        None,
        {
            "dtype": kind,
            "quantization_config": _config(quantization, kind),
            "device_map": "balanced" if spread else where,
        },
        compile,
    )


def choose_device(device: str) -> str:
    """A torch device by name; "auto" prefers CUDA, then Apple's GPU, then the CPU.

    Raises:
        UsageError: There is no such device.
    """
    import torch

    if device != "auto":
        try:
            torch.device(device)
        except RuntimeError:
            raise UsageError(
                f"{device!r} is not a torch device; use auto, cpu, cuda, cuda:1, mps or balanced."
            ) from None
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError("There is no CUDA GPU that torch can use here; use device='cpu'.")
        if device.startswith("mps") and not torch.backends.mps.is_available():
            raise UsageError("There is no Apple GPU that torch can use here; use device='cpu'.")
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(dtype: str, device: str) -> Any:
    """A torch dtype by name; "auto" is float32 on a CPU, which decodes fastest there.

    Raises:
        UsageError: There is no such dtype.
    """
    import torch

    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"{dtype!r} is not a dtype; use auto, float32, bfloat16 or float16.")
    return found


def _need_gpus() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            "device='balanced' spreads a model over GPUs, and torch finds none here; use 'auto'."
        )


def _can_pack() -> bool:
    from mmagent.engine.packing import can_pack

    return can_pack()


def _config(quantization: str, dtype: Any) -> Any:
    import torch
    import transformers

    library: Any = transformers
    if quantization == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return library.TorchAoConfig(Int8WeightOnlyConfig())
    if quantization == "8bit":
        return library.BitsAndBytesConfig(load_in_8bit=True)
    return library.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype if isinstance(dtype, torch.dtype) else torch.bfloat16,
    )
