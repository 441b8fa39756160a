"""Settings of self-play with search, and of learning from it.

They stand apart from the code that uses them, so that ``--help`` imports neither torch nor Numba.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from selfplay.common.errors import UserError
from selfplay.common.limits import Amount, BelowOne, Count, Part, Plies, Positive, Share, Whole


@dataclass(frozen=True)
class RLConfig:
    """Policy iteration by self-play. A policy gradient uses only algorithm, iterations,
    checkpoint_every, keep and, in Go, those of komi; its other settings are PGConfig and
    PoolConfig."""

    algorithm: Literal["gumbel", "puct", "reinforce", "rloo", "ppo", "grpo", "dr_grpo", "dapo",
                       "gspo", "cispo", "maxrl"] = "gumbel"
    #: gumbel, puct: search; the others: policy gradient
    sims: Count = 32  #: simulations of a full search; only these searches are trained on
    cheap_sims: Count = 8  #: simulations of all other moves (playout-cap randomisation)
    sims_from: tuple[Whole, Whole] = (0, 0)
    #: progressive simulation: those of a full search in the first iteration, and after how many
    #: iterations they have grown to sims, by equal factors; 0,0: sims always
    full_share: Part = 0.33  #: share of moves that get the full search; 1 turns the cap off
    proven: bool = True
    #: exact values spread through the search, and into its policy targets (off in Go, by preset)
    solved_from: Whole = 0
    #: targets of an exact solver after so many moves: its value, and the search's policy without
    #: the moves that lose it; 0: never
    games: Count = 256  #: games played side by side
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"  #: of the net in play
    cache_mb: Whole = 128  #: memory for evaluations kept until the weights change; 0: none
    positions: Count = 4096  #: new training positions an iteration
    reuse: Positive = 5.0  #: how many times a position is trained on, on average
    window_min: Count = 40_000  #: size of the replay window at first, in positions
    window_growth: Share = 0.6  #: how many positions the window grows by for each new one
    window_max: Count = 400_000  #: largest size of the replay window, in positions
    batch_size: Count = 256  #: positions in a batch
    expert_share: BelowOne = 0.0
    #: of every batch, rows of the expert's games, so that these are not forgotten
    learning_rate: Positive = 1e-3  #: of AdamW; 4e-3 where RL begins from nothing
    decay_steps: Whole = 0  #: training step at which it has come down to a tenth; 0: it does not
    weight_decay: Amount = 1e-2  #: of AdamW
    ema_decay: Share = 0.995  #: decay per step of the averaged weights that self-play uses
    value_weight: Amount = 1.0  #: weight of the value loss; the policy loss has weight 1
    value_lambda: Share = 1.0
    #: value targets: 1 the result of the game; less mixes in the search's values of this and later
    #: positions, each later one by this factor less; 0 the search's value of the position
    temperature_plies: Whole = 12  #: first moves of a game, drawn from the search's policy
    temperature: Amount = 1.0  #: of that sampling: policy ** (1 / temperature)
    opening: Plies = (0, 4)  #: fewest and most random plies at the start of a game
    sizes: tuple[Count, ...] = ()
    #: Go: boards that one net learns at once, 7,9,11 say, the game's own among them; twice the
    #: share for one named twice. Empty: the game's own alone
    komi_share: Share = 0.5  #: Go: share of games with a komi near the usual one
    komi_range: Amount = 1.5  #: Go: how near, in points (half points included)
    komi_wild: Share = 0.05  #: Go: share of games with any komi, as after a handicap
    handicap: Share = 0.0  #: Go: share of games with handicap stones, by a komi fair for the net
    handicap_stones: Plies = (2, 4)  #: Go: fewest and most of them
    pass_from: Share = 0.5  #: Go: no passes before so many plies, as a share of the points
    resign: Amount = 0.0  #: resign when the value falls below minus this; 0: never
    resign_checked: Share = 0.1  #: share of games in which nobody resigns, as a check
    gating: bool = False  #: new weights play only after they have beaten the old ones
    gating_games: Count = 64  #: games of that match
    gating_score: Share = 0.5  #: score that the new weights need, at least
    checkpoint_every: Count = 1  #: iterations between checkpoints on disk
    keep: Whole = 40  #: checkpoints kept for the chart, evenly spread
    iterations: Count = 1_000_000  #: stop after so many, even if time is left
    max_staleness: Whole = 0
    #: on Ray: iterations that the weights of a game may be behind those that learn from it; 0: play
    #: and learning take turns


def must_grow(config: RLConfig) -> None:
    """Raises UserError for a ``sims_from`` by which no simulations would grow."""
    first, iterations = config.sims_from
    if (first == 0) != (iterations == 0):
        raise UserError(f"rl.sims_from={first},{iterations}: simulations at first, and after how "
                        "many iterations all; both above 0 wanted, or 0,0 for rl.sims always")
    if first and first >= config.sims:
        raise UserError(f"rl.sims_from={first},{iterations}: they grow to rl.sims={config.sims}; "
                        "take fewer at first, a higher rl.sims, or 0,0 for rl.sims always")


def scheduled(config: RLConfig, iteration: int) -> RLConfig:
    """``config`` with the simulations of an iteration (1, 2, ...), by ``sims_from``: progressive
    simulation, as in MiniZero (Wu et al. 2023, arXiv:2310.11305). Cheap searches have no more."""
    first, iterations = config.sims_from
    if not first or iteration > iterations:
        return config
    sims = round(first * (config.sims / first) ** ((iteration - 1) / iterations))
    return replace(config, sims=sims, cheap_sims=min(config.cheap_sims, sims))


def rows_learnt(config: RLConfig, new: int) -> int:
    """How many rows an iteration learns from, the expert's among them, where so many are new."""
    return round(new * config.reuse / (1 - config.expert_share))
