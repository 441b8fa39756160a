"""The settings of a whole run, the presets of games, and how users change them.

``--minutes`` and ``net`` are the two main dials. A game's preset sets the rest, and
``--set stage.key=value`` overrides any single setting. A preset lists what differs from the
defaults, per game and per policy-gradient algorithm, under dotted keys as ``--set`` takes them.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from selfplay.board.alphago_config import PoolConfig, SFTConfig, ValueConfig
from selfplay.board.config import RLConfig, must_grow
from selfplay.common import settings
from selfplay.common.errors import UserError
from selfplay.common.limits import Amount, Count, Limit, Plies, Positive, Seed, Share, Whole
from selfplay.common.settings import replace_key, set_key
from selfplay.learn.config import ALGORITHMS, PGConfig

Recipe = Literal["alphago", "alphazero", "zero"]
Shares = Annotated[tuple[Amount, Amount, Amount, Amount],
                   Limit(lambda shares: sum(shares) > 0, "at least one above 0")]


@dataclass(frozen=True)
class ExpertConfig:
    """Where the teacher's games come from, and who the teacher is."""

    games: tuple[str, ...] = ()  #: files or folders; empty: the embedded games, else made here
    player: str = "mcts:1000"  #: the teacher as a player: the dotted line of the chart
    count: Count = 400  #: games to make where none are given or embedded
    opening: Plies = (2, 8)  #: random plies before the teacher takes over, low and high
    held_out: Share = 0.1  #: share of the games (whole games) kept for measuring


@dataclass(frozen=True)
class EvalConfig:
    """The matches behind the chart."""

    sims: Count = 32  #: simulations of the "with search" curves
    sft_points: Count = 6  #: checkpoints of SFT that are rated
    rl_points: Count = 7  #: checkpoints of RL that are rated
    games: Count = 60  #: games per pairing along a curve
    decisive_games: Count = 200  #: SFT's best against RL's last, raw and with search
    baseline_games: Count = 100  #: games per pairing with a baseline
    baselines: tuple[str, ...] = ("mcts:100", "mcts:1000")  #: players to compare with
    opening: Plies = (2, 6)  #: random plies before the players take over, low and high
    slots: Count = 64  #: games at once where no outside engine plays
    engine_slots: Count = 4  #: games at once where one does


Cpus = Annotated[Positive, Limit(lambda count: count >= 0.01, "at least 0.01")]
Gpus = Annotated[Amount, Limit(
    lambda count: count.is_integer() or 0.01 <= count < 1, "0.01 to 1 or a whole number")]


@dataclass(frozen=True)
class RayConfig:
    """Self-play on many machines, where ``--ray`` asks for it."""

    cpus: Cpus = 1.0  #: CPUs of an actor; each whole one plays a shard at a time
    gpus: Gpus = 0.0  #: GPUs of an actor, also a part of one; 0: its net runs on the CPU
    games: Whole = 0  #: games of a shard, the least that an actor is asked for; 0: those of a group


@dataclass(frozen=True)
class RunConfig:
    """A whole run; frozen into ``config.json`` of its folder."""

    game: str  #: its name, as ``selfplay games`` lists it
    recipe: Recipe = "alphazero"
    #: alphago: policy gradient from SFT, a value net, search with both and with rollouts (Silver
    #: et al. 2016); alphazero, zero: self-play with search, from SFT or from nothing (2017)
    seed: Seed = 0  #: of everything drawn
    minutes: Positive = 30.0  #: time to spend on all stages together
    init: str = "sft"  #: what self-play starts from: sft, random, or a checkpoint's folder
    net: str = "4x32"  #: blocks x channels
    device: str = "auto"  #: where nets run: auto, cpu or cuda
    log: tuple[str, ...] = ()  #: loggers beside TensorBoard: wandb, mlflow, trackio, path.py:NAME
    shares: Shares = (0.1, 0.2, 0.5, 0.2)
    #: of the minutes: making expert games, SFT, RL, evaluation; what a stage leaves goes on
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    pg: PGConfig = field(default_factory=PGConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    ray: RayConfig = field(default_factory=RayConfig)


RECIPES = typing.get_args(Recipe)


def preset(game: str, **top: Any) -> RunConfig:
    """The default run of a game; ``top`` sets fields of RunConfig itself."""
    base = RunConfig(game=game, **top)
    name = _without_settings(game)
    return _replaced(base, OF_ALL_SIZES.get(name.rstrip("0123456789x"), {}) | PRESETS.get(name, {}))


def with_algorithm(config: RunConfig, name: str) -> RunConfig:
    """``config`` with the algorithm ``name``. If that is a change, the algorithm's settings are the
    defaults for this game. Raises UserError for an unknown name."""
    if ".py:" in name:
        return _own_algorithm(config, name)
    if name == config.rl.algorithm:
        return config
    config = set_key(config, "rl.algorithm", name)
    config = dataclasses.replace(config, pg=PGConfig(**ALGORITHMS.get(name, {})), pool=PoolConfig())
    config = _with_rate(config)
    if name not in ALGORITHMS:
        return config
    for changes in (ON_BOARDS, BY_ALGORITHM.get(name, {}),
                    BY_GAME.get(_without_settings(config.game), {})):
        config = _replaced(config, changes)
    return config


def _own_algorithm(config: RunConfig, name: str) -> RunConfig:
    """``config`` with settings from a dict in a file. Its keys are as ``--set`` takes them, where
    ``pg.`` may be left out; ``like`` names the algorithm they modify [reinforce]."""
    from selfplay.games import own

    found = own.object_of(name, "an algorithm", UserError)
    if not isinstance(found, dict):
        raise UserError(f"{name}: a dict of settings wanted, not {type(found).__name__}")
    config = with_algorithm(config, str(found.get("like", "reinforce")))
    words = [f"{key if '.' in key else f'pg.{key}'}={spelt(value)}"
             for key, value in found.items() if key != "like"]
    return override(config, words)


def spelt(value: Any) -> str:
    """A value, written as ``--set`` takes it."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def with_recipe(config: RunConfig, name: str) -> RunConfig:
    """``config`` with the recipe ``name``. If that is a change, the start and the algorithm are the
    recipe's defaults. Raises UserError for an unknown name."""
    if name == config.recipe:
        return config
    config = set_key(config, "recipe", name)
    if name == "zero" or config.init == "random":
        config = with_init(config, "random" if name == "zero" else "sft")
    if (config.rl.algorithm in ALGORITHMS) != (name == "alphago"):
        config = with_algorithm(config, ALPHAGO if name == "alphago" else RLConfig.algorithm)
    return config


def with_init(config: RunConfig, start: str) -> RunConfig:
    """``config`` with the start ``start``. If that is a change, RL's learning rate is the default
    for it."""
    if start == config.init:
        return config
    return _with_rate(set_key(config, "init", start))


#: RL's learning rate where search teaches a new net: higher, as there is nothing to be forgotten
#: (RESULTS.md, "The rate at which RL learns from nothing").
FROM_NOTHING = 4e-3


def _with_rate(config: RunConfig) -> RunConfig:
    new = config.init == "random" and config.rl.algorithm not in ALGORITHMS
    if config.rl.learning_rate not in (RLConfig.learning_rate, FROM_NOTHING):
        return config
    return replace_key(config, "rl.learning_rate", FROM_NOTHING if new else RLConfig.learning_rate)


def must_be_of_recipe(config: RunConfig) -> None:
    """Raises UserError if the start or the algorithm does not belong to the recipe."""
    if config.recipe == "alphago" and config.rl.algorithm not in ALGORITHMS:
        raise UserError(f"recipe alphago: its policy learns without search, not by rl.algorithm="
                        f"{config.rl.algorithm}; take --algo {ALPHAGO} or reinforce")
    if config.recipe == "alphago" and config.init == "random":
        raise UserError("recipe alphago: starts from a policy that was taught; take --init sft or "
                        "a checkpoint, or --recipe zero")
    if config.recipe == "zero" and config.init != "random":
        raise UserError(f"recipe zero: starts from nothing, not from {config.init}; take --recipe "
                        "alphazero")


def _without_settings(game: str) -> str:
    return game.split("(")[0]


def _replaced(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    for key, value in changes.items():
        config = replace_key(config, key, value)
    return config


def override(config: RunConfig, assignments: Iterable[str]) -> RunConfig:
    """``settings.override``, with ``recipe``, ``init``, ``rl.algorithm`` first: they set others."""
    return settings.override(config, assignments,
                             {"recipe": with_recipe, "init": with_init,
                              "rl.algorithm": with_algorithm})


def from_dict(data: dict[str, Any], where: str) -> RunConfig:
    """The inverse of ``to_dict``. Raises UserError naming ``where`` for anything that does not
    fit."""
    return settings.validated(RunConfig, data, where, _as_before_recipes)


def _as_before_recipes(game: str) -> RunConfig:
    """The settings behind a config.json from before some of today's existed."""
    return dataclasses.replace(RunConfig(game), value=preset(game).value)


def must_fit(config: RunConfig) -> None:
    """Raises UserError for policy-gradient settings that make no sense together."""
    if config.rl.algorithm not in ALGORITHMS:
        return
    if config.rl.sizes or config.rl.handicap:
        which = "sizes" if config.rl.sizes else "handicap"
        raise UserError(f"rl.{which}: for self-play with search (gumbel, puct); rl.algorithm="
                        f"{config.rl.algorithm} plays the game as it is")
    pool, estimator = config.pool, config.pg.estimator
    if config.pg.reset_every and config.pg.kl_weight == 0:
        raise UserError("pg.reset_every: it resets the reference of pg.kl_weight, which is 0; set "
                        "it above 0")
    if estimator in ("group", "leave_one_out") and pool.group < 2:
        raise UserError(f"pool.group={pool.group}: pg.estimator={estimator} compares the games of "
                        "a group; at least 2 wanted")
    if pool.group > pool.games:
        raise UserError(f"pool.group={pool.group}: at most pool.games={pool.games} wanted")


#: Settings of RL that a policy gradient may be given: those it uses, and those that only say how
#: much work search is, so that one list of them does for runs of every algorithm.
WITH_GRADIENTS = frozenset((
    "algorithm", "iterations", "checkpoint_every", "keep", "komi_share", "komi_range", "komi_wild",
    "sims", "cheap_sims", "full_share", "games", "dtype", "cache_mb", "positions", "reuse",
    "window_min", "window_growth", "window_max", "batch_size"))


def must_have_effect(config: RunConfig, usual: RLConfig, stored: RunConfig | None) -> None:
    """Raises UserError for a setting of RL that would change nothing though it is not the game's
    ``usual`` one. What an earlier start took, with the same algorithm, goes on as it is."""
    rl, had = config.rl, usual
    if stored is not None and stored.rl.algorithm == rl.algorithm:
        had = stored.rl
    if (rl.sims_from, rl.sims) != (had.sims_from, had.sims):
        must_grow(rl)
    if rl.algorithm not in ALGORITHMS:
        return
    for name, value in vars(rl).items():
        default = getattr(usual, name)
        if name not in WITH_GRADIENTS and value not in (default, getattr(had, name)):
            own = next((f"; its own is {stage}.{name}" for stage in ("pg", "pool")
                        if name in vars(getattr(config, stage))), "")
            raise UserError(f"rl.{name}={spelt(value)}: rl.algorithm={rl.algorithm} ignores it"
                            f"{own}; take --set rl.{name}={spelt(default)}, or search (gumbel, "
                            "puct)")


GNUGO = "gtp:gnugo --mode gtp --level {}"

#: What differs from the defaults above, whatever the board's size ...
OF_ALL_SIZES: dict[str, dict[str, Any]] = {
    # all that search proves in Go is what passes lead to, and who learns never to pass a lost game
    # plays on and fills its own eyes: half of a game's moves then teach nothing
    "go": {"rl.proven": False},
}
#: ... and per game; a game not here gets the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "tictactoe": {
        "net": "2x16",
        "expert.player": "mcts:100",
        "expert.count": 300,
        "expert.opening": (0, 3),
        "sft.evaluate_every": 50,
        "sft.patience": 3,
        "rl.games": 64,
        "rl.positions": 1024,
        "rl.window_min": 8_000,
        "rl.window_max": 40_000,
        "rl.temperature_plies": 4,
        "rl.opening": (0, 3),
        "eval.sims": 32,
        "eval.opening": (0, 1),  # one random move never decides the game; two can
        "eval.baseline_games": 200,
        "eval.rl_points": 6,
        "value.games": 4_096,
        "shares": (0.1, 0.1, 0.45, 0.35),
    },
    "connect4": {
        "net": "4x32",
        "expert.player": "mcts:1000",
        "expert.count": 600,
        "rl.temperature_plies": 10,
        "rl.opening": (0, 4),
        "eval.sims": 64,
        "eval.opening": (1, 4),
        "value.latest": 30,  # half of such games are over by then
        "shares": (0.1, 0.1, 0.68, 0.12),
    },
    "go9x9": {
        "net": "6x64",
        "expert.player": GNUGO.format(10),
        "eval.baselines": ("mcts:100", "mcts:1000", GNUGO.format(1)),
        "eval.sims": 64,
        "rl.temperature_plies": 16,
        "value.latest": 80,  # most games are over by then
        "shares": (0.1, 0.3, 0.36, 0.24),  # games are embedded, so in fact 0, 0.33, 0.4, 0.27
    },
}

ALPHAGO = "ppo"  #: the default algorithm of recipe alphago

#: Policy gradient on boards: what differs from ``learn.config.ALGORITHMS`` for every algorithm.
#: Three changes together (512 games per iteration, in BY_GAME, and the two weights here) improved
#: the share of best moves in Connect Four; their effects have not been separated (RESULTS.md,
#: "Policy gradient on boards") ...
ON_BOARDS: dict[str, Any] = {
    "pg.learning_rate": 3e-4,
    "pg.value_clip": 0.0,
    "pg.minibatches": 4,
    "pg.entropy_weight": 0.01,
    "pg.kl_weight": 0.02,
}
#: ... then by algorithm (only some have a use for groups) ...
BY_ALGORITHM: dict[str, dict[str, Any]] = {
    "ppo": {"pg.epochs": 2},
    **{name: {"pool.group": 8} for name in ("rloo", "grpo", "dr_grpo", "gspo")},
    # a long game is no fault, and one that is lost earns -1
    **{name: {"pool.group": 8, "pg.overlong": 0.0} for name in ("dapo", "cispo")},
    "maxrl": {"pool.group": 8, "pg.worst": 1.0},
}
#: ... and then by game.
BY_GAME: dict[str, dict[str, Any]] = {
    "tictactoe": {"pool.opening": (0, 3)},
    "connect4": {"pool.games": 512},
}
