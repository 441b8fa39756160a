"""Gomoku (five in a row) on 9x9 to 15x15: batch kernels over a byte a cell.

Cell ``k = row * N + col``; row 0 is the bottom row "1", column 0 the file "a".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .base import GameError, Symmetries, board_symmetries
from .recorded import RecordedGame

SIZES = range(9, 16)
FIVE = 5
FREE, EXACT = FIVE * 100, FIVE  #: longest row that wins: any, or five alone


class GomokuStates(NamedTuple):
    """stones: int8 [B, N * N], 1 of player 0, -1 of player 1; to_play: int8 [B]; ply: int32 [B];
    done: bool [B]; value: int8 [B] for player 0, 0 while not done; last: int16 [B], the action
    made last, -1 before the first."""

    stones: NDArray[np.int8]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    value: NDArray[np.int8]
    last: NDArray[np.int16]


@njit(cache=True, nogil=True)
def _run(stones, row, col, down, right, size, colour):
    """Stones of ``colour`` in a row from beside (row, col) in one direction."""
    n = 0
    row, col = row + down, col + right
    while 0 <= row < size and 0 <= col < size and stones[row * size + col] == colour:
        n += 1
        row, col = row + down, col + right
    return n


@njit(cache=True, nogil=True)
def _completes(stones, cell, size, colour, longest):
    """Whether a stone of ``colour`` on ``cell`` stands in a row of five up to ``longest``."""
    row, col = cell // size, cell % size
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        length = 1 + (_run(stones, row, col, down, right, size, colour)
                      + _run(stones, row, col, -down, -right, size, colour))
        if FIVE <= length <= longest:
            return True
    return False


@njit(cache=True, nogil=True)
def _replay(stones, to_play, ply, done, value, last, actions, size, longest):
    for b in range(actions.shape[0]):
        for t in range(actions.shape[1]):
            cell = actions[b, t]
            if cell < 0 or done[b]:
                continue
            colour = 1 - 2 * to_play[b]
            stones[b, cell] = colour
            ply[b] += 1
            last[b] = cell
            if _completes(stones[b], cell, size, colour, longest):
                done[b], value[b] = True, colour
            elif ply[b] == size * size:
                done[b] = True
            else:
                to_play[b] = 1 - to_play[b]


@njit(cache=True, nogil=True)
def _winning(stones, player, size, longest, out):
    """out[b, cell]: a stone of ``player[b]`` there would stand in a row of five."""
    for b in range(stones.shape[0]):
        for cell in range(size * size):
            out[b, cell] = stones[b, cell] == 0 and _completes(
                stones[b], cell, size, 1 - 2 * player[b], longest)


@njit(cache=True, nogil=True)
def _draw(rng, b, n):
    """A number below n from row b's splitmix64 stream (Steele, Lea, Flood 2014)."""
    rng[b] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[b]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(32)
    return np.int64((z * np.uint64(n)) >> np.uint64(32))


@njit(cache=True, nogil=True)
def _rollout(stones, to_play, ply, done, value, rng, size, longest, out):
    cells = size * size
    board, empty = np.empty(cells, np.int8), np.empty(cells, np.int16)
    for b in range(stones.shape[0]):
        out[b] = value[b]
        if done[b]:
            continue
        left = 0
        for cell in range(cells):
            board[cell] = stones[b, cell]
            if board[cell] == 0:
                empty[left] = cell
                left += 1
        colour = 1 - 2 * to_play[b]
        while left > 0:
            at = _draw(rng, b, left)
            cell = empty[at]
            left -= 1
            empty[at] = empty[left]
            board[cell] = colour
            if _completes(board, cell, size, colour, longest):
                out[b] = colour
                break
            colour = -colour


class Gomoku(RecordedGame):
    """Gomoku; a move is the cell ``row * N + col``, as text "a1" (bottom left) to "o15".

    Five or more of one's own stones in a row win (free), or five and no more (``exact``); a full
    board is a draw. Planes: own stones, the opponent's, ones.
    """

    board_style = "go"
    sides = ("black", "white")
    quick_wins = True

    def __init__(self, board_size: int = 15, exact: bool = False) -> None:
        if board_size not in SIZES:
            raise GameError(f"gomoku(board_size={board_size}): {SIZES[0]} to {SIZES[-1]} wanted")
        self.size, self.exact = board_size, exact
        self.name = f"gomoku{board_size}x{board_size}" + "(exact=True)" * exact
        self.rules = (f"Gomoku {board_size}x{board_size}: five "
                      f"{'and no more' if exact else 'or more'} in a row win, a full board is a "
                      "draw")
        self.board_shape = (board_size, board_size)
        self._longest = EXACT if exact else FREE

    def new(self, batch: int) -> GomokuStates:
        return GomokuStates(
            stones=np.zeros((batch, self.cells), np.int8),
            to_play=np.zeros(batch, np.int8),
            ply=np.zeros(batch, np.int32),
            done=np.zeros(batch, np.bool_),
            value=np.zeros(batch, np.int8),
            last=np.full(batch, -1, np.int16),
        )

    def replay(self, states: GomokuStates, actions: NDArray[np.int64]) -> None:
        _replay(*states, np.ascontiguousarray(actions, np.int64), self.size, self._longest)

    def legal(self, states: GomokuStates) -> NDArray[np.bool_]:
        return (states.stones == 0) & ~states.done[:, None]

    def _completing(self, states: GomokuStates, player: NDArray[np.int8]) -> NDArray[np.bool_]:
        """bool [B, A]: the empty cells where a stone of ``player`` int8 [B] would win."""
        out = np.empty(states.stones.shape, np.bool_)
        _winning(states.stones, player, self.size, self._longest, out)
        return out

    def wins(self, states: GomokuStates, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return self._completing(states, states.to_play) & legal

    def blunders(self, states: GomokuStates, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Moves that leave a cell where the opponent wins, which a stone elsewhere does not
        change."""
        theirs = self._completing(states, 1 - states.to_play)
        left = theirs.sum(1)[:, None] - theirs
        return (left > 0) & legal & ~self.wins(states, legal)

    def observe(self, states: GomokuStates) -> NDArray[np.uint8]:
        own = (1 - 2 * states.to_play)[:, None]
        out = np.ones((len(states.ply), 3, self.cells), np.uint8)
        out[:, 0], out[:, 1] = states.stones == own, states.stones == -own
        return out.reshape(-1, *self.obs_shape)

    def rollout(self, states: GomokuStates, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        out = np.empty(len(states.ply), np.float32)
        _rollout(*states[:5], rng, self.size, self._longest, out)
        return out

    def symmetries(self) -> Symmetries:
        return board_symmetries(self.board_shape)
