"""Games for the value net on a cluster: the same games as on one machine, for any number of actors.

Game g follows from (seed, g) and the two policies, so a shard of them can be made anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save

from selfplay.board.data import Columns
from selfplay.board.policy import BoardPolicy
from selfplay.board.value import Games, Policies, play_shard
from selfplay.cluster.actor import Key, Maker, Order
from selfplay.cluster.farm import Farm
from selfplay.cluster.selfplay import POLL, own_columns
from selfplay.common.threads import Workers
from selfplay.games import make, own
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build
from selfplay.run.folder import Run
from selfplay.run.own_nets import use_net

AHEAD = 2  #: shards asked for at once, for each actor


class ValueMaker(Maker):
    """Makes shards of games for the value net on an actor; see ``actor.Maker``. rules: settings by
    which the game varies them, or None."""

    def __init__(
        self, game: str, net: str, specs: Sequence[NetSpec], rules: Any, latest: int, seed: int,
        device: str,
    ) -> None:
        if own.is_own(net):
            use_net(net)
        self.game, self.rules, self.latest, self.seed = make(game), rules, latest, seed
        self.nets, self.device = [build(spec).to(device).eval() for spec in specs], device
        self.policies: Policies | None = None

    def load(self, weights: Any) -> None:
        """Weights of the policy before the random move and of the one after it."""
        frozen = []
        for net, state in zip(self.nets, weights, strict=True):
            net.load_state_dict(load(state.tobytes()))
            frozen.append(BoardPolicy(net, self.game.obs_shape, self.game.num_actions,
                                      self.device).frozen())
        self.policies = Policies(frozen[0], frozen[1], self.rules)

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        """The shard of the number ``key``: arrays of ``value.Games``, evaluations last."""
        assert self.policies is not None, "weights come first"
        done = play_shard(self.game, self.policies, key[0], self.latest, self.seed, Workers(1))
        assert done is not None, "nobody stops it"
        return tuple(done), {"games": len(done.ends), "evaluations": done.evaluations}


def spread_games(
    farm: Farm, run: Run, policies: Sequence[Path], numbers: Sequence[int],
    stop: Callable[[], bool],
) -> Iterator[tuple[int, Games]]:
    """``stage.Elsewhere.value_games`` on ``farm``."""
    nets = [checkpoint.load_net(path, run.game, "cpu") for path in policies]
    specs = [checkpoint.spec_of(meta) for _, meta in nets]
    farm.begin(Order(f"{__name__}:{ValueMaker.__name__}", {
        "game": run.config.game, "net": run.config.net, "specs": specs,
        "rules": run.config.rl if specs[-1].komi else None,
        "latest": run.config.value.latest or run.game.max_moves, "seed": run.config.seed}))
    farm.publish(0, [np.frombuffer(save({name: value.contiguous() for name, value
                                         in net.state_dict().items()}), np.uint8)
                     for net, _ in nets])
    waiting, missing, first = list(numbers), set(numbers), 0 in numbers
    while missing and (first or not stop()):
        while waiting and farm.asked < AHEAD * max(farm.alive, 1):
            farm.ask((waiting.pop(0),))
        for found in farm.poll(POLL):
            number = found.key[0]
            if number not in missing:
                continue
            missing.remove(number)
            first = False
            columns, actions, ends, values, evaluations = found.output.piece
            yield number, Games(
                own_columns(Columns._make(columns)), np.array(actions), np.array(ends),
                np.array(values), int(evaluations))
