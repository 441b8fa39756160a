"""A player of your own: a move for each of n positions.

    selfplay match docs/examples/player.py:Corners random --game tictactoe --games 20
"""

import numpy as np

import selfplay as sp


class Corners(sp.SlotPlayer):
    """Takes a corner where one is free, else any legal move; the same seed plays the same."""

    def __init__(self, game: sp.Game, seed: int) -> None:
        height, width = game.board_shape
        self.game, self.rng = game, np.random.default_rng(seed)
        self.corners = [0, width - 1, (height - 1) * width, height * width - 1]

    def act(self, states, slots):
        wish = self.rng.random((len(slots), self.game.num_actions))
        wish[:, self.corners] += 1
        return np.where(self.game.legal(states), wish, -1).argmax(1)
