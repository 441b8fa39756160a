"""How much better than expected: returns and advantages of trajectories.

Axes: N trajectories, T steps. A bool mask [N, T] marks the real steps, wherever they lie; what
stands at other steps is never looked at, and every result is 0 there.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-4  #: added to a deviation before it divides


def returns(reward: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """float32 [N, T]: sum over later real steps k of gamma^(distance in real steps) r_k.

    reward: float [N, T].
    """
    total = torch.zeros_like(reward[:, 0])
    out = torch.zeros_like(reward)
    for t in reversed(range(reward.shape[1])):
        real = mask[:, t]
        total = torch.where(real, reward[:, t] + gamma * total, total)
        out[:, t] = torch.where(real, total, 0.0)
    return out


def gae(
    reward: Tensor, value: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> Tensor:
    """float32 [N, T]: generalised advantage estimates (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma V_(t+1) - V_t, A_t = delta_t + gamma lam A_(t+1), over real steps.
    reward, value: float [N, T]. bootstrap: float [N], the value after the last real step, for
    trajectories that were cut off; None is 0, as after an end.
    """
    after = torch.zeros_like(value[:, 0]) if bootstrap is None else bootstrap
    advantage = torch.zeros_like(after)
    out = torch.zeros_like(value)
    for t in reversed(range(value.shape[1])):
        real = mask[:, t]
        delta = reward[:, t] + gamma * after - value[:, t]
        advantage = torch.where(real, delta + gamma * lam * advantage, advantage)
        after = torch.where(real, value[:, t], after)
        out[:, t] = torch.where(real, advantage, 0.0)
    return out


def scores(reward: Tensor, mask: Tensor) -> Tensor:
    """float32 [N]: the sum of a trajectory's rewards [N, T] over its real steps."""
    return reward.masked_fill(~mask, 0.0).sum(1)


def group_relative(score: Tensor, group: Tensor, normalise_std: bool = True) -> Tensor:
    """float32 [N]: (score - mean of its group) / (deviation of its group + EPSILON).

    GRPO (Shao et al. 2024, sec. 4.1.2); without the division Dr. GRPO (Liu et al. 2025).
    score: float [N]; group: int [N], trajectories with the same number answer the same prompt.
    The deviation divides by n - 1 under the root, as implementations have it; a group of one, or
    one in which all fare alike, gets 0.
    """
    place, count, mean = _by_group(score, group)
    centred = score - mean
    if not normalise_std:
        return centred
    squares = torch.zeros_like(count).index_add_(0, place, centred.square())
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()[place]
    return centred / (deviation + EPSILON)


def leave_one_out(score: Tensor, group: Tensor) -> Tensor:
    """float32 [N]: score less the mean score of the others in its group (RLOO; Ahmadian et al.
    2024, eq. 8). A trajectory alone in its group gets 0."""
    place, count, mean = _by_group(score, group)
    n = count[place]
    return (score - mean) * n / (n - 1).clamp(min=1)


def signal(score: Tensor, group: Tensor) -> Tensor:
    """bool [groups]: whether the trajectories of a group fared differently, so that there is
    something to learn from it; groups in order of their numbers."""
    place, count, _ = _by_group(score, group)
    low, high = _lowest_and_highest(score, place, count)
    return high > low


def whiten(advantage: Tensor, mask: Tensor) -> Tensor:
    """float32 [N, T]: mean 0 and deviation 1 over the real steps, 0 elsewhere."""
    real = advantage[mask]
    if real.numel() < 2:
        return advantage.masked_fill(~mask, 0.0)
    spread = real.std() + 1e-8
    return ((advantage - real.mean()) / spread).masked_fill(~mask, 0.0)


def _by_group(score: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(place int64 [N] of each score's group, size float [groups], mean [N] of its group).

    Where all fare alike the mean is what they have exactly, not up to rounding.
    """
    if score.shape != group.shape:
        raise ValueError(f"score {list(score.shape)} and group {list(group.shape)} differ in shape")
    found, place = torch.unique(group, return_inverse=True)
    empty = torch.zeros(len(found), dtype=score.dtype, device=score.device)
    count = empty.index_add(0, place, torch.ones_like(score))
    mean = empty.index_add(0, place, score) / count
    mean = mean.clamp(*_lowest_and_highest(score, place, count))
    return place, count, mean[place]


def _lowest_and_highest(score: Tensor, place: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """(lowest, highest) [groups] score of each group."""
    low = torch.full_like(count, torch.inf).scatter_reduce_(0, place, score, "amin")
    high = torch.full_like(count, -torch.inf).scatter_reduce_(0, place, score, "amax")
    return low, high
