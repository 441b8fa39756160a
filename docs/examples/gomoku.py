"""Gomoku, a whole game in one file: stones on empty cells, so that only the result is its own.

    selfplay games --check docs/examples/gomoku.py:Gomoku
    selfplay train --game "docs/examples/gomoku.py:Gomoku(size=7)" --minutes 10
"""

import numpy as np

from selfplay.games.base import Game, Symmetries, board_symmetries


class Gomoku(Game):
    """Gomoku: five in a row wins, a full board is a draw."""

    def __init__(self, size: int = 9, row: int = 5) -> None:
        self.board_shape = (size, size)
        cells = np.arange(size * size).reshape(size, size)
        lines = [cells[r + i * dr, c + i * dc]
                 for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1))
                 for r in range(size) for c in range(size)
                 for i in [np.arange(row)]
                 if r + (row - 1) * dr < size and 0 <= c + (row - 1) * dc < size]
        self.lines = np.array(lines)  # [L, row]: the cells of every possible five
        self.row = row

    def result(self, states):
        sums = states.board[:, self.lines].sum(2, dtype=np.int64)  # [B, L]
        value = (sums == self.row).any(1) * 1.0 - (sums == -self.row).any(1)
        return (value != 0) | (states.board != 0).all(1), value.astype(np.float32)

    def symmetries(self) -> Symmetries:
        return board_symmetries(self.board_shape)
