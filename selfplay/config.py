"""Every setting of a run: frozen dataclasses, one a stage, and how a user changes them.

``--minutes`` and ``net`` are the two dials; a game's preset sets the rest, and
``--set stage.key=value`` overrides any single one.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from selfplay import settings
from selfplay.algorithms import ALGORITHMS, PGConfig
from selfplay.errors import UserError
from selfplay.presets import ALPHAGO, BY_ALGORITHM, BY_GAME, ON_BOARDS, PRESETS
from selfplay.settings import Limits, checked, replace_key


@dataclass(frozen=True)
class ExpertConfig:
    """Where the teacher's games come from, and who the teacher is."""

    games: tuple[str, ...] = ()  #: files or folders; empty: the embedded games, else made here
    player: str = "mcts:1000"  #: the teacher as a player: the dotted line of the chart
    count: int = 400  #: games to make where none are given or embedded
    opening: tuple[int, int] = (2, 8)  #: random plies before the teacher takes over, low and high
    held_out: float = 0.1  #: share of the games (whole games) kept for measuring


@dataclass(frozen=True)
class FlatConfig:
    """Learning from rows until their held-out curve is flat."""

    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    evaluate_every: int = 200  #: steps between two looks at the held-out games
    gain: float = 0.005  #: share of the held-out loss that must go ...
    patience: int = 4  #: ... within so many looks, or the rate drops
    drops: int = 2  #: rate drops (each to 0.3 of it) before the curve counts as flat
    max_steps: int = 100_000


@dataclass(frozen=True)
class SFTConfig(FlatConfig):
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
class ValueConfig(FlatConfig):
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


@dataclass(frozen=True)
class EvalConfig:
    """The matches behind the chart."""

    sims: int = 32  #: simulations of the "with search" curves
    sft_points: int = 5
    rl_points: int = 6
    games: int = 60  #: per pairing along a curve
    decisive_games: int = 200  #: SFT's best against RL's last, raw and with search
    baseline_games: int = 100
    baselines: tuple[str, ...] = ("mcts:100", "mcts:1000")
    opening: tuple[int, int] = (2, 6)
    slots: int = 64  #: games at once where no outside engine plays
    engine_slots: int = 4  #: games at once where one does


@dataclass(frozen=True)
class RunConfig:
    """A whole run; frozen into ``config.json`` of its folder."""

    game: str
    recipe: Literal["alphago", "alphazero", "zero"] = "alphazero"
    #: alphago: policy gradient from SFT, a value net, search with both and with rollouts (Silver
    #: et al. 2016); alphazero, zero: self-play with search, from SFT or from nothing (2017)
    seed: int = 0
    minutes: float = 30.0
    init: str = "sft"  #: what self-play starts from: sft, random, or a checkpoint's folder
    net: str = "4x32"
    device: str = "auto"
    shares: tuple[float, float, float, float] = (0.1, 0.2, 0.5, 0.2)
    #: of the minutes: making expert games, SFT, RL, evaluation; what a stage leaves goes on
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    pg: PGConfig = field(default_factory=PGConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    LIMITS: ClassVar[Limits] = Limits("game", positive=frozenset((
        "minutes", "expert.count", "sft.batch_size", "sft.learning_rate", "sft.evaluate_every",
        "sft.patience", "sft.max_steps", "rl.sims", "rl.cheap_sims", "rl.full_share", "rl.games",
        "rl.positions", "rl.reuse", "rl.window_min", "rl.window_max", "rl.batch_size",
        "rl.learning_rate", "rl.gating_games", "rl.checkpoint_every", "rl.iterations", "eval.sims",
        "eval.sft_points", "eval.rl_points", "eval.games", "eval.decisive_games",
        "eval.baseline_games", "eval.slots", "eval.engine_slots", "pg.epochs", "pg.minibatches",
        "pg.learning_rate", "pg.grad_clip", "pg.max_kl", "pg.kl_horizon", "pool.games",
        "pool.group", "pool.opponents", "pool.every", "value.batch_size", "value.learning_rate",
        "value.evaluate_every", "value.patience", "value.max_steps", "value.games", "value.share",
    )), shares=frozenset((
        "expert.held_out", "sft.gain", "rl.full_share", "rl.window_growth", "rl.ema_decay",
        "rl.resign_checked", "rl.gating_score", "pg.gamma", "pg.lam", "value.gain",
        "value.held_out", "value.play", "value.share",
    )))

ALGORITHM, ALGORITHM_KEY = typing.get_type_hints(RLConfig)["algorithm"], "rl.algorithm"
RECIPE, RECIPE_KEY = typing.get_type_hints(RunConfig)["recipe"], "recipe"
RECIPES = typing.get_args(RECIPE)


def preset(game: str, **top: Any) -> RunConfig:
    """The default run of a game; ``top`` sets fields of RunConfig itself."""
    base = RunConfig(game=game, **top)
    return _replaced(base, PRESETS.get(_plain(game), {}))


def with_algorithm(config: RunConfig, name: str) -> RunConfig:
    """``config`` learning by ``name``: where that changes, with the settings that it has by default
    in this game. Raises UserError for a name that is none."""
    if name == config.rl.algorithm:
        return config
    config = replace_key(config, "rl.algorithm", checked("rl.algorithm", name, ALGORITHM))
    config = dataclasses.replace(config, pg=PGConfig(**ALGORITHMS.get(name, {})), pool=PoolConfig())
    if name not in ALGORITHMS:
        return config
    for changes in (ON_BOARDS, BY_ALGORITHM.get(name, {}), BY_GAME.get(_plain(config.game), {})):
        config = _replaced(config, changes)
    return config


def with_recipe(config: RunConfig, name: str) -> RunConfig:
    """``config`` by the recipe ``name``: where that changes, with the start and the algorithm that
    it has by default. Raises UserError for a name that is none."""
    if name == config.recipe:
        return config
    config = replace_key(config, RECIPE_KEY, checked(RECIPE_KEY, name, RECIPE))
    if name == "zero" or config.init == "random":
        config = replace_key(config, "init", "random" if name == "zero" else "sft")
    if (config.rl.algorithm in ALGORITHMS) != (name == "alphago"):
        config = with_algorithm(config, ALPHAGO if name == "alphago" else RLConfig.algorithm)
    return config


def must_be_of_recipe(config: RunConfig) -> None:
    """Raises UserError where start or algorithm are not the recipe's."""
    if config.recipe == "alphago" and config.rl.algorithm not in ALGORITHMS:
        raise UserError(f"recipe alphago: its policy learns without search, not by rl.algorithm="
                        f"{config.rl.algorithm}; take --algo {ALPHAGO} or reinforce")
    if config.recipe == "alphago" and config.init == "random":
        raise UserError("recipe alphago: starts from a policy that was taught; take --init sft or "
                        "a checkpoint, or --recipe zero")
    if config.recipe == "zero" and config.init != "random":
        raise UserError(f"recipe zero: starts from nothing, not from {config.init}; take --recipe "
                        "alphazero")


def _plain(game: str) -> str:
    return game.split("(")[0]


def _replaced(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    for key, value in changes.items():
        config = replace_key(config, key, value)
    return config


def override(config: RunConfig, assignments: Iterable[str]) -> RunConfig:
    """``settings.override``, those of ``recipe`` and ``rl.algorithm`` first: they bring settings of
    their own."""
    return settings.override(config, assignments,
                             {RECIPE_KEY: with_recipe, ALGORITHM_KEY: with_algorithm})


def from_dict(data: dict[str, Any], where: str) -> RunConfig:
    """Inverse of ``to_dict``; raises UserError naming ``where`` for anything that does not fit."""
    return settings.read(RunConfig, data, where, _as_before_recipes)


def _as_before_recipes(game: str) -> RunConfig:
    """What a config.json that does not say all was made with."""
    return dataclasses.replace(RunConfig(game), value=preset(game).value)


def must_fit(config: RunConfig) -> None:
    """Raises UserError for settings of a policy gradient that make no sense together."""
    if config.rl.algorithm not in ALGORITHMS:
        return
    pool, estimator = config.pool, config.pg.estimator
    if estimator in ("group", "leave_one_out") and pool.group < 2:
        raise UserError(f"pool.group={pool.group}: pg.estimator={estimator} compares the games of "
                        "a group; at least 2 wanted")
    if pool.group > pool.games:
        raise UserError(f"pool.group={pool.group}: at most pool.games={pool.games} wanted")
