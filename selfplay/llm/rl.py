"""Reinforcement learning of a language model: ask -> answer -> judge -> update -> repeat.

The update is ``learn.policy_gradient``'s, which games use as well; nothing here knows a loss. Step
k depends on (seed, k) and the weights alone.

``TextLearner`` learns from a reward that is the goal itself; ``preferences.rlhf`` from a reward
model.
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

from selfplay.common.errors import Absent, UserError
from selfplay.common.stats import wilson
from selfplay.learn import advantages
from selfplay.learn.config import PGConfig, sized
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Rollout
from selfplay.llm import policy as rollouts
from selfplay.llm.generate import Generator, Sampling
from selfplay.llm.memory import Memory
from selfplay.llm.models import end_tokens
from selfplay.llm.passes import read
from selfplay.llm.policy import (
    Judge,
    Net,
    Reward,
    SampledBatch,
    TextPolicy,
    value_model,
    verifier,
)
from selfplay.llm.rewards import Example, Questions, step_figures
from selfplay.llm.stage_config import TextRLConfig

FIRST = 1 << 20  #: number of the first batch of prompts; SFT takes those from 0 on

Row = dict[str, Any]
Show = Callable[[list[Row]], None]
#: Measures a named part of a step, such as ``run.keep.Watch``.
Watching = Callable[[str], AbstractContextManager[None]]


def unwatched(name: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


@dataclass(frozen=True)
class RewardedTask:
    """What is learnt: questions, and what their answers are worth."""

    task: Questions
    reward: Reward = verifier
    weights: Mapping[str, float] = field(default_factory=lambda: {"accuracy": 1.0})
    gold: Judge | None = None  #: the true reward where ``reward`` is a proxy; measured, not learnt
    turns: int = 1  #: completions of a trajectory at most


class RewardLearner:
    """A policy that learns from rewards, as it is between two steps.

    model, tokenizer: the policy, trained in place. critic: whether a value model learns beside it.
    reference: the model to stay near. generator: writes completions in torch's place. markers:
    words that are counted in completions.
    """

    optimizer: PolicyOptimizer
    ahead: Any = None  #: asks for the answers of later steps, if anything does (``engines.ahead``)

    def __init__(
        self, goal: RewardedTask, model: nn.Module, tokenizer: Any, reference: nn.Module | None, *,
        critic: bool, group: int, questions: int, sampling: Sampling, device: str, seed: int,
        markers: Sequence[str], generator: Generator | None, memory: Memory,
    ) -> None:
        self.goal, self.tokenizer, self.seed, self.markers = goal, tokenizer, seed, markers
        self.reference = reference  #: costs memory and a forward pass: only where it is needed
        value = value_model(model) if critic else None
        net = Net(model, value).to(device).eval()
        for part in filter(None, (model, value, reference)):
            memory.shard(part)
        self.policy = TextPolicy(net, end_tokens(model, tokenizer), tokenizer.pad_token_id,
                                 sampling, group, generator, tokenizer, memory)
        self.held_out = goal.task.held_out(questions)
        self.step = 0
        self.compute: dict[str, float] = {}
        self.history: list[Row] = []  #: the rows so far, where they are kept

    def ask(self, examples: Sequence[Example], seed: int, policy: TextPolicy | None = None
            ) -> SampledBatch:
        """``policy``'s completions (None: those of the policy that learns), with their rewards."""
        return rollouts.sample_batch(policy or self.policy, self.tokenizer, examples,
                                     self.goal.reward, self.goal.weights, seed)

    def learn(self, rollout: Rollout, stream: int) -> tuple[dict[str, float], Rollout]:
        """(figures of one update, the rollout with all that it was learnt by). stream: numbers the
        random numbers that order the minibatches.

        With a generator: act_kl, how far what wrote is from the policy that learns, by its
        arithmetic and by its weights (k3, nats a token), ``advantages.sampler_figures`` and
        ``Generator.figures``.
        """
        fixed = rollouts.evaluated(rollout, self.policy, self.reference)
        found = self.optimizer(fixed, np.random.default_rng([self.seed, stream, self.step]))
        if self.policy.generator is not None:
            pg = self.optimizer.config
            found["act_kl"] = rollouts.mean_kl(rollout.logp, fixed.logp, fixed.mask)
            found |= advantages.sampler_figures(fixed.logp, rollout.logp, fixed.mask, pg.mismatch,
                                                pg.mismatch_most)
            found |= self.policy.generator.figures()
        if self.ahead is None:
            self.policy.refresh()
        else:
            self.ahead.hand_over(self.policy.net.policy, self.step + 1)
        return found, fixed

    def samples(self, count: int) -> list[Row]:
        """``count`` held-out prompts and what is answered now: rows of samples.jsonl, with the
        parts of the reward and, where it is known, gold."""
        batch = self.ask(self.held_out[:count], self.seed + self.step,
                         replace(self.policy, group=1))
        parts = dict(batch.parts)
        if self.goal.gold is not None:
            parts["gold"] = self.goal.gold(batch.completions, batch.examples)
        texts = zip(batch.examples, batch.completions.texts, strict=True)
        return [{"step": self.step, "prompt": example.prompt, "completion": text,
                 "wanted": example.answer, **{key: float(part[i]) for key, part in parts.items()}}
                for i, (example, text) in enumerate(texts)]


# ----------------------------------------------------------------------------- a verifiable reward


class TextLearner(RewardLearner):
    """Learning from a reward that is the goal itself."""

    def __init__(
        self, goal: RewardedTask, model: nn.Module, tokenizer: Any, config: TextRLConfig,
        pg: PGConfig, *,
        sampling: Sampling, device: str = "cpu", seed: int = 0, first_batch: int = FIRST,
        reference: nn.Module | None = None, generator: Generator | None = None,
        first_model: Callable[[], Any] | None = None, memory: Memory | None = None,
        ahead: Callable[..., Any] | None = None,
    ) -> None:
        """first_batch: number of the first batch of prompts. reference: needed where the KL penalty
        has a weight. first_model: makes the model that learning began with, for ``watch_kl``; None
        does not watch. ahead: makes ``engines.ahead.Ahead`` of a generator elsewhere. Raises
        UserError for groups of one that want to be compared."""
        groups_must_fit(config, pg)
        super().__init__(
            goal, model, tokenizer, reference,
            critic=pg.estimator == "gae" or pg.value_weight > 0, group=config.group,
            questions=config.evaluate_prompts, sampling=sampling, device=device, seed=seed,
            markers=config.markers, generator=generator, memory=memory or Memory())
        self.config, self.first_batch, self.first_model = config, first_batch, first_model
        self.optimizer = PolicyOptimizer(self.policy, sized(
            pg, sampling.max_new_tokens * goal.turns), device, cut=self.policy.parts)
        self.compute = {"tokens": 0.0, "flops": 0.0}
        self.on_reset: Callable[[], None] = lambda: None  #: the policy has become the reference
        self.asks_ahead = ahead

    def gather(self) -> tuple[SampledBatch | None, dict[str, float]]:
        """(what this step learns from, figures of everything that was asked for it)."""
        return self.gather_for(self.step)

    def gather_for(self, step: int) -> tuple[SampledBatch | None, dict[str, float]]:
        """``gather`` of any step, by the weights as they are."""
        config, asked, useful = self.config, list[SampledBatch](), list[SampledBatch]()
        most = config.prompts * config.group
        for draw in range(config.draws if config.no_signal == "resample" else 1):
            number = self.first_batch + step * config.draws + draw
            seed = int(np.random.SeedSequence([self.seed, step, draw]).generate_state(1)[0])
            batch = self.ask(self.goal.task.batch(number, config.prompts), seed)
            asked.append(batch)
            kept = batch if config.no_signal == "keep" else rollouts.with_signal(batch)
            useful += [kept] if kept else []
            if sum(len(b.examples) for b in useful) >= most:
                break
        found = batch_figures(rollouts.joined_batches(asked), self.markers)
        if not useful:
            return None, found
        whole = rollouts.joined_batches(useful)
        return whole.rows(torch.arange(min(len(whole.examples), most))), found

    def advance(self, watch: Watching = unwatched) -> Row:
        """One step; its row. staleness in it: the steps between the weights that wrote and those
        that learn, where answers are asked ahead. watch: with "generate" and "update" around the
        two halves. Raises Breakdown where learning breaks down, Absent before it begins."""
        with watch("generate"):
            if self.ahead is None:
                batch, row = self.gather()
            else:
                stale, (batch, row) = self.ahead.batch(self.step)
                row["staleness"] = float(stale)
        with watch("update"):
            every = self.optimizer.config.reset_every
            if every and self.step and self.step % every == 0 and self.reference is not None:
                self.reference.load_state_dict(self.policy.net.policy.state_dict())
                self.optimizer.trainer.forget()
                self.on_reset()
            if batch is not None:
                row |= self.learn(batch.rollout, 0x52)[0]
        self.step += 1
        self.compute["tokens"] += row["tokens"]
        self.compute["flops"] += self._flops(row, batch)
        return {"step": self.step, **row,
                **{f"total_{key}": value for key, value in self.compute.items()}}

    def _flops(self, row: Mapping[str, float], batch: SampledBatch | None) -> float:
        """Of a step, with what ``prompt_tokens`` counts: 2 for each parameter and token read, 4
        more for each parameter that learns (Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1), 2 more
        for each frozen one that only passes the gradient on."""
        net = self.policy.net
        policy, whole = (sum(p.numel() for p in part.parameters()) for part in (net.policy, net))
        found = 2.0 * policy * (row["tokens"] + row["prompt_tokens"])
        if batch is None:
            return found
        read = float(batch.rollout.mask.sum()) + self.read_tokens(batch.rollout)
        passes = row["updates"] / self.optimizer.config.minibatches
        again = (self.reference is not None) + (self.policy.generator is not None)
        before = whole - policy + again * policy
        learnt = sum(p.numel() * (6.0 if p.requires_grad else 4.0) for p in net.parameters())
        return found + read * (2.0 * before + learnt * passes)

    def read_tokens(self, rollout: Rollout) -> float:
        """Tokens of the prompts that an evaluation of ``rollout`` reads."""
        return prompt_tokens(rollout)

    def look(self) -> dict[str, float]:
        """Accuracy on the held-out prompts, at temperature 1 and greedy, with intervals; ref_kl of
        the completions at temperature 1, where no reference gives it at every step."""
        sampled, greedy = self.answers(1.0), self.answers(0.0)
        found = {f"{name}_{key}": value
                 for name, batch in (("sampled", sampled), ("greedy", greedy))
                 for key, value in batch_accuracy(batch).items()}
        if self.config.watch_kl and self.step and self.first_model and self.reference is None:
            found["ref_kl"] = self._drift(sampled.rollout, self.first_model())
        return found

    def answers(self, temperature: float) -> SampledBatch:
        """One completion of each held-out prompt, as the verifier judges them."""
        sampling = replace(self.policy.sampling, temperature=temperature, top_p=1.0)
        policy = replace(self.policy, group=1, sampling=sampling)
        return rollouts.sample_batch(policy, self.tokenizer, self.held_out, verifier,
                                     {"accuracy": 1.0}, self.seed)

    def _drift(self, rollout: Rollout, first_model: Any) -> float:
        """The divergence from the first model, of completions at temperature 1 (k3, nats a
        token)."""
        mine = replace(self.policy, net=Net(self.policy.net.policy), sampling=Sampling())
        seen = rollouts.evaluated(rollout, mine, first_model.to(rollout.action.device).eval())
        assert seen.ref_logp is not None
        return rollouts.mean_kl(seen.logp, seen.ref_logp, seen.mask)

    def rows(self, *, stop: Callable[[], bool] = lambda: False,
             show: Show = lambda samples: None, watch: Watching = unwatched) -> Iterator[Row]:
        """Learn until ``config.steps`` or ``stop()``; a row a step. The learner is complete at each
        row: stop anywhere, save it, go on with the same learner.

        show: gets some completions (``samples``) at every look. watch: see ``advance``. Raises
        Breakdown where learning breaks down, Absent where what writes completions does not answer:
        the learner is then as its last row says.
        """
        config = self.config
        if self.asks_ahead is not None and self.policy.generator is not None:
            self.policy.refresh()  # an earlier call may have ended with older ones in place
            self.ahead = self.asks_ahead(self.gather_for, self.policy.generator.refresh, self.step)
        try:
            while self.step < config.steps and not stop():
                looked = {} if self.step else self._in_turn(self.look)
                first = {f"start_{k}": v for k, v in looked.items()}
                row, gone = {**self.advance(watch), **first}, None
                if self.step % config.evaluate_every == 0 or self.step == config.steps:
                    try:
                        row |= self._in_turn(self.look)
                        show(self._in_turn(lambda: self.samples(config.shown)))
                    except Absent as error:  # what has been learnt is kept first
                        gone = error
                yield row
                if gone is not None:
                    raise gone
        finally:
            if self.ahead is not None:
                self.ahead.close()
                self.ahead = None

    def _in_turn(self, work: Callable[[], Any]) -> Any:
        return work() if self.ahead is None else self.ahead.in_turn(work)


def batch_accuracy(batch: SampledBatch) -> dict[str, float]:
    """The share of right answers with its 95% interval (Wilson), their number, mean tokens."""
    right = float(batch.parts["accuracy"].mean())
    low, high = wilson(right, len(batch.examples))
    return {"accuracy": right, "low": low, "high": high, "n": len(batch.examples),
            "length": float(batch.rollout.mask.sum(1).float().mean())}


def batch_figures(batch: SampledBatch, markers: Sequence[str]) -> dict[str, float]:
    """Means over completions: reward and its parts, length (tokens), ended, markers (how often one
    of these words stands in a completion); ``rewards.step_figures``; no_signal, the share of groups
    whose completions all have the same reward; completions, tokens (of completions) and
    ``prompt_tokens``, their numbers."""
    rollout, texts = batch.rollout, batch.completions.texts
    score = advantages.scores(rollout.reward, rollout.mask)
    signal = advantages.signal(score, rollout.group)
    lengths = rollout.mask.sum(1)
    return {"reward": float(score.mean()),
            **{f"reward_{key}": float(part.float().mean()) for key, part in batch.parts.items()},
            "length": float(lengths.float().mean()),
            "ended": sum(batch.completions.ended) / len(texts),
            "markers": count_markers(texts, markers) / len(texts),
            **(step_figures(texts, (batch.parts["accuracy"] >= 1).tolist())
               if "accuracy" in batch.parts else {}),  # which moves in games have not
            "no_signal": 1 - float(signal.float().mean()),
            "completions": float(len(texts)), "tokens": float(lengths.sum()),
            "prompt_tokens": prompt_tokens(rollout)}


def prompt_tokens(rollout: Rollout) -> float:
    """Tokens of a rollout that were read and not written: those of the prompts, each prompt once,
    and what an environment said between the policy's turns."""
    share, mask = len(torch.unique(rollout.group)) / len(rollout), rollout.mask
    said = read(mask).sum() - mask.sum()
    return share * float(rollout.inputs["prompt_mask"].sum()) + float(said)


def count_markers(texts: Sequence[str], markers: Sequence[str]) -> int:
    """How often one of the words ``markers`` stands in ``texts``, as a whole word of any case."""
    if not markers:
        return 0
    words = re.compile(rf"\b(?:{'|'.join(map(re.escape, markers))})\b", re.IGNORECASE)
    return sum(len(words.findall(text)) for text in texts)


def groups_must_fit(config: TextRLConfig, pg: PGConfig) -> None:
    """Raises UserError where an algorithm compares the answers of a group and groups have one."""
    alone = pg.estimator in ("group", "leave_one_out") or config.no_signal != "keep"
    if alone and config.group < 2:
        raise UserError(f"rl.group={config.group}: groups of 2 or more are compared with "
                        f"pg.estimator={pg.estimator}, rl.no_signal={config.no_signal}; "
                        "raise --set rl.group")
