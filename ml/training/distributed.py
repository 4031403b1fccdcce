"""Several processes, one global batch: rows gathered with exact gradients (``torchrun``, DDP).

Each rank encodes its rows of the global batch. Before a loss that compares rows with each other all
ranks gather all rows and compute the same loss; ``DistributedDataParallel`` averages gradients over
ranks. In a single process every function here returns what it got.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ml.processes import cores


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did; gives this rank's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    backend = "cpu:gloo"
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def loader_processes(workers: int | None, device: torch.device) -> int:
    """Decide how many processes decode for this one; see ``LoopConfig.workers``."""
    if workers is not None:
        return workers
    if device.type != "cuda":
        return 0
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)


def world() -> int:
    """Count the processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Get the number of this process, from 0; rank 0 writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Gather the rows of all ranks, by rank: (batch, …) → (world · batch, …), with gradient.

    Its backward sums over ranks what every rank's loss says of these rows. When all ranks compute
    the same loss of all rows, the mean of gradients that DDP takes is that of a single process.
    """
    return rows if world() == 1 else _AllGather.apply(rows)  # type: ignore[return-value]


def global_mean(value: Tensor) -> Tensor:
    """Average over ranks, without gradient."""
    value = value.detach()
    if world() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world()


def any_rank(flag: bool) -> bool:
    """Tell whether the flag is set on any rank: all ranks must go on or stop as one."""
    if world() == 1:
        return flag
    is_set = torch.tensor(int(flag))
    dist.all_reduce(is_set, dist.ReduceOp.MAX)
    return bool(is_set)


def from_rank_0(value: Any) -> Any:
    """Take the value of rank 0, plain and picklable."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class _AllGather(torch.autograd.Function):
    """Gather whose gradient reaches the rows of every rank (``dist.all_gather`` has none)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        """(batch, …) → (world · batch, …)."""
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        """Sum over ranks, then this rank's rows."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
