"""A game with states, moves and a view of its own: take 1 to 3 stones; whoever takes the last
one wins; whoever leaves a multiple of 5 moves again.

    selfplay games --check docs/examples/pile.py:Pile
"""

from typing import NamedTuple

import numpy as np

from selfplay.games.base import Game


class PileStates(NamedTuple):
    """Arrays with one row a game. Every game has to_play and ply."""

    left: np.ndarray  # int64 [B]: stones
    winner: np.ndarray  # int8 [B]: +1 or -1 once the game is over
    to_play: np.ndarray  # int8 [B]: 0 or 1
    ply: np.ndarray  # int32 [B]: moves made


class Pile(Game):
    """Pile: take 1 to 3 stones, the last one wins, leave a multiple of 5 and move again."""

    board_shape, num_actions, pass_action = (1, 1), 3, -1

    def __init__(self, stones: int = 21) -> None:
        self.stones = self.max_moves = stones
        self.obs_shape = (stones + 1, 1, 1)  # one plane for each number of stones

    def new(self, batch):
        return PileStates(np.full(batch, self.stones), np.zeros(batch, np.int8),
                          np.zeros(batch, np.int8), np.zeros(batch, np.int32))

    def move(self, states, actions):
        states.left[:] -= actions + 1
        states.winner[:] = (states.left == 0) * (1 - 2 * states.to_play)
        return states.left % 5 == 0  # these sides move again

    def legal(self, states):
        return states.left[:, None] > np.arange(3)

    def observe(self, states):
        planes = np.arange(self.stones + 1) == states.left[:, None]
        return planes.astype(np.uint8).reshape(-1, *self.obs_shape)

    def result(self, states):
        return states.left == 0, states.winner.astype(np.float32)

    def action_to_text(self, states, row, action):
        return f"take{action + 1}"

    def render(self, states, row):
        return f"{states.left[row]} stones, {self.sides[states.to_play[row]]} to move"
