"""The policy-gradient objective: one, over log-probabilities, advantages and masks.

REINFORCE, RLOO, PPO, GRPO and their kin differ in settings (``config.ALGORITHMS``), not in code,
and nothing here knows what a step is: a move on a board and a token of a text are columns alike.
Axes: N trajectories, T steps; a bool mask [N, T] marks the real ones, and what stands at the
others, NaN included, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import Breakdown
from selfplay.learn import advantages
from selfplay.learn.config import INFINITE, PGConfig
from selfplay.learn.config import algorithm as named
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.learn.rollout import Evaluated, Policy, Rollout, parts_of

FAR = 20.0  #: nats beyond which k3 grows no more
CRITIC = "value"  #: what the names of a critic's own parameters begin with
STEP_SHARE = 10.0  #: times ``max_kl`` that a step's divergence counts for, at most
#: Parts of a minibatch at least, and steps of a part (padding included) at most.
PARTS, PART_STEPS = {"cpu": 4, "cuda": 1}, {"cpu": 8192, "cuda": 1 << 17}


class LossColumns(NamedTuple):
    """What the objective needs to know of steps that were made; tensors [N, T].

    mask bool; logp_old, advantage; value_old, returns, ref_logp: None where config wants none.
    weight: of a step in the policy's loss (``step_weights``); share: in means over real steps.
    The weights are of a whole minibatch, so that losses of its parts add up to its loss.
    """

    mask: Tensor
    logp_old: Tensor
    advantage: Tensor
    value_old: Tensor | None
    returns: Tensor | None
    ref_logp: Tensor | None
    weight: Tensor
    share: Tensor

    def rows(self, index: Tensor | slice, steps: int) -> LossColumns:
        """Some trajectories, cut after ``steps``."""
        return LossColumns._make(None if f is None else f[index][:, :steps] for f in self)


#: A loss term of one's own: (columns of a part of a minibatch, what the policy says of it now) -> a
#: scalar to descend. Terms of all parts add up: sum what each step has times ``columns.share``,
#: which is 1 / real steps of the minibatch and 0 at steps that are not real.
Term = Callable[[LossColumns, Evaluated], Tensor]


def kl_estimate(logp: Tensor, ref_logp: Tensor, kind: str = "k3") -> Tensor:
    """[...]: estimates of KL(p || ref) from samples of p (Schulman 2020,
    http://joschu.net/blog/kl-approx.html), with r = ref_logp - logp.

    k1: -r, unbiased, may be negative. k2: r^2 / 2. k3: e^r - 1 - r, unbiased and not negative.
    As losses: the gradient of k2 is that of the KL (of k3 that of KL(ref || p)); k1's is 0 in the
    mean, so that it is good for a reward only. In k3 e^r ends at e^FAR, which a float still holds.
    """
    return _KL[kind](ref_logp - logp)


_KL: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda r: -r,
    "k2": lambda r: r.square() / 2,
    "k3": lambda r: torch.expm1(r.clamp(max=FAR)) - r,
}


def step_weights(mask: Tensor, average: str, constant_length: int = 0) -> Tensor:
    """float32 [N, T]: what each step counts in the loss, 0 where it is not real.

    token: 1 / real steps of the batch (DAPO, eq. 8). sequence: 1 / (N x real steps of its
    trajectory) (GRPO, eq. 3). constant: 1 / (N x constant_length) (Dr. GRPO).
    Raises ValueError for a constant_length of 0 where one is wanted (``config.sized``).
    """
    real = mask.float()
    if average == "token":
        return real / real.sum().clamp(min=1)
    if average == "sequence":
        return real / (len(mask) * real.sum(1, keepdim=True).clamp(min=1))
    if constant_length < 1:
        raise ValueError(f"constant_length {constant_length}: as many steps as a trajectory has "
                         "at most wanted")
    return real / (len(mask) * constant_length)


def importance_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """[N, T]: p / p_old of each step; 1 where it is not real.

    sequence: the geometric mean over the trajectory's real steps, at each of them (GSPO, eq. 7).
    """
    change = torch.where(mask, logp - logp_old, 0.0)
    if level == "sequence":
        change = (change.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)) * mask
    return change.exp()


def clipped_surrogate(
    ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """(loss [...], bool [...] where the clip cuts off the gradient).

    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) (PPO, eq. 7). Two clips: DAPO, eq. 10.
    """
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantage, bounded * advantage)
    cut = ((ratio > 1 + clip_high) & (advantage > 0)) | ((ratio < 1 - clip_low) & (advantage < 0))
    return loss, cut


def clipped_weight(
    ratio: Tensor, logp: Tensor, advantage: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """(loss [...], bool [...] where the weight has been clipped).

    -clip(ratio, 1 - clip_low, 1 + clip_high) A log p, the weight without a gradient, so that every
    step keeps one: CISPO (MiniMax-M1, 2506.13585, eq. 4 and 5).
    """
    weight = ratio.detach()
    bounded = weight.clamp(1 - clip_low, 1 + clip_high)
    return -bounded * advantage * logp, bounded != weight


def clipped_value_loss(
    value: Tensor, value_old: Tensor, returns: Tensor, clip: float = 0.0
) -> Tensor:
    """[...]: (V - R)^2 / 2; with ``clip`` the larger of that and of the same after V has been held
    within ``clip`` of its old value (Schulman's PPO code; Engstrom et al. 2020, 2005.12729)."""
    loss = (value - returns).square()
    if clip > 0:
        held = value_old + (value - value_old).clamp(-clip, clip)
        loss = torch.maximum(loss, (held - returns).square())
    return loss / 2


def columns(rollout: Rollout, config: PGConfig, kl_weight: float) -> LossColumns:
    """Advantages and all else that stays fixed while a rollout is learnt from.

    Raises ValueError where ``config`` wants a critic, a reference or a sampler's log-probabilities
    and the rollout has none.
    """
    mask, reward = rollout.mask, advantages.shaped(rollout, config)
    ref = _column_if(rollout.ref_logp, config.kl_weight > 0, "ref_logp")
    value = _column_if(rollout.value, config.estimator == "gae" or config.value_weight > 0, "value")
    sampled = _column_if(rollout.sampled, config.mismatch != "ignore", "sampled")
    penalty = torch.zeros_like(reward)
    if ref is not None and config.kl_in == "reward":
        penalty = kl_weight * torch.where(
            mask, kl_estimate(rollout.logp, ref, config.kl_kind), 0.0)
    advantage = advantages.estimated(reward, penalty, value, rollout, config)
    returns = None if value is None else (
        advantage + value if config.estimator == "gae"
        else advantages.returns(reward - penalty, mask, config.gamma))
    if config.whiten:
        advantage = advantages.whiten(advantage, mask)
    if sampled is not None:  # not below 0, so that it weighs the loss of a step
        advantage = advantage * advantages.sampler_weights(
            rollout.logp, sampled, mask, config.mismatch, config.mismatch_most)
    return LossColumns(mask, rollout.logp, advantage, value, returns, ref,
                   torch.zeros_like(reward), torch.zeros_like(reward))


def _column_if(column: Tensor | None, wanted: bool, name: str) -> Tensor | None:
    if wanted and column is None:
        raise ValueError(f"these settings want {name} in the rollout")
    return column if wanted else None


def weighted(batch: LossColumns, config: PGConfig) -> LossColumns:
    """``batch``, a whole minibatch, with the weights of its steps."""
    return batch._replace(
        weight=step_weights(batch.mask, config.average, config.constant_length),
        share=step_weights(batch.mask, "token"))


def objective(
    batch: LossColumns, now: Evaluated, config: PGConfig, kl_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss to descend, its parts and what to watch), scalars of a part of a minibatch: those of
    all its parts add up.

    policy_loss; value_loss; entropy (nats a step); clip_fraction (share of steps whose gradient
    the clip has cut off); sample_kl (k3 estimate of the divergence from the sampling policy, nats a
    step); ref_kl (k3, from the reference); value_error (mean squared, of real steps).
    """
    mask = batch.mask
    ratio = importance_ratio(now.logp, batch.logp_old, mask, config.ratio)
    clips = config.clip_low, config.clip_high
    steps, cut = clipped_surrogate(ratio, batch.advantage, *clips) if config.bounds == "step" else (
        clipped_weight(ratio, torch.where(mask, now.logp, 0.0), batch.advantage, *clips))
    parts = {"policy_loss": (steps * batch.weight).sum(),
             "entropy": _total(now.entropy, batch)}
    loss = parts["policy_loss"]
    if config.entropy_weight:  # its gradient costs something
        loss = loss - config.entropy_weight * parts["entropy"]
    if batch.ref_logp is not None:
        if config.kl_in == "loss":
            penalty = torch.where(
                mask, kl_estimate(now.logp, batch.ref_logp, config.kl_kind), 0.0)
            loss = loss + kl_weight * (penalty * batch.weight).sum()
        far = kl_estimate(now.logp.detach(), batch.ref_logp)
        parts |= {"ref_kl": _total(far, batch), "ref_drift": _drift(far, batch, config.max_kl)}
    if config.value_weight > 0:
        if now.value is None or batch.value_old is None or batch.returns is None:
            raise ValueError("these settings want a critic, and the policy has none")
        error = clipped_value_loss(now.value, batch.value_old, batch.returns, config.value_clip)
        parts["value_loss"] = _total(error, batch)
        parts["value_error"] = _total((now.value.detach() - batch.returns).square(), batch)
        loss = loss + config.value_weight * parts["value_loss"]
    parts["clip_fraction"] = _total(cut.float(), batch)
    moved = kl_estimate(batch.logp_old, now.logp.detach())
    parts |= {"sample_kl": _total(moved, batch),
              "sample_drift": _drift(moved, batch, config.max_kl)}
    return loss, {"loss": loss.detach(), **{key: part.detach() for key, part in parts.items()}}


def _total(values: Tensor, batch: LossColumns) -> Tensor:
    return (torch.where(batch.mask, values, 0.0) * batch.share).sum()


def _drift(kl: Tensor, batch: LossColumns, most: float) -> Tensor:
    """Scalar: the mean of ``kl`` [N, T] over real steps, as far as it may end a run: no step counts
    for more than STEP_SHARE times ``most``, nor adds more than half of it to the mean.

    A token that the reference finds 10 nats likelier has a k3 of 22,000, one among a thousand like
    the reference's a mean of 22; a policy that has gone astray has many such.
    """
    bound = min(most, INFINITE) * (STEP_SHARE * batch.share).clamp(max=0.5)
    return torch.minimum(torch.where(batch.mask, kl, 0.0) * batch.share, bound).sum()


def adapted(kl_weight: float, kl: float, config: PGConfig, trajectories: int) -> float:
    """The weight of the KL penalty after a batch whose divergence from the reference was ``kl``
    nats a step: raised above the target, lowered below it (Ziegler et al. 2019, sec. 2.2)."""
    if config.kl_target <= 0:
        return kl_weight
    error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
    return kl_weight * (1 + error * trajectories / config.kl_horizon)


#: (rollout, fewest parts, most steps of one, whether parts go through the net one by one) -> the
#: trajectories of each part, int64. A minibatch's gradient is the sum of its parts'.
Cut = Callable[[Rollout, int, int, bool], list[Tensor]]


class _Minibatch(NamedTuple):
    """A minibatch or a part of one."""

    rollout: Rollout
    columns: LossColumns


class PolicyOptimizer:
    """Learns from rollouts of boards or texts: epochs over minibatches of ``objective``.

    policy.net is trained in place: those of its parameters that want a gradient. It is evaluated
    in the mode, training or not, that it is given in.
    """

    def __init__(
        self, policy: Policy, config: PGConfig, device: str = "cpu", extra: Term | None = None,
        cut: Cut | None = None,
    ) -> None:
        """extra: a loss term of one's own, added to ``objective``. cut: how minibatches go in
        parts; None: ``parts_of``."""
        self.policy, self.config, self.kind = policy, config, torch.device(device).type
        self.extra = extra
        self.cut: Cut = cut or (lambda rollout, few, most, alone: parts_of(rollout.mask, few, most))
        self.kl_weight = config.kl_weight
        self.trainer = Trainer(
            policy.net, self._loss,
            OptimizerConfig(
                config.learning_rate, config.weight_decay, decay_all=True,
                grad_clip=config.grad_clip, warmup=config.warmup,
                decay=config.decay, decay_steps=config.decay_steps,
                times=((CRITIC, config.critic_rate / config.learning_rate),)
                if config.critic_rate else ()),
            device=device, parts=self._parts, called="policy update")

    @property
    def steps(self) -> int:
        """Of the optimizer, so far."""
        return self.trainer.steps

    def __call__(self, rollout: Rollout, rng: np.random.Generator) -> dict[str, float]:
        """Learn from ``rollout`` as ``config`` says; minibatches are drawn from ``rng``.

        Returns the means over minibatches of ``objective``'s figures, grad_norm, kl_weight,
        updates (optimizer steps made: fewer than asked for after ``stop_kl``, none where
        ``signal_only`` leaves nothing), explained_variance (of returns, by the critic that played,
        where there is one).
        Raises Breakdown if the loss or its gradient is not finite or a divergence is above
        ``max_kl``; the weights are then those of the last good step.
        """
        if self.config.signal_only:
            rollout = rollout.rows(advantages.has_signal(rollout))
            if not len(rollout):
                return {"kl_weight": self.kl_weight, "updates": 0.0}
        fixed = columns(rollout, self.config, self.kl_weight)
        seen: list[dict[str, float]] = []
        for rows in self._minibatches(len(rollout), rng):
            found = self._step(rollout.rows(rows), fixed, rows)
            found = {key: value for key, value in found.items() if not key.endswith("_drift")}
            seen.append(found)
            if 0 < self.config.stop_kl < found["sample_kl"]:
                break
        means = {key: sum(one[key] for one in seen) / len(seen) for key in seen[0]}
        if "ref_kl" in means:
            self.kl_weight = adapted(self.kl_weight, means["ref_kl"], self.config, len(rollout))
        return {**means, "kl_weight": self.kl_weight, "updates": float(len(seen)),
                **_explained(fixed)}

    def _minibatches(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        parts = []
        for _ in range(self.config.epochs):
            order = rng.permutation(count)
            pieces = np.array_split(order, min(self.config.minibatches, count))
            parts += [torch.from_numpy(piece) for piece in pieces]
        return parts

    def _step(self, some: Rollout, fixed: LossColumns, rows: Tensor) -> dict[str, float]:
        batch = weighted(fixed.rows(rows, some.mask.shape[1]), self.config)
        try:
            figures = self.trainer.gradient(_Minibatch(some, batch))
            self._must_be_sound(figures)
            return {**figures, "grad_norm": self.trainer.descend()}
        except Breakdown as error:
            raise Breakdown(f"{error} or a larger KL weight (it is {self.kl_weight:g})") from None

    def _loss(self, net: nn.Module, part: _Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        policy: Any = self.policy
        if net is not policy.net:
            policy = replace(policy, net=net)
        now = policy.evaluate(part.rollout)
        loss, figures = objective(part.columns, now, self.config, self.kl_weight)
        if self.extra is None:
            return loss, figures
        term = self.extra(part.columns, now)
        figures |= {"loss": figures["loss"] + term.detach(), "extra_loss": term.detach()}
        return loss + term, figures

    def _parts(self, batch: _Minibatch) -> list[_Minibatch]:
        found = []
        most = self.config.part_steps or PART_STEPS[self.kind]
        fewest = PARTS[self.kind]
        if self.kind != "cpu" or self.trainer.sharded:  # where all processes must have some
            fewest = max(fewest, ranks.here().size)
        alone = ranks.here().size == 1 and not self.trainer.apart
        for rows in self.cut(batch.rollout, fewest, most, alone):
            some = batch.rollout.rows(rows)
            found.append(_Minibatch(some, batch.columns.rows(rows, some.mask.shape[1])))
        return found

    def _must_be_sound(self, figures: dict[str, float]) -> None:
        self.trainer.must_be_sound("loss", figures["loss"])
        for key in ("sample", "ref"):
            if f"{key}_drift" in figures:
                self.trainer.must_be_sound(
                    f"divergence {key}_kl", figures[f"{key}_drift"], self.config.max_kl)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON types): what training depends on beside its rollouts (``Trainer.state``),
        and the weight of the KL penalty."""
        tensors, numbers = self.trainer.state()
        return tensors, {**numbers, "kl_weight": self.kl_weight}

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from a ``state``. Raises UserError if it is of another net."""
        self.trainer.load_state(tensors, numbers)
        self.trainer.learning_rate = self.config.learning_rate
        self.kl_weight = float(numbers["kl_weight"])


def policy_gradient(
    policy: Policy, rollouts: Iterable[Rollout], algorithm: str | PGConfig, *,
    device: str = "cpu", seed: int = 0, extra: Term | None = None,
) -> Iterator[dict[str, float]]:
    """Learn from each of ``rollouts`` as it comes: a row each, step and what ``PolicyOptimizer``
    says. Rollouts may be drawn by ``policy`` as they are asked for.

    algorithm: a name in ``config.ALGORITHMS``, or settings. extra: see ``Term``. ``policy.net`` is
    trained in place: stop anywhere. Raises Breakdown where learning breaks down, KeyError for a
    name that is none.
    """
    config = named(algorithm) if isinstance(algorithm, str) else algorithm
    optimizer = PolicyOptimizer(policy, config, device, extra)
    for number, rollout in enumerate(rollouts):
        yield {"step": number + 1, **optimizer(rollout, np.random.default_rng([seed, number]))}


def _explained(fixed: LossColumns) -> dict[str, float]:
    """How much of the variance of the returns the critic has foreseen."""
    if fixed.value_old is None or fixed.returns is None:
        return {}
    returns, value = fixed.returns[fixed.mask], fixed.value_old[fixed.mask]
    variance = float(returns.var()) if returns.numel() > 1 else 0.0
    left = float((returns - value).var()) if variance else 0.0
    return {"explained_variance": 1 - left / variance if variance else 0.0}
