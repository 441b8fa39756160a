"""Reinforcement learning from preferences: climb a reward model, and watch the truth beside it.

Policy, reference, reward model and, for PPO, a value model (Ouyang et al. 2022, arXiv:2203.02155),
learning by the shared core. The reward model stands for the gold reward and is not it: the further
the policy goes from the reference, the more of what it gains is the model's error (Gao, Schulman,
Hilton 2023, arXiv:2210.10760). So both are measured against the divergence from the reference, in
nats a completion, and a budget of it ends the run.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from selfplay.common.errors import advise_on_breakdown
from selfplay.common.files import read_history, write_history, write_json
from selfplay.learn import checkpoint
from selfplay.learn.config import sized
from selfplay.learn.optimizer import PolicyOptimizer
from selfplay.learn.rollout import Rollout
from selfplay.llm import policy as rollouts
from selfplay.llm import store
from selfplay.llm.config import RLHFConfig
from selfplay.llm.evaluate import Looked, figures
from selfplay.llm.generate import Generator, Sampling
from selfplay.llm.models import Net, end_tokens, load, reference_of, value_model
from selfplay.llm.policy import Completions, TextPolicy
from selfplay.llm.preferences import Judge
from selfplay.llm.reward_model import RewardModel, proxy_reward
from selfplay.llm.rewards import Example
from selfplay.llm.rl import append, figures_of, resumed_history, shown
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
    """The state of a run between two steps.

    init: folder of the policy to begin with, which is the reference as well. A run whose
    ``folder`` has checkpoints goes on from the newest.
    """

    def __init__(self, aim: RLHFObjective, init: str | Path, folder: Path, config: RLHFConfig, *,
                 sampling: Sampling, seed: int = 0, device: str = "cpu",
                 markers: Sequence[str] = (),
                 engine: Callable[[nn.Module, Any], Generator | None] = lambda model, words: None,
                 ) -> None:
        """engine: of (model, tokenizer), who writes completions if it is not torch. markers: words
        that are counted in completions."""
        self.markers = markers
        self.aim, self.folder, self.config, self.seed = aim, folder, config, seed
        newest = store.newest(folder)
        model, self.tokenizer = load(newest or init)
        critic = value_model(model) if config.algorithm == "ppo" else None
        net = Net(model, critic).to(device).eval()
        self.reference = reference_of(model, init, newest is not None)
        self.policy = TextPolicy(net, end_tokens(model, self.tokenizer),
                                 self.tokenizer.pad_token_id, sampling, config.group,
                                 engine(model, self.tokenizer))
        self.weights = {**aim.weights, "cut": -config.cut_penalty}
        self.reward = proxy_reward(aim.proxy, self.tokenizer)
        self.held = aim.task.held_out(config.held_prompts)
        self.history: list[dict[str, Any]] = []
        self.step, self.seconds = 0, 0.0
        if newest is not None:
            self.step = int(checkpoint.read_meta(newest)["step"])
            found = read_history(folder / "history.jsonl")
            self.history = [row for row in found if row["step"] <= self.step]
            self.seconds = float(self.history[-1]["seconds"])
        first = self.history[0] if self.history else self.figures()
        objective = sized(config.objective(first["length"]), sampling.max_new_tokens)
        self.optimizer = PolicyOptimizer(self.policy, objective, device)
        if newest is not None:
            self.optimizer.load_state(*checkpoint.load_training(newest))
            self.policy.refresh()
        else:
            self.keep({"step": 0, "seconds": 0.0, **first})

    def advance(self) -> dict[str, float]:
        """One step of learning: the learner's figures, ``rl.figures_of`` what it learnt from, and
        kl (nats a completion)."""
        started = time.monotonic()
        examples = self.aim.task.batch(FIRST + self.step, self.config.prompts)
        batch = rollouts.sample(self.policy, self.tokenizer, examples, self.reward, self.weights,
                                self.seed * 1_000_003 + self.step)
        rollout = rollouts.looked_at(batch.rollout, self.policy, self.reference)
        found = self.optimizer(rollout, np.random.default_rng([self.seed, 0x9D, self.step]))
        self.policy.refresh()
        self.step += 1
        self.seconds += time.monotonic() - started
        return {**found, **figures_of(batch, self.markers),
                "kl": float(divergence(rollout).mean())}

    def look(self, samples: int, model: Any = None) -> Looked:
        """``samples`` completions of every held-out prompt by ``model`` (none: the policy)."""
        policy = replace(self.policy, group=samples, net=Net(model or self.policy.net.policy),
                         generator=None if model else self.policy.generator)
        batch = rollouts.sample(policy, self.tokenizer, self.held, self.reward, {"proxy": 1.0},
                                HELD_SEED + self.seed)
        rollout = rollouts.looked_at(batch.rollout, policy, self.reference)
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

    def keep(self, row: dict[str, Any]) -> None:
        """Take a row into the history and save a checkpoint; of the older ones the best stays."""
        self.history.append(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_history(self.folder / "history.jsonl", self.history)  # a row too many does no harm
        store.save(self.folder / name_of(row), self.policy.net.policy, self.tokenizer,
                   self.optimizer.state(), {
                       "kind": "rlhf", "step": row["step"], "task": self.aim.task.name,
                       "compute": {"seconds": row["seconds"]}, "metrics": row})
        best = name_of(best_row(self.history, self.config.kl_budget))
        for path in store.listing(self.folder)[:-1]:
            if path.name != best:
                shutil.rmtree(path)

    def ended(self, left: Callable[[], float]) -> str:
        """Why the run is over; nothing where it is not."""
        if 0 < self.config.kl_budget < self.history[-1]["kl"]:
            return "kl budget"
        if self.step >= self.config.steps:
            return "steps"
        return "time" if left() <= 0 else ""


def train_rlhf(
    learner: RLHFLearner, *, left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    show: Callable[[list[dict[str, Any]]], None] = lambda samples: None,
) -> Path:
    """Climb until the divergence from the reference is above the budget, all steps are done or
    ``left()`` seconds are used up; the checkpoint of the best gold reward within the budget.

    Before the first step and every ``evaluate_every`` a row of ``history.jsonl``
    (``optimism.figures`` of the held-out prompts; train: means of ``RLHFLearner.advance``), some
    completions (``samples.jsonl``) and a checkpoint. Step k depends on the weights and (seed, k)
    alone. ``best.json`` names the best checkpoint, and why the run ended.
    """
    path, first = learner.folder / "samples.jsonl", learner.step == 0
    resumed_history(path, -1 if first else learner.step)

    def read() -> None:
        samples = learner.samples()
        append(path, samples)
        show(samples)

    if first:
        log(learner.history[0])
        read()
    while not (why := learner.ended(left)):
        taken = [_advance(learner)]
        while learner.step % learner.config.evaluate_every and learner.step < learner.config.steps:
            taken.append(_advance(learner))
        means = {key: float(np.mean([one[key] for one in taken])) for key in taken[0]}
        row = {"step": learner.step, "seconds": learner.seconds, **learner.figures(),
               "train": means}
        read()  # before the checkpoint: what has none is dropped later
        learner.keep(row)
        log(row)
    best = best_row(learner.history, learner.config.kl_budget)
    write_json(learner.folder / "best.json", {
        "checkpoint": name_of(best), "ended": why,
        **{key: best[key] for key in ("step", "gold", "gold_low", "gold_high", "proxy", "kl")}})
    return learner.folder / name_of(best)


def _advance(learner: RLHFLearner) -> dict[str, float]:
    with advise_on_breakdown(lambda: store.newest(learner.folder), "--model", "rlhf.learning_rate",
                              learner.config.learning_rate):
        return learner.advance()


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
