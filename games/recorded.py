"""What games share whose states record the end, the result and the last move as columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Game


class RecordedGame(Game):
    """States have ``done`` bool [B], ``value`` int8 [B] (for player 0) and ``last`` int16 [B] (the
    action made last, -1 before the first); a game writes ``replay``."""

    def step(self, states: Any, actions: NDArray[np.int64]) -> None:
        self.replay(states, np.asarray(actions)[:, None])

    def result(self, states: Any) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return states.done.copy(), states.value.astype(np.float32)

    def last_move(self, states: Any) -> NDArray[np.int64]:
        return np.asarray(states.last, np.int64)
