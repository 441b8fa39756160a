"""The losses of a board's net, and its trainer.

A batch's gradient is made in shards of rows, a thread each (``optimizer``). How a batch is cut
depends on its size and the kind of device alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.board.data import Batch
from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.learn import losses
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.models import NetOutput, choose_dtype, placed


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


def board_trainer(net: nn.Module, config: TrainConfig, device: str = "cpu") -> Trainer:
    """A trainer of batches (``data.Batch``, or a list that is one) for ``net``, trained in place.

    A step's figures: policy_loss, value_loss, ownership_loss, score_loss (0 without such heads),
    loss (their weighted sum), entropy (of the policy, nats), top1 (share of rows whose most
    probable action is the target's), grad_norm. dtype "auto" takes bfloat16 where the device
    multiplies it. Raises UserError for a cosine without an end.
    """
    if config.schedule == "cosine" and config.total_steps <= 0:
        raise UserError("schedule cosine wants total_steps, the step at which it ends")
    kind = torch.device(device).type
    weights = {"policy": config.policy_weight, "value": config.value_weight,
               "ownership": config.ownership_weight, "score": config.score_weight}
    return Trainer(
        placed(net, device),
        partial(_loss, weights=weights, device=device, dtype=choose_dtype(config.dtype, device)),
        OptimizerConfig(
            config.learning_rate, config.weight_decay, betas=config.betas,
            grad_clip=config.grad_clip, warmup=config.warmup,
            decay_steps=config.total_steps if config.schedule == "cosine" else 0,
            ema_decay=config.ema_decay),
        device=device, mode=True, parts=lambda rows: _cut(
            rows if isinstance(rows, list) else [rows], SHARD_ROWS.get(kind)))


#: Rows of a shard at most: on a CPU fewer waste its caches, and more leave cores without work. A
#: GPU has one.
SHARD_ROWS = {"cpu": 64}


class _Shard(NamedTuple):
    """Some rows of a batch, and what part of its weight they have in each part of the loss."""

    rows: Batch
    share: dict[str, float]


def _cut(batches: list[Batch], most: int | None) -> list[_Shard]:
    found = []
    for rows in batches:
        count = -(-len(rows.value) // (most or -(-len(rows.value) // ranks.here().size)))
        for a, b in pairwise(len(rows.value) * k // count for k in range(count + 1)):
            shard = Batch(*(field[a:b] for field in rows))
            found.append(_Shard(shard, _weight_shares(shard, batches)))
    return found


def _weight_shares(shard: Batch, batches: list[Batch]) -> dict[str, float]:
    def part(weight: Callable[[Batch], Any]) -> float:
        whole = sum(float(weight(rows).sum(dtype=np.float64)) for rows in batches)
        return float(weight(shard).sum(dtype=np.float64)) / max(whole, 1e-30)

    known, value = part(lambda rows: rows.aux_weight), part(lambda rows: np.ones(len(rows.value)))
    return {"policy": part(lambda rows: rows.policy_weight), "value": value,
            "ownership": known, "score": known}


def _loss(
    net: nn.Module, shard: _Shard, *, weights: dict[str, float], device: str, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a shard and its figures; products are in ``dtype``, weights float32."""
    tensors, share = to_tensors(shard.rows, device), shard.share
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=dtype is torch.bfloat16):
        out = net(tensors.obs)
    parts = {name: share[name] * part for name, part in loss_parts(out, tensors).items()}
    loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    entropy, top1 = _policy_metrics(out.policy, tensors)
    none = loss.new_zeros(())
    return loss, {"ownership_loss": none, "score_loss": none,
                  **{f"{name}_loss": part for name, part in parts.items()},
                  "entropy": entropy * share["value"], "top1": top1 * share["policy"]}


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
