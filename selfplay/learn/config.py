"""The policy-gradient algorithms, as settings of one objective.

An algorithm is a point in this space, not a class: ``ALGORITHMS`` has those with a name, and every
field may be changed by itself. What the fields do is in ``advantages`` and ``policy_gradient``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from selfplay.common.limits import Amount, Count, Positive, Share, Whole

INFINITE = 1e9  #: a clip so wide clips nothing


@dataclass(frozen=True)
class PGConfig:
    """One policy-gradient objective, and how often a batch of trajectories is used for it."""

    estimator: Literal["return", "mean", "gae", "group", "leave_one_out"] = "gae"
    #: return: the discounted return (REINFORCE: Williams 1992); mean: less its batch mean;
    #: gae: Schulman et al. 2016, arXiv:1506.02438, the only one with a critic (lam=1: the return
    #: less the critic's value); group: GRPO (Shao et al. 2024, arXiv:2402.03300); leave_one_out:
    #: RLOO (Ahmadian et al. 2024, arXiv:2402.14740)
    gamma: Share = 1.0  #: discount a step
    lam: Share = 0.95  #: GAE's lambda
    normalise_std: bool = True  #: divide by the group's std (GRPO); False: Dr. GRPO, 2503.20783
    whiten: bool = False  #: advantages to mean 0 and deviation 1 over the batch's steps (PPO)
    clip_low: Amount = 0.2  #: the ratio is clipped at 1 minus this (PPO: 1707.06347, eq. 7)
    clip_high: Amount = 0.2  #: the ratio is clipped at 1 plus this (DAPO: 0.28, 2503.14476)
    ratio: Literal["token", "sequence"] = "token"
    #: to the sampling policy, of each token or of the whole sequence (GSPO: Zheng et al. 2025,
    #: 2507.18071)
    average: Literal["token", "sequence", "constant"] = "token"
    #: over all steps alike (PPO, DAPO), each trajectory's mean alike (GRPO), or over
    #: ``constant_length`` steps a trajectory, however many it has (Dr. GRPO)
    constant_length: Whole = 0  #: for average=constant; 0: the longest possible (``sized``)
    kl_weight: Amount = 0.0  #: weight of the KL to the reference policy; 0: no reference
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"  #: Schulman 2020, joschu.net/blog/kl-approx.html
    kl_in: Literal["loss", "reward"] = "loss"  #: reward: off each step's reward (RLHF)
    kl_target: Amount = 0.0  #: adapt kl_weight towards so many nats a step (1909.08593); 0: fixed
    kl_horizon: Positive = 10_000.0  #: trajectories over which kl_weight adapts
    value_weight: Amount = 0.0  #: weight of the critic's loss; 0: no critic
    value_clip: Amount = 0.2  #: largest move of the critic in an update; 0: no limit
    entropy_weight: Amount = 0.0  #: weight of the entropy bonus
    epochs: Count = 1  #: passes over a batch
    minibatches: Count = 1  #: parts of a batch; each is one optimizer step
    learning_rate: Positive = 1e-4  #: of AdamW
    weight_decay: Amount = 0.0  #: of AdamW
    grad_clip: Positive = 1.0  #: largest norm of the gradient
    stop_kl: Amount = 0.0  #: KL to the sampling policy (nats a step) that ends a batch; 0: never
    max_kl: Positive = 5.0  #: KL to sampling or reference policy (nats a step) that ends the run


_PPO = dict[str, Any](estimator="gae", whiten=True, value_weight=0.5, epochs=3, minibatches=4,
                      stop_kl=0.05)
_GRPO = dict[str, Any](estimator="group", average="sequence")
_REINFORCE = dict[str, Any](clip_low=INFINITE, clip_high=INFINITE)

#: What differs from the defaults above, by name.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "reinforce": {**_REINFORCE, "estimator": "mean"},
    "rloo": {**_REINFORCE, "estimator": "leave_one_out"},
    "ppo": _PPO,
    "grpo": _GRPO,
    "dr_grpo": {**_GRPO, "normalise_std": False, "average": "constant"},
    "dapo": {**_GRPO, "average": "token", "clip_high": 0.28},
    "gspo": {**_GRPO, "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
}


def algorithm(name: str, **changes: Any) -> PGConfig:
    """The settings of a named algorithm. Raises KeyError for a name that is not in ALGORITHMS."""
    return PGConfig(**{**ALGORITHMS[name], **changes})


def sized(config: PGConfig, longest: int) -> PGConfig:
    """``config`` for trajectories of at most ``longest`` steps (sample.max_new_tokens of texts,
    max_moves of games), which constant_length is where it was left open. Were it the longest of a
    minibatch, what a step counts would vary with the lengths beside it (2503.20783, sec. 3.1)."""
    if config.average == "constant" and not config.constant_length:
        return replace(config, constant_length=longest)
    return config


@dataclass(frozen=True)
class PlateauConfig:
    """Training on rows until the held-out curve is flat."""

    batch_size: Count = 256  #: rows in a batch
    learning_rate: Positive = 2e-3  #: of AdamW, at the start
    weight_decay: Amount = 1e-2  #: of AdamW
    evaluate_every: Count = 200  #: steps between two evaluations on held-out rows
    gain: Share = 0.005  #: share of the held-out loss to be gained in ``patience`` evaluations
    patience: Count = 4  #: evaluations without that gain before the learning rate drops
    drops: Whole = 2  #: drops (each to 0.3 of the rate) before the curve counts as flat
    max_steps: Count = 100_000  #: most steps, flat or not
