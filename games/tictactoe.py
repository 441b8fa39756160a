"""Tic-tac-toe: batch kernels over two 9-bit boards a row.

Cell ``k = row * 3 + col`` is bit k; row 0 is the bottom row "1", column 0 the file "a".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .base import Game, Symmetries, board_symmetries

_LINES = (0o007, 0o070, 0o700, 0o111, 0o222, 0o444, 0o421, 0o124)
_FULL = 0o777
#: bool [512]: does this 9-bit board hold a line of three?
_WON = np.array([any(board & line == line for line in _LINES) for board in range(512)])


class TicTacToeStates(NamedTuple):
    """boards: int32 [B, 2] stones of player 0 and 1; to_play: int8 [B]; ply: int32 [B];
    done: bool [B]; value: int8 [B] for player 0, 0 while not done."""

    boards: NDArray[np.int32]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    value: NDArray[np.int8]


@njit(cache=True, nogil=True)
def _play(boards, to_play, ply, done, value, b, action):
    if action < 0 or done[b]:
        return
    player = to_play[b]
    boards[b, player] |= 1 << action
    ply[b] += 1
    if _WON[boards[b, player]]:
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
        taken = boards[b, 0] | boards[b, 1]
        for k in range(9):
            out[b, k] = not done[b] and (taken >> k) & 1 == 0


@njit(cache=True, nogil=True)
def _winning(boards, to_play, legal, out):
    for b in range(boards.shape[0]):
        for k in range(9):
            out[b, k] = legal[b, k] and _WON[boards[b, to_play[b]] | 1 << k]


@njit(cache=True, nogil=True)
def _observe(boards, to_play, out):
    for b in range(boards.shape[0]):
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        for k in range(9):
            out[b, 0, k] = (own >> k) & 1
            out[b, 1, k] = (other >> k) & 1
            out[b, 2, k] = 1


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
def _random_cell(taken, skip):
    """The empty cell that has ``skip`` empty cells below it."""
    for k in range(9):
        if (taken >> k) & 1 == 0:
            if skip == 0:
                return k
            skip -= 1
    return -1


@njit(cache=True, nogil=True)
def _rollout(boards, to_play, done, value, rng, out):
    for b in range(boards.shape[0]):
        out[b] = value[b]
        if done[b]:
            continue
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        sign = 1 - 2 * to_play[b]
        empty = 0
        for k in range(9):
            empty += 1 - (((own | other) >> k) & 1)
        while empty > 0:
            own |= 1 << _random_cell(own | other, _draw(rng, b, empty))
            if _WON[own]:
                out[b] = sign
                break
            empty -= 1
            own, other, sign = other, own, -sign


class TicTacToe(Game):
    """Tic-tac-toe on 3x3; a move is the cell ``row * 3 + col``, as text "a1" (bottom left) to "c3".

    Planes: own stones, the opponent's, ones.
    """

    name = "tictactoe"
    rules = "tic-tac-toe: three in a row wins, a full board is a draw"
    board_shape = (3, 3)
    quick_wins = True

    def new(self, batch: int) -> TicTacToeStates:
        return TicTacToeStates(
            boards=np.zeros((batch, 2), np.int32),
            to_play=np.zeros(batch, np.int8),
            ply=np.zeros(batch, np.int32),
            done=np.zeros(batch, np.bool_),
            value=np.zeros(batch, np.int8),
        )

    def step(self, states: TicTacToeStates, actions: NDArray[np.int64]) -> None:
        self.replay(states, np.asarray(actions)[:, None])

    def replay(self, states: TicTacToeStates, actions: NDArray[np.int64]) -> None:
        _replay(*states, np.ascontiguousarray(actions, np.int64))

    def legal(self, states: TicTacToeStates) -> NDArray[np.bool_]:
        out = np.empty((len(states.ply), 9), np.bool_)
        _legal(states.boards, states.done, out)
        return out

    def wins(self, states: TicTacToeStates, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        out = np.empty(legal.shape, np.bool_)
        _winning(states.boards, states.to_play, legal, out)
        return out

    def observe(self, states: TicTacToeStates) -> NDArray[np.uint8]:
        out = np.empty((len(states.ply), 3, 9), np.uint8)
        _observe(states.boards, states.to_play, out)
        return out.reshape(-1, *self.obs_shape)

    def result(self, states: TicTacToeStates) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return states.done.copy(), states.value.astype(np.float32)

    def rollout(self, states: TicTacToeStates, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        out = np.empty(len(states.ply), np.float32)
        _rollout(states.boards, states.to_play, states.done, states.value, rng, out)
        return out

    def symmetries(self) -> Symmetries:
        return board_symmetries(self.board_shape)
