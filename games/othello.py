"""Othello (Reversi) on 6x6 or 8x8: batch kernels over two 64-bit boards a row.

Bit ``8 * row + col`` is a cell, on the smaller board as well, so that shifts by 1, 7, 8 and 9 are
steps along the eight lines. Cell ``k = row * N + col`` in actions and observations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .base import GameError, Symmetries, board_symmetries
from .recorded import RecordedGame

SIZES = (6, 8)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_INNER = np.uint64(0x7E7E7E7E7E7E7E7E)  # columns b to g: lines along a row end at the outer ones


class OthelloStates(NamedTuple):
    """boards: uint64 [B, 2] discs of player 0 and 1; to_play: int8 [B]; ply: int32 [B], passes
    counted; done: bool [B]; value: int8 [B] for player 0, 0 while not done; last: int16 [B], the
    action made last, -1 before the first."""

    boards: NDArray[np.uint64]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    value: NDArray[np.int8]
    last: NDArray[np.int16]


@njit(cache=True, nogil=True)
def _beyond(own, through, step):
    """The cells right behind runs of ``through`` that begin beside ``own``, along one line."""
    up, down = through & (own << step), through & (own >> step)
    for _ in range(5):
        up |= through & (up << step)
        down |= through & (down >> step)
    return (up << step) | (down >> step)


@njit(cache=True, nogil=True)
def _moves(own, other, board):
    """The empty cells where a disc turns at least one."""
    inner = other & _INNER
    found = (_beyond(own, inner, np.uint64(1)) | _beyond(own, other, np.uint64(8))
             | _beyond(own, inner, np.uint64(7)) | _beyond(own, inner, np.uint64(9)))
    return found & board & ~(own | other)


@njit(cache=True, nogil=True)
def _between(cell, own, through, step):
    """The discs of ``through`` between ``cell`` and the nearest of ``own``, along one line."""
    up, down = through & (cell << step), through & (cell >> step)
    for _ in range(5):
        up |= through & (up << step)
        down |= through & (down >> step)
    found = _ZERO
    if (up << step) & own != _ZERO:
        found |= up
    if (down >> step) & own != _ZERO:
        found |= down
    return found


@njit(cache=True, nogil=True)
def _turned(cell, own, other):
    inner = other & _INNER
    return (_between(cell, own, inner, np.uint64(1)) | _between(cell, own, other, np.uint64(8))
            | _between(cell, own, inner, np.uint64(7)) | _between(cell, own, inner, np.uint64(9)))


@njit(cache=True, nogil=True)
def _with_disc(own, other, action, size):
    """Both sides' discs after the first has put one on a cell."""
    cell = _ONE << np.uint64(8 * (action // size) + action % size)
    turned = _turned(cell, own, other)
    return own | cell | turned, other & ~turned


@njit(cache=True, nogil=True)
def _ones(bits):
    n = 0
    while bits != _ZERO:
        bits &= bits - _ONE
        n += 1
    return n


@njit(cache=True, nogil=True)
def _lead(first, second):
    """The sign of the difference in discs."""
    difference = _ones(first) - _ones(second)
    return 1 if difference > 0 else -1 if difference < 0 else 0


@njit(cache=True, nogil=True)
def _step(boards, to_play, ply, done, value, last, b, action, size, board):
    if action < 0 or done[b]:
        return
    player = to_play[b]
    own, other = boards[b, player], boards[b, 1 - player]
    if action < size * size:
        own, other = _with_disc(own, other, action, size)
        boards[b, player], boards[b, 1 - player] = own, other
    ply[b] += 1
    last[b] = action
    to_play[b] = 1 - player
    if _moves(other, own, board) == _ZERO and _moves(own, other, board) == _ZERO:
        done[b] = True
        value[b] = _lead(boards[b, 0], boards[b, 1])


@njit(cache=True, nogil=True)
def _replay(boards, to_play, ply, done, value, last, actions, size, board):
    for b in range(actions.shape[0]):
        for t in range(actions.shape[1]):
            _step(boards, to_play, ply, done, value, last, b, actions[b, t], size, board)


@njit(cache=True, nogil=True)
def _legal(boards, to_play, done, size, board, out):
    for b in range(boards.shape[0]):
        moves = _ZERO
        if not done[b]:
            moves = _moves(boards[b, to_play[b]], boards[b, 1 - to_play[b]], board)
        for row in range(size):
            for col in range(size):
                out[b, row * size + col] = (moves >> np.uint64(8 * row + col)) & _ONE != _ZERO
        out[b, size * size] = not done[b] and moves == _ZERO


@njit(cache=True, nogil=True)
def _winning(boards, to_play, legal, size, board, out):
    """The moves after which neither side can move and the mover has more discs."""
    out[:] = False
    for b in range(boards.shape[0]):
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        for k in range(size * size):
            if legal[b, k]:
                mine, theirs = _with_disc(own, other, k, size)
                out[b, k] = (_moves(theirs, mine, board) == _ZERO
                             and _moves(mine, theirs, board) == _ZERO and _lead(mine, theirs) > 0)


@njit(cache=True, nogil=True)
def _observe(boards, to_play, size, out):
    for b in range(boards.shape[0]):
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        for row in range(size):
            for col in range(size):
                shift = np.uint64(8 * row + col)
                out[b, 0, row, col] = (own >> shift) & _ONE
                out[b, 1, row, col] = (other >> shift) & _ONE
                out[b, 2, row, col] = 1


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
def _rollout(boards, to_play, done, value, rng, board, out):
    for b in range(boards.shape[0]):
        out[b] = value[b]
        if done[b]:
            continue
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        sign = 1 - 2 * to_play[b]
        passed = False
        while True:
            moves = _moves(own, other, board)
            if moves == _ZERO:
                if passed:
                    break
                passed = True
            else:
                passed = False
                for _ in range(_draw(rng, b, _ones(moves))):
                    moves &= moves - _ONE
                cell = moves & (~moves + _ONE)
                turned = _turned(cell, own, other)
                own, other = own | cell | turned, other & ~turned
            own, other, sign = other, own, -sign
        out[b] = sign * _lead(own, other)


class Othello(RecordedGame):
    """Othello; a move is the cell ``row * N + col``, as text "a1" to "h8", or "pass".

    Black (player 0) begins with discs on e4 and d5, white has d4 and e5 (on 6x6: d3 and c4, c3
    and d4). Who cannot turn a disc must pass; the game ends when neither can. More discs win.
    Boards are drawn with row 1 at the bottom. Planes: own discs, the opponent's, ones.
    """

    sides = ("black", "white")
    quick_wins = True  # of a side with few discs, too: it may be wiped out early

    def __init__(self, board_size: int = 8) -> None:
        if board_size not in SIZES:
            raise GameError(f"othello(board_size={board_size}): 6 or 8 wanted")
        self.size = board_size
        self.name = f"othello{board_size}x{board_size}"
        self.rules = (f"Othello {board_size}x{board_size}: who cannot turn a disc must pass, more "
                      "discs win")
        self.board_shape = (board_size, board_size)
        self.pass_action = board_size**2
        self.num_actions = self.pass_action + 1
        self.max_moves = 2 * (board_size**2 - 4)
        self._board = np.uint64(sum(1 << 8 * row + col for row in range(board_size)
                                    for col in range(board_size)))

    def new(self, batch: int) -> OthelloStates:
        low = self.size // 2 - 1
        black = 1 << 8 * low + low + 1 | 1 << 8 * (low + 1) + low
        white = 1 << 8 * low + low | 1 << 8 * (low + 1) + low + 1
        return OthelloStates(
            boards=np.tile(np.array([black, white], np.uint64), (batch, 1)),
            to_play=np.zeros(batch, np.int8),
            ply=np.zeros(batch, np.int32),
            done=np.zeros(batch, np.bool_),
            value=np.zeros(batch, np.int8),
            last=np.full(batch, -1, np.int16),
        )

    def replay(self, states: OthelloStates, actions: NDArray[np.int64]) -> None:
        _replay(*states, np.ascontiguousarray(actions, np.int64), self.size, self._board)

    def legal(self, states: OthelloStates) -> NDArray[np.bool_]:
        out = np.empty((len(states.ply), self.num_actions), np.bool_)
        _legal(states.boards, states.to_play, states.done, self.size, self._board, out)
        return out

    def wins(self, states: OthelloStates, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        out = np.empty(legal.shape, np.bool_)
        _winning(states.boards, states.to_play, legal, self.size, self._board, out)
        return out

    def observe(self, states: OthelloStates) -> NDArray[np.uint8]:
        out = np.empty((len(states.ply), *self.obs_shape), np.uint8)
        _observe(states.boards, states.to_play, self.size, out)
        return out

    def rollout(self, states: OthelloStates, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        out = np.empty(len(states.ply), np.float32)
        _rollout(states.boards, states.to_play, states.done, states.value, rng, self._board, out)
        return out

    def symmetries(self) -> Symmetries:
        """The four that leave the first discs where they are."""
        every = board_symmetries(self.board_shape, more=1)
        start = self.observe(self.new(1))[0, 0].ravel()
        same = [k for k, cells in enumerate(every.cells) if (start[cells] == start).all()]
        return Symmetries(every.cells[same], every.actions[same])
