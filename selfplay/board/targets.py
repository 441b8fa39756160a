"""Targets of self-play's positions by an exact solver."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import Game, side, take, tried
from selfplay.games.solve import solver


class Exact:
    """Targets by an exact solver, in place of a game's result and of what the search thought.

    The value is that of perfect play. The policy is the search's among the moves that keep this
    value, so that a blunder is never taught, nor which of several good moves to prefer. One thread
    at a time; what it says depends on the positions alone.
    """

    def __init__(self, game: Game, first: int) -> None:
        """first: of positions after so many moves or more.

        Raises GameError for a game without a solver.
        """
        self.game, self.first, self.solver = game, first, solver(game)

    def __call__(
        self, states: Any, policy: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(policy float32 [n, A], value float32 [n] for the side to move) of n positions, none of
        them over; ``policy`` as it came and NaN before ``first`` moves, and where the end is too
        far for the solver."""
        value = np.full(len(policy), np.nan, np.float32)
        rows = np.flatnonzero((states.ply >= self.first) & self.solver.solvable(states))
        if not len(rows):
            return policy, value
        worth = self._worth(take(states, rows))
        value[rows] = worth.max(1)
        keeps = worth == worth.max(1, keepdims=True)
        kept = np.where(keeps, policy[rows], 0)
        total = kept.sum(1, keepdims=True)
        some = total > 0  # else the search saw nothing in any of them
        policy = policy.copy()
        policy[rows] = np.where(some, kept / np.where(some, total, 1),
                                keeps / keeps.sum(1, keepdims=True))
        return policy, value

    def _worth(self, states: Any) -> NDArray[np.float32]:
        """float32 [n, A]: 1, 0 or -1 for the side that moves, minus infinity if not legal."""
        rows, actions, after, value = tried(self.game, states, self.game.legal(states))
        going = np.flatnonzero(~self.game.result(after)[0])
        if len(going):
            turned = side(after)[going] * side(states)[rows[going]]
            value[going] = self.solver.values(take(after, going)) * turned
        out = np.full((len(states.ply), self.game.num_actions), -np.inf, np.float32)
        out[rows, actions] = value
        return out
