"""Policy gradient's games on a cluster: the same as on one machine, for any number of actors.

A piece is an iteration's games against one opponent. They follow from how they were dealt, their
streams and the two policies, which are sent with the iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.torch import load, save

from selfplay.board.league_games import Deals, LeagueGames, Moves
from selfplay.board.policy import BoardPolicy
from selfplay.cluster.actor import Key, Maker, Order
from selfplay.cluster.farm import Farm
from selfplay.games import make, own
from selfplay.models import NetSpec, build, folded, placed
from selfplay.run.boards import KeptPolicyLearner
from selfplay.run.own_nets import use_net

POLL = 0.2  #: seconds between two looks at the clock and the bar


class LeagueMaker(Maker):
    """Plays an iteration's games against one opponent on an actor. game, net: as the run's settings
    name them."""

    def __init__(self, game: str, net: str, spec: NetSpec, device: str) -> None:
        self.game, self.spec, self.device = make(game), spec, device
        if own.is_own(net):
            use_net(net)
        self.sent: dict[str, Any] = {}

    def load(self, weights: Any) -> None:
        """An iteration, as ``sent`` gives it."""
        self.sent = weights

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        """The games number ``key[1]`` of iteration ``key[0]``: ``LeagueGames.progress``."""
        dealt = self.sent["games"][key[1]]
        deals = Deals(type(self.game.new(1))(*dealt["states"]), dealt["side"], dealt["group"])
        learner, opponent = (self._policy(which) for which in ("learner", dealt["opponent"]))
        games = LeagueGames(self.game, learner, opponent, deals, np.array(dealt["streams"]))
        while games.live.any():
            games.rounds(self.game.max_moves)
        moves, states, live, evaluations = games.progress
        return ([tuple(move) for move in moves], tuple(states), live, evaluations), {
            "games": len(live), "evaluations": evaluations}

    def _policy(self, which: str) -> BoardPolicy:
        """A policy that was sent: frozen, in the arithmetic of the machine that learns."""
        state = load(self.sent["policies"][which].tobytes())
        dtype = next(value.dtype for value in state.values() if value.is_floating_point())
        net = placed(folded(build(self.spec).eval()), self.device, dtype).requires_grad_(False)
        net.load_state_dict(state)
        return BoardPolicy(net, self.game.obs_shape, self.game.num_actions, self.device)


@dataclass(frozen=True)
class SpreadLeague:
    """``board.league.Play`` on ``farm``, for ``learner``, by iterations."""

    farm: Farm
    learner: KeptPolicyLearner

    def begin(self, game: str, net: str) -> SpreadLeague:
        """Itself, with the farm at this work."""
        self.farm.begin(Order(f"{__name__}:{LeagueMaker.__name__}", {
            "game": game, "net": net, "spec": self.learner.spec}))
        return self

    def __call__(
        self, games: list[LeagueGames], stop: Callable[[], bool], progress: Callable[[int], None]
    ) -> bool:
        number = self.learner.iteration + 1
        self.farm.publish(number, sent(games))
        waiting = {(number, k) for k in range(len(games))}
        for key in sorted(waiting):
            self.farm.ask(key)
        while waiting:
            if stop():
                return False
            for found in self.farm.poll(POLL):
                if found.key in waiting:
                    waiting.discard(found.key)
                    played = games[found.key[1]]
                    moves, states, live, evaluations = found.output.piece
                    played.progress = ([Moves(*map(np.array, move)) for move in moves],
                                       type(played.states)(*map(np.array, states)),
                                       np.array(live), int(evaluations))
                    progress(len(played.live))
        return True


def sent(games: list[LeagueGames]) -> dict[str, Any]:
    """An iteration for actors: its policies by their names, and how its games begin."""
    policies, dealt = {"learner": games[0].policies[0]}, []
    for played in games:
        opponent = f"{id(played.policies[1])}"
        policies[opponent] = played.policies[1]
        dealt.append({"states": tuple(played.deals.states), "side": played.deals.side,
                      "group": played.deals.group, "streams": played.streams,
                      "opponent": opponent})
    return {"games": dealt, "policies": {
        name: np.frombuffer(save({key: value.detach().cpu().contiguous() for key, value
                                  in policy.net.state_dict().items()}), np.uint8)
        for name, policy in policies.items()}}
