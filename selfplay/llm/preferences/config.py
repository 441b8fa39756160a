"""Settings of learning from preferences: pairs, reward models, DPO and RLHF."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from selfplay.common.limits import Amount, Count, Positive, Share, Whole
from selfplay.learn.config import PGConfig, algorithm
from selfplay.learn.plateau_config import PlateauConfig


@dataclass(frozen=True)
class PairConfig:
    """Preference pairs: a file's, or made of the policy's own samples."""

    file: str = ""  #: JSON lines of prompt, chosen, rejected; none: made here
    count: Count = 4000  #: pairs to make, those held out included
    noise: Share = 0.0  #: share of the labels made here that are turned the wrong way round
    held_out: Share = 0.2  #: share of the prompts whose pairs are only measured on


@dataclass(frozen=True)
class RewardConfig:
    """How a reward model is trained."""

    net: str = ""  #: LAYERSxWIDTH of a small new model; none: a copy of the policy's backbone
    batch_size: Count = 64  #: pairs a step
    learning_rate: Positive = 6e-4  #: AdamW's
    weight_decay: Amount = 1e-2  #: AdamW's
    epochs: Count = 30  #: times that all pairs are learnt, at most
    patience: Count = 4  #: epochs without a lower held-out loss before training ends


@dataclass(frozen=True)
class DPOConfig(PlateauConfig):
    """Learning from preferences without RL (Rafailov et al. 2023, arXiv:2305.18290)."""

    beta: Positive = 0.1  #: the KL weight that the preferences are taken to come from (eq. 7)
    batch_size: Count = 64  #: pairs a step
    learning_rate: Positive = 2e-4  #: of AdamW, at the start
    evaluate_every: Count = 20  #: steps between two looks at the held-out pairs and questions
    drops: Whole = 0  #: drops (each to 0.3 of the rate) before the curve counts as flat
    warmup: Whole = 20  #: steps over which the rate rises from 0
    grad_clip: Positive = 1.0  #: largest norm of the gradient
    looked_at: Count = 128  #: held-out questions answered at a look


@dataclass(frozen=True)
class RLHFConfig:
    """How a policy learns from a reward model, and how far it may go."""

    algorithm: Literal["ppo", "grpo", "rloo"] = "ppo"  #: of the policy gradient
    prompts: Count = 64  #: prompts a step
    group: Count = 8  #: completions a prompt
    steps: Count = 300  #: steps at most
    epochs: Count = 1  #: times that a batch is learnt
    minibatches: Count = 1  #: parts of a batch, an optimizer step each
    learning_rate: Positive = 1e-4  #: AdamW's
    kl_weight: Amount = 0.05  #: weight of the KL in each token's reward; 0: not held back
    kl_budget: Amount = 0.0  #: nats a completion from the reference that end the run; 0: no budget
    adapt: bool = False  #: steer kl_weight towards half the budget
    entropy_weight: Amount = 0.0  #: weight of the entropy bonus
    cut_penalty: Amount = 1.0  #: taken off the reward of a completion cut off before its end
    evaluate_every: Count = 10  #: steps between two looks at the held-out prompts
    held_prompts: Count = 256  #: held-out prompts looked at
    held_samples: Count = 4  #: completions of each at a look
    best_of: Whole = 64  #: samples of the reference a prompt, for best-of-n; 0: none

    def objective(self, length: float) -> PGConfig:
        """The settings of the policy gradient, for completions of ``length`` tokens on average: its
        KL target is in nats a token. Only the budget ends the run, so ``max_kl`` is infinite."""
        target = self.kl_budget / 2 / max(length, 1.0) if self.adapt else 0.0
        return replace(
            algorithm(self.algorithm), kl_in="reward", kl_weight=self.kl_weight, kl_target=target,
            kl_horizon=20.0 * self.prompts * self.group, max_kl=math.inf,
            epochs=self.epochs, minibatches=self.minibatches, learning_rate=self.learning_rate,
            entropy_weight=self.entropy_weight)
