"""Reinforcement learning against a reward model.

A reward model (Ouyang et al. 2022, arXiv:2203.02155) only stands for the goal: the further the
policy goes from its reference, the more of what it gains is the reward model's error (Gao,
Schulman, Hilton 2023, arXiv:2210.10760). So the true (gold) reward is measured beside the proxy,
against the divergence from the reference in nats a completion, and a budget of nats ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.learn.config import sized
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.llm import policy as rollouts
from selfplay.llm.generate import Generator, Sampling
from selfplay.llm.memory import Memory
from selfplay.llm.policy import Net
from selfplay.llm.preferences.config import RLHFConfig
from selfplay.llm.preferences.overoptimism import Looked, figures
from selfplay.llm.rl import (
    RewardedTask,
    RewardLearner,
    Row,
    Show,
    Watching,
    batch_figures,
    unwatched,
)

FIRST_RLHF = 5 << 20  #: number of the first batch of prompts, behind those of RL and of pairs
SHOWN = 8  #: held-out prompts whose completions are written down at a look
LOOK_SEED = 1 << 40  #: of the completions that are measured: the same numbers at every look


class RLHFLearner(RewardLearner):
    """Learning from a proxy of the goal (part "proxy" of the reward), with the goal
    (``RewardedTask.gold``) measured beside it."""

    def __init__(
        self, goal: RewardedTask, model: nn.Module, tokenizer: Any, reference: nn.Module,
        config: RLHFConfig, *,
        sampling: Sampling, device: str = "cpu", seed: int = 0, markers: Sequence[str] = (),
        generator: Generator | None = None, length: float | None = None,
        memory: Memory | None = None,
    ) -> None:
        """reference: the policy before the first step. length: mean tokens of its completions of
        the held-out prompts; None: it is measured now, before the first step."""
        super().__init__(
            goal, model, tokenizer, reference, critic=config.algorithm == "ppo",
            group=config.group, questions=config.held_prompts, sampling=sampling, device=device,
            seed=seed, markers=markers, generator=generator, memory=memory or Memory())
        self.config = config
        self.kl: float | None = None  #: nats a completion at the last look; None before the first
        self.first = ranks.here().first(self.figures()) if length is None else {"length": length}
        pg = sized(config.objective(self.first["length"]), sampling.max_new_tokens)
        self.optimizer = PolicyOptimizer(self.policy, pg, device, cut=self.policy.parts)

    def advance(self, watch: Watching = unwatched) -> dict[str, float]:
        """One step of learning: the update's figures, ``batch_figures`` of what it learnt from, and
        kl (nats a completion). watch: with "generate" and "update" around the two halves."""
        examples = self.goal.task.batch(FIRST_RLHF + self.step, self.config.prompts)
        with watch("generate"):
            batch = self.ask(examples, self.seed * 1_000_003 + self.step)
        with watch("update"):
            found, rollout = self.learn(batch.rollout, 0x9D)
        self.step += 1
        return {**found, **batch_figures(batch, self.markers),
                "kl": float(rollouts.completion_kl(rollout).mean())}

    def look(self, samples: int, model: nn.Module | None = None) -> Looked:
        """``samples`` completions of every held-out prompt by ``model`` (None: the policy)."""
        policy = replace(self.policy, group=samples, net=Net(model or self.policy.net.policy),
                         generator=None if model else self.policy.generator)
        batch = self.ask(self.held_out, LOOK_SEED + self.seed, policy)
        rollout = rollouts.evaluated(batch.rollout, policy, self.reference)
        assert self.goal.gold is not None
        gold = self.goal.gold(batch.completions, batch.examples)

        def table(column: Tensor) -> np.ndarray:
            return column.double().cpu().numpy().reshape(-1, samples)

        return Looked(
            proxy=table(batch.parts["proxy"]), gold=table(gold),
            kl=table(rollouts.completion_kl(rollout)), length=table(rollout.mask.sum(1)),
            ended=table(torch.tensor(batch.completions.ended)))

    def figures(self) -> dict[str, float]:
        """What the policy is worth now, on the held-out prompts."""
        return figures(self.look(self.config.held_samples))

    def ended(self, stop: Callable[[], bool]) -> str:
        """Why learning is over; empty where it is not."""
        if self.kl is not None and 0 < self.config.kl_budget < self.kl:
            return "kl budget"
        if self.step >= self.config.steps:
            return "steps"
        return "time" if stop() else ""

    def rows(self, *, stop: Callable[[], bool] = lambda: False,
             show: Show = lambda samples: None, watch: Watching = unwatched) -> Iterator[Row]:
        """Learn until the divergence from the reference is above the budget, all steps are done or
        ``stop()``.

        A row before the first step and every ``evaluate_every`` steps: ``evaluate.figures`` of the
        held-out prompts, tokens (written since the row before) and train, the means of
        ``advance`` since then. show: gets some completions (``samples``) with each row. watch: see
        ``advance``.
        """
        if self.kl is None:
            self.kl = self.first["kl"]
            show(self.samples(SHOWN))
            yield {"step": 0, **self.first}
        config = self.config
        while not self.ended(stop):
            taken = [self.advance(watch)]
            while self.step % config.evaluate_every and self.step < config.steps:
                taken.append(self.advance(watch))
            means = {key: float(np.mean([one[key] for one in taken])) for key in taken[0]}
            found = ranks.here().first(self.figures())
            self.kl = found["kl"]
            show(self.samples(SHOWN))  # before the row is kept: samples without a row are dropped
            yield {"step": self.step, **found, "train": means,
                   "tokens": sum(one["tokens"] for one in taken)}


def best_row(history: Sequence[Row], budget: float) -> Row:
    """The row of the highest gold reward among those within ``budget`` nats (0: all)."""
    within = [row for row in history if not 0 < budget < row["kl"]] or [history[0]]
    return max(within, key=lambda row: row["gold"])
