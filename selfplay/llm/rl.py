"""Reinforcement learning of a language model: ask -> answer -> judge -> update -> repeat.

The update is ``learn.policy_gradient``'s, which games use as well; nothing here knows a loss. Step
k depends on (seed, k) and the weights alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from selfplay.common.errors import UserError
from selfplay.common.stats import wilson
from selfplay.learn import advantages
from selfplay.learn.config import PGConfig, sized
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Rollout
from selfplay.llm import policy as rollouts
from selfplay.llm.config import TextRLConfig
from selfplay.llm.generate import Sampling
from selfplay.llm.models import Net, end_tokens, value_model
from selfplay.llm.policy import Reward, SampledBatch, TextPolicy, verifier
from selfplay.llm.tasks import Task

FIRST = 1 << 20  #: number of the first batch of prompts; SFT takes those from 0 on


@dataclass(frozen=True)
class RewardedTask:
    """What is learnt: questions, and what their answers are worth."""

    task: Task
    reward: Reward = verifier
    weights: Mapping[str, float] = field(default_factory=lambda: {"accuracy": 1.0})


class TextLearner:
    """The state of learning between two steps."""

    def __init__(
        self, job: RewardedTask, model: nn.Module, tokenizer: Any, config: TextRLConfig,
        pg: PGConfig, *,
        sampling: Sampling, device: str = "cpu", seed: int = 0, number: int = FIRST,
        reference: nn.Module | None = None, first: Callable[[], Any] | None = None,
    ) -> None:
        """model, tokenizer: trained in place. number: of the first batch of prompts. reference: the
        model that it stays near to, where the KL penalty has a weight. first: makes the model that
        it began as, for ``watch_kl``; None does not watch."""
        groups_must_fit(config, pg)
        self.job, self.config, self.seed = job, config, seed
        self.tokenizer, self.number, self.first = tokenizer, number, first
        critic = pg.estimator == "gae" or pg.value_weight > 0
        net = Net(model, value_model(model) if critic else None).to(device).eval()
        self.policy = TextPolicy(net, end_tokens(model, tokenizer), tokenizer.pad_token_id,
                                 sampling, config.group)
        self.reference = reference  #: costs memory and a forward pass, so only where it is wanted
        self.optimizer = PolicyOptimizer(self.policy, sized(pg, sampling.max_new_tokens), device)
        self.step, self.compute = 0, {"tokens": 0.0, "flops": 0.0}
        self.held = job.task.held_out(config.evaluate_prompts)

    def gather(self) -> tuple[SampledBatch | None, dict[str, float]]:
        """(what this step learns from, figures of all that was asked for it)."""
        config, asked, useful = self.config, list[SampledBatch](), list[SampledBatch]()
        for draw in range(config.draws if config.no_signal == "resample" else 1):
            asked_for = self.number + self.step * config.draws + draw
            examples = self.job.task.batch(asked_for, config.prompts)
            seed = int(np.random.SeedSequence([self.seed, self.step, draw]).generate_state(1)[0])
            batch = rollouts.sample(self.policy, self.tokenizer, examples, self.job.reward,
                                    self.job.weights, seed)
            asked.append(batch)
            kept = batch if config.no_signal == "keep" else rollouts.with_signal(batch)
            useful += [kept] if kept else []
            if sum(len(b.examples) for b in useful) >= config.prompts * config.group:
                break
        figures = figures_of(rollouts.joined(asked), self.config.markers)
        if not useful:
            return None, figures
        whole = rollouts.joined(useful)
        most = torch.arange(min(len(whole.examples), config.prompts * config.group))
        return rollouts.take(whole, most), figures

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One update from a batch of trajectories. act_kl, where it is not torch that wrote them:
        the divergence of the policy as it learns from the one that wrote (k3, nats a token)."""
        fixed = rollouts.evaluated(rollout, self.policy, self.reference)
        rng = np.random.default_rng([self.seed, 0x52, self.step])
        figures = self.optimizer(fixed, rng)
        self.policy.refresh()
        if self.policy.generator is not None:
            figures["act_kl"] = rollouts.divergence(rollout.logp, fixed.logp, fixed.mask)
        return figures

    def advance(
        self, watch: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()
    ) -> dict[str, Any]:
        """One step; its row. watch: with "generate" and "update" around the two halves. Raises
        Breakdown where learning breaks down."""
        with watch("generate"):
            batch, row = self.gather()
        with watch("update"):
            if batch is not None:
                row |= self.learn(batch.rollout)
        self.step += 1
        self.compute["tokens"] += row["tokens"]
        self.compute["flops"] += self._flops(row, batch)
        return {"step": self.step, **row,
                **{f"total_{key}": value for key, value in self.compute.items()}}

    def _flops(self, row: Mapping[str, float], batch: SampledBatch | None) -> float:
        """Of a step, prompts counted once a group: 2 a parameter and token that is read, 4 more
        where it is learnt (Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1), 2 more where a frozen
        one only passes the gradient on."""
        net = self.policy.net
        policy, whole = (sum(p.numel() for p in part.parameters()) for part in (net.policy, net))
        found = 2.0 * policy * (row["tokens"] + row["prompt_tokens"])
        if batch is None:
            return found
        read = float(batch.rollout.mask.sum()) + prompt_tokens(batch.rollout)
        passes = row["updates"] / self.optimizer.config.minibatches
        again = (self.reference is not None) + (self.policy.generator is not None)
        before = whole - policy + again * policy
        learnt = sum(p.numel() * (6.0 if p.requires_grad else 4.0) for p in net.parameters())
        return found + read * (2.0 * before + learnt * passes)

    def look(self) -> dict[str, float]:
        """Accuracy on the held-out prompts, drawn at temperature 1 and greedy, with intervals;
        ref_kl of what was drawn, where no reference tells it at every step."""
        drawn, greedy = self._answered(1.0), self._answered(0.0)
        found = {f"{name}_{key}": value for name, batch in (("sampled", drawn), ("greedy", greedy))
                 for key, value in accuracy_of(batch).items()}
        if self.config.watch_kl and self.step and self.first and self.reference is None:
            found["ref_kl"] = self._drift(drawn.rollout)
        return found

    def _answered(self, temperature: float) -> SampledBatch:
        most = self.policy.sampling.max_new_tokens
        asker = replace(self.policy, group=1, sampling=Sampling(temperature, max_new_tokens=most))
        return rollouts.sample(asker, self.tokenizer, self.held, verifier, {"accuracy": 1.0},
                               self.seed)

    def _drift(self, rollout: Rollout) -> float:
        """The divergence of what was drawn at temperature 1 from the first model (k3, nats a
        token)."""
        assert self.first is not None
        model = self.first().to(rollout.action.device).eval()
        mine = replace(self.policy, net=Net(self.policy.net.policy), sampling=Sampling())
        seen = rollouts.evaluated(rollout, mine, model)
        return rollouts.divergence(seen.logp, seen.ref_logp, seen.mask)

    def samples(self) -> list[dict[str, Any]]:
        """A few held-out prompts and what is answered now."""
        some = rollouts.sample(
            replace(self.policy, group=1), self.tokenizer, self.held[:self.config.shown],
            self.job.reward, self.job.weights, self.seed + self.step)
        return shown(some, self.step)


def improve(
    learner: TextLearner, *,
    stop: Callable[[], bool] = lambda: False,
    show: Callable[[list[dict[str, Any]]], None] = lambda samples: None,
    watch: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Iterator[dict[str, Any]]:
    """Go on until ``config.steps`` or until ``stop()``; a row a step, which the learner has
    finished with: stop anywhere, save it, go on with the same learner.

    show: told some completions (``shown``) at every look. watch: see ``TextLearner.advance``.
    Raises Breakdown where learning breaks down.
    """
    config = learner.config
    while learner.step < config.steps and not stop():
        first = {f"start_{k}": v for k, v in learner.look().items()} if not learner.step else {}
        row = {**learner.advance(watch), **first}
        if learner.step % config.evaluate_every == 0 or learner.step == config.steps:
            row |= learner.look()
            show(learner.samples())
        yield row


def accuracy_of(batch: SampledBatch) -> dict[str, float]:
    """The share of right answers with its 95% interval (Wilson), their number, mean tokens."""
    right = float(batch.parts["accuracy"].mean())
    low, high = wilson(right, len(batch.examples))
    return {"accuracy": right, "low": low, "high": high, "n": len(batch.examples),
            "length": float(batch.rollout.mask.sum(1).float().mean())}


def figures_of(batch: SampledBatch, markers: Sequence[str]) -> dict[str, float]:
    """Means over completions: reward and its parts, length (tokens), ended, markers (how often
    one of these words stands in a completion); no_signal, the share of groups in which all fare
    alike; completions, tokens (of completions) and prompt_tokens, their numbers."""
    rollout, texts = batch.rollout, batch.completions.texts
    score = advantages.scores(rollout.reward, rollout.mask)
    signal = advantages.signal(score, rollout.group)
    lengths = rollout.mask.sum(1)
    return {"reward": float(score.mean()),
            **{f"reward_{key}": float(part.float().mean()) for key, part in batch.parts.items()},
            "length": float(lengths.float().mean()),
            "ended": sum(batch.completions.ended) / len(texts),
            "markers": count_markers(texts, markers) / len(texts),
            "no_signal": 1 - float(signal.float().mean()),
            "completions": float(len(texts)), "tokens": float(lengths.sum()),
            "prompt_tokens": prompt_tokens(rollout)}


def shown(batch: SampledBatch, step: int) -> list[dict[str, Any]]:
    """Completions to read, rows of samples.jsonl: step, prompt, completion, wanted, and the parts
    of the reward."""
    texts = zip(batch.examples, batch.completions.texts, strict=True)
    return [{"step": step, "prompt": example.prompt, "completion": text, "wanted": example.answer,
             **{key: float(part[i]) for key, part in batch.parts.items()}}
            for i, (example, text) in enumerate(texts)]


def prompt_tokens(rollout: Rollout) -> float:
    """Tokens of the prompts of a rollout, each prompt once."""
    share = len(torch.unique(rollout.group)) / len(rollout)
    return share * float(rollout.inputs["prompt_mask"].sum())


def count_markers(texts: Sequence[str], markers: Sequence[str]) -> int:
    """How often one of the words ``markers`` stands in ``texts``, as a whole word of any case."""
    if not markers:
        return 0
    words = re.compile(rf"\b(?:{'|'.join(map(re.escape, markers))})\b", re.IGNORECASE)
    return sum(len(words.findall(text)) for text in texts)


def groups_must_fit(config: TextRLConfig, pg: PGConfig) -> None:
    """Raises UserError where single answers are to be compared with each other."""
    alone = pg.estimator in ("group", "leave_one_out") or config.no_signal != "keep"
    if alone and config.group < 2:
        raise UserError(f"rl.group={config.group}: groups of 2 or more are compared with "
                        f"pg.estimator={pg.estimator}, rl.no_signal={config.no_signal}; "
                        "raise --set rl.group")
