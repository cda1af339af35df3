"""One process for each core: every one works on batches of its own, and all take the same steps.

On CPUs two processes of one thread do more than one process of two. With a single process every
function here does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

__all__ = ["first_says", "launch", "number_of", "rank_of", "share_gradients", "wait"]


def number_of() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank_of() -> int:
    """Which of them this is; 0 is the first."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first_says(value: float) -> float:
    """The first process's value, so that all decide alike."""
    if not distributed.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return float(shared)


def wait() -> None:
    """Until all are here."""
    if distributed.is_initialized():
        distributed.barrier()


def share_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by the mean over all processes.

    A parameter that no batch reached keeps no gradient; one that some reached gets the mean with
    zeros of the others.
    """
    if not distributed.is_initialized():
        return
    reached = torch.tensor([float(p.grad is not None) for p in parameters])
    distributed.all_reduce(reached)
    learning = [p for p, times in zip(parameters, reached.tolist(), strict=True) if times]
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in learning]
    flat = torch.cat([g.flatten() for g in grads])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    start = 0
    for parameter in learning:
        part: Tensor = flat[start : start + parameter.numel()].view_as(parameter)
        parameter.grad = part.clone()
        start += parameter.numel()


def launch(work: Callable[..., None], workers: int, *args: Any) -> None:
    """Call `work(*args)` in so many processes and wait for them.

    Raises:
        RuntimeError: one of them failed (its traceback is in the message).
    """
    if workers == 1:
        work(*args)
        return
    from torch.multiprocessing.spawn import spawn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_begin, (work, workers, port, args), nprocs=workers)  # type: ignore[no-untyped-call]


def _begin(
    rank: int, work: Callable[..., None], workers: int, port: int, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=workers)
    try:
        work(*args)
    finally:
        distributed.destroy_process_group()
