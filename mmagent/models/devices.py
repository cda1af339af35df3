"""What a model can run on here."""

from __future__ import annotations

import os

__all__ = ["describe_devices"]


def describe_devices() -> list[str]:
    """The devices that torch finds, the one that is used first."""
    import torch

    found = [
        f"cuda:{number} {torch.cuda.get_device_name(number)}"
        for number in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append("mps")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [*found, f"cpu ({cores} cores, {torch.get_num_threads()} threads)"]
