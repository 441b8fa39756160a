"""Othello endgames solved exactly: alpha-beta over bitboards on the difference in discs.

Moves after which the opponent has few come first. Bits lie as in ``othello``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..base import Game, GameError
from ..othello import OthelloStates
from .grades import ILLEGAL, KEEPS_VALUE, LOSES_VALUE, PERFECT

MOST_EMPTY = 16  #: cells of a position that is solved, in seconds at most
DISCS = 64  #: more than any difference
#: Ends of windows, of one type: for each other Numba would compile once more what they are given.
_WORST, _LOSS, _DRAW, _BEST = np.array([-DISCS, -1, 0, DISCS], np.int64)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_INNER = np.uint64(0x7E7E7E7E7E7E7E7E)
_STEPS = np.array([1, 7, 8, 9], np.uint64)


@njit(cache=True, nogil=True)
def _ones(bits):
    bits = bits - ((bits >> _ONE) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + (
        (bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _moves(own, other, board):
    """The empty cells where a disc turns at least one."""
    found = _ZERO
    for step in _STEPS:
        through = other if step == np.uint64(8) else other & _INNER
        up, down = through & (own << step), through & (own >> step)
        for _ in range(5):
            up |= through & (up << step)
            down |= through & (down >> step)
        found |= (up << step) | (down >> step)
    return found & board & ~(own | other)


@njit(cache=True, nogil=True)
def _turned(cell, own, other):
    """The discs that one of ``own`` on ``cell`` turns."""
    found = _ZERO
    for step in _STEPS:
        through = other if step == np.uint64(8) else other & _INNER
        up, down = through & (cell << step), through & (cell >> step)
        for _ in range(5):
            up |= through & (up << step)
            down |= through & (down >> step)
        if (up << step) & own != _ZERO:
            found |= up
        if (down >> step) & own != _ZERO:
            found |= down
    return found


@njit(cache=True, nogil=True)
def _enter(depth, discs, board, after, left, order):
    """Whether the game is over at ``depth``, and its score if so; else the positions after its
    moves lie in ``after``, the most promising first.

    discs: uint64 [depth, 2], of the side to move and of the other; after: uint64 [depth, move, 2],
    as the opponent sees them. order: int64 [moves], overwritten.
    """
    own, other = discs[depth, 0], discs[depth, 1]
    moves = _moves(own, other, board)
    left[depth, 0], left[depth, 1] = 0, 1
    if moves == _ZERO:
        if _moves(other, own, board) == _ZERO:
            return True, _ones(own) - _ones(other)
        after[depth, 0, 0], after[depth, 0, 1] = other, own  # a pass
        return False, 0
    count = 0
    while moves != _ZERO:
        cell = moves & (~moves + _ONE)
        moves ^= cell
        turned = _turned(cell, own, other)
        mine, theirs = own | cell | turned, other & ~turned
        answers = _ones(_moves(theirs, mine, board))
        at = count
        while at > 0 and order[at - 1] > answers:
            order[at] = order[at - 1]
            after[depth, at, 0] = after[depth, at - 1, 0]
            after[depth, at, 1] = after[depth, at - 1, 1]
            at -= 1
        order[at], after[depth, at, 0], after[depth, at, 1] = answers, theirs, mine
        count += 1
    left[depth, 1] = count
    return False, 0


@njit(cache=True, nogil=True)
def _score(own, other, low, high, board):
    """The score where it lies within (low, high), else a bound of it beyond the nearer end.

    The stack is an array, as Numba's cache cannot load a function that calls itself.
    """
    depths = 2 * _ones(board & ~(own | other)) + 3  # with passes
    discs = np.empty((depths, 2), np.uint64)
    after = np.empty((depths, 33, 2), np.uint64)
    left = np.empty((depths, 2), np.int64)  # the move to search next, and how many there are
    window = np.empty((depths, 2), np.int64)
    order = np.empty(33, np.int64)
    discs[0, 0], discs[0, 1] = own, other
    window[0, 0], window[0, 1] = low, high
    depth = 0
    done, score = _enter(depth, discs, board, after, left, order)
    while not done or depth > 0:
        if done:
            depth -= 1
            window[depth, 0] = max(window[depth, 0], -score)
            done = False
        if window[depth, 0] >= window[depth, 1] or left[depth, 0] == left[depth, 1]:
            done, score = True, window[depth, 0]
            continue
        move = left[depth, 0]
        left[depth, 0] += 1
        discs[depth + 1, 0], discs[depth + 1, 1] = after[depth, move, 0], after[depth, move, 1]
        window[depth + 1, 0], window[depth + 1, 1] = -window[depth, 1], -window[depth, 0]
        depth += 1
        done, score = _enter(depth, discs, board, after, left, order)
    return score


@njit(cache=True, nogil=True)
def _grade(boards, to_play, size, board, out):
    """``grades``: the best score exactly, of every move only whether it reaches it, or its sign."""
    for b in range(len(to_play)):
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        best = _score(own, other, _WORST, _BEST, board)
        moves = _moves(own, other, board)
        out[b, size * size] = PERFECT if moves == _ZERO else ILLEGAL
        for action in range(size * size):
            cell = _ONE << np.uint64(8 * (action // size) + action % size)
            if moves & cell == _ZERO:
                out[b, action] = ILLEGAL
                continue
            turned = _turned(cell, own, other)
            mine, theirs = own | cell | turned, other & ~turned
            if -_score(theirs, mine, -best, 1 - best, board) >= best:
                out[b, action] = PERFECT
                continue
            kept = best < 0  # a loss stays one
            if best > 0:
                kept = -_score(theirs, mine, _LOSS, _DRAW, board) >= 1
            out[b, action] = KEEPS_VALUE if kept else LOSES_VALUE


@njit(cache=True, nogil=True)
def _scores(boards, to_play, low, high, board, out):
    for b in range(len(to_play)):
        own, other = boards[b, to_play[b]], boards[b, 1 - to_play[b]]
        out[b] = _score(own, other, low, high, board)


class OthelloSolver:
    """Exact differences in discs at the end; PERFECT is the best of them."""

    def __init__(self, game: Game) -> None:
        self.game, self.size = game, game.board_shape[0]
        self._board = np.uint64(sum(1 << 8 * row + col for row in range(self.size)
                                    for col in range(self.size)))

    def solvable(self, states: OthelloStates) -> NDArray[np.bool_]:
        """As ``Solver``: those with at most MOST_EMPTY empty cells."""
        return self.game.cells - np.bitwise_count(states.boards).sum(1) <= MOST_EMPTY

    def _few(self, states: OthelloStates) -> None:
        if not self.solvable(states).all():
            moves = self.game.cells - 4 - MOST_EMPTY
            raise GameError(f"{self.game.name}: solved with at most {MOST_EMPTY} empty cells, as "
                            f"after {moves} moves (--plies)")

    def scores(self, states: OthelloStates) -> NDArray[np.int8]:
        """int8 [B]: the lead in discs of the side to move at the end; no position may be over.

        Raises GameError where more than MOST_EMPTY cells are empty.
        """
        self._few(states)
        out = np.empty(len(states.ply), np.int8)
        _scores(states.boards, states.to_play, _WORST, _BEST, self._board, out)
        return out

    def values(self, states: OthelloStates) -> NDArray[np.int8]:
        """As ``Solver``, sooner than ``scores``. Raises GameError as that does."""
        self._few(states)
        out = np.empty(len(states.ply), np.int8)
        _scores(states.boards, states.to_play, _LOSS, -_LOSS, self._board, out)
        return np.sign(out)

    def grades(self, states: OthelloStates) -> NDArray[np.int8]:
        """As ``Solver``. Raises GameError as ``scores`` does."""
        self._few(states)
        out = np.empty((len(states.ply), self.game.num_actions), np.int8)
        _grade(states.boards, states.to_play, self.size, self._board, out)
        return out
