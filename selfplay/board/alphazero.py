"""Policy iteration by self-play: play -> train -> judge -> repeat (AlphaZero's loop), in memory.

One process plays and learns in turn, so what comes out depends on seed and config alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.board.config import RLConfig, rows_learnt
from selfplay.board.data import Batch, Columns, Window, batches
from selfplay.board.selfplay import Harvest, SelfPlay
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common import ranks
from selfplay.common.threads import ahead
from selfplay.games.rules import Rules
from selfplay.inference.actors import Actors
from selfplay.learn.optimizer import counter
from selfplay.models import NetSpec, build, flops, seeded


class Learner:
    """The state of self-play between two iterations."""

    def __init__(
        self, game: Rules, spec: NetSpec, config: RLConfig, *, net: nn.Module | None = None,
        device: str = "cpu", seed: int = 0,
        players: Callable[[nn.Module], Any] | None = None, window: Window | None = None,
    ) -> None:
        """net: a net of ``spec`` to begin with, trained in place; None is a new one. players: of
        the net that plays, who plays by it: ``Actors``, or what has their methods."""
        if not spec.komi:  # a net that does not see the komi has to learn by one alone
            config = replace(config, komi_share=0.0, komi_wild=0.0, handicap=0.0)
        self.game, self.spec, self.config, self.device, self.seed = game, spec, config, device, seed
        net = seeded(seed, lambda: build(spec)) if net is None else net
        self.actors_net = copy.deepcopy(net).eval()  #: what plays; gating may keep it back
        self.trainer = board_trainer(net, TrainConfig(
            batch_size=config.batch_size, learning_rate=config.learning_rate,
            weight_decay=config.weight_decay, ema_decay=config.ema_decay,
            value_weight=config.value_weight, warmup=100,
            schedule="cosine" if config.decay_steps else "constant", total_steps=config.decay_steps,
        ), device)
        self.compute = {"flops": 0.0, "positions": 0.0}  #: so far; ``flops``: an evaluation's
        self.iteration = 0
        self.window = window if window is not None else Window(  # an empty one is false
            config.window_min, config.window_growth, config.window_max)
        self.selfplay: SelfPlay | None = None
        every = game.boards(config.sizes)
        self.boards = [(board, board.symmetries()) for board in dict.fromkeys(every)]
        self.flops = flops(spec) * sum(b.cells for b in every) / (game.cells * len(every))
        self._players: Any = None
        self._make = players

    @property
    def players(self) -> Any:
        """Who plays, by the weights of ``actors_net``."""
        if self._players is None:
            self._players = self._make(self.actors_net) if self._make else Actors(
                self.actors_net, self.game, self.config.games, self.device, self.config.dtype,
                self.config.cache_mb, self.config.sizes)
        return self._players

    def accept(self) -> None:
        """Let the newest weights play."""
        self.actors_net.load_state_dict(self.trainer.inference_net().state_dict())
        self.players.load(self.actors_net)

    def inference_net(self) -> nn.Module:
        """The net that a checkpoint saves for playing."""
        return self.actors_net

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps so that training can go on."""
        return self.trainer.state()

    def play(
        self, positions: int, stop: Callable[[], bool], progress: Callable[[int], None],
        again: int = 0,
    ) -> Harvest | None:
        """Finished games with at least so many positions; fewer if ``stop()`` came first.

        again: makes the games different from those of an earlier start at this iteration.
        """
        if self.selfplay is None:  # a fresh stream of games after every start
            seed = self.seed * 1_000_003 + self.iteration + 7919 * again
            self.selfplay = SelfPlay(self.game, self.players.evaluators, self.config, seed=seed,
                                     threads=torch.get_num_threads(), work=flops(self.spec),
                                     iteration=self.iteration + 1)
        self.selfplay.plan(self.iteration + 1)
        return self.selfplay.play(positions, stop, progress)

    def evaluated(self) -> dict[str, int]:
        """How many positions the net has evaluated, and how many were found in the cache."""
        found = [(e.evaluations, e.cache.hits if e.cache else 0) for e in self.players.evaluators]
        made, cached = zip(*ranks.here().gathered(found), strict=True)
        return {"evaluations": sum(made), "cached": sum(cached)}

    def learn(self, new: int, progress: Callable[[int], None]) -> dict[str, float]:
        """Train ``reuse`` times as many positions as are new; the mean of every metric."""
        steps = max(1, round(rows_learnt(self.config, new) / self.config.batch_size))
        total: dict[str, float] = {}
        for rows in ahead(self._batches(steps)):
            metrics = self.trainer.step(rows)
            total = {key: total.get(key, 0.0) + value for key, value in metrics.items()}
            progress(self.config.batch_size)
        self.compute["positions"] += steps * self.config.batch_size
        self.compute["flops"] += steps * self.config.batch_size * 3 * self.flops
        return {key: value / steps for key, value in total.items()}

    def _batches(self, steps: int) -> Iterator[list[Batch]]:
        """What the next steps learn from, each by its number and what the net has had."""
        for k in range(steps):
            rng = np.random.default_rng([self.seed, 0x41, int(self.compute["positions"]), k])
            columns, rows = self.window.sample(self.config.batch_size, rng)
            yield batches(columns, rows, self.boards, rng)


#: (learner, stop, progress) -> rows of the next iteration and what there is to say of its games,
#: "evaluations" at least; None where ``stop()`` came first.
Games = Callable[[Learner, Callable[[], bool], Callable[[int], None]],
                 "tuple[Columns, dict[str, float]] | None"]


def fresh_games(
    learner: Learner, stop: Callable[[], bool], progress: Callable[[int], None]
) -> tuple[Columns, dict[str, float]] | None:
    """Play the next iteration's games."""
    before = learner.evaluated()
    found = learner.play(learner.config.positions, stop, progress)
    if found is None or len(found.columns.value) < learner.config.positions:
        return None
    cost = {key: counter - before[key] for key, counter in learner.evaluated().items()}
    return found.columns, {**game_figures(found), **cost}


def game_figures(games: Any) -> dict[str, float]:
    """Figures of a Harvest or a Shard: games, mean_length (plies), first_player_score and draws
    (both shares)."""
    return {"games": len(games.ends), "mean_length": float(games.ends[-1] / len(games.ends)),
            "first_player_score": float((games.values.mean() + 1) / 2),
            "draws": float((games.values == 0).mean())}


def alphazero(
    learner: Learner, *,
    games: Games = fresh_games,
    look: Callable[[Learner], dict[str, float]] = lambda learner: {},
    judge: Callable[[Learner], float] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    watch: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Iterator[dict[str, Any]]:
    """One row an iteration, until ``config.iterations`` or until ``stop()``. Between two rows the
    learner is complete: it can be saved, and a new call goes on with it.

    look: adds figures to a row, say on an expert's positions. judge: the score of the new weights
    against those that play, for ``config.gating``. progress: called within an iteration with
    ("self-play" or "learning", rows done, rows wanted). watch("learn"): a context around learning.
    """
    config = learner.config
    if config.gating and judge is None:
        raise ValueError("gating wants a judge")
    while learner.iteration < config.iterations and not stop():
        made = games(learner, stop, counter(progress, "self-play", config.positions))
        if made is None:
            return
        new, facts = made
        learner.compute["flops"] += facts["evaluations"] * learner.flops
        learner.iteration += 1
        learner.window.add(new)
        told = counter(progress, "learning", rows_learnt(config, len(new.value)))
        with watch("learn"):
            metrics = learner.learn(len(new.value), told)
        row = {"iteration": learner.iteration, "step": learner.trainer.steps, **learner.compute,
               **facts, **metrics, "window": len(learner.window), **learner.players.figures(),
               **look(learner)}
        if config.gating and judge is not None:
            row["gate"] = judge(learner)
        if row.get("gate", 1.0) >= config.gating_score:
            learner.accept()
        yield row
