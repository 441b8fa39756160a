"""The trainer of a board's net: one step, the averaged weights, and how it does on held-out rows.

A batch's gradient is made in shards of rows, a thread each. As in data-parallel training, a
shard's BatchNorms see that shard alone, and the running statistics are the mean over shards. How a
batch is cut depends on its size and the kind of device, so the gradient does not depend on the
number of threads, to the last bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.board.data import Batch, Columns, batch
from selfplay.common.errors import UserError
from selfplay.common.threads import Workers, replica, torch_alone
from selfplay.games.base import Game
from selfplay.learn import losses
from selfplay.models import NetOutput, choose_dtype, folded

EVALUATED_AT_ONCE = 256  #: rows of one forward pass of ``evaluate_columns``
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainConfig:
    """How a net learns (AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2  #: of weights; biases and BatchNorms do not decay
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 100  #: steps over which the rate rises from 0
    schedule: Literal["constant", "cosine"] = "constant"
    total_steps: int = 0  #: where the cosine ends, at a tenth of the rate
    ema_decay: float = 0.995  #: of the weights that act, per step; 0 is no averaging
    policy_weight: float = 1.0
    value_weight: float = 1.0
    ownership_weight: float = 1.5  #: KataGo's (Wu 2019, arXiv:1902.10565)
    score_weight: float = 0.0015  #: KataGo's metrics_pytorch.py; its paper has 0.004
    grad_clip: float = 4.0  #: largest norm of the gradient
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  #: of products; weights: float32


class Trainer:
    """A net in training, its optimizer, and the running average of its weights.

    net is trained in place. dtype "auto" takes bfloat16 where the device multiplies it.
    """

    def __init__(self, net: nn.Module, config: TrainConfig, device: str = "cpu") -> None:
        if config.schedule == "cosine" and config.total_steps <= 0:
            raise UserError("schedule cosine wants total_steps, the step at which it ends")
        self.net = net.to(device, memory_format=torch.channels_last)
        self.config, self.device = config, device
        self.steps = 0
        self.learning_rate = config.learning_rate  #: before warm-up and schedule; may be set
        self._average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self._parameters = list(self.net.parameters())
        self._averaged = _floats(self._average), _floats(self.net)
        self._counted = list(zip(_counts(self._average), _counts(self.net), strict=True))
        self._optimizer = _adamw(self.net, config)
        self._gradient = Gradient(
            self.net, {"policy": config.policy_weight, "value": config.value_weight,
                       "ownership": config.ownership_weight, "score": config.score_weight},
            device, choose_dtype(config.dtype, device))

    def inference_net(self) -> nn.Module:
        """The net that acts: averaged weights, in eval mode. Not a copy: the next step moves it."""
        return self._average

    def step(self, rows: Batch) -> dict[str, float]:
        """Train on one batch.

        Returns the metrics of ``gradient.Gradient``, and grad_norm.
        Raises UserError if the loss or its gradient is not finite; the weights are then as they
        were before the step.
        """
        metrics = self._gradient(rows)
        self._must_be_finite("loss", metrics["loss"])
        with torch_alone():
            norm = float(nn.utils.clip_grad_norm_(self._parameters, self.config.grad_clip,
                                                  foreach=True))
            self._must_be_finite("gradient", norm)
            for group in self._optimizer.param_groups:
                group["lr"] = self.rate()
            self._optimizer.step()
            self.steps += 1
            self._update_average()
        return {**metrics, "grad_norm": norm}

    def rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.learning_rate * min(1.0, (self.steps + 1) / max(self.config.warmup, 1))
        if self.config.schedule == "cosine":
            done = min(self.steps / self.config.total_steps, 1.0)
            rate *= 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
        return rate

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON types): all that training depends on beside its batches.

        Tensors are named net.NAME, average.NAME, exp_avg.NAME and exp_avg_sq.NAME.
        """
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self._average.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            held = self._optimizer.state[parameter]
            tensors |= {f"{key}.{name}": held[key] for key in _MOMENTS if key in held}
        return tensors, {"steps": self.steps, "learning_rate": self.learning_rate}

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on exactly where ``state`` was taken. Raises UserError if it is another net's."""
        try:
            self.net.load_state_dict(_under(tensors, "net."))
            self._average.load_state_dict(_under(tensors, "average."))
            self.steps = int(numbers["steps"])
            self.learning_rate = float(numbers["learning_rate"])
            if self.steps:
                self._load_moments(tensors)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"training state does not fit this net ({reason}); "
                            "continue the run with the net it was started with") from None

    def _load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.net.named_parameters():
            held = self._optimizer.state[parameter]
            for key in _MOMENTS:  # the parameter's memory layout, which AdamW's kernel relies on
                held[key] = torch.zeros_like(parameter, requires_grad=False)
                held[key].copy_(tensors[f"{key}.{name}"])
            held["step"] = torch.tensor(float(self.steps), device=parameter.device)

    @torch.no_grad()
    def _update_average(self) -> None:
        """average += (1 - d) (weights - average), d = min(ema_decay, (1 + steps) / (10 + steps)).

        The second term lets the average forget the first, untrained weights. BatchNorm's running
        statistics are averaged like weights.
        """
        decay = min(self.config.ema_decay, (1 + self.steps) / (10 + self.steps))
        if self.config.ema_decay == 0:
            decay = 0.0
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        for mine, theirs in self._counted:
            mine.copy_(theirs)

    def _must_be_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(f"training step {self.steps + 1}: the {what} is {value}; go on "
                            "from the last checkpoint in another run (--init CHECKPOINT --run NEW) "
                            "with a lower learning rate "
                            f"(it is {self.learning_rate:g})")


def evaluate_columns(
    net: nn.Module, game: Game, columns: Columns, device: str = "cpu", dtype: str = "auto"
) -> dict[str, float]:
    """What ``net`` (in eval mode) makes of held-out rows, as they lie (no symmetry).

    It runs as it does when it acts: BatchNorm folded, bfloat16 where the device multiplies it.

    top1, top5: share of rows whose target's best action is among the net's 1 or 5 best.
    policy_loss: cross-entropy in nats. These three are means over rows with policy weight.
    value_mse: mean (tanh z - v)^2 over all rows. value_accuracy: share of rows that are no draws
    where the sign of the value is the winner's.
    Raises UserError for no rows.
    """
    count = len(columns.value)
    if not count:
        raise UserError("no held-out rows to look at; give more expert games")
    kind = choose_dtype(dtype, device)
    fast = folded(net).to(device, kind, memory_format=torch.channels_last)
    symmetries = game.symmetries()

    def look(start: int) -> dict[str, float]:
        rows = np.arange(start, min(start + EVALUATED_AT_ONCE, count))
        tensors = to_tensors(batch(columns, rows, game, symmetries, None), device)
        with torch.inference_mode():
            out = fast(tensors.obs.to(kind))
            return {key: float(value) for key, value in _seen(out, tensors).items()}

    threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    looks = Workers(threads).map(look, range(0, count, EVALUATED_AT_ONCE))
    sums = {key: sum(seen[key] for seen in looks) for key in looks[0]}
    policy, decided = max(sums["policy_weight"], 1e-9), max(sums["decided"], 1e-9)
    return {"top1": sums["top1"] / policy, "top5": sums["top5"] / policy,
            "policy_loss": sums["policy_loss"] / policy, "value_mse": sums["value_mse"] / count,
            "value_accuracy": sums["value_right"] / decided}


def _seen(out: Any, rows: Any) -> dict[str, Tensor]:
    """The sums behind ``evaluate_columns`` over one batch."""
    weight, best = rows.policy_weight, rows.policy.argmax(1, keepdim=True)
    ranks = out.policy.topk(min(5, out.policy.shape[1]), 1).indices == best
    decided = rows.value != 0
    return {
        "policy_weight": weight.sum(),
        "top1": (ranks[:, 0] * weight).sum(),
        "top5": (ranks.any(1) * weight).sum(),
        "policy_loss": (losses.policy_loss(out.policy, rows.policy) * weight).sum(),
        "value_mse": (out.value.float().tanh() - rows.value).square().sum(),
        "decided": decided.sum(),
        "value_right": ((out.value * rows.value > 0) & decided).sum(),
    }


def _floats(net: nn.Module) -> list[Tensor]:
    """Weights and running statistics."""
    return [t for t in net.state_dict().values() if t.is_floating_point()]


def _counts(net: nn.Module) -> list[Tensor]:
    """BatchNorms' counts of steps."""
    return [t for t in net.state_dict().values() if not t.is_floating_point()]


def _adamw(net: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    parameters = list(net.parameters())
    return torch.optim.AdamW(
        [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
         {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}],
        lr=config.learning_rate, betas=config.betas, fused=True)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


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
