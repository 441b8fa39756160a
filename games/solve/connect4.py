"""Connect Four solved exactly: alpha-beta over bitboards with a table of bounds.

The score of a position is that of Pascal Pons's benchmark: for the side to move, 0 for a draw,
n > 0 for a win that leaves n - 1 of its own stones unplayed, and -n for such a loss; so a faster
win scores more. Bits lie as in ``connect4``.

What makes it fast: every question is whether the score is above a bound (an empty window), first of
all whether the position is won; moves that lose at once are never searched (Tromp's observation),
and a move that leaves the opponent only such moves wins without being made; moves that make more
threats come first; positions after all moves are looked up before one is searched; a position
is known again under any order of its moves, and near the first one as its mirror image too. Who
answers every move above it gets a part of the board that is known beforehand; often this bounds
the score without a search (claimeven and zugzwang in ``connect4_search``, after Allis, "A
knowledge-based approach of Connect-Four", 1988), and moves that lead to such a bound are found
before one is searched.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..connect4 import Connect4States
from .connect4_search import CELLS, COLUMNS, grade, solve, solve_moves

TABLE_BITS = 22  #: of the number of entries, 8 bytes each


class Connect4Solver:
    """Exact scores; positions of one solver share its table (2^``bits`` entries of 8 bytes).

    One thread at a time. What it says does not depend on what was asked before.
    """

    def __init__(self, bits: int = TABLE_BITS) -> None:
        self.table = np.zeros(1 << bits, np.uint64)

    def scores(self, states: Connect4States) -> NDArray[np.int8]:
        """int8 [B]: the score of each position, for its side to move; none may be over."""
        out = np.empty(len(states.ply), np.int8)
        solve(states.boards, states.to_play, states.ply, -CELLS, CELLS, self.table, out)
        return out

    def values(self, states: Connect4States) -> NDArray[np.int8]:
        """int8 [B]: 1 where the side to move wins, 0 a draw, -1 a loss; far sooner than ``scores``
        where few stones lie."""
        out = np.empty(len(states.ply), np.int8)
        solve(states.boards, states.to_play, states.ply, -1, 1, self.table, out)
        return np.sign(out)

    def solvable(self, states: Connect4States) -> NDArray[np.bool_]:
        """As ``Solver``: all of them, though the first take minutes."""
        return np.ones(len(states.ply), np.bool_)

    def moves(self, states: Connect4States) -> NDArray[np.int8]:
        """int8 [B, 7]: the score of each move for the side that makes it, UNKNOWN where it is not
        legal."""
        out = np.empty((len(states.ply), COLUMNS), np.int8)
        solve_moves(states.boards, states.to_play, states.ply, self.table, out)
        return out

    def grades(self, states: Connect4States) -> NDArray[np.int8]:
        """As ``Solver``; several times as fast as ``moves``, which says more."""
        out = np.empty((len(states.ply), COLUMNS), np.int8)
        grade(states.boards, states.to_play, states.ply, self.table, out)
        return out
