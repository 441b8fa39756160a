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
from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.learn.optimizer import Replica, Trainer

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
        """The sum of the processes' tensors, in place."""
        dist.all_reduce(tensor)
        return tensor

    @torch.no_grad()
    def added(
        self, trainer: Trainer, replicas: Sequence[Replica], figures: Tensor, parts: int
    ) -> Tensor:
        first, width = replicas[0], figures.shape[1]
        if trainer.sharded:  # the gradients have met already
            return self.summed(figures.sum(0, keepdim=True))
        if trainer.apart:
            rows = [_row_of(one, f) for one, f in zip(replicas, figures, strict=False)]
            none = _row_of(first, figures.sum(0))[None][:0]
            every = self.rows(torch.stack(rows) if rows else none, parts)
            total = every[0].clone()
            for row in every[1:]:  # in order, as among threads
                total += row
            _take(first, total[width:], parts)
            return every[:, :width].contiguous()
        total = _row_of(first, figures.sum(0)) * bool(len(figures))
        _take(first, self.summed(total)[width:], min(self.size, parts))
        return total[None, :width]

    def shard(self, net: nn.Module, layers: Sequence[nn.Module], low: bool = False) -> None:
        """Leave each process its part of the weights of ``net``, in place. Their gradients add up
        over the processes.

        layers: those of its modules whose weights are gathered when they are called, and let go of
        behind; the rest is gathered for ``within``. low: gathered and computed with in bfloat16;
        parts, gradients and moments stay in the precision that they have.
        """
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


def _row_of(one: Replica, figures: Tensor) -> Tensor:
    """float32 [P]: ``figures``, for each parameter whether it has a gradient, the gradients (0
    where there is none) and the running statistics."""
    learning = [p for p in one.parameters if p.requires_grad]
    has = figures.new_tensor([float(p.grad is not None) for p in learning])
    grads = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learning]
    return torch.cat([figures, has, *(g.float() for g in grads),
                      *(b.flatten().float() for b in one.floats)])


def _take(one: Replica, total: Tensor, parts: int) -> None:
    """Let it hold what ``_row_of`` says behind its figures, summed over so many ``parts``."""
    learning = [p for p in one.parameters if p.requires_grad]
    count, sizes = len(learning), [t.numel() for t in (*learning, *one.floats)]
    has, rest = total[:count].tolist(), total[count:].split(sizes)
    for some, parameter, grad in zip(has, learning, rest[:count], strict=True):
        # in the parameter's memory layout, on which rounding depends
        parameter.grad = torch.empty_like(parameter) if some else None
        if parameter.grad is not None:
            parameter.grad.copy_(grad.view_as(parameter))
    if one.net.training:
        for buffer, mean in zip(one.floats, rest[count:], strict=True):
            buffer.copy_(mean.view_as(buffer) / parts)


def _units(net: nn.Module) -> list[FSDPModule]:
    return [module for module in net.modules() if isinstance(module, FSDPModule)]


def launched() -> int:
    """How many processes torchrun, or whoever sets the same variables, has started. Raises
    UserError."""
    return max(variable("WORLD_SIZE", "1"), 1)


def variable(name: str, otherwise: str = "") -> int:
    """A whole number among torchrun's variables. Raises UserError where it is none."""
    text = os.environ.get(name) or otherwise
    try:
        return int(text)
    except ValueError:
        raise UserError(f"environment variable {name}={clip(text, 40)}: a whole number wanted; "
                        "start several processes with torchrun, which sets it, or unset WORLD_SIZE"
                        ) from None


@contextmanager
def in_company() -> Iterator[None]:
    """In the block, this process is one of those that torchrun has started, if it has started
    several. Raises UserError where a machine has fewer GPUs than processes, and where the processes
    do not find each other."""
    size = launched()
    if size == 1:
        yield
        return
    backend, local, rank = "gloo", variable("LOCAL_RANK", "0"), variable("RANK")
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
