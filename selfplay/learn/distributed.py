"""Several processes that learn together, by torch.distributed: gloo on CPUs, nccl on GPUs.

Every process has the same batch and computes the gradients of its share of the parts. On a CPU the
parts' gradients are added in the order of the parts, as among threads, so that the weights are
those of one process, to the last bit; on a GPU, and where nets are large, each process adds up its
own first. With ``shard`` a process holds only its part of the weights, gradients and moments
(FSDP: Zhao et al. 2023, arXiv:2304.11277).
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from selfplay.common import ranks
from selfplay.common.errors import UserError, clip

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

    def shard(self, net: nn.Module, layers: Sequence[nn.Module], low: bool = False) -> nn.Module:
        mesh = init_device_mesh(next(net.parameters()).device.type, (self.size,))
        kinds = (torch.bfloat16, torch.float32) if low else (None, None)
        policy = MixedPrecisionPolicy(
            param_dtype=kinds[0], reduce_dtype=kinds[1], cast_forward_inputs=False)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        fully_shard(net, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        net.compute = lambda work: work()  # type: ignore[assignment]
        register_fsdp_forward_method(net, "compute")
        for unit in _units(net):
            unit.set_gradient_divide_factor(1.0)  # a sum, not a mean
            unit.set_force_sum_reduction_for_comms(True)
        return net

    def sharded(self, net: nn.Module) -> bool:
        return bool(_units(net))

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def kept(self, tensor: Tensor) -> Tensor:
        found = self.whole(tensor)
        return found if self.rank == 0 or found is tensor else found.new_empty(0)

    def like(self, tensor: Tensor, other: Tensor) -> Tensor:
        if not isinstance(other, DTensor):
            return tensor
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements,
                                 src_data_rank=None)  # each process has all of it

    def within(self, net: nn.Module, work: Callable[[], Item]) -> Item:
        if not isinstance(net, FSDPModule):
            return work()
        try:
            found: Item = net.compute(work)  # type: ignore[operator]
            return found
        finally:
            if not torch.is_grad_enabled():  # no backward pass will do it
                net.reshard()

    @contextmanager
    def opened(self, net: nn.Module) -> Iterator[None]:
        with torch.no_grad():
            self.within(net, lambda: None)  # the first pass must begin at the top
        for unit in _units(net):
            unit.unshard()
            unit.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for unit in _units(net):
                unit.set_reshard_after_forward(unit is not net, recurse=False)
                unit.reshard()

    def may_speak(self) -> bool:
        try:
            return bool(self.store.add("selfplay ends", 1) == 1)
        except RuntimeError:  # it has gone with the first process
            return self.rank == 0


def _units(net: nn.Module) -> list[FSDPModule]:
    return [module for module in net.modules() if isinstance(module, FSDPModule)]


@contextmanager
def in_company() -> Iterator[None]:
    """In the block, this process is one of those that torchrun has started, if it has started
    several. Raises UserError where a machine has fewer GPUs than processes, and where the processes
    do not find each other."""
    size = ranks.launched()
    if size == 1:
        yield
        return
    backend, local, rank = "gloo", ranks.variable("LOCAL_RANK", "0"), ranks.variable("RANK")
    if not 0 <= rank < size:
        raise UserError(f"environment variable RANK={rank}: from 0 to {size - 1} wanted, as "
                        f"WORLD_SIZE={size}; start the processes with torchrun, which sets both")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local + 1} of this machine has no GPU: it has "
                            f"{torch.cuda.device_count()}; give torchrun --nproc-per-node as many")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    _must_resolve(os.environ.get("MASTER_ADDR", ""))
    # of outputs that are views, which nothing here changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    try:
        store = next(dist.rendezvous("env://"))[0]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"torchrun: process {rank + 1} of {size} does not find the others "
                        f"({clip(str(error), 200)}); see MASTER_ADDR and MASTER_PORT, or unset "
                        "WORLD_SIZE to work alone") from None
    try:
        with ranks.belonging(Processes(store, rank, size)):
            yield
    finally:
        dist.destroy_process_group()


def _must_resolve(host: str) -> None:
    """Raises UserError for the name of no machine, which torch would look for for half an hour."""
    try:
        socket.getaddrinfo(host or "localhost", None)
    except (OSError, UnicodeError) as error:
        raise UserError(f"environment variable MASTER_ADDR={clip(host, 80)}: no such machine "
                        f"({clip(str(error), 80)}); give the name or address of the machine of the "
                        "first process, or unset WORLD_SIZE to work alone") from None
