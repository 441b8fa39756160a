"""Policy iteration by self-play: play -> write -> train -> judge -> repeat (AlphaZero's loop).

One process plays and learns in turn, so a run depends on its seed and config alone. After every
iteration the shard and the checkpoint are on disk: a kill loses the games in flight, no more.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfplay.board.config import RLConfig
from selfplay.board.data import (
    Batch,
    Columns,
    Shard,
    Window,
    batch,
    evenly,
    load_shard,
    save_shard,
    unpack,
)
from selfplay.board.selfplay import Harvest, SelfPlay, join
from selfplay.board.trainer import TrainConfig, board_trainer, evaluate_columns
from selfplay.common.errors import UserError
from selfplay.common.files import read_history, read_json, write_history, write_json
from selfplay.common.machine import rss_mb
from selfplay.common.threads import ahead
from selfplay.games.base import Game
from selfplay.inference import precision
from selfplay.inference.evaluator import spread
from selfplay.inference.precision import ActorNets
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, flops, seeded

PART_SECONDS = 1.0  #: between two writes of finished self-play games
HELD_ROWS = 4096  #: held-out expert rows looked at after an iteration


class Learner:
    """The state of a self-play run between two iterations."""

    def __init__(
        self, game: Game, spec: NetSpec, config: RLConfig, folder: Path, *,
        init: Path | None, device: str, seed: int, known: Columns | None = None,
    ) -> None:
        """known: positions to begin with, an expert's say, to compare dtypes on."""
        self.game, self.spec, self.config, self.folder, self.seed = game, spec, config, folder, seed
        self.device = device
        net, start = seeded(seed, lambda: build(spec)), dict[str, Any]()
        source = checkpoint.newest(folder) or init
        if source is not None:  # its net goes on, whatever size the dial says
            net, meta = checkpoint.load_net(source, game.name, device)
            self.spec, start = checkpoint.spec_of(meta), meta["compute"]
        self.actors_net = copy.deepcopy(net).eval()  #: what plays; gating may keep it back
        self.trainer = board_trainer(net, TrainConfig(
            batch_size=config.batch_size, learning_rate=config.learning_rate,
            weight_decay=config.weight_decay, ema_decay=config.ema_decay,
            value_weight=config.value_weight, warmup=100,
        ), device)
        #: compute so far, the SFT run's included
        self.compute = {k: float(start.get(k, 0.0)) for k in ("seconds", "flops", "positions")}
        self.iteration = 0
        self.window = Window(config.window_min, config.window_growth, config.window_max)
        self.history: list[dict[str, Any]] = []
        self.played: dict[str, float] = {}  #: what there is to say of the newest shard
        self._resume()
        self.known = known
        self.players = ActorNets(game, self.actors_net, config, folder / "dtype.json", device,
                              self.positions, fresh=not self.iteration)
        self.selfplay: SelfPlay | None = None
        self.symmetries = game.symmetries()

    def _resume(self) -> None:
        newest = checkpoint.newest(self.folder)
        if newest is None:
            return
        tensors, state = checkpoint.load_training(newest)
        self.trainer.load_state(tensors, state)
        self.iteration = int(checkpoint.read_meta(newest)["step"])
        rows = read_history(self.folder / "history.jsonl")
        self.history = [row for row in rows if row["iteration"] <= self.iteration]
        for index in range(1, self.iteration + 1):
            if self.shard(index).exists():
                self.window.add(load_shard(self.shard(index)).columns)

    def accept(self) -> None:
        """Let the newest weights play."""
        self.actors_net.load_state_dict(self.trainer.inference_net().state_dict())
        self.players.load(self.actors_net)

    def positions(self) -> NDArray[Any]:
        """Observations [n, C, H, W] of the newest games, else of those known before, else of
        random ones."""
        if not len(self.window) and self.known is None:
            return precision.random_positions(self.game)
        source = self.window.newest() if len(self.window) else self.known
        return unpack(evenly(source, precision.POSITIONS).obs, self.game.obs_shape)

    def inference_net(self) -> nn.Module:
        """What a checkpoint gives to those who play."""
        return self.actors_net

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps for training to go on."""
        return self.trainer.state()

    def shard(self, iteration: int) -> Path:
        return self.folder / "records" / f"{iteration:06d}.npz"

    def gather(self, stop: Callable[[], bool], progress: Callable[[int], None]) -> Columns | None:
        """The next iteration's rows, from disk if a killed start had written them.

        None where ``stop()`` ended it early; the games that have finished are on disk by then.
        """
        path = self.shard(self.iteration + 1)
        if not path.exists() and not self._play(path, stop, progress):
            return None
        shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)
        shard = load_shard(path)
        self.played = {**_describe(shard), **_cost(path.with_suffix(".json"))}
        return shard.columns

    def _play(self, path: Path, stop: Callable[[], bool], progress: Callable[[int], None]) -> bool:
        """Play the games of one shard; False where ``stop()`` came first.

        What has finished is written to ``.parts`` every PART_SECONDS, for a start after a kill.
        """
        folder, wanted = path.with_suffix(".parts"), self.config.positions
        folder.mkdir(parents=True, exist_ok=True)
        parts = [load_shard(part) for part in sorted(folder.glob("*.npz"))]
        note = folder / "cost.json"
        cost = _cost(note)
        have = sum(len(part.columns.value) for part in parts)
        progress(have)
        if self.selfplay is None:  # a fresh stream of games after every start
            seed = self.seed * 1_000_003 + self.iteration + 7919 * len(parts)
            self.selfplay = SelfPlay(self.game, self.players.evaluators, self.config, seed=seed,
                             threads=torch.get_num_threads(), work=flops(self.spec))
        while have < wanted and not stop():
            began, before = time.monotonic(), self._evaluated()
            pause = began + PART_SECONDS
            harvest = self.selfplay.play(
                wanted - have, lambda pause=pause: stop() or time.monotonic() > pause, progress)
            for key, count in self._evaluated().items():
                cost[key] += count - before[key]
            cost["seconds"] += time.monotonic() - began
            if harvest is not None:
                write_json(note, cost)
                save_shard(folder / f"{len(parts):04d}.npz", *harvest)
                parts.append(Shard(*harvest))
                have += len(harvest.columns.value)
        if have < wanted:
            return False
        write_json(path.with_suffix(".json"), cost)
        save_shard(path, *join([Harvest(*part) for part in parts]))  # last: where it is, all is
        return True

    def _evaluated(self) -> dict[str, int]:
        """Positions that the net has evaluated, and that were known from before."""
        return {"evaluations": sum(e.evaluations for e in self.players.evaluators),
                "cached": sum(e.cache.hits for e in self.players.evaluators if e.cache)}

    def learn(self, new: int, progress: Callable[[int], None]) -> dict[str, float]:
        """Train ``reuse`` times as many positions as are new; the mean of every metric."""
        steps = max(1, round(new * self.config.reuse / self.config.batch_size))
        total: dict[str, float] = {}
        for rows in ahead(self._batches(steps)):
            metrics = self.trainer.step(rows)
            total = {key: total.get(key, 0.0) + value for key, value in metrics.items()}
            progress(self.config.batch_size)
        self.compute["positions"] += steps * self.config.batch_size
        self.compute["flops"] += steps * self.config.batch_size * 3 * flops(self.spec)
        return {key: value / steps for key, value in total.items()}

    def _batches(self, steps: int) -> Iterator[Batch]:
        """What the next steps learn from; each depends on its number alone."""
        for k in range(steps):
            rng = np.random.default_rng([self.seed, 0x41, self.iteration, k])
            columns, rows = self.window.sample(self.config.batch_size, rng)
            yield batch(columns, rows, self.game, self.symmetries, rng)

    def save(self, row: dict[str, Any]) -> Path:
        """History and checkpoint, then thin out what the chart will not need."""
        path = self.folder / f"ckpt-{self.iteration:06d}"
        write_history(self.folder / "history.jsonl", self.history)  # a row too many does no harm
        checkpoint.save(path, self, self.spec, {
            "game": self.game.name, "kind": "rl", "step": self.iteration,
            "iteration": self.iteration, "compute": self.compute, "metrics": row,
        })
        checkpoint.thin(self.folder, self.config.keep, evenly=True)
        return path


def _cost(note: Path) -> dict[str, float]:
    """What games have cost, as far as ``note`` tells: one that was damaged has been deleted.

    Raises UserError naming a damaged one.
    """
    cost = {"evaluations": 0, "cached": 0, "seconds": 0.0}
    found = read_json(note) if note.exists() else {}
    if not isinstance(found, dict) or not all(isinstance(v, (int, float)) for v in found.values()):
        raise UserError(f"{note}: damaged; delete it and run the same command again")
    return cost | found


def _describe(shard: Shard) -> dict[str, float]:
    games = len(shard.ends)
    return {
        "games": games,
        "mean_length": float(shard.ends[-1] / games),
        "first_player_score": float((shard.values.mean() + 1) / 2),
        "draws": float((shard.values == 0).mean()),
    }


def train_rl(
    learner: Learner,
    *,
    held: Columns | None = None,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Path | None:
    """Iterate until ``config.iterations`` or until ``left()`` seconds are used up.

    progress is called with ("self-play" or "learning", rows done, rows wanted) within an
    iteration. Returns the newest checkpoint, None if there is none yet.
    """
    config, device = learner.config, learner.device
    last = time.monotonic()
    while learner.iteration < config.iterations and left() > 0:
        began, counted = time.monotonic(), [0]

        def count(what: str, total: int, n: int, counted: list[int] = counted) -> None:
            counted[0] += n
            progress(what, counted[0], total)

        new = learner.gather(lambda: left() <= 0,
                             lambda n: count("self-play", config.positions, n))
        if new is None:
            break
        played, cost = time.monotonic(), learner.played
        learner.compute["flops"] += cost["evaluations"] * flops(learner.spec)
        learner.iteration += 1
        learner.window.add(new)
        counted[0] = 0
        wanted = round(len(new.value) * config.reuse)
        metrics = learner.learn(len(new.value), lambda n, w=wanted: count("learning", w, n))
        now = time.monotonic()
        # the games of a killed start have cost time as well
        learner.compute["seconds"] += began - last + cost["seconds"] + now - played
        row = {"iteration": learner.iteration, "step": learner.trainer.steps, **learner.compute,
               **{k: v for k, v in cost.items() if k != "seconds"}, **metrics,
               "window": len(learner.window), "play_seconds": cost["seconds"],
               "evaluations_per_second": cost["evaluations"] / max(cost["seconds"], 1e-9),
               "learn_seconds": now - played, "rss_mb": rss_mb(), **learner.players.figures()}
        last = now
        if held is not None:
            sample = Columns(*(c[:HELD_ROWS] for c in held))
            seen = evaluate_columns(learner.trainer.inference_net(), learner.game, sample, device)
            row.update({f"expert_{k}": v for k, v in seen.items()})
        if config.gating:
            row["gate"] = gate(learner)
        if not config.gating or row["gate"] >= config.gating_score:
            learner.accept()
        learner.history.append(row)
        if learner.iteration % config.checkpoint_every == 0:
            learner.save(row)
        log(row)
    if learner.iteration and not (learner.folder / f"ckpt-{learner.iteration:06d}").exists():
        learner.save(learner.history[-1])
    return checkpoint.newest(learner.folder)


def gate(learner: Learner) -> float:
    """Score of the new weights against those that play: raw policies, varied openings."""
    from selfplay.arena.play import play_games
    from selfplay.arena.players import RawPlayer

    config = learner.config
    device = learner.device
    new = RawPlayer("new", spread(learner.trainer.inference_net(), learner.game, device))
    old = RawPlayer("old", spread(learner.actors_net, learner.game, device))
    games = play_games(learner.game, new, old, games=config.gating_games, opening=(2, 6),
                       seed=learner.seed + learner.iteration, slots=config.gating_games)
    scores = [(1 + g.value * (1 if g.players[0] == "new" else -1)) / 2 for g in games]
    return float(np.mean(scores))
