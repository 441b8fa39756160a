"""Preferences without a reward model and without RL: direct preference optimisation (Rafailov et
al. 2023, arXiv:2305.18290).

beta (log p - log reference) of an answer is the reward for which the policy would be optimal under
a KL penalty of weight beta (eq. 5); the likelihood of Bradley and Terry of the preferences, with
that as the reward, is the loss (eq. 7). Axes: M pairs, N texts of T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.learn import checkpoint
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.learn.plateau import Lesson
from selfplay.learn.rollout import Rollout
from selfplay.llm.evaluate import accuracy, greedy_and_sampled
from selfplay.llm.folder import save_checkpoint
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.memory import Memory
from selfplay.llm.models import complete, end_tokens, load_model, padded_tokens, prompt_of
from selfplay.llm.policy import Net, TextPolicy, evaluated
from selfplay.llm.preferences.config import DPOConfig
from selfplay.llm.preferences.overoptimism import judged
from selfplay.llm.preferences.pairs import Pair
from selfplay.llm.preferences.reward_model import bradley_terry
from selfplay.llm.rewards import Questions
from selfplay.run.keep import Kept, Row, learn_until_flat

PART = 16  #: pairs of a forward and backward pass


class Sides(NamedTuple):
    """Pairs to learn from. pairs: in the batch that they are a part of."""

    chosen: Rollout
    rejected: Rollout
    pairs: int

    def rows(self, index: Tensor, count: int) -> Sides:
        """Some of the pairs."""
        return Sides(self.chosen.rows(index), self.rejected.rows(index), count)


def answers_given(
    tokenizer: Any, pairs: Sequence[Pair], completions: Sequence[str], policy: TextPolicy,
    reference: nn.Module,
) -> Rollout:
    """Answers that somebody gave to the prompts of ``pairs``, as trajectories with the reference's
    log-probabilities."""
    asked, asked_mask = padded_tokens([prompt_of(tokenizer, pair) for pair in pairs],
                                      policy.pad, left=True)
    action, mask = padded_tokens([complete(tokenizer, text) for text in completions], policy.pad)
    none = torch.zeros(mask.shape)
    whole = Rollout({"prompt": asked, "prompt_mask": asked_mask}, action, mask, none, none,
                    torch.arange(len(mask)))
    return evaluated(whole, replace(policy, net=Net(policy.net.policy)), reference)


def sides_of(
    tokenizer: Any, pairs: Sequence[Pair], policy: TextPolicy, reference: nn.Module
) -> Sides:
    """``pairs`` as tokens. The reference looks at them once, and is not needed again."""
    chosen, rejected = (answers_given(tokenizer, pairs, texts, policy, reference) for texts in
                        ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]))
    return Sides(chosen, rejected, len(pairs))


def implicit_reward(policy: TextPolicy, side: Rollout, beta: float) -> Tensor:
    """float32 [N]: beta (log p - log reference) of whole answers."""
    assert side.ref_logp is not None
    gap = policy.evaluate(side).logp - side.ref_logp
    return beta * torch.where(side.mask, gap, 0.0).sum(1)


def dpo_loss(policy: TextPolicy, sides: Sides, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(eq. 7, the share of pairs told apart and the mean margin), scalars of a part of a batch that
    add up to the batch's means."""
    chosen, rejected = (implicit_reward(policy, side, beta) for side in sides[:2])
    margin = (chosen - rejected).detach()
    return bradley_terry(chosen, rejected).sum() / sides.pairs, {
        "accuracy": (margin > 0).float().sum() / sides.pairs, "margin": margin.sum() / sides.pairs}


def dpo_trainer(policy: TextPolicy, config: DPOConfig, device: str) -> Trainer:
    """A trainer of ``Sides``; ``policy.net`` is trained in place."""
    def loss(net: Any, sides: Sides) -> tuple[Tensor, dict[str, Tensor]]:
        return dpo_loss(replace(policy, net=net), sides, config.beta)

    def parts(sides: Sides) -> list[Sides]:
        return [sides.rows(rows, sides.pairs) for rows in torch.arange(sides.pairs).split(PART)]

    return Trainer(policy.net, loss, OptimizerConfig(
        config.learning_rate, config.weight_decay, grad_clip=config.grad_clip,
        warmup=config.warmup), device=device, parts=parts, called="DPO step")


def dpo_batches(sides: Sides, size: int, seed: int, step: int) -> Generator[Sides, None, None]:
    """The batches from number ``step`` on; epoch after epoch, each in an order of its own."""
    size = min(size, sides.pairs)
    each = sides.pairs // size
    for number in itertools.count(step):
        order = np.random.default_rng([seed, 0xD9, number // each]).permutation(sides.pairs)
        start = number % each * size
        yield sides.rows(torch.from_numpy(order[start:start + size]), size)


def train_dpo(
    init: Path, pairs: Sequence[Pair], held_out: Sequence[Pair], task: Questions,
    config: DPOConfig, folder: Path, *, questions: int, sampling: Sampling, seed: int,
    device: str = "cpu", memory: Memory = Memory(), **hooks: Any,  # noqa: B008
) -> Path:
    """Learn ``pairs`` from the model in ``init``, which is the reference, in a stage's ``folder``
    until the loss of ``held_out`` falls no more; the checkpoint of the lowest. Goes on from the
    folder's newest checkpoint. hooks: see ``run.keep.learn_until_flat``.

    Rows have tokens, loss and accuracy (held-out pairs), greedy and sampled (of ``questions``
    held-out questions)."""
    reference, tokenizer = load_model(init)
    newest = checkpoint.newest(folder)
    model = load_model(newest)[0] if newest else load_model(init)[0]
    model = memory.shard(memory.held(model).to(device))
    policy = TextPolicy(Net(model).eval(), end_tokens(model, tokenizer),
                        tokenizer.pad_token_id, memory=memory)
    reference = memory.shard(reference.to(device).eval())
    learnt, apart = (sides_of(tokenizer, some, policy, reference) for some in (pairs, held_out))
    del reference
    trainer, generator = dpo_trainer(policy, config, device), TorchGenerator(
        model, policy.ends, policy.pad, tokenizer)

    def look() -> dict[str, Any]:
        with torch.no_grad():
            rewards = [torch.cat([implicit_reward(policy, side.rows(rows), config.beta)
                                  for rows in torch.arange(apart.pairs).split(PART)])
                       for side in apart[:2]]
        best, sampled = greedy_and_sampled(generator, tokenizer, task.held_out(questions), 4,
                                           sampling, seed)
        return {**judged(*rewards), "greedy": accuracy(best), "sampled": accuracy(sampled)}

    def size(sides: Sides) -> int:
        return int(sides.chosen.mask.sum() + sides.rejected.mask.sum())

    lesson = Lesson(lambda step: dpo_batches(learnt, config.batch_size, seed, step), look, "loss",
                    unit="tokens", flops=6 * sum(p.numel() for p in model.parameters()), size=size)

    def save(path: Path, row: Row) -> None:
        save_checkpoint(path, model, tokenizer, trainer.state(), {
            "kind": "dpo", "step": row["step"],
            "compute": {key: row[key] for key in ("seconds", "flops", "tokens")},
            "metrics": {key: row[key] for key in ("loss", "accuracy", "margin")}})

    kept = Kept(folder, save, keep=checkpoint.LAST,
                breakdown=("--model", "dpo.learning_rate", config.learning_rate))
    return learn_until_flat(trainer, lesson, config, kept, **hooks)
