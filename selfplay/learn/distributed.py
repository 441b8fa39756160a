"""Several processes that learn together, by torch.distributed: gloo on CPUs, nccl on GPUs.

Every process has the same batch and computes the gradients of its share of the parts. On a CPU the
parts' gradients are added in the order of the parts, as among threads, so that the weights are
those of one process, to the last bit; on a GPU, and where nets are large, each process adds up its
own first. With ``shard`` a process holds only its part of the weights, gradients and moments
(FSDP: Zhao et al. 2023, arXiv:2304.11277).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from selfplay.common import ranks
from selfplay.common.errors import UserError

Item = TypeVar("Item")
PATIENCE = timedelta(days=7)  #: with a process that works alone; one that has died is noticed


class Processes(ranks.Alone):
    """The processes of a process group that is there."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size

    def meet(self) -> None:
        self.summed(torch.zeros(()))

    def first(self, value: Item) -> Item:
        box = [value]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def gathered(self, items: list[Item]) -> list[Item]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, items)
        return [item for part in found for item in part]

    def rows(self, rows: Tensor, count: int) -> Tensor:
        most = -(-count // self.size)
        mine = rows.new_zeros(most, rows.shape[1])
        mine[:len(rows)] = rows
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        edges = [count * k // self.size for k in range(self.size + 1)]
        return torch.cat([part[:end - start] for part, (start, end)
                          in zip(every, pairwise(edges), strict=True)])

    def summed(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def may_speak(self) -> bool:
        try:
            return bool(self.store.add("selfplay ends", 1) == 1)
        except RuntimeError:  # it has gone with the first process
            return self.rank == 0


@contextmanager
def joined() -> Iterator[None]:
    """In the block, this process is one of those that torchrun has started, if it has started
    several. Raises UserError where a machine has fewer GPUs than processes."""
    if ranks.launched() == 1:
        yield
        return
    backend, local = "gloo", int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local + 1} of this machine has no GPU: it has "
                            f"{torch.cuda.device_count()}; give torchrun --nproc-per-node as many")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        with ranks.belonging(Processes(store, rank, size)):
            yield
    finally:
        dist.destroy_process_group()
