"""Connect Four, 7 columns by 6 rows: batch kernels over two 64-bit boards a row.

Bit ``7 * col + row`` of a board is a stone; row 0 is the bottom and the seventh bit of a column
stays empty, so that shifts do not run from one column into the next (the layout of John Tromp's
and Pascal Pons's solvers). Cell ``k = row * 7 + col`` in observations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .base import Game, Symmetries

_ROWS, _COLS = 6, 7
_ONE, _ZERO = np.uint64(1), np.uint64(0)
_COLUMN = np.uint64(0b0111111)  # the six cells of column 0
_BOTTOM = np.uint64(sum(1 << 7 * col for col in range(_COLS)))
_FULL = np.uint64(int(_BOTTOM) * int(_COLUMN))


class Connect4States(NamedTuple):
    """boards: uint64 [B, 2] stones of player 0 and 1; to_play: int8 [B]; ply: int32 [B];
    done: bool [B]; value: int8 [B] for player 0, 0 while not done."""

    boards: NDArray[np.uint64]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    value: NDArray[np.int8]


@njit(cache=True, nogil=True)
def _wins(board):
    """Four in a row: vertical, rising, horizontal, falling (a column is 7 bits wide)."""
    pair = board & (board >> np.uint64(1))
    four = pair & (pair >> np.uint64(2))
    pair = board & (board >> np.uint64(8))
    four |= pair & (pair >> np.uint64(16))
    pair = board & (board >> np.uint64(7))
    four |= pair & (pair >> np.uint64(14))
    pair = board & (board >> np.uint64(6))
    four |= pair & (pair >> np.uint64(12))
    return four != _ZERO


@njit(cache=True, nogil=True)
def _play(boards, to_play, ply, done, value, b, action):
    if action < 0 or done[b]:
        return
    player = to_play[b]
    taken = boards[b, 0] | boards[b, 1]
    shift = np.uint64(7 * action)
    # Adding one at the foot of a column carries up to its lowest empty cell.
    boards[b, player] |= (taken + (_ONE << shift)) & (_COLUMN << shift)
    ply[b] += 1
    if _wins(boards[b, player]):
        done[b] = True
        value[b] = 1 - 2 * player
    elif (boards[b, 0] | boards[b, 1]) == _FULL:
        done[b] = True
    else:
        to_play[b] = 1 - player


@njit(cache=True, nogil=True)
def _replay(boards, to_play, ply, done, value, actions):
    for b in range(actions.shape[0]):
        for t in range(actions.shape[1]):
            _play(boards, to_play, ply, done, value, b, actions[b, t])


@njit(cache=True, nogil=True)
def _legal(boards, done, out):
    for b in range(boards.shape[0]):
        free = _FULL & ~(boards[b, 0] | boards[b, 1])
        for col in range(_COLS):
            out[b, col] = not done[b] and (free >> np.uint64(7 * col + 5)) & _ONE != _ZERO


@njit(cache=True, nogil=True)
def _winning(boards, to_play, legal, out):
    for b in range(boards.shape[0]):
        own, taken = boards[b, to_play[b]], boards[b, 0] | boards[b, 1]
        for col in range(_COLS):
            shift = np.uint64(7 * col)
            out[b, col] = legal[b, col] and _wins(
                own | ((taken + (_ONE << shift)) & (_COLUMN << shift)))


@njit(cache=True, nogil=True)
def _observe(boards, to_play, out):
    for b in range(boards.shape[0]):
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        for row in range(_ROWS):
            for col in range(_COLS):
                shift = np.uint64(7 * col + row)
                out[b, 0, row, col] = (own >> shift) & _ONE
                out[b, 1, row, col] = (other >> shift) & _ONE
                out[b, 2, row, col] = 1


@njit(cache=True, nogil=True)
def _count(bits):
    """Set bits (LLVM knows this loop and emits one popcount)."""
    n = 0
    while bits != _ZERO:
        bits &= bits - _ONE
        n += 1
    return n


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
def _rollout(boards, to_play, done, value, rng, out):
    for b in range(boards.shape[0]):
        out[b] = value[b]
        if done[b]:
            continue
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        sign = 1 - 2 * to_play[b]
        while True:
            moves = ((own | other) + _BOTTOM) & _FULL  # one bit for each column with room
            if moves == _ZERO:
                break
            for _ in range(_draw(rng, b, _count(moves))):
                moves &= moves - _ONE
            own |= moves & (~moves + _ONE)
            if _wins(own):
                out[b] = sign
                break
            own, other, sign = other, own, -sign


class Connect4(Game):
    """Connect Four; a move is a column from the left, as text "1" to "7".

    Planes: own stones, the opponent's, ones.
    """

    name = "connect4"
    rules = "Connect Four 7x6: four in a row wins, a full board is a draw"
    board_style = "columns"
    num_actions = _COLS
    board_shape = (_ROWS, _COLS)
    quick_wins = True

    def new(self, batch: int) -> Connect4States:
        return Connect4States(
            boards=np.zeros((batch, 2), np.uint64),
            to_play=np.zeros(batch, np.int8),
            ply=np.zeros(batch, np.int32),
            done=np.zeros(batch, np.bool_),
            value=np.zeros(batch, np.int8),
        )

    def step(self, states: Connect4States, actions: NDArray[np.int64]) -> None:
        self.replay(states, np.asarray(actions)[:, None])

    def replay(self, states: Connect4States, actions: NDArray[np.int64]) -> None:
        _replay(*states, np.ascontiguousarray(actions, np.int64))

    def legal(self, states: Connect4States) -> NDArray[np.bool_]:
        out = np.empty((len(states.ply), _COLS), np.bool_)
        _legal(states.boards, states.done, out)
        return out

    def wins(self, states: Connect4States, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        out = np.empty(legal.shape, np.bool_)
        _winning(states.boards, states.to_play, legal, out)
        return out

    def observe(self, states: Connect4States) -> NDArray[np.uint8]:
        out = np.empty((len(states.ply), *self.obs_shape), np.uint8)
        _observe(states.boards, states.to_play, out)
        return out

    def result(self, states: Connect4States) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return states.done.copy(), states.value.astype(np.float32)

    def rollout(self, states: Connect4States, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        out = np.empty(len(states.ply), np.float32)
        _rollout(states.boards, states.to_play, states.done, states.value, rng, out)
        return out

    def symmetries(self) -> Symmetries:
        board = np.arange(_ROWS * _COLS).reshape(_ROWS, _COLS)
        columns = np.arange(_COLS)
        return Symmetries(
            cells=np.stack([board, board[:, ::-1]]).reshape(2, -1),
            actions=np.stack([columns, columns[::-1]]),
        )

    def action_to_text(self, states: Connect4States, row: int, action: int) -> str:
        return str(action + 1)

    def render(self, states: Connect4States, row: int) -> str:
        first, second = (int(board) for board in states.boards[row])
        lines = [
            " ".join(
                "X" if first >> bit & 1 else "O" if second >> bit & 1 else "."
                for bit in range(height, 7 * _COLS, 7)
            )
            for height in reversed(range(_ROWS))
        ]
        return "\n".join([*lines, "1 2 3 4 5 6 7"])
