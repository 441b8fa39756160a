"""The settings of what boards learn by: imitation, self-play, policy gradient, a value net.

Apart from the code that they drive, so that reading settings, and ``--help``, need neither torch
nor Numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from selfplay.learn.config import PGConfig, PlateauConfig


@dataclass(frozen=True)
class SFTConfig(PlateauConfig):
    """Supervised learning on the expert's moves."""

    value_weight: float = 0.5


@dataclass(frozen=True)
class RLConfig:
    """Self-play policy iteration; by policy gradient algorithm, iterations, checkpoint_every and
    keep mean the same, and the rest is in PGConfig and PoolConfig."""

    algorithm: Literal["gumbel", "puct", "reinforce", "rloo", "ppo", "grpo", "dr_grpo", "dapo",
                       "gspo"] = "gumbel"  #: gumbel, puct: search; the others: policy gradient
    sims: int = 32  #: simulations of a full search, whose result is trained on
    cheap_sims: int = 8  #: simulations of the other moves (playout-cap randomisation)
    full_share: float = 0.33  #: share of moves that get the full search; 1 turns the cap off
    games: int = 256  #: games played side by side
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"  #: that self-play evaluates in
    cache_mb: int = 128  #: memory for evaluations remembered until the weights change; 0 is none
    positions: int = 4096  #: trained-on positions made in one iteration
    reuse: float = 5.0  #: how often a position is trained on, on average
    window_min: int = 40_000  #: positions in the replay window at first
    window_growth: float = 0.6  #: share of all later positions that widens the window
    window_max: int = 400_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.995  #: of the weights that act, per training step
    value_weight: float = 1.0
    temperature_plies: int = 12  #: moves sampled from the search's policy; later its winner
    temperature: float = 1.0
    opening: tuple[int, int] = (0, 4)  #: random plies before self-play begins, low and high
    resign: float = 0.0  #: resign below minus this value (0 is never)
    resign_checked: float = 0.1  #: share of games played out all the same
    gating: bool = False  #: new weights act only after winning a match against the old
    gating_games: int = 64
    gating_score: float = 0.5
    checkpoint_every: int = 1  #: iterations between checkpoints on disk
    keep: int = 40  #: checkpoints kept for the chart (thinned evenly)
    iterations: int = 1_000_000  #: stop after this many, if the time lasts


@dataclass(frozen=True)
class PoolConfig:
    """The games that a policy gradient learns from: against past selves (AlphaGo: Silver et al.
    2016, "Reinforcement learning of policy networks")."""

    games: int = 256  #: of one iteration
    group: int = 1  #: of them from one opening, of one colour, against one opponent
    opponents: int = 4  #: drawn, uniformly, from the pool for one iteration
    every: int = 10  #: iterations after which the policy joins the pool
    size: int = 0  #: the newest so many are drawn from; 0 is all of them, the first policy included
    opening: tuple[int, int] = (2, 6)  #: random plies before the policies play, low and high


@dataclass(frozen=True)
class ValueConfig(PlateauConfig):
    """AlphaGo's value net and its games (Silver et al. 2016, "Reinforcement learning of value
    networks"); of the recipe alphago only."""

    learning_rate: float = 1e-3
    evaluate_every: int = 50
    init: Literal["rl", "random"] = "rl"  #: what the net starts from: the RL policy's, or nothing
    games: int = 50_000  #: games to play, one position each; played in shards (``value_games``)
    latest: int = 0  #: the random move is the 1st to so-manieth, uniformly; 0: any of a game's
    held_out: float = 0.1  #: share of the positions kept for measuring
    play: float = 0.6  #: share of the stage's time that its games may take
    share: float = 0.25  #: the stage's, beside ``shares``


class LeagueSettings(Protocol):
    """What learning by policy gradient needs of a run's settings."""

    @property
    def rl(self) -> RLConfig: ...

    @property
    def pg(self) -> PGConfig: ...

    @property
    def pool(self) -> PoolConfig: ...
