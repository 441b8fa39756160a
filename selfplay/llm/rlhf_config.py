"""Settings of learning from preferences: what is meant, the pairs, the reward model, the climb."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from selfplay.algorithms import PGConfig, algorithm


@dataclass(frozen=True)
class GoldConfig:
    """The true reward: weights of the verifier's parts (``rewards.reward``)."""

    accuracy: float = 1.0
    partial: float = 0.0
    format: float = 0.0
    length_cost: float = 0.0  #: taken off a character

    def weights(self) -> dict[str, float]:
        """Of the parts that count."""
        parts = {"accuracy": self.accuracy, "partial": self.partial, "format": self.format,
                 "length": -self.length_cost}
        return {part: weight for part, weight in parts.items() if weight}


@dataclass(frozen=True)
class PairConfig:
    """Preference pairs: a file's, or made of the policy's own samples."""

    file: str = ""  #: JSON lines of prompt, chosen, rejected; none: made here
    count: int = 4000  #: pairs to make, those held out included
    noise: float = 0.0  #: share of the labels made here that are turned round
    held_out: float = 0.2  #: share of the prompts whose pairs are kept for measuring


@dataclass(frozen=True)
class RewardConfig:
    """How a reward model is trained."""

    net: str = ""  #: LAYERSxWIDTH of a small one of its own; none: a copy of the policy's backbone
    batch_size: int = 64  #: pairs a step
    learning_rate: float = 6e-4
    weight_decay: float = 1e-2
    epochs: int = 30  #: at most
    patience: int = 4  #: epochs without a lower held-out loss before training ends


@dataclass(frozen=True)
class RLHFConfig:
    """How a policy climbs a reward model, and how far."""

    algorithm: Literal["ppo", "grpo", "rloo"] = "ppo"
    prompts: int = 64  #: a step
    group: int = 8  #: completions a prompt
    steps: int = 300
    epochs: int = 1  #: times that a batch is gone through
    minibatches: int = 1  #: parts of it, an optimizer step each
    learning_rate: float = 1e-4
    kl_weight: float = 0.05  #: of the divergence, taken off the reward token by token; 0: free
    kl_budget: float = 0.0  #: nats a completion from the reference that end the run; 0: no budget
    adapt: bool = False  #: steer kl_weight so that half the budget is kept to
    entropy_weight: float = 0.0
    cut_penalty: float = 1.0  #: taken off the reward of a completion cut off before its end
    evaluate_every: int = 10  #: steps between two looks at the held-out prompts
    held_prompts: int = 256
    held_samples: int = 4  #: completions of each at a look
    best_of: int = 64  #: samples of the reference a prompt, for best-of-n; 0: none

    def objective(self, length: float) -> PGConfig:
        """Settings of the core, for completions of ``length`` tokens in the mean.

        The core adapts its weight to nats a token; the run is ended by the budget alone.
        """
        target = self.kl_budget / 2 / max(length, 1.0) if self.adapt else 0.0
        return replace(
            algorithm(self.algorithm), kl_in="reward", kl_estimator="k1", kl_weight=self.kl_weight,
            kl_target=target, kl_horizon=20.0 * self.prompts * self.group, max_kl=math.inf,
            epochs=self.epochs, minibatches=self.minibatches, learning_rate=self.learning_rate,
            entropy_weight=self.entropy_weight)
