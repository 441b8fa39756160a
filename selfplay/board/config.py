"""The settings of what boards learn by: imitation, self-play, policy gradient, a value net.

Apart from the code that they drive, so that reading settings, and ``--help``, need neither torch
nor Numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from selfplay.common.limits import Amount, Count, Part, Plies, Positive, Share, Whole
from selfplay.learn.config import PGConfig, PlateauConfig


@dataclass(frozen=True)
class SFTConfig(PlateauConfig):
    """Supervised learning on the expert's moves."""

    value_weight: Amount = 0.5  #: weight of the value loss, beside the policy's


@dataclass(frozen=True)
class RLConfig:
    """Self-play policy iteration; by policy gradient algorithm, iterations, checkpoint_every and
    keep mean the same, and the rest is in PGConfig and PoolConfig."""

    algorithm: Literal["gumbel", "puct", "reinforce", "rloo", "ppo", "grpo", "dr_grpo", "dapo",
                       "gspo"] = "gumbel"  #: gumbel, puct: search; the others: policy gradient
    sims: Count = 32  #: simulations of a full search, whose result is trained on
    cheap_sims: Count = 8  #: simulations of the other moves (playout-cap randomisation)
    full_share: Part = 0.33  #: share of moves that get the full search; 1 turns the cap off
    games: Count = 256  #: games played side by side
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"  #: of self-play's net
    cache_mb: Whole = 128  #: memory for evaluations remembered until the weights change; 0 is none
    positions: Count = 4096  #: trained-on positions made in one iteration
    reuse: Positive = 5.0  #: how often a position is trained on, on average
    window_min: Count = 40_000  #: positions in the replay window at first
    window_growth: Share = 0.6  #: share of all later positions that widens the window
    window_max: Count = 400_000  #: positions in the replay window at most
    batch_size: Count = 256  #: positions a step
    learning_rate: Positive = 1e-3  #: AdamW's
    weight_decay: Amount = 1e-2  #: AdamW's
    ema_decay: Share = 0.995  #: of the weights that self-play uses, per training step
    value_weight: Amount = 1.0  #: weight of the value loss, beside the policy's
    temperature_plies: Whole = 12  #: moves sampled from the search's policy; later its winner
    temperature: Amount = 1.0  #: of that sampling: policy ** (1 / temperature)
    opening: Plies = (0, 4)  #: random plies before self-play begins, low and high
    komi_share: Share = 0.5  #: share of games of Go whose komi is drawn near the game's own
    komi_range: Amount = 1.5  #: how near, in points, half ones included
    komi_wild: Share = 0.05  #: share of games whose komi is anything, as if there were handicap
    resign: Amount = 0.0  #: resign below minus this value (0 is never)
    resign_checked: Share = 0.1  #: share of games played out all the same, to check resigning
    gating: bool = False  #: new weights act only after winning a match against the old
    gating_games: Count = 64  #: games of that match
    gating_score: Share = 0.5  #: least score that the new weights need
    checkpoint_every: Count = 1  #: iterations between checkpoints on disk
    keep: Whole = 40  #: checkpoints kept for the chart (thinned evenly)
    iterations: Count = 1_000_000  #: stop after this many, if the time lasts


@dataclass(frozen=True)
class PoolConfig:
    """The games that a policy gradient learns from: against past selves (AlphaGo: Silver et al.
    2016, "Reinforcement learning of policy networks")."""

    games: Count = 256  #: games of one iteration
    group: Count = 1  #: games from one opening, of one colour, against one opponent
    opponents: Count = 4  #: opponents drawn, uniformly, from the pool for one iteration
    every: Count = 10  #: iterations after which the policy joins the pool
    size: Whole = 0  #: opponents are of the newest so many; 0: of all, the first policy included
    opening: Plies = (2, 6)  #: random plies before the policies play, low and high


@dataclass(frozen=True)
class ValueConfig(PlateauConfig):
    """AlphaGo's value net and its games (Silver et al. 2016, "Reinforcement learning of value
    networks"); of the recipe alphago only."""

    learning_rate: Positive = 1e-3  #: AdamW's, at first
    evaluate_every: Count = 50  #: steps between two looks at the held-out rows
    init: Literal["rl", "random"] = "rl"  #: what the net starts from: the RL policy's, or nothing
    games: Count = 50_000  #: games to play, one position each
    latest: Whole = 0  #: the random move is one of so many first ones; 0: any of a game's
    held_out: Share = 0.1  #: share of the positions kept for measuring
    play: Share = 0.6  #: share of the stage's time that its games may take
    share: Part = 0.25  #: the stage's part of the minutes, beside ``shares``


class LeagueSettings(Protocol):
    """What learning by policy gradient needs of a run's settings."""

    @property
    def rl(self) -> RLConfig: ...

    @property
    def pg(self) -> PGConfig: ...

    @property
    def pool(self) -> PoolConfig: ...
