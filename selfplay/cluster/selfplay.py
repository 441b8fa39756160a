"""Self-play on a cluster: an iteration's games, shard by shard.

A shard is a group of whole games, made from (seed, iteration, number of the shard) and the weights
that play. How many shards an iteration has follows from the rows of those before it, not from who
makes them or how fast. So where play and learning take turns (``rl.max_staleness=0``) the games and
the weights are the same for any number of actors and machines, and after any death among them.

With ``rl.max_staleness=S`` actors play up to S iterations ahead, by the newest weights that there
are: a game of iteration k is played by the weights after iteration k - 1 - S at the earliest.

Shards that have come are files beside the run's records until their iteration is complete; a start
after a kill asks for the others only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save

from selfplay.board.alphazero import Learner
from selfplay.board.config import RLConfig
from selfplay.board.data import Columns
from selfplay.board.selfplay import Actor, Harvest, join_harvests
from selfplay.cluster.actor import Key, Maker, Order
from selfplay.cluster.farm import Delivery, Farm
from selfplay.cluster.table import ClusterTable
from selfplay.common.files import write_json
from selfplay.common.history import read_figures
from selfplay.games import make, own
from selfplay.games.rules import Rules
from selfplay.inference.actors import group_sizes
from selfplay.inference.evaluator import Evaluator
from selfplay.inference.precision import random_positions
from selfplay.models import NetSpec, build
from selfplay.run.boards import PART_SECONDS, ShardedGames
from selfplay.run.own_nets import use_net
from selfplay.run.shards import Shard, load_shard, save_shard

POLL = 0.2  #: seconds between two looks at the clock and the bar while shards are awaited
TEND = 0.05  #: ... between two looks at the shards while the learner learns
COST = {"evaluations": 0.0, "cached": 0.0, "seconds": 0.0, "version": 0.0}


class WholeGames(Actor):
    """So many games and no more, each from its beginning to its end, ``config.games`` at once."""

    def __init__(
        self, game: Rules, evaluate: Callable[..., Any], config: RLConfig, seed: int, group: int,
        games: int, iteration: int = 1,
    ) -> None:
        config = replace(config, games=min(config.games, games))
        self.more = games  #: that are still to begin
        self.resting = np.zeros(config.games, np.bool_)  #: rows without a game
        super().__init__(game, evaluate, config, seed, group, iteration)

    def play(self) -> Harvest:
        """All games. They depend on what the constructor was given, and on nothing else."""
        done: list[Harvest] = []
        while not self.resting.all():
            harvest = self.wave()
            done += [] if harvest is None else [harvest]
        return join_harvests(done)

    def _deal(self, rows: NDArray[np.int64]) -> None:
        again, rest = np.split(rows, [self.more])
        self.more -= len(again)
        self.resting[rest] = True
        if len(again):
            super()._deal(again)

    def _think(self, rows: NDArray[np.int64]) -> None:
        if len(playing := rows[~self.resting[rows]]):
            super()._think(playing)


class ShardMaker(Maker):
    """Makes shards on an actor; see ``actor.Maker``. game, net: as the run's settings name them."""

    def __init__(
        self, game: str, net: str, spec: NetSpec, config: RLConfig, seed: int, games: int,
        device: str,
    ) -> None:
        self.config, self.seed, self.games = config, seed, games
        self.boards = make(game).boards(config.sizes)
        if own.is_own(net):
            use_net(net)
        self.net, self.device = build(spec), device
        self.evaluators: dict[Rules, Evaluator] = {}

    def load(self, weights: Any) -> None:
        """Weights as ``packed`` gives them. They are copied: the store's can only be read."""
        self.net.load_state_dict(load(weights["state"].tobytes()))
        dtype = weights["dtype"]
        for board in dict.fromkeys(self.boards):
            if board not in self.evaluators:
                groups = len(group_sizes(self.config.games, self.device))
                self.evaluators[board] = Evaluator(None, board, self.device, dtype,
                                                   cache_mb=self.config.cache_mb / groups)
            evaluator = self.evaluators[board]
            if evaluator.dtype_name != dtype:
                evaluator.change(dtype)
            evaluator.load(self.net, random_positions(board) if dtype == "int8" else None)

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        """Shard ``key`` = (iteration, number): arrays of a Harvest, and what they cost.

        Shards take the boards in turn; on a small one more games are played, as they are shorter.
        """
        iteration, number = key
        board, own = self.boards[(iteration + number) % len(self.boards)], self.boards[0]
        games = max(1, round(self.games * own.cells / board.cells))
        evaluate = self.evaluators[board]  # weights have come first
        if evaluate.cache is not None:
            evaluate.cache.clear()  # what was evaluated before would change the batches
        before = evaluate.evaluations, evaluate.cache.hits if evaluate.cache else 0
        harvest = WholeGames(board, evaluate, self.config,
                             self.seed * 1_000_003 + iteration - 1, number, games,
                             iteration).play()
        return tuple(harvest), {
            "games": len(harvest.ends), "evaluations": evaluate.evaluations - before[0],
            "cached": (evaluate.cache.hits if evaluate.cache else 0) - before[1]}


def own_columns(columns: Columns) -> Columns:
    """A copy in memory of one's own."""
    return Columns._make(None if column is None else np.array(column) for column in columns)


def packed(learner: Learner, device: str) -> dict[str, Any]:
    """The weights that play, for actors on ``device``, as arrays."""
    mine = learner.players.evaluators[0]
    same = mine.device.type == device
    dtype = mine.dtype_name if same else learner.config.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    state = {name: value.detach().cpu().contiguous()
             for name, value in learner.actors_net.state_dict().items()}
    return {"dtype": dtype, "state": np.frombuffer(save(state), np.uint8)}


@dataclass
class _Plan:
    """An iteration: how many shards were asked for, and those that have come, by number."""

    folder: Path
    asked: int = 0
    came: dict[int, Shard] = field(default_factory=dict)
    before: list[Shard] = field(default_factory=list)  #: parts that a start without Ray has left

    def rows(self) -> int:
        return sum(len(shard.columns.value) for shard in (
            *self.before, *(self.came[n] for n in self.came if n < self.asked)))

    def waits(self) -> bool:
        """Whether shards that were asked for are still to come."""
        return any(n not in self.came for n in range(self.asked))


class SpreadGames(ShardedGames):
    """``ShardedGames`` whose games are played on a cluster."""

    def __init__(
        self, folder: Path, farm: Farm, learner: Learner, game: str, net: str, games: int
    ) -> None:
        """game, net: as the run's settings name them. games: of a shard; 0: of a group."""
        super().__init__(folder)
        config = learner.config
        self.farm, self.config = farm, config
        size = group_sizes(config.games, farm.device)[0]
        self.games = games or size
        farm.begin(Order(f"{__name__}:{ShardMaker.__name__}", {
            "game": game, "net": net, "spec": learner.spec,
            "config": replace(config, games=min(size, self.games)),
            "seed": learner.seed, "games": self.games}))
        self.plans: dict[int, _Plan] = {}
        self.table, self.shards = ClusterTable(farm), 0
        self.version, self.stale, self._tended = -1, 0.0, 0.0
        rough = config.full_share * learner.game.max_moves / 2
        self.each = max(rough, 1.0)  #: rows of a game, about
        newest = self.shard(learner.iteration)
        if newest.exists():
            self._learn_size(load_shard(newest))

    def __call__(
        self, learner: Learner, stop: Callable[[], bool], progress: Callable[[int], None]
    ) -> tuple[Columns, dict[str, float]] | None:
        found = super().__call__(learner, stop, progress)
        if found is None:
            return None
        columns, facts = found
        self.each = max(len(columns.value) / max(facts["games"], 1), 1e-3)
        return columns, {**facts, **self.table.row(self.stale, self.shards)}

    def words(self) -> str:
        return self.table.words()

    def tend(self) -> None:
        """While the learner learns: take what has come, and let actors play ahead, where stale
        games are allowed."""
        now = time.monotonic()
        if self.config.max_staleness and self.version >= 0 and now - self._tended > TEND:
            self._tended = now
            self._ask()
            self._gather(0.0)

    def _learn_size(self, shard: Shard) -> None:
        self.each = max(len(shard.columns.value) / len(shard.ends), 1e-3)

    def _play(
        self, path: Path, learner: Learner, stop: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> bool:
        if self.version != learner.iteration:
            self.version = learner.iteration
            self.farm.publish(self.version, packed(learner, self.farm.device))
        number, note = learner.iteration + 1, path.with_suffix(".parts") / "cost.json"
        began, earlier = time.monotonic(), read_figures(note, {"seconds": 0.0})["seconds"]
        plan, shown, noted = self._plan(number), 0, -math.inf
        while not self._complete(plan):
            self._ask()
            over, seconds = stop(), earlier + time.monotonic() - began
            if over or time.monotonic() - noted >= PART_SECONDS:
                write_json(note, {"seconds": seconds})
                noted = time.monotonic()
            if over:
                return False
            self._gather(POLL)
            shown, more = plan.rows(), plan.rows() - shown
            progress(more)
        del self.plans[number]
        costs = [read_figures(file, COST) for file in sorted(plan.folder.glob("shard-*.json"))]
        versions = [cost["version"] for cost in costs] or [number - 1]
        self.stale = float(np.mean([number - 1 - version for version in versions]))
        write_json(path.with_suffix(".json"), {
            "evaluations": sum(cost["evaluations"] for cost in costs),
            "cached": sum(cost["cached"] for cost in costs),
            "seconds": earlier + time.monotonic() - began})
        self.shards = len(plan.came)
        parts = [*plan.before, *(plan.came[n] for n in sorted(plan.came))]
        save_shard(path, *join_harvests([Harvest(*part) for part in parts]))  # the last of all
        return True

    def _complete(self, plan: _Plan) -> bool:
        return plan.asked > 0 and not plan.waits() and plan.rows() >= self.config.positions

    def _plan(self, number: int) -> _Plan:
        """The plan of an iteration, with what an earlier start has left of it."""
        if number not in self.plans:
            plan = self.plans[number] = _Plan(self.shard(number).with_suffix(".parts"))
            plan.folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(plan.folder.glob("*.npz")):
                shard = load_shard(file)
                if file.name.startswith("shard-"):
                    plan.came[int(file.stem.removeprefix("shard-"))] = shard
                else:
                    plan.before.append(shard)
        return self.plans[number]

    def _ask(self) -> None:
        """Ask for the shards of the next iteration, and of those that may be played ahead."""
        last = min(self.version + 1 + self.config.max_staleness, self.config.iterations)
        for number in range(self.version + 1, last + 1):
            if self.shard(number).exists():
                continue
            plan = self._plan(number)
            missing = self.config.positions - plan.rows()
            if plan.waits() or (plan.asked and missing <= 0):
                continue
            each = self.each * self.games
            if plan.asked:  # these were fewer rows than thought
                each = max(plan.rows() / plan.asked, 1.0)
            before, plan.asked = plan.asked, plan.asked + max(1, math.ceil(missing / each))
            for n in range(before, plan.asked):
                if n not in plan.came:
                    self.farm.ask((number, n))

    def _gather(self, seconds: float) -> None:
        """Keep the shards that have come."""
        for piece in self.farm.poll(seconds):
            self._keep(piece)

    def _keep(self, piece: Delivery) -> None:
        number, n = piece.key
        plan = self.plans.get(number)
        if plan is None or n in plan.came:
            return
        found = Harvest(Columns._make(piece.output.piece[0]), *piece.output.piece[1:])
        harvest = Harvest._make(  # not the store's own memory
            own_columns(part) if isinstance(part, Columns) else
            None if part is None else np.array(part) for part in found)
        file = plan.folder / f"shard-{n:06d}.npz"
        figures = piece.output.figures
        write_json(file.with_suffix(".json"), {
            "evaluations": figures["evaluations"], "cached": figures["cached"],
            "seconds": piece.output.seconds, "version": float(piece.version)})
        save_shard(file, *harvest)
        plan.came[n] = Shard(*harvest)

