"""How much better than expected: returns and advantages of trajectories.

Axes: N trajectories, T steps. A bool mask [N, T] marks the real steps, wherever they lie; what
stands at other steps is never looked at, and every result is 0 there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selfplay.common.errors import UserError
from selfplay.learn.config import PGConfig
from selfplay.learn.losses import masked_mean
from selfplay.learn.rollout import Rollout

EPSILON = 1e-4  #: added to a deviation before it divides


def shaped(rollout: Rollout, config: PGConfig) -> Tensor:
    """float32 [N, T]: the rewards, with those for lengths."""
    reward, length = rollout.reward.masked_fill(~rollout.mask, 0.0), rollout.mask.sum(1)
    if config.overlong > 0:
        late = overlong(length, config.constant_length, config.overlong)
        reward = reward + on_last_step(late, rollout.mask)
    if config.length_weight > 0:
        score = scores(rollout.reward, rollout.mask)
        short = shorter(length.float(), score, rollout.group)
        reward = reward + on_last_step(config.length_weight * short, rollout.mask)
    return reward


def estimated(
    reward: Tensor, penalty: Tensor, value: Tensor | None, rollout: Rollout, config: PGConfig
) -> Tensor:
    """float32 [N, T]: advantages of ``rollout`` by ``config.estimator``; reward as ``shaped`` has
    it, value of the critic.

    penalty: [N, T], the KL's, to come off ``reward``. Where advantages are divided by what varies
    in a group it comes off behind the division, centred within the group: before it, where all
    answers are right, however small its weight it would be as large as a right answer.
    """
    mask, group = rollout.mask, rollout.group
    if config.estimator == "gae":
        assert value is not None
        return gae(reward - penalty, value, mask, config.gamma, config.lam)
    if config.estimator in ("return", "mean"):
        found = returns(reward - penalty, mask, config.gamma)
        if config.estimator == "mean":
            found = found - masked_mean(found, mask.float())
        return found.masked_fill(~mask, 0.0)
    if config.estimator == "leave_one_out":
        alike = leave_one_out(scores(reward - penalty, mask), group)
    else:
        score = scores(reward, mask)
        alike = (likelihood_relative(score, group, config.worst)
                 if config.estimator == "likelihood"
                 else group_relative(score, group, config.normalise_std))
        alike = alike - group_relative(scores(penalty, mask), group, False)
    return alike[:, None] * mask


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


def has_signal(rollout: Rollout) -> Tensor:
    """bool [N]: whether some trajectory of its group has earned something else."""
    useful = signal(scores(rollout.reward, rollout.mask), rollout.group)
    return useful[torch.unique(rollout.group, return_inverse=True)[1]]


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


def likelihood_relative(score: Tensor, group: Tensor, worst: float = 0.0) -> Tensor:
    """float32 [N]: (score - mean of its group) / (mean of its group + worst): MaxRL (Tajwar et al.
    2026, Maximum Likelihood Reinforcement Learning, arXiv:2602.02710).

    The paper's objective is the likelihood of a right answer, log p = -sum over k >= 1 of
    (1 - p)^k / k (eq. 4), whose gradient is the sum of that of pass@k over k (eq. 5); its estimator
    sums the gradients of the log-probabilities of the K right answers among n, over K. Here, as in
    its Algorithm 1, the mean of all n gradients is taken off it, but in groups without a right
    answer, which learn nothing: in expectation the sum over k then ends at n - 1 (v3, appendix D,
    theorem 5). With rewards of 1 and 0 a right answer gets (n - K) / K, a wrong one -1. worst:
    rewards are -worst or more. Raises UserError for one that is less.
    """
    if bool((score < -worst - EPSILON).any()):
        raise UserError(f"pg.worst={worst:g}: there is a reward of {float(score.min()):g}, and "
                        "pg.estimator=likelihood counts rewards from the worst up; raise it to "
                        f"{-float(score.min()):.3g} or more")
    _, _, mean = _by_group(score, group)
    above = mean + worst
    return torch.where(above > EPSILON, (score - mean) / above.clamp(min=EPSILON), 0.0)


# ---------------------------------------------------------------------------- rewards for lengths


def overlong(length: Tensor, longest: int, share: float) -> Tensor:
    """float [N], from -1 to 0: DAPO's soft punishment (Yu et al. 2025, arXiv:2503.14476, eq. 13).

    0 up to (1 - share) longest steps, from there down in a line to -1 at ``longest``. Raises
    ValueError for a ``longest`` of 0 (``config.sized``).
    """
    if longest < 1:
        raise ValueError(f"constant_length {longest}: as many steps as a trajectory has at most "
                         "wanted")
    room = share * longest
    return ((longest - room - length) / room).clamp(-1.0, 0.0)


def shorter(length: Tensor, score: Tensor, group: Tensor) -> Tensor:
    """float [N], from -0.5 to 0.5: Kimi k1.5's length reward (2501.12599, sec. 2.3.3).

    0.5 - (length - shortest) / (longest - shortest) of the group; where ``score`` is not above 0,
    an answer that is not right, at most 0. All 0 in a group of one length.
    """
    place, count, _ = _by_group(length, group)
    low, high = (bound[place] for bound in _lowest_and_highest(length, place, count))
    found = 0.5 - (length - low) / (high - low).clamp(min=1)
    found = torch.where(score > 0, found, found.clamp(max=0.0))
    return torch.where(high > low, found, 0.0)


def on_last_step(score: Tensor, mask: Tensor) -> Tensor:
    """float32 [N, T]: score [N] on the last real step of each trajectory, 0 elsewhere."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, steps, -1).amax(1)
    return (steps == last[:, None]) * score.float()[:, None]


# ------------------------------------------------------------ samplers that are not the policy


def sampler_weights(
    logp: Tensor, sampled: Tensor, mask: Tensor, kind: str, most: float
) -> Tensor:
    """[N, T]: what a step counts whose log-probability is ``logp`` for the policy that learns and
    ``sampled`` for what wrote it, [N, T] both.

    truncate: p / p_sampler of the step, at most ``most`` (truncated importance sampling: Yao et al.
    2025, fengyao.notion.site/off-policy-rl). mask: p / p_sampler of the whole trajectory, and 0
    where that is above ``most`` (masked importance sampling: Liu et al. 2025, When Speed Kills
    Stability).
    """
    change = torch.where(mask, logp - sampled, 0.0)
    if kind == "truncate":
        return change.exp().clamp(max=most)
    whole = change.sum(1, keepdim=True).exp()
    return torch.where(whole <= most, whole, 0.0).expand_as(change)


def sampler_figures(
    logp: Tensor, sampled: Tensor, mask: Tensor, kind: str, most: float
) -> dict[str, float]:
    """What ``sampler_weights`` corrects. mismatch_ratio, mismatch_highest: p / p_sampler of a step,
    mean and highest; mismatch_cut: the share of steps above ``most``, of trajectories left out."""
    change = torch.where(mask, logp - sampled, 0.0)
    ratio = change.exp()[mask]
    cut = ratio > most if kind == "truncate" else change.sum(1).exp() > most
    return {"mismatch_ratio": float(ratio.mean()), "mismatch_highest": float(ratio.max()),
            "mismatch_cut": 0.0 if kind == "ignore" else float(cut.float().mean())}
