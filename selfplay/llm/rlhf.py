"""Reinforcement learning from preferences: climb a reward model, and watch the truth beside it.

Policy, reference, reward model and, for PPO, a value model (Ouyang et al. 2022, arXiv:2203.02155),
learning by the shared core. The reward model stands for the gold reward and is not it: the further
the policy goes from the reference, the more of what it gains is the model's error (Gao, Schulman,
Hilton 2023, arXiv:2210.10760). So both are measured against the divergence from the reference, in
nats a completion, and a budget of it ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from selfplay.learn.config import sized
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Rollout
from selfplay.llm import policy as rollouts
from selfplay.llm.config import RLHFConfig
from selfplay.llm.evaluate import Looked, figures
from selfplay.llm.generate import Generator, Sampling
from selfplay.llm.models import Net, end_tokens, value_model
from selfplay.llm.policy import Completions, TextPolicy
from selfplay.llm.preferences import Judge
from selfplay.llm.reward_model import RewardModel, proxy_reward
from selfplay.llm.rewards import Example
from selfplay.llm.rl import figures_of, shown
from selfplay.llm.tasks import Task

FIRST = 5 << 20  #: number of the first batch of prompts; SFT and other RL take earlier ones
SHOWN = 8  #: held-out prompts whose completions are written down at a look
HELD_SEED = 1 << 40  #: of the samples that are measured, the same ones at every look


@dataclass(frozen=True)
class RLHFObjective:
    """What is asked, what is climbed, and what is meant by it."""

    task: Task
    proxy: RewardModel
    gold: Judge  #: measured, never learnt from
    weights: Mapping[str, float] = field(default_factory=lambda: {"proxy": 1.0})


class RLHFLearner:
    """The state of a climb between two steps."""

    def __init__(
        self, aim: RLHFObjective, model: nn.Module, tokenizer: Any, reference: nn.Module,
        config: RLHFConfig, *,
        sampling: Sampling, seed: int = 0, device: str = "cpu", markers: Sequence[str] = (),
        generator: Generator | None = None, length: float | None = None,
    ) -> None:
        """model, tokenizer: the policy, trained in place; reference: what it began as. markers:
        words that are counted in completions. generator: who writes them if it is not torch.
        length: mean tokens of a completion before the first step, where that is known."""
        self.aim, self.config, self.seed, self.markers = aim, config, seed, markers
        self.tokenizer, self.reference = tokenizer, reference
        critic = value_model(model) if config.algorithm == "ppo" else None
        net = Net(model, critic).to(device).eval()
        self.policy = TextPolicy(net, end_tokens(model, tokenizer), tokenizer.pad_token_id,
                                 sampling, config.group, generator)
        self.weights = {**aim.weights, "cut": -config.cut_penalty}
        self.reward = proxy_reward(aim.proxy, tokenizer)
        self.held = aim.task.held_out(config.held_prompts)
        self.step = 0
        self.kl: float | None = None  #: nats a completion at the last look; None before the first
        self.first = self.figures() if length is None else {"length": length}
        objective = sized(config.objective(self.first["length"]), sampling.max_new_tokens)
        self.optimizer = PolicyOptimizer(self.policy, objective, device)

    def advance(self) -> dict[str, float]:
        """One step of learning: the learner's figures, ``rl.figures_of`` what it learnt from, and
        kl (nats a completion)."""
        examples = self.aim.task.batch(FIRST + self.step, self.config.prompts)
        batch = rollouts.sample(self.policy, self.tokenizer, examples, self.reward, self.weights,
                                self.seed * 1_000_003 + self.step)
        rollout = rollouts.evaluated(batch.rollout, self.policy, self.reference)
        found = self.optimizer(rollout, np.random.default_rng([self.seed, 0x9D, self.step]))
        self.policy.refresh()
        self.step += 1
        return {**found, **figures_of(batch, self.markers),
                "kl": float(divergence(rollout).mean())}

    def look(self, samples: int, model: Any = None) -> Looked:
        """``samples`` completions of every held-out prompt by ``model`` (none: the policy)."""
        policy = replace(self.policy, group=samples, net=Net(model or self.policy.net.policy),
                         generator=None if model else self.policy.generator)
        batch = rollouts.sample(policy, self.tokenizer, self.held, self.reward, {"proxy": 1.0},
                                HELD_SEED + self.seed)
        rollout = rollouts.evaluated(batch.rollout, policy, self.reference)
        gold = self.aim.gold(batch.completions, batch.examples)
        ended = np.array(batch.completions.ended, np.float64)
        columns = (batch.parts["proxy"], gold, divergence(rollout), rollout.mask.sum(1))
        return Looked(*(column.double().cpu().numpy().reshape(-1, samples) for column in columns),
                      ended.reshape(-1, samples))

    def figures(self) -> dict[str, float]:
        """What the policy is worth now, on the held-out prompts."""
        return figures(self.look(self.config.held_samples))

    def samples(self) -> list[dict[str, Any]]:
        """A few held-out prompts and what is answered now, with proxy and gold."""
        def judge(completions: Completions, examples: Sequence[Example]) -> dict[str, Tensor]:
            return {**self.reward(completions, examples),
                    "gold": self.aim.gold(completions, examples)}

        some = rollouts.sample(replace(self.policy, group=1), self.tokenizer, self.held[:SHOWN],
                               judge, self.weights, self.seed + self.step)
        return shown(some, self.step)

    def ended(self, stop: Callable[[], bool]) -> str:
        """Why the climb is over; nothing where it is not."""
        if self.kl is not None and 0 < self.config.kl_budget < self.kl:
            return "kl budget"
        if self.step >= self.config.steps:
            return "steps"
        return "time" if stop() else ""


def climb(
    learner: RLHFLearner, *,
    stop: Callable[[], bool] = lambda: False,
    show: Callable[[list[dict[str, Any]]], None] = lambda samples: None,
    watch: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Iterator[dict[str, Any]]:
    """Climb until the divergence from the reference is above the budget, all steps are done or
    ``stop()``.

    Before the first step and every ``evaluate_every`` a row (``evaluate.figures`` of the held-out
    prompts; train: means of ``RLHFLearner.advance``), and some completions for ``show``. Step k
    depends on the weights and (seed, k) alone. watch: with "learn" around steps.
    """
    if learner.kl is None:
        learner.kl = learner.first["kl"]
        show(learner.samples())
        yield {"step": 0, **learner.first}
    config = learner.config
    while not learner.ended(stop):
        with watch("learn"):
            taken = [learner.advance()]
            while learner.step % config.evaluate_every and learner.step < config.steps:
                taken.append(learner.advance())
        means = {key: float(np.mean([one[key] for one in taken])) for key in taken[0]}
        row = {"step": learner.step, **learner.figures(), "train": means}
        learner.kl = row["kl"]
        show(learner.samples())  # before the row is kept: what has none is dropped later
        yield row


def divergence(rollout: Rollout) -> Any:
    """float32 [N]: log p - log reference of each completion, whose mean is the divergence of the
    policy from the reference in nats a completion (k1)."""
    assert rollout.ref_logp is not None
    return ((rollout.logp - rollout.ref_logp) * rollout.mask).sum(1)


def best_row(history: Sequence[dict[str, Any]], budget: float) -> dict[str, Any]:
    """The row of the highest gold reward among those within ``budget`` nats (0: all)."""
    within = [row for row in history if not 0 < budget < row["kl"]] or [history[0]]
    return max(within, key=lambda row: row["gold"])


def name_of(row: Mapping[str, Any]) -> str:
    return f"ckpt-{row['step']:06d}"
