"""Every setting of a run: frozen dataclasses, one a stage, and how a user changes them.

``--minutes`` and ``net`` are the two dials; a game's preset sets the rest, and
``--set stage.key=value`` overrides any single one.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from selfplay.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Ranges of settings, by their dotted keys; other numbers may be 0, none may be below it."""

    named: str  #: what names a run, is no setting that --set may change, and has an option
    positive: frozenset[str]  #: more than 0
    shares: frozenset[str]  #: at most 1


class Settings(Protocol):
    """A frozen dataclass of settings and of dataclasses of settings."""

    LIMITS: ClassVar[Limits]
    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=Settings)


@dataclass(frozen=True)
class ExpertConfig:
    """Where the teacher's games come from, and who the teacher is."""

    games: tuple[str, ...] = ()  #: files or folders; empty: the embedded games, else made here
    player: str = "mcts:1000"  #: the teacher as a player: the dotted line of the chart
    count: int = 400  #: games to make where none are given or embedded
    opening: tuple[int, int] = (2, 8)  #: random plies before the teacher takes over, low and high
    held_out: float = 0.1  #: share of the games (whole games) kept for measuring


@dataclass(frozen=True)
class SFTConfig:
    """Supervised learning on the expert's moves."""

    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    evaluate_every: int = 200  #: steps between two looks at the held-out games
    gain: float = 0.005  #: share of the held-out policy loss that must go ...
    patience: int = 4  #: ... within so many looks, or the rate drops
    drops: int = 2  #: rate drops (each to 0.3 of it) before the curve counts as flat
    max_steps: int = 100_000
    value_weight: float = 0.5


@dataclass(frozen=True)
class RLConfig:
    """Self-play policy iteration."""

    algorithm: Literal["gumbel", "puct"] = "gumbel"
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
    eval: EvalConfig = field(default_factory=EvalConfig)

    LIMITS: ClassVar[Limits] = Limits("game", positive=frozenset((
        "minutes", "expert.count", "sft.batch_size", "sft.learning_rate", "sft.evaluate_every",
        "sft.patience", "sft.max_steps", "rl.sims", "rl.cheap_sims", "rl.full_share", "rl.games",
        "rl.positions", "rl.reuse", "rl.window_min", "rl.window_max", "rl.batch_size",
        "rl.learning_rate", "rl.gating_games", "rl.checkpoint_every", "rl.iterations", "eval.sims",
        "eval.sft_points", "eval.rl_points", "eval.games", "eval.decisive_games",
        "eval.baseline_games", "eval.slots", "eval.engine_slots",
    )), shares=frozenset((
        "expert.held_out", "sft.gain", "rl.full_share", "rl.window_growth", "rl.ema_decay",
        "rl.resign_checked", "rl.gating_score",
    )))


#: Seeds go to torch, which takes 63 bits; other numbers count what a machine holds and does.
MAX_SEED, MAX_NUMBER = 2**63 - 1, 2**31 - 1

GNUGO = "gtp:gnugo --mode gtp --level {}"

#: What differs from the defaults above, per game; a game not here gets the defaults.
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
        "eval.opening": (0, 1),  # one random mark never decides the game; two can
        "eval.baseline_games": 200,
        "eval.sft_points": 3,
        "eval.rl_points": 4,
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
        "shares": (0.1, 0.1, 0.68, 0.12),
    },
    "go9x9": {
        "net": "6x64",
        "expert.player": GNUGO.format(10),
        "eval.baselines": ("mcts:100", "mcts:1000", GNUGO.format(1)),
        "eval.sims": 64,
        "rl.temperature_plies": 16,
        "shares": (0.1, 0.3, 0.36, 0.24),  # games are embedded: 0.33, 0.4, 0.27 of the time
    },
}


def preset(game: str, **top: Any) -> RunConfig:
    """The default run of a game; ``top`` sets fields of RunConfig itself."""
    base = RunConfig(game=game, **top)
    for key, value in PRESETS.get(game.split("(")[0], {}).items():
        base = replace_key(base, key, value)
    return base


def override(config: C, assignments: typing.Iterable[str]) -> C:
    """Apply ``key=value`` texts such as ``rl.sims=32``.

    Raises UserError naming the nearest key, or the type that was wanted.
    """
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: write it as key=value, for example rl.sims=32")
        kind = _types(config).get(key.strip())
        if key.strip() == config.LIMITS.named:  # the settings so far are another's
            named = config.LIMITS.named
            raise UserError(f"--set {text}: choose the {named} with --{named}")
        if kind is None:
            raise UserError(_unknown(config, key.strip()))
        config = replace_key(config, key.strip(), _parse(key.strip(), value.strip(), kind))
    return config


def replace_key(config: C, key: str, value: Any, where: str = "") -> C:
    """``config`` with one dotted key set.

    Raises UserError, which begins with ``where``, for a value that no run could work with.
    """
    _must_be_in_range(f"{where}{key}", key, value, config.LIMITS)
    stage, _, name = key.rpartition(".")
    if not stage:
        return dataclasses.replace(config, **{name: value})
    inner = dataclasses.replace(getattr(config, stage), **{name: value})
    return dataclasses.replace(config, **{stage: inner})


def to_dict(config: Settings) -> dict[str, Any]:
    """Plain JSON types, as ``config.json`` holds them."""
    return dataclasses.asdict(config)


def from_dict(data: dict[str, Any], where: str) -> RunConfig:
    """Inverse of ``to_dict``; raises UserError naming ``where`` for anything that does not fit."""
    return read(RunConfig, data, where)


def read(kind: type[C], data: dict[str, Any], where: str) -> C:
    """``from_dict`` for settings of any kind."""
    named = kind.LIMITS.named
    if not isinstance(data, dict) or not isinstance(data.get(named), str):
        raise UserError(f"{where}: no {named} in it; it is not a run's config.json")
    config = kind(**{named: data[named]})
    for key, value in _flat(data).items():
        wanted = _types(config).get(key)
        if wanted is None:
            raise UserError(f"{where}: {_unknown(config, key)}")
        config = replace_key(config, key, _checked(f"{where}: {key}", value, wanted), f"{where}: ")
    return config


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def _types(config: Settings) -> dict[str, Any]:
    """Every dotted key and its type."""
    hints = typing.get_type_hints(type(config))
    found: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[f.name]):
            inner = typing.get_type_hints(hints[f.name])
            found.update({f"{f.name}.{name}": kind for name, kind in inner.items()})
        else:
            found[f.name] = hints[f.name]
    return found


def _unknown(config: Settings, key: str) -> str:
    names = list(_types(config))
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else f"; keys are {', '.join(names)}"
    return f"no setting {key!r}{hint}"


def _parse(key: str, text: str, kind: Any) -> Any:
    """Text of the command line to a value of ``kind``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        parts = [part.strip() for part in text.split(",") if part]
        if args[-1] is not Ellipsis and len(parts) != len(args):
            raise UserError(f"{key}={text}: {len(args)} values wanted, separated by commas")
        return _checked(key, [_parse(key, part, args[0]) for part in parts], kind)
    if kind is bool and text.lower() in ("true", "false", "1", "0", "yes", "no"):
        return text.lower() in ("true", "1", "yes")
    if kind in (int, float):
        try:
            return _checked(key, kind(text.replace("_", "")), kind)
        except ValueError:
            raise UserError(f"{key}={text}: {kind.__name__} wanted") from None
    return _checked(key, text, kind)


def _must_be_in_range(where: str, key: str, value: Any, limits: Limits) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, str):
            continue
        if not (number > 0 or (number == 0 and key not in limits.positive)):  # NaN fails as well
            wanted = "more than 0" if key in limits.positive else "0 or more"
            raise UserError(f"{where}={number}: {wanted} wanted")
        if key in limits.shares and number > 1:
            raise UserError(f"{where}={number}: a share, at most 1, wanted")
        most = MAX_SEED if key == "seed" else MAX_NUMBER
        if number > most:  # infinity does as well
            raise UserError(f"{where}={number}: at most {most} wanted")
    if key == "shares" and not sum(value):
        raise UserError(f"{where}: at least one above 0 wanted")
    if key.endswith(".opening") and value[0] > value[1]:
        raise UserError(f"{where}={value[0]},{value[1]}: fewest and most plies wanted, in order")


def _checked(where: str, value: Any, kind: Any) -> Any:
    """``value`` as ``kind`` (lists become tuples, ints become floats), or UserError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value in args:
            return value
        raise UserError(f"{where}={value}: one of {', '.join(map(str, args))} wanted")
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise UserError(f"{where}: {len(kinds)} values wanted, separated by commas")
        return tuple(_checked(where, v, k) for v, k in zip(value, kinds, strict=True))
    if kind is float and type(value) is int:
        return float(str(value))  # 400 digits become infinity, which is refused by its key
    if origin is None and not isinstance(kind, types.UnionType) and type(value) is kind:
        return value
    raise UserError(f"{where}={value!r}: {getattr(kind, '__name__', kind)} wanted")
