"""Random rollouts in place of a net: pure Monte Carlo search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import Game, side
from selfplay.search import random as rng
from selfplay.search.search import Evaluate


class _Rollouts:
    """``rollout_evaluate``; an object, so that it can be told apart in messages and profiles."""

    def __init__(self, game: Game, seed: int) -> None:
        self.game, self.seed = game, seed

    def __call__(
        self, states: Any, legal: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        streams = rng.fingerprint((self.game.keys(states),), self.seed)
        values = self.game.rollout(states, streams) * side(states)
        return np.zeros(legal.shape, np.float32), values


def rollout_evaluate(game: Game, seed: int) -> Evaluate:
    """Uniform priors, and the result of one random rollout as value: pure Monte Carlo search.

    The rollout depends on ``seed`` and the position alone, not on the batch it comes in; so a
    position that is met twice gives the same result twice.
    """
    return _Rollouts(game, seed)
