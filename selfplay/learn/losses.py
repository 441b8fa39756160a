"""Losses as pure functions of outputs, targets and weights. Nothing here knows a net.

Every loss returns one value per row; ``masked_mean`` makes it a scalar. Where a docstring says
[...], any leading axes will do: a board game's [N] or a sequence's [N, T].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Points beyond which the score loss is linear (KataGo's metrics_pytorch.py; its paper has 10).
SCORE_DELTA = 12.0


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Scalar: sum(weight * values) / sum(weight), both [...]; 0 where all weights are 0.

    Rows of weight 0 count for nothing even where their value is not finite.
    """
    _same_shape("values", values, "weight", weight)
    values = values.masked_fill(weight == 0, 0.0)
    total = weight.sum()
    return (values * weight).sum() / torch.where(total == 0, torch.ones_like(total), total)


def gather_logp(logits: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
    """float32 [...]: log-probability of ``actions`` int64 [...] under ``logits`` [..., A].

    mask: bool [..., A], the legal actions; None is all of them.
    """
    _same_shape("logits without the last axis", logits[..., 0], "actions", actions)
    return _log_softmax(logits, mask).gather(-1, actions[..., None]).squeeze(-1)


def entropy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """float32 [...]: -sum p log p in nats of softmax(``logits`` [..., A]) over ``mask`` [..., A].

    The mask is applied before the product: 0 * (-inf) would be NaN.
    """
    logp = _log_softmax(logits, mask)
    if mask is not None:
        logp = logp.masked_fill(~mask, 0.0)
        return -(logp.exp() * logp * mask).sum(-1)
    return -(logp.exp() * logp).sum(-1)


def policy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """float32 [...]: cross-entropy -sum_a target_a log softmax(logits)_a, both [..., A].

    target: probabilities, rows summing to 1 (AlphaGo Zero: Silver et al. 2017, eq. 1). Actions of
    target 0 add nothing, were their logit -inf.
    """
    _same_shape("logits", logits, "target", target)
    logp = _log_softmax(logits, None)
    return -(target * logp.masked_fill(target == 0, 0.0)).sum(-1)


def value_loss(z: Tensor, target: Tensor) -> Tensor:
    """float32 [...]: binary cross-entropy of sigmoid(2 z) = (1 + tanh z) / 2 against (1 + v) / 2.

    z: a logit, [...]; target: v in [-1, 1], [...]. With tanh z the value this is the
    log-likelihood of winning; unlike a squared error its gradient does not vanish at a confident
    mistake.
    """
    _same_shape("z", z, "target", target)
    return F.binary_cross_entropy_with_logits(2 * z.float(), (1 + target) / 2, reduction="none")


def ownership_loss(z: Tensor, target: Tensor) -> Tensor:
    """float32 [...]: ``value_loss`` of every point, z and target [..., H*W], averaged over points.

    KataGo (Wu 2019, arXiv:1902.10565).
    """
    return value_loss(z, target).mean(-1)


def score_loss(score: Tensor, target: Tensor) -> Tensor:
    """float32 [...]: Huber loss in points: d^2 / 2 up to D = 12 points, D (|d| - D / 2) beyond."""
    _same_shape("score", score, "target", target)
    return F.huber_loss(score.float(), target, reduction="none", delta=SCORE_DELTA)


def _log_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        _same_shape("logits", logits, "mask", mask)
        logits = logits.masked_fill(~mask, -torch.inf)
    return torch.log_softmax(logits.float(), -1)


def _same_shape(a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    """Broadcasting would turn [N] against [N, 1] into a silent [N, N]."""
    if a.shape != b.shape:
        raise ValueError(f"{a_name} {list(a.shape)} and {b_name} {list(b.shape)} differ in shape")
