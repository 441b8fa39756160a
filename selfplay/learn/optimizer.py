"""Improving a policy on trajectories: epochs over minibatches of the policy-gradient objective.

The same for boards and texts (``seam``). On a CPU a minibatch goes in shards, a thread each, whose
gradients are added in order, so that the weights do not depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.common.errors import Breakdown, UserError
from selfplay.common.threads import Workers, replica, torch_alone
from selfplay.learn import policy_gradient as pg
from selfplay.learn.config import PGConfig
from selfplay.learn.rollout import Policy, Rollout

#: Shards of a minibatch at least, and steps of a shard (padding included) at most.
SHARDS, SHARD_STEPS = {"cpu": 4, "cuda": 1}, {"cpu": 8192, "cuda": 1 << 17}
_MOMENTS = ("exp_avg", "exp_avg_sq")


class PolicyOptimizer:
    """A policy in training, its optimizer, and the weight of its KL penalty.

    policy.net is trained in place: those of its parameters that want a gradient. It is evaluated
    in the mode, training or not, that it is given in.
    """

    def __init__(self, policy: Policy, config: PGConfig, device: str = "cpu") -> None:
        self.policy, self.config, self.kind = policy, config, torch.device(device).type
        self.kl_weight, self.steps = config.kl_weight, 0
        self.named = {n: p for n, p in policy.net.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            list(self.named.values()), lr=config.learning_rate, betas=(0.9, 0.95),
            weight_decay=config.weight_decay, fused=True)
        self._replicas = [policy]
        self._workers: Workers | None = None

    def __call__(self, rollout: Rollout, rng: np.random.Generator) -> dict[str, float]:
        """Learn from ``rollout`` as ``config`` says; minibatches are drawn from ``rng``.

        Returns the means over minibatches of ``policy_gradient.objective``'s figures, grad_norm,
        kl_weight, updates (optimizer steps made: fewer than asked for after ``stop_kl``),
        explained_variance (of returns, by the critic that played, where there is one).
        Raises Breakdown if the loss or its gradient is not finite or a divergence is above
        ``max_kl``; the weights are then those of the last good step.
        """
        fixed = pg.columns(rollout, self.config, self.kl_weight)
        seen: list[dict[str, float]] = []
        for rows in self._minibatches(len(rollout), rng):
            found = self._step(rollout.rows(rows), fixed, rows)
            seen.append(found)
            if 0 < self.config.stop_kl < found["sample_kl"]:
                break
        means = {key: sum(one[key] for one in seen) / len(seen) for key in seen[0]}
        if "ref_kl" in means:
            self.kl_weight = pg.adapted(self.kl_weight, means["ref_kl"], self.config, len(rollout))
        return {**means, "kl_weight": self.kl_weight, "updates": float(len(seen)),
                **_explained(fixed)}

    def _minibatches(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        parts = []
        for _ in range(self.config.epochs):
            order = rng.permutation(count)
            pieces = np.array_split(order, min(self.config.minibatches, count))
            parts += [torch.from_numpy(piece) for piece in pieces]
        return parts

    def _step(self, part: Rollout, fixed: pg.LossColumns, rows: Tensor) -> dict[str, float]:
        batch = pg.weighted(fixed.rows(rows, part.mask.shape[1]), self.config)
        figures = self._gradient(part, batch)
        self._must_be_sound(figures)
        with torch_alone():
            norm = float(nn.utils.clip_grad_norm_(self.named.values(), self.config.grad_clip))
            if not math.isfinite(norm):
                raise self._broken("gradient", norm)
            self._optimizer.step()
        self.steps += 1
        return {**figures, "grad_norm": norm}

    def _gradient(self, part: Rollout, batch: pg.LossColumns) -> dict[str, float]:
        """Leave the gradient of a minibatch in the net's parameters."""
        shards = _shards(part.mask, SHARDS[self.kind], SHARD_STEPS[self.kind])
        self._prepare(len(shards))
        apart = len(self._replicas) > 1

        def work(k: int) -> dict[str, Tensor]:
            rows = shards[k]
            policy = self._replicas[k if apart else 0]
            some = part.rows(rows)
            now = policy.evaluate(some)
            loss, found = pg.objective(batch.rows(rows, some.mask.shape[1]), now, self.config,
                                       self.kl_weight)
            loss.backward()
            return found

        assert self._workers is not None
        found = self._workers.map(work, range(len(shards)))
        if apart:
            _sum_gradients([policy.net for policy in self._replicas[: len(shards)]])
        sums = torch.stack([torch.stack([f.float() for f in one.values()]) for one in found]).sum(0)
        return dict(zip(found[0], sums.tolist(), strict=True))

    def _prepare(self, shards: int) -> None:
        """On a CPU as many replicas as shards, which share the net's parameters, not its
        gradients."""
        net = self.policy.net
        while self.kind == "cpu" and len(self._replicas) < shards:
            self._replicas.append(replace(self.policy, net=replica(net)))  # type: ignore[type-var]
        threads = min(torch.get_num_threads(), shards) if self.kind == "cpu" else 1
        if self._workers is None or self._workers.threads != threads:
            self._workers = Workers(threads)
        for policy in self._replicas:
            policy.net.zero_grad(set_to_none=True)

    def _must_be_sound(self, figures: dict[str, float]) -> None:
        if not math.isfinite(figures["loss"]):
            raise self._broken("loss", figures["loss"])
        for key in ("sample_kl", "ref_kl"):
            if key in figures and not figures[key] <= self.config.max_kl:  # NaN is not, either
                raise self._broken(f"divergence {key}", figures[key])

    def _broken(self, what: str, value: float) -> Breakdown:
        return Breakdown(
            f"policy update {self.steps + 1}: the {what} is {value:.3g}, which asks for a lower "
            f"learning rate (it is {self.config.learning_rate:g}) or a larger KL weight (it is "
            f"{self.kl_weight:g})")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON types): what training depends on beside its rollouts, parameters
        included; tensors are named net.NAME, exp_avg.NAME, exp_avg_sq.NAME."""
        tensors = {f"net.{name}": p.detach() for name, p in self.named.items()}
        for name, parameter in self.named.items():
            state = self._optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": state[key] for key in _MOMENTS if key in state}
        return tensors, {"steps": self.steps, "learning_rate": self.config.learning_rate,
                         "kl_weight": self.kl_weight}

    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from a ``state``. Raises UserError if it is of another net."""
        wanted = {f"net.{name}" for name in self.named}
        if {name for name in tensors if name.startswith("net.")} != wanted:
            raise UserError("the checkpoint's training state is of another net; give --run "
                            "another name")
        self.steps, self.kl_weight = int(numbers["steps"]), float(numbers["kl_weight"])
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[f"net.{name}"])
                if self.steps:
                    held = {key: torch.zeros_like(parameter) for key in _MOMENTS}
                    for key, moment in held.items():  # in the layout that AdamW's kernel relies on
                        moment.copy_(tensors[f"{key}.{name}"])
                    self._optimizer.state[parameter] = {
                        "step": torch.tensor(float(self.steps), device=parameter.device), **held}


@torch.no_grad()
def _sum_gradients(nets: list[nn.Module]) -> None:
    """Leave the sum in the first; a shard may have none where a part of a net was not used."""
    for mine, *others in zip(*(net.parameters() for net in nets), strict=True):
        for other in others:
            if other.grad is not None:
                mine.grad = other.grad if mine.grad is None else mine.grad.add_(other.grad)


def _shards(mask: Tensor, fewest: int, most: int) -> list[Tensor]:
    """Trajectories of like length together, in parts of about as many real steps: at least
    ``fewest`` parts, at most ``most`` steps a part."""
    lengths = mask.sum(1)
    order = torch.argsort(lengths, stable=True)
    total = max(int(lengths.sum()), 1)
    count = min(max(fewest, -(-total // most)), len(mask))
    ends = lengths[order].cumsum(0)
    cuts = [int(torch.searchsorted(ends, total * k / count)) for k in range(count)]
    edges = sorted({0, *cuts[1:], len(mask)})
    return [order[a:b] for a, b in pairwise(edges)]


def _explained(fixed: pg.LossColumns) -> dict[str, float]:
    """How much of the variance of the returns the critic has foreseen."""
    if fixed.value_old is None or fixed.returns is None:
        return {}
    returns, value = fixed.returns[fixed.mask], fixed.value_old[fixed.mask]
    variance = float(returns.var()) if returns.numel() > 1 else 0.0
    left = float((returns - value).var()) if variance else 0.0
    return {"explained_variance": 1 - left / variance if variance else 0.0}
