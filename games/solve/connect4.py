"""Connect Four solved exactly: alpha-beta over bitboards with a table of bounds.

The score of a position is that of Pascal Pons's benchmark: for the side to move, 0 for a draw,
n > 0 for a win that leaves n - 1 of its own stones unplayed, and -n for such a loss; so a faster
win scores more. Bits lie as in ``connect4``.

What makes it fast: moves that lose at once are never searched (Tromp's observation), moves that
make more threats come first, every bound is found by searches with an empty window, and a
position is known again under any order of its moves.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..connect4 import Connect4States
from .grades import ILLEGAL, KEEPS_VALUE, LOSES_VALUE, PERFECT

CELLS, COLUMNS = 42, 7
TABLE_BITS = 22  #: of the number of entries, 8 bytes each
UNKNOWN = -128  #: the score of a move that is not legal
LOOK_AHEAD = 30  #: stones up to which the positions after all moves are looked up first

_ONE, _ZERO = np.uint64(1), np.uint64(0)
_CELLS_OF_COLUMN = np.uint64(0b0111111)
_BOTTOM = np.uint64(sum(1 << 7 * col for col in range(COLUMNS)))
_FULL = np.uint64(int(_BOTTOM) * int(_CELLS_OF_COLUMN))
#: Columns from the middle outwards, where more fours pass.
_ORDER = np.array([3, 2, 4, 1, 5, 0, 6])
#: Ends of windows, of one type: for each other Numba would compile once more what they are given.
_WORST, _LOSS, _DRAW, _BEST = np.array([-CELLS, -1, 0, CELLS], np.int64)
_UPPER, _LOWER = 32, 96  # added to a bound, tell its kind; 0 is an empty entry


@njit(cache=True, nogil=True)
def _completing(stones, taken):
    """The empty cells, within reach or not, that would complete a four of ``stones``."""
    found = (stones << _ONE) & (stones << np.uint64(2)) & (stones << np.uint64(3))
    for step in (6, 7, 8):
        one, two, three = np.uint64(step), np.uint64(2 * step), np.uint64(3 * step)
        below = (stones << one) & (stones << two)
        above = (stones >> one) & (stones >> two)
        found |= below & ((stones << three) | (stones >> one))
        found |= above & ((stones >> three) | (stones << one))
    return found & (_FULL ^ taken)


@njit(cache=True, nogil=True)
def _count(bits):
    """Set bits."""
    bits = bits - ((bits >> _ONE) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + (
        (bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _safe(own, taken):
    """The cells that may be played without losing to the very next stone; 0: all lose.

    The side to move must have no win at once.
    """
    reach = (taken + _BOTTOM) & _FULL
    theirs = _completing(own ^ taken, taken)
    forced = reach & theirs
    if forced != _ZERO:
        if forced & (forced - _ONE) != _ZERO:  # two wins cannot both be stopped
            return _ZERO
        reach = forced
    return reach & ~(theirs >> _ONE)  # not right below a cell where they win


@njit(cache=True, nogil=True)
def _slot(key, table):
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(len(table) - 1))


@njit(cache=True, nogil=True)
def _refuted(own, taken, moves, high, table):
    """The score of a move whose position is known to be worth ``high`` or more, else UNKNOWN."""
    theirs = own ^ taken
    while moves != _ZERO:
        cell = moves & (~moves + _ONE)
        moves ^= cell
        key = theirs + (taken | cell)
        entry = table[_slot(key, table)]
        if entry >> np.uint64(8) == key:
            kept = np.int64(entry & np.uint64(255))
            if kept <= 64 and _UPPER - kept >= high:  # it is worth no more to the opponent
                return _UPPER - kept
    return UNKNOWN


@njit(cache=True, nogil=True)
def _enter(depth, plies, stones, window, cells, left, promise, table):
    """Whether the position at ``depth`` needs no search, and its score or bound if so; else its
    moves lie in ``cells``, the most promising first.

    stones: uint64 [depth, 2], of the side to move and of both. window: int64 [depth, 2].
    promise: int64 [COLUMNS], overwritten.
    """
    own, taken = stones[depth, 0], stones[depth, 1]
    moves = _safe(own, taken)
    if moves == _ZERO:
        return True, -((CELLS - plies) // 2)
    if plies >= CELLS - 2:
        return True, 0
    low = max(window[depth, 0], -((CELLS - 2 - plies) // 2))
    most = (CELLS - 1 - plies) // 2
    key = own + taken
    entry = table[_slot(key, table)]
    if entry >> np.uint64(8) == key:
        kept = np.int64(entry & np.uint64(255))
        if kept > 64:
            low = max(low, kept - _LOWER)
        else:
            most = min(most, kept - _UPPER)
    if low >= window[depth, 1]:
        return True, low
    if most <= low:
        return True, most
    window[depth, 0], window[depth, 1] = low, min(window[depth, 1], most)
    if moves & (moves - _ONE) == _ZERO:  # forced
        cells[depth, 0], left[depth, 0], left[depth, 1] = moves, 0, 1
        return False, 0
    if plies < LOOK_AHEAD:
        score = _refuted(own, taken, moves, window[depth, 1], table)
        if score != UNKNOWN:
            return True, score
    count = 0
    for col in _ORDER:
        cell = moves & (_CELLS_OF_COLUMN << np.uint64(7 * col))
        if cell == _ZERO:
            continue
        threats = _count(_completing(own | cell, taken | cell))
        at = count
        while at > 0 and promise[at - 1] < threats:
            cells[depth, at], promise[at] = cells[depth, at - 1], promise[at - 1]
            at -= 1
        cells[depth, at], promise[at] = cell, threats
        count += 1
    left[depth, 0], left[depth, 1] = 0, count
    return False, 0


@njit(cache=True, nogil=True)
def _bound(own, taken, plies, low, high, table):
    """The score where it lies within (low, high), else a bound of it beyond the nearer end.

    No win at once may be there. table: uint64 [2^k], a key of 49 bits above a bound of 8. The
    stack is an array, as Numba's cache cannot load a function that calls itself.
    """
    stones = np.empty((CELLS + 1, 2), np.uint64)
    window = np.empty((CELLS + 1, 2), np.int64)
    cells = np.empty((CELLS + 1, COLUMNS), np.uint64)
    promise = np.empty(COLUMNS, np.int64)
    left = np.empty((CELLS + 1, 2), np.int64)  # the move to search next, and how many there are
    stones[0, 0], stones[0, 1] = own, taken
    window[0, 0], window[0, 1] = low, high
    depth = 0
    done, score = _enter(depth, plies, stones, window, cells, left, promise, table)
    while not done or depth > 0:
        if done:  # what the move led to is known
            depth -= 1
            score = -score
            if score < window[depth, 1]:
                window[depth, 0] = max(window[depth, 0], score)
                done = False
            else:
                key = stones[depth, 0] + stones[depth, 1]
                table[_slot(key, table)] = (key << np.uint64(8)) | np.uint64(score + _LOWER)
        elif left[depth, 0] == left[depth, 1]:
            score, done = window[depth, 0], True
            key = stones[depth, 0] + stones[depth, 1]
            table[_slot(key, table)] = (key << np.uint64(8)) | np.uint64(score + _UPPER)
        else:
            cell = cells[depth, left[depth, 0]]
            left[depth, 0] += 1
            stones[depth + 1, 0] = stones[depth, 0] ^ stones[depth, 1]
            stones[depth + 1, 1] = stones[depth, 1] | cell
            window[depth + 1, 0], window[depth + 1, 1] = -window[depth, 1], -window[depth, 0]
            depth += 1
            done, score = _enter(depth, plies + depth, stones, window, cells, left, promise, table)
    return score


@njit(cache=True, nogil=True)
def _wins_at_once(own, taken):
    return _completing(own, taken) & (taken + _BOTTOM) & _FULL != _ZERO


@njit(cache=True, nogil=True)
def _within(own, taken, plies, low, high, table):
    """The score in low .. high, halving the window at every empty-window search."""
    if plies == CELLS:
        return 0
    if _wins_at_once(own, taken):
        return (CELLS + 1 - plies) // 2
    low = max(low, -((CELLS - plies) // 2))
    high = min(high, (CELLS - 1 - plies) // 2)
    while low < high:
        middle = low + (high - low) // 2
        if middle <= 0 and low // 2 < middle:  # draws and slow wins are likeliest: try near 0
            middle = low // 2
        elif middle >= 0 and high // 2 > middle:
            middle = high // 2
        score = _bound(own, taken, plies, middle, middle + 1, table)
        if score <= middle:
            high = score
        else:
            low = score
    return low


@njit(cache=True, nogil=True)
def _solve(boards, to_play, ply, table, out):
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        out[b] = _within(own, boards[b, 0] | boards[b, 1], np.int64(ply[b]), _WORST, _BEST, table)


@njit(cache=True, nogil=True)
def _solve_moves(boards, to_play, ply, table, out):
    """out[b, a]: the score after move a."""
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        taken = boards[b, 0] | boards[b, 1]
        wins = _completing(own, taken)
        for col in range(COLUMNS):
            cell = (taken + _BOTTOM) & (_CELLS_OF_COLUMN << np.uint64(7 * col))
            if cell == _ZERO:
                out[b, col] = UNKNOWN
            elif cell & wins != _ZERO:
                out[b, col] = (CELLS + 1 - ply[b]) // 2
            else:
                out[b, col] = -_within(own ^ taken, taken | cell, np.int64(ply[b] + 1), _WORST,
                                       _BEST, table)


@njit(cache=True, nogil=True)
def _grade(boards, to_play, ply, table, out):
    """``grades``: the best score exactly, of every move only whether it reaches it, or its sign."""
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        taken = boards[b, 0] | boards[b, 1]
        wins = _completing(own, taken)
        best = _within(own, taken, np.int64(ply[b]), _WORST, _BEST, table)
        kept = min(max(best, -1), 1)
        for col in range(COLUMNS):
            cell = (taken + _BOTTOM) & (_CELLS_OF_COLUMN << np.uint64(7 * col))
            if cell == _ZERO:
                out[b, col] = ILLEGAL
            elif cell & wins != _ZERO or -_within(
                    own ^ taken, taken | cell, np.int64(ply[b] + 1), -best, 1 - best,
                    table) >= best:
                out[b, col] = PERFECT
            elif kept >= 0 and best <= kept:
                out[b, col] = LOSES_VALUE
            elif kept < 0:
                out[b, col] = KEEPS_VALUE
            else:
                score = -_within(own ^ taken, taken | cell, np.int64(ply[b] + 1), _LOSS, _DRAW,
                                 table)
                out[b, col] = KEEPS_VALUE if score >= 1 else LOSES_VALUE


class Connect4Solver:
    """Exact scores; positions of one solver share its table (2^``bits`` entries of 8 bytes).

    One thread at a time. What it says does not depend on what was asked before.
    """

    def __init__(self, bits: int = TABLE_BITS) -> None:
        self.table = np.zeros(1 << bits, np.uint64)

    def scores(self, states: Connect4States) -> NDArray[np.int8]:
        """int8 [B]: the score of each position, for its side to move; none may be over."""
        out = np.empty(len(states.ply), np.int8)
        _solve(states.boards, states.to_play, states.ply, self.table, out)
        return out

    def moves(self, states: Connect4States) -> NDArray[np.int8]:
        """int8 [B, 7]: the score of each move for the side that makes it, UNKNOWN where it is not
        legal."""
        out = np.empty((len(states.ply), COLUMNS), np.int8)
        _solve_moves(states.boards, states.to_play, states.ply, self.table, out)
        return out

    def grades(self, states: Connect4States) -> NDArray[np.int8]:
        """As ``Solver``; several times as fast as ``moves``, which says more."""
        out = np.empty((len(states.ply), COLUMNS), np.int8)
        _grade(states.boards, states.to_play, states.ply, self.table, out)
        return out
