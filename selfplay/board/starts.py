"""What a finished game teaches beside its result: value targets, and where to begin again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.games.rules import Rules, put, take

STARTS = 64  #: positions where games may begin again, of a group


class Start(NamedTuple):
    """A position: how far its value was from the result, the moves that led there, its state."""

    regret: float
    actions: NDArray[np.int16]
    state: Any


class Regrets:
    """Where games may begin again: of each game the position whose result surprised the search
    most; those of the highest regret are kept, and each is used once. After regret-guided search
    control (RGSC, arXiv:2602.20809), in a plain form: no net learns to foretell the regret.

    ``begun``: B states, the games of a group as they began.
    """

    def __init__(self, game: Rules, share: float, batch: int) -> None:
        """share: of new games that begin at such a position, while there are any."""
        self.game, self.share, self.begun = game, share, game.new(batch)
        self.kept: list[Start] = []

    def note(
        self, row: int, actions: NDArray[np.int16], values: NDArray[np.float32], result: float
    ) -> None:
        """The game in ``row`` has ended. actions, values: [T], its moves and, from the ply on at
        which it began, the search's values; these and the result are for player 0."""
        state = take(self.begun, np.array([row]))
        first = int(state.ply[0])
        regret = np.abs(values[first:] - result)
        at = first + int(regret.argmax())
        self.game.replay(state, actions[None, first:at].astype(np.int64))
        self.kept.append(Start(float(regret.max()), actions[:at].copy(), state))
        self.kept.sort(key=lambda start: -start.regret)
        del self.kept[STARTS:]

    def deal(self, states: Any, rng: np.random.Generator) -> dict[int, NDArray[np.int16]]:
        """Put positions, drawn by their regrets, in the place of some of ``states``, games that are
        about to begin; the moves behind each, by row."""
        found = {}
        for row in np.flatnonzero(rng.random(len(states.ply)) < self.share)[: len(self.kept)]:
            odds = np.array([start.regret + 1e-6 for start in self.kept])
            start = self.kept.pop(int(rng.choice(len(odds), p=odds / odds.sum())))
            put(states, np.array([row]), start.state)
            found[int(row)] = start.actions
        return found


def lambda_returns(values: NDArray[np.float32], result: float, lam: float) -> NDArray[np.float64]:
    """float64 [T]: the value target of every ply of a game, g[t] = (1 - lam) v[t] + lam g[t + 1]
    with g[T] = ``result`` (the lambda-return of Sutton and Barto 2018, 12.1, from the search's
    value of the position itself on). values: [T], the search's, for the player of ``result``."""
    found, later = np.empty(len(values)), result
    for t in range(len(values) - 1, -1, -1):
        found[t] = later = (1 - lam) * values[t] + lam * later
    return found
