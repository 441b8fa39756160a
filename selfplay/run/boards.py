"""The learning stages of boards in their folders: what a start finds, continues and leaves there.

sft/, value/   ckpt-STEP, history.jsonl, best.json
rl/            ckpt-ITERATION, history.jsonl, records/ (games by iteration) or pool/ (past selves),
               dtype.json (the arithmetic of self-play)
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.pool import FolderPool
from selfplay.arena.spec import VALUE_METRIC
from selfplay.board.alphago_config import LeagueSettings, SFTConfig, ValueConfig
from selfplay.board.alphazero import Learner, alphazero, game_figures
from selfplay.board.config import RLConfig
from selfplay.board.data import Columns, unpack
from selfplay.board.evaluate import HELD_ROWS, evaluate_columns
from selfplay.board.league import PolicyLearner, league
from selfplay.board.lessons import Beside, evenly
from selfplay.board.policy import BoardPolicy
from selfplay.board.selfplay import Harvest, join_harvests
from selfplay.board.supervised import sft_lesson
from selfplay.board.value import value_lesson
from selfplay.common import ranks
from selfplay.common.compiling import working_seconds
from selfplay.common.errors import UserError
from selfplay.common.files import write_json
from selfplay.common.history import read_figures
from selfplay.games.base import Game
from selfplay.inference import precision
from selfplay.inference.precision import ActorNets
from selfplay.inference.spread import spread
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, seeded
from selfplay.models.growing import grown
from selfplay.run.keep import Kept, Row, learn_until_flat
from selfplay.run.shards import Shard, load_shard, save_shard

PART_SECONDS = 1.0  #: between two writes of finished self-play games


class ShardedGames:
    """Self-play games kept in a folder, so that those a killed start had finished are not played
    again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tend(self) -> None:
        """Called while the learner learns."""

    def words(self) -> str:
        """What the bar says of who plays."""
        return ""

    def shard(self, iteration: int) -> Path:
        return self.folder / f"{iteration:06d}.npz"

    def __call__(
        self, learner: Learner, stop: Callable[[], bool], progress: Callable[[int], None]
    ) -> tuple[Columns, dict[str, float]] | None:
        """The next iteration's rows and facts about them; None if ``stop()`` came first, by when
        the finished games are on disk."""
        path, began = self.shard(learner.iteration + 1), working_seconds()
        if not path.exists() and not self._play(path, learner, stop, progress):
            return None
        ranks.here().meet()  # the games are on disk
        if ranks.leads():
            shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)
        shard, cost = load_shard(path), _cost(path.with_suffix(".json"))
        seconds = cost.pop("seconds")
        return shard.columns, {
            **game_figures(shard), **cost, "play_seconds": seconds,
            "evaluations_per_second": cost["evaluations"] / max(seconds, 1e-9),
            "earlier_seconds": seconds - (working_seconds() - began)}

    def _play(
        self, path: Path, learner: Learner, stop: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> bool:
        """Play the games of one shard; False if ``stop()`` came first.

        Finished games are written to ``.parts`` every PART_SECONDS, for a start after a kill.
        """
        folder, wanted = path.with_suffix(".parts"), learner.config.positions
        folder.mkdir(parents=True, exist_ok=True)
        parts = [load_shard(part) for part in sorted(folder.glob("*.npz"))]
        note = folder / "cost.json"
        cost = _cost(note)
        have, earlier = sum(len(part.columns.value) for part in parts), len(parts)
        progress(have)
        while have < wanted and not stop():
            began, before = working_seconds(), learner.evaluated()
            pause = partial(_pause, stop, time.monotonic() + PART_SECONDS)
            harvest = learner.play(wanted - have, pause, progress, earlier)
            for key, count in learner.evaluated().items():
                cost[key] += count - before[key]
            cost["seconds"] += working_seconds() - began
            if harvest is not None:
                write_json(note, cost)
                save_shard(folder / f"{len(parts):04d}.npz", *harvest)
                parts.append(Shard(*harvest))
                have += len(harvest.columns.value)
        if have < wanted:
            return False
        write_json(path.with_suffix(".json"), cost)
        save_shard(path, *join_harvests([Harvest(*part) for part in parts]))  # the last of all
        return True


def _pause(stop: Callable[[], bool], at: float) -> bool:
    return stop() or ranks.here().first(time.monotonic() > at)


def _cost(note: Path) -> dict[str, float]:
    """What games have cost, as far as the file ``note`` tells."""
    return read_figures(note, {"evaluations": 0, "cached": 0, "seconds": 0.0})


def _begin(
    game: Game, spec: NetSpec, folder: Path, init: Path | None, device: str, seed: int
) -> tuple[Any, NetSpec, dict[str, float]]:
    """(net, its spec, compute so far) of the newest checkpoint, else of ``init``, grown to the size
    of ``spec``, else a fresh net. The newest checkpoint's keeps its size."""
    newest = checkpoint.newest(folder)
    source = newest or init
    compute = {key: 0.0 for key in ("seconds", "flops", "positions")}
    if source is None:
        return seeded(seed, lambda: build(spec)), spec, compute
    net, meta = checkpoint.load_net(source, game, device)
    compute |= {key: float(value) for key, value in meta["compute"].items()}
    had = checkpoint.spec_of(meta)
    if newest is None:
        larger = seeded(seed, lambda: grown(net, had, spec.size))
        return larger, replace(had, size=spec.size), compute
    return net, had, compute


def _resume(learner: Any, kept: Kept, load: Callable[..., None]) -> bool:
    """Let ``learner`` continue from the newest checkpoint; whether there is one."""
    newest = checkpoint.newest(kept.folder)
    if newest is not None:
        load(*checkpoint.load_training(newest))
        learner.iteration = int(checkpoint.read_meta(newest)["step"])
        kept.resume(learner.iteration)
    return newest is not None


def _save(learner: Any, path: Path, row: Row) -> None:
    checkpoint.save(path, learner, learner.spec, _rl_meta(learner, row["iteration"], row))


def _rl_meta(learner: Any, iteration: int, row: Row) -> dict[str, Any]:
    return {**checkpoint.naming(learner.game, learner.spec), "kind": "rl", "step": iteration,
            "iteration": iteration, "metrics": row,
            "compute": {**learner.compute, "seconds": row.get("seconds", 0.0)}}


# -------------------------------------------------------------------------------- self-play


class KeptLearner(Learner):
    """Self-play in a folder: continues from the newest checkpoint, else starts from ``init``."""

    def __init__(
        self, game: Game, spec: NetSpec, config: RLConfig, folder: Path, *, init: Path | None,
        device: str, seed: int, known: Columns | None = None, lessons: Columns | None = None,
    ) -> None:
        """known: positions, an expert's say, to compare dtypes on before there are games. lessons:
        an expert's rows, for ``rl.expert_share``."""
        net, spec, start = _begin(game, spec, folder, init, device, seed)
        super().__init__(game, spec, config, net=net, device=device, seed=seed,
                         players=self._actors, window=Beside(config, lessons))
        self.folder, self.known, self.games = folder, known, ShardedGames(folder / "records")
        self.shard = self.games.shard
        self.compute = {key: start[key] for key in ("flops", "positions")}
        self.kept = Kept(
            folder, partial(_save, self), "iteration", config.checkpoint_every, config.keep,
            evenly=True, before=start["seconds"],
            breakdown=("--init", "rl.learning_rate", config.learning_rate))
        _resume(self, self.kept, self.trainer.load_state)
        for index in range(1, self.iteration + 1):
            if self.shard(index).exists():
                self.window.add(load_shard(self.shard(index)).columns)
        if not ranks.leads():  # the first notes the dtype that all take
            ranks.here().meet()
        _ = self.players  # so that an unavailable dtype is reported now
        if ranks.leads():
            ranks.here().meet()

    @property
    def history(self) -> list[Row]:
        return self.kept.history

    def _actors(self, net: Any) -> ActorNets:
        return ActorNets(self.game, net, self.config, self.folder / "dtype.json", self.device,
                         self.positions, fresh=not self.iteration)

    def positions(self) -> NDArray[Any]:
        """Observations [n, C, H, W] from the newest games, else from those known before, else from
        random games."""
        source = self.window.newest() if len(self.window) else self.known
        if source is not None and source.size is not None:
            source = source.rows(source.size == self.game.board_shape[0])
        if source is None or not len(source.value):
            return precision.random_positions(self.game)
        return unpack(evenly(source, precision.POSITIONS).obs, self.game.obs_shape)


class TimeIsUpError(Exception):
    """Learning was cut off because it was too far past its time."""


def train_rl(
    learner: KeptLearner, *, held: Columns | None = None,
    left: Callable[[], float] = lambda: math.inf, overtime: float = math.inf,
    learning: float = 0.0,
    log: Callable[[Row], None] = lambda row: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    flying: Callable[[int, int, int], None] = lambda done, games, rows: None,
) -> Path | None:
    """Run ``alphazero`` for up to ``left()`` seconds and keep what it yields. Returns the newest
    checkpoint, or None. After every iteration its games are on disk and, when due, a checkpoint.

    Play stops early enough to learn from the iteration's games in time, assuming that learning
    takes as long as last time (``learning`` seconds, the first time). Learning that is
    ``overtime`` seconds late is cut off; the next start learns from the same games again. flying:
    called whenever groups of games meet, with (rows of finished games, games under way, rows of
    those so far).
    """
    finished = 0

    def told(what: str, done: int, total: int) -> None:
        nonlocal finished
        finished = done if what == "self-play" else 0
        if what == "learning" and not math.isinf(overtime) and (
                ranks.here().first(left()) <= -overtime):
            raise TimeIsUpError
        if what == "learning":
            learner.games.tend()
        progress(what, done, total)

    def stop() -> bool:
        if learner.selfplay is not None:
            flying(finished, *learner.selfplay.in_flight())
        return ranks.here().first(left() <= learnt_in(learner.history, learning))

    with contextlib.suppress(TimeIsUpError):
        learner.kept.go_on(alphazero(
            learner, games=learner.games, look=partial(_expert, held), judge=gate,
            stop=stop, progress=told, watch=learner.kept.watch), log)
    return checkpoint.newest(learner.folder)


def learnt_in(history: Sequence[Row], otherwise: float = 0.0) -> float:
    """Seconds that learning from an iteration's games took of late, else ``otherwise``: the least
    of three times, as the machine may have slept in one of them."""
    lately = [float(row["learn_seconds"]) for row in history[-3:] if "learn_seconds" in row]
    return min(lately, default=otherwise)


def _expert(held: Columns | None, learner: Learner) -> dict[str, float]:
    """How well the net does on an expert's positions."""
    if held is None:
        return {}
    seen = evaluate_columns(learner.trainer.inference_net(), learner.game,
                            held.rows(slice(HELD_ROWS)), learner.device)
    return {f"expert_{key}": value for key, value in seen.items()}


def gate(learner: Learner) -> float:
    """The score of the new weights against those that play now: raw policies, varied openings."""
    from selfplay.arena.play import play_games
    from selfplay.arena.players import RawPlayer

    config, device = learner.config, learner.device
    new = RawPlayer("new", spread(learner.trainer.inference_net(), learner.game, device))
    old = RawPlayer("old", spread(learner.actors_net, learner.game, device))
    games = play_games(
        cast(Game, learner.game), new, old, games=config.gating_games, opening=(2, 6),
        seed=learner.seed + learner.iteration, slots=config.gating_games)
    scores = [(1 + g.value * (1 if g.players[0] == "new" else -1)) / 2 for g in games]
    return float(np.mean(scores))


# --------------------------------------------------------------------------- policy gradient


class KeptPool(FolderPool[BoardPolicy]):
    """Past selves of a board's policy, as checkpoints."""

    def __init__(
        self, folder: Path, like: BoardPolicy, spec: NetSpec, game: Game, config: Any
    ) -> None:
        super().__init__(folder, config)
        self.like, self.spec, self.game = like, spec, game
        self.compute: Callable[[], dict[str, float]] = dict  #: what a checkpoint says of compute

    def save(self, path: Path, step: int, policy: BoardPolicy) -> None:
        checkpoint.save_net(path, policy.net, self.spec, {
            **checkpoint.naming(self.game, self.spec), "kind": "rl", "step": step,
            "iteration": step, "compute": self.compute(), "metrics": {}})

    def load(self, path: Path) -> BoardPolicy:
        net, _ = checkpoint.load_net(path, self.game, self.like.device)
        return replace(self.like, net=net).frozen()


class KeptPolicyLearner(PolicyLearner):
    """Policy gradient in a folder: continues from the newest checkpoint, else starts from
    ``init``."""

    def __init__(
        self, game: Game, spec: NetSpec, config: LeagueSettings, folder: Path, *,
        init: Path | None, device: str, seed: int,
    ) -> None:
        net, spec, start = _begin(game, spec, folder, init, device, seed)
        pool = KeptPool(folder / "pool", BoardPolicy(net, game.obs_shape, game.num_actions, device),
                        spec, game, config.pool)
        super().__init__(game, spec, config, net=net, device=device, seed=seed, pool=pool)
        self.folder = folder
        self.compute = {key: start[key] for key in ("flops", "positions")}
        self.kept = Kept(
            folder, partial(_save, self), "iteration", config.rl.checkpoint_every, config.rl.keep,
            evenly=True, parts=True, before=start["seconds"],
            breakdown=("--init", "pg.learning_rate", config.pg.learning_rate))
        pool.compute = lambda: {**self.compute, "seconds": self.kept.spent()}
        if not _resume(self, self.kept, self.optimizer.load_state):
            pool.add(0, self.policy)

    @property
    def history(self) -> list[Row]:
        return self.kept.history


def train_pg(
    learner: KeptPolicyLearner, *, held: Columns | None = None,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[Row], None] = lambda row: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Path | None:
    """Run ``league`` for up to ``left()`` seconds and keep what it yields. Returns the newest
    checkpoint, or None. Play stops early enough to learn in time, going by the last iteration."""
    return learner.kept.go_on(league(
        learner, held=held, progress=progress, watch=learner.kept.watch,
        stop=lambda: ranks.here().first(left() <= learnt_in(learner.history))), log)


# ---------------------------------------------------------------------- until a curve is flat


def _kept_lesson(
    folder: Path, trainer: Any, spec: NetSpec, kind: str, figures: tuple[str, ...], rate: float,
    about: Mapping[str, Any], before: float = 0.0,
) -> Kept:
    def save(path: Path, row: Row) -> None:
        checkpoint.save(path, trainer, spec, {
            "kind": kind, "step": row["step"],
            "compute": {key: row[key] for key in ("seconds", "flops", "positions")},
            "metrics": {key: row[key] for key in figures}, **about})

    return Kept(folder, save, before=before, breakdown=("", f"{kind}.learning_rate", rate))


def train_sft(
    game: Game, spec: NetSpec, train: Columns, held: Columns, config: SFTConfig, folder: Path, *,
    device: str, seed: int, about: Mapping[str, Any] | None = None, **hooks: Any,
) -> Path:
    """Learn the experts' moves and results. Returns the best checkpoint by held-out policy loss.
    about: further entries for the checkpoints' meta. hooks: see ``keep.learn_until_flat``."""
    trainer, lesson = sft_lesson(game, spec, train, held, config, device=device, seed=seed)
    kept = _kept_lesson(folder, trainer, spec, "sft", ("top1", "top5", "policy_loss", "value_mse"),
                        config.learning_rate, {**checkpoint.naming(game, spec), **(about or {})})
    return learn_until_flat(trainer, lesson, config, kept, load=_loads(game, device), **hooks)


def train_value(
    game: Game, spec: NetSpec, policy: Path, columns: Columns, config: ValueConfig, folder: Path, *,
    device: str, seed: int, about: Mapping[str, Any], before: Mapping[str, float], **hooks: Any,
) -> Path:
    """Learn the results of ``columns``. Returns the best checkpoint by held-out error.

    policy: the RL policy's checkpoint, whose net is the start unless ``config.init`` is random.
    about: further entries for the checkpoints' meta. before: compute spent so far. hooks: see
    ``keep.learn_until_flat``.
    """
    start = policy if config.init == "rl" else None
    net, spec, _ = _begin(game, spec, folder / "none", start, device, seed)
    trainer, lesson = value_lesson(game, net, spec, columns, config, device=device, seed=seed,
                                   before=before)
    kept = _kept_lesson(folder, trainer, spec, "value",
                        (VALUE_METRIC, "value_accuracy", "train_mse"), config.learning_rate,
                        {**checkpoint.naming(game, spec), **about},
                        float(before.get("seconds", 0.0)))
    return learn_until_flat(trainer, lesson, config, kept, load=_loads(game, device), **hooks)


def _loads(game: Game, device: str) -> Callable[[Path], Any]:
    return lambda path: checkpoint.load_net(path, game, device)[0]


def best_sft(folder: Path) -> Path:
    """The checkpoint with the best held-out policy loss. Raises UserError if there is none yet."""
    found = checkpoint.best(folder)
    if found is None:
        raise UserError(f"{folder}: no SFT checkpoint yet; make one with selfplay sft, or start "
                        "self-play from nothing with --init random")
    return found
