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

    estimator: Literal["return", "mean", "gae", "group", "likelihood", "leave_one_out"] = "gae"
    #: return: the discounted return (REINFORCE: Williams 1992); mean: less its batch mean;
    #: gae: Schulman et al. 2016, arXiv:1506.02438, the only one with a critic (lam=1: the return
    #: less the critic's value); group: GRPO (Shao et al. 2024, arXiv:2402.03300); likelihood:
    #: MaxRL (Tajwar et al. 2026, arXiv:2602.02710); leave_one_out: RLOO (Ahmadian et al. 2024,
    #: arXiv:2402.14740)
    gamma: Share = 1.0  #: discount a step
    lam: Share = 0.95  #: GAE's lambda
    normalise_std: bool = True  #: divide by the group's std (GRPO); False: Dr. GRPO, 2503.20783
    worst: Amount = 0.0
    #: how far below 0 the reward of a trajectory can fall (1 where it ends at -1); MaxRL counts
    #: from there
    whiten: bool = False  #: advantages to mean 0 and deviation 1 over the batch's steps (PPO)
    clip_low: Amount = 0.2  #: the ratio is clipped at 1 minus this (PPO: 1707.06347, eq. 7)
    clip_high: Amount = 0.2  #: the ratio is clipped at 1 plus this (DAPO: 0.28, 2503.14476)
    bounds: Literal["step", "weight"] = "step"
    #: a step beyond the clip has no gradient (PPO), or the one of a step at the clip (CISPO:
    #: MiniMax-M1, 2506.13585, eq. 4)
    ratio: Literal["token", "sequence"] = "token"
    #: to the sampling policy, of each token or of the whole sequence (GSPO: Zheng et al. 2025,
    #: 2507.18071)
    average: Literal["token", "sequence", "constant"] = "token"
    #: over all steps alike (PPO, DAPO), each trajectory's mean alike (GRPO), or over
    #: ``constant_length`` steps a trajectory, however many it has (Dr. GRPO)
    constant_length: Whole = 0
    #: the most steps of a trajectory, for average=constant and overlong; 0: those that the run
    #: allows
    signal_only: bool = False
    #: leave out groups whose trajectories have all earned the same (DAPO's dynamic sampling,
    #: 2503.14476, sec. 3.2; of texts, rl.no_signal=resample asks others in their place)
    overlong: Share = 0.0
    #: share of the longest possible length, at its end, over which a penalty goes from 0 to 1
    #: (DAPO, eq. 13; there 0.2); 0: none
    length_weight: Amount = 0.0
    #: weight of a reward for being shorter than the rest of the group (Kimi k1.5, 2501.12599, sec.
    #: 2.3.3); where the reward is not above 0 it can only cost
    mismatch: Literal["ignore", "truncate", "mask"] = "ignore"
    #: where what wrote the steps differs from the policy that learns: nothing; each step weighs
    #: their ratio, at most mismatch_most (Yao et al. 2025, fengyao.notion.site/off-policy-rl); each
    #: trajectory weighs its whole ratio, or nothing above mismatch_most (Liu et al. 2025, When
    #: Speed Kills Stability)
    mismatch_most: Positive = 2.0  #: see mismatch
    kl_weight: Amount = 0.0  #: weight of the KL to the reference policy; 0: no reference
    kl_estimator: Literal["auto", "k1", "k2", "k3"] = "auto"
    #: Schulman 2020, joschu.net/blog/kl-approx.html; auto: k3 in the loss, k1 in the reward
    kl_in: Literal["loss", "reward"] = "loss"
    #: reward: off each step's reward (RLHF); of advantages that are divided within groups it comes
    #: off after the division
    kl_target: Amount = 0.0  #: adapt kl_weight towards so many nats a step (1909.08593); 0: fixed
    kl_horizon: Positive = 10_000.0  #: trajectories over which kl_weight adapts
    reset_every: Whole = 0
    #: batches after which the policy becomes the reference and the optimizer begins anew (ProRL:
    #: Liu et al. 2025, 2505.24864); 0: never
    value_weight: Amount = 0.0  #: weight of the critic's loss; 0: no critic
    value_clip: Amount = 0.2  #: largest move of the critic in an update; 0: no limit
    entropy_weight: Amount = 0.0  #: weight of the entropy bonus
    extra_loss: str = ""
    #: path.py:NAME, a loss term of your own: (columns, evaluated) -> a scalar (``Term``)
    epochs: Count = 1  #: passes over a batch
    minibatches: Count = 1  #: parts of a batch; each is one optimizer step
    part_steps: Whole = 0
    #: steps of a forward and backward pass, about; the gradients of a minibatch's parts are added
    #: up. 0: 8192 on a CPU, 131072 on a GPU
    learning_rate: Positive = 1e-4  #: of AdamW
    critic_rate: Amount = 0.0  #: the critic's learning rate; 0: the same
    warmup: Whole = 0  #: optimizer steps over which the rate rises from 0
    decay: Literal["cosine", "linear"] = "cosine"  #: how the rate comes down
    decay_steps: Whole = 0  #: optimizer step at which it has come down to a tenth; 0: it does not
    weight_decay: Amount = 0.0  #: of AdamW
    grad_clip: Positive = 1.0  #: largest norm of the gradient
    stop_kl: Amount = 0.0  #: KL to the sampling policy (nats a step) that ends a batch; 0: never
    max_kl: Positive = 5.0
    #: KL to sampling or reference policy (nats a step) that ends the run; no step counts for more
    #: than 10 times this, nor for more than half of it in the mean

    @property
    def kl_kind(self) -> str:
        """The estimator of the KL penalty."""
        auto = "k1" if self.kl_in == "reward" else "k3"
        return auto if self.kl_estimator == "auto" else self.kl_estimator


@dataclass(frozen=True)
class PastSelves:
    """Which past selves there are, and how many are played against."""

    opponents: Count = 4  #: opponents an iteration, drawn uniformly from the pool
    every: Count = 10  #: the policy joins the pool after every so many iterations
    size: Whole = 0  #: draw from the newest so many only; 0: from all, the first policy included


_PPO = dict[str, Any](estimator="gae", whiten=True, value_weight=0.5, epochs=3, minibatches=4,
                      stop_kl=0.05)
_GRPO = dict[str, Any](estimator="group", average="sequence")
_REINFORCE = dict[str, Any](clip_low=INFINITE, clip_high=INFINITE)
#: DAPO: clip-higher (eq. 10), token mean (eq. 8), dynamic sampling, overlong shaping (eq. 13), and
#: 16 minibatches a batch (sec. 4.1).
_DAPO = {**_GRPO, "average": "token", "clip_high": 0.28, "signal_only": True, "overlong": 0.2,
         "minibatches": 16}

#: What differs from the defaults above, by name.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "reinforce": {**_REINFORCE, "estimator": "mean"},
    "rloo": {**_REINFORCE, "estimator": "leave_one_out"},
    "ppo": _PPO,
    "grpo": _GRPO,
    "dr_grpo": {**_GRPO, "normalise_std": False, "average": "constant"},
    "dapo": _DAPO,
    # the clips are the paper's (sec. 5.1), of a ratio that only minibatches move away from 1
    "gspo": {**_GRPO, "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "minibatches": 4},
    # DAPO's averages, samples and lengths; no lower clip. The paper does not give the upper one: 5
    # is what is commonly taken
    "cispo": {**_DAPO, "bounds": "weight", "clip_low": INFINITE, "clip_high": 4.0},
    "maxrl": {**_GRPO, "estimator": "likelihood", "average": "token"},
}


def algorithm(name: str, **changes: Any) -> PGConfig:
    """The settings of a named algorithm. Raises KeyError for a name that is not in ALGORITHMS."""
    return PGConfig(**{**ALGORITHMS[name], **changes})


def sized(config: PGConfig, longest: int) -> PGConfig:
    """``config`` for trajectories of at most ``longest`` steps (sample.max_new_tokens of texts,
    max_moves of games), which constant_length is where it was left open. Were it the longest of a
    minibatch, what a step counts would vary with the lengths beside it (2503.20783, sec. 3.1)."""
    wanted = config.average == "constant" or config.overlong > 0
    if wanted and not config.constant_length:
        return replace(config, constant_length=longest)
    return config
