"""The gradient of one batch, its rows in shards, a thread each.

As in data-parallel training, a shard's BatchNorms see that shard alone, and the running statistics
are the mean over shards. How a batch is cut depends on its size and the kind of device, so the
gradient does not depend on the number of threads, to the last bit.
"""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfplay import losses
from selfplay.data import Batch
from selfplay.models import NetOutput
from selfplay.threads import Workers, replica, torch_alone

#: Rows of a shard at most: on a CPU fewer waste its caches, and more leave cores without work.
SHARD_ROWS = {"cpu": 64, "cuda": 1 << 30}


class Gradient:
    """Forward and backward of ``net``, with products in ``dtype`` (weights stay float32).

    weights: of the loss's parts policy, value, ownership, score.
    """

    def __init__(
        self, net: nn.Module, weights: dict[str, float], device: str, dtype: torch.dtype
    ) -> None:
        self.device, self.kind, self.dtype = device, torch.device(device).type, dtype
        self.weights = weights
        self._replicas = [_Replica(net)]
        self._workers = Workers(1)

    def __call__(self, rows: Batch) -> dict[str, float]:
        """Leave the gradient of the batch's loss in the net's parameters.

        Returns policy_loss, value_loss, ownership_loss, score_loss (0 without such heads), loss
        (their weighted sum), entropy (of the policy, nats), top1 (share of rows whose most
        probable action is the target's).
        """
        cuts = _cuts(len(rows.value), SHARD_ROWS[self.kind])
        self._prepare(len(cuts))
        replicas = self._replicas[: len(cuts)]
        with torch_alone():
            for one in replicas:
                one.begin(self._replicas[0])
            jobs = [(one.net, rows, cut) for one, cut in zip(replicas, cuts, strict=True)]
            found = self._workers.map(self._shard, jobs)
            _sum_gradients(replicas)
            _mean_buffers(replicas)
        return {key: sum(shard[key] for shard in found) for key in found[0]}

    def _prepare(self, shards: int) -> None:
        """As many replicas as shards, which share the net's parameters but not its gradients, and
        a thread for each, as far as torch may use so many."""
        net = self._replicas[0].net
        while len(self._replicas) < shards:
            self._replicas.append(_Replica(replica(net)))
        threads = min(torch.get_num_threads(), shards) if self.kind == "cpu" else 1
        if self._workers.threads != threads:
            self._workers = Workers(threads)

    def _shard(self, job: tuple[nn.Module, Batch, slice]) -> dict[str, float]:
        """The part of the gradient and of the metrics that comes from some rows."""
        net, rows, cut = job
        tensors, share = to_tensors(Batch(*(f[cut] for f in rows)), self.device), _share(rows, cut)
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            out = net(tensors.obs)
        parts = {name: share[name] * part for name, part in loss_parts(out, tensors).items()}
        loss = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        loss.backward()
        entropy, top1 = _policy_metrics(out.policy, tensors)
        figures = {**{f"{name}_loss": part for name, part in parts.items()}, "loss": loss,
                   "entropy": entropy * share["value"], "top1": top1 * share["policy"]}
        numbers = torch.stack([f.detach().float() for f in figures.values()]).tolist()
        return {"ownership_loss": 0.0, "score_loss": 0.0,
                **dict(zip(figures, numbers, strict=True))}  # a GPU is waited for once


class _Replica:
    """A net and lists of its tensors: to walk through its modules takes longer than to add them up.

    floats: running statistics; the other buffers count steps.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.parameters, self.buffers = list(net.parameters()), list(net.buffers())
        self.floats = [b for b in self.buffers if b.is_floating_point()]

    @torch.no_grad()
    def begin(self, original: _Replica) -> None:
        """No gradient yet, and the statistics of ``original``."""
        if not self.net.training:
            self.net.train()
        for parameter in self.parameters:
            parameter.grad = None
        if self is not original and self.buffers:
            torch._foreach_copy_(self.buffers, original.buffers)

    def gradients(self) -> list[Tensor]:
        """Of the parameters that the loss depends on."""
        return [p.grad for p in self.parameters if p.grad is not None]


def _cuts(rows: int, most: int) -> list[slice]:
    count = -(-rows // most)
    edges = [rows * k // count for k in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _share(rows: Batch, cut: slice) -> dict[str, float]:
    """What part of the batch's weight lies in ``cut``, for each part of the loss."""
    def part(weight: Any) -> float:
        return float(weight[cut].sum(dtype=np.float64) / max(weight.sum(dtype=np.float64), 1e-30))

    known = part(rows.aux_weight)
    return {"policy": part(rows.policy_weight), "value": part(np.ones(len(rows.value))),
            "ownership": known, "score": known}


@torch.no_grad()
def _sum_gradients(replicas: list[_Replica]) -> None:
    """In the first; in order, whichever was ready first."""
    total = replicas[0].gradients()
    for other in replicas[1:]:
        torch._foreach_add_(total, other.gradients())


@torch.no_grad()
def _mean_buffers(replicas: list[_Replica]) -> None:
    total = replicas[0].floats
    if len(replicas) > 1 and total:
        for other in replicas[1:]:
            torch._foreach_add_(total, other.floats)
        torch._foreach_div_(total, len(replicas))


def loss_parts(out: NetOutput, rows: Any) -> dict[str, Tensor]:
    """Scalars policy, value and, where the net has these heads, ownership and score.

    out: NetOutput; rows: a Batch of tensors.
    """
    mean = losses.masked_mean
    parts = {"policy": mean(losses.policy_loss(out.policy, rows.policy), rows.policy_weight),
             "value": losses.value_loss(out.value, rows.value).mean()}
    if out.ownership is not None and out.score is not None:
        owned = losses.ownership_loss(out.ownership, rows.ownership)
        parts["ownership"] = mean(owned, rows.aux_weight)
        parts["score"] = mean(losses.score_loss(out.score, rows.score), rows.aux_weight)
    return parts


def to_tensors(rows: Batch, device: str) -> SimpleNamespace:
    """``rows`` with tensors on ``device`` in place of arrays; obs float32, channels last."""
    fields = {key: torch.from_numpy(np.ascontiguousarray(field)).to(device)
              for key, field in rows._asdict().items()}
    fields["obs"] = fields["obs"].float().contiguous(memory_format=torch.channels_last)
    return SimpleNamespace(**fields)


@torch.no_grad()
def _policy_metrics(logits: Tensor, rows: Any) -> tuple[Tensor, Tensor]:
    """Scalars (entropy in nats, share of rows whose most probable action is the target's)."""
    right = (logits.argmax(1) == rows.policy.argmax(1)).float()
    return losses.entropy(logits).mean(), losses.masked_mean(right, rows.policy_weight)
