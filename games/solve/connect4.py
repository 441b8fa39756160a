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
the score without a search (``claimeven``, ``zugzwang``, after Allis, "A knowledge-based approach
of Connect-Four", 1988), and moves that lead to such a bound are found before one is searched.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..connect4 import Connect4States
from .fours import (
    BOARD,
    BOTTOM,
    CELLS,
    COLUMN,
    COLUMNS,
    ONE,
    ZERO,
    answers_to,
    claimeven,
    completing,
    set_bits,
    zugzwang,
)
from .grades import ILLEGAL, KEEPS_VALUE, LOSES_VALUE, PERFECT

TABLE_BITS = 22  #: of the number of entries, 8 bytes each
UNKNOWN = -128  #: the score of a move that is not legal
MIRRORED = 10  #: stones below which a position and its mirror image are one
#: A search begins with 2^16 entries, which lie in a processor's cache: up to twice as fast as in
#: all of the table. After twice as many positions it begins again with eight times as many.
SMALL_BITS = 16

#: Columns from the middle outwards, where more fours pass.
_ORDER = np.array([3, 2, 4, 1, 5, 0, 6])
#: How many fours of the board pass through the cell of each bit.
_FOURS = np.zeros(7 * COLUMNS, np.int64)
for _line in [[7 * (col + n * right) + row + n * up for n in range(4)]
              for right, up in ((1, 0), (0, 1), (1, 1), (1, -1))
              for col in range(COLUMNS - 3 * right)
              for row in range(3 if up < 0 else 0, 3 if up > 0 else 6)]:
    _FOURS[_line] += 1
#: An entry of the table: 49 bits of a key, 6 each of a lower and an upper bound (plus _SHIFT), and
#: 3 of the column that was best, _NO_COLUMN where none is known. 0 is an empty entry.
_KEY, _LOW, _HIGH = np.uint64(15), np.uint64(9), np.uint64(3)
_SHIFT, _NO_COLUMN = 32, 7
#: A frame of the stack: three numbers, moves, answers to each, threats of each; above a move stands
#: its promise.
_MOVES, _HOPE, _BEST = 3, np.uint64(49), 1 << 14
_FRAME = _MOVES + 3 * COLUMNS


@njit(cache=True, nogil=True)
def _key(own, taken, plies):
    """(key of a position, not 0; whether it is that of its mirror image)."""
    key = own + taken + BOTTOM
    if plies < MIRRORED:
        mirrored = ZERO
        for col in range(COLUMNS):
            mirrored |= ((key >> np.uint64(7 * col)) & np.uint64(127)) << np.uint64(7 * (6 - col))
        if mirrored < key:
            return mirrored, True
    return key, False


@njit(cache=True, nogil=True)
def _slot(key, table):
    """The first of the two entries where ``key`` may be."""
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(len(table) - 2))


@njit(cache=True, nogil=True)
def _known(key, table):
    """(lower bound, upper bound, best column) of a position; all that may be where none are."""
    at = _slot(key, table)
    for entry in (table[at], table[at + 1]):
        if entry >> _KEY == key:
            return (np.int64((entry >> _LOW) & np.uint64(63)) - _SHIFT,
                    np.int64((entry >> _HIGH) & np.uint64(63)) - _SHIFT,
                    np.int64(entry & np.uint64(7)))
    return -CELLS, CELLS, _NO_COLUMN


@njit(cache=True, nogil=True)
def _keep(key, low, high, best, table):
    """Put bounds into the table, beside what is known; what came before the last goes."""
    at = _slot(key, table)
    seen_low, seen_high, seen_best = _known(key, table)
    if seen_high < CELLS:
        low, high = max(low, seen_low), min(high, seen_high)
        best = seen_best if best == _NO_COLUMN else best
        if table[at] >> _KEY != key:
            at += 1
    else:
        table[at + 1] = table[at]
    table[at] = (key << _KEY) | np.uint64((low + _SHIFT) << 9 | (high + _SHIFT) << 3 | best)


@intrinsic
def _prefetch(_, table, at):
    """Ask for the line of memory where ``table[at]`` lies, and do not wait for it."""
    def generate(context, builder, signature, args):
        entries = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(entries, [args[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(prefetch, [place, number(0), number(3), number(1)])  # to read, near, data
        return context.get_dummy_value()
    return types.void(table, at), generate


@njit(cache=True, nogil=True)
def _enter(plies, bound, frame, table):
    """(number of moves to search, a bound of the others' scores); with 0 of them a bound of the
    score, which is a lower one if it is above ``bound``, else an upper one.

    frame: uint64 [_FRAME], own and all stones and the moves that do not lose at once, of which
    there is one; then moves, the most promising first, and after COLUMNS places the answers to
    each, after as many the cells that then complete a four.
    """
    own, taken, moves = frame[0], frame[1], frame[2]
    most, after = (CELLS - 1 - plies) // 2, -1 - bound
    best = _NO_COLUMN
    if moves & (moves - ONE) != ZERO:  # a position with one move is not kept
        key, flipped = _key(own, taken, plies)
        low, high, best = _known(key, table)
        if low > bound:
            return 0, low
        if high <= bound:
            return 0, high
        if flipped and best != _NO_COLUMN:
            best = COLUMNS - 1 - best
    count = 0
    for col in _ORDER:
        cell = moves & (COLUMN << np.uint64(7 * col))
        if cell == ZERO:
            continue
        _prefetch(table, _slot(_key(own ^ taken, taken | cell, plies + 1)[0], table))
        threats = completing(own | cell, taken | cell)
        answer = answers_to(threats, taken | cell)
        if answer == ZERO:  # all the opponent's moves lose
            return 0, most
        hope = 20 * set_bits(threats) + 4 * (COLUMNS - set_bits(answer))
        hope += _FOURS[set_bits(cell - ONE)]
        hope = _BEST if col == best else hope
        at = _MOVES + count
        while at > _MOVES and frame[at - 1] >> _HOPE < np.uint64(hope):
            for part in range(at, _FRAME, COLUMNS):
                frame[part] = frame[part - 1]
            at -= 1
        frame[at] = cell | np.uint64(hope) << _HOPE
        frame[at + COLUMNS], frame[at + 2 * COLUMNS] = answer, threats
        count += 1
    if most - 1 <= bound:  # no win with this stone or the next
        return 0, most - 1
    high, low = (CELLS - 2 - plies) // 2, -((CELLS - 3 - plies) // 2)  # the opponent's
    if high <= after:
        return 0, -high
    if low > after:
        return 0, -low
    if bound <= 2:
        for at in range(_MOVES, _MOVES + count):
            stones, threats = taken | (frame[at] & BOARD), frame[at + 2 * COLUMNS]
            if plies & 1 == 0:
                high = zugzwang(own ^ taken, stones, threats, after)
            else:
                high = claimeven(own ^ taken, stones, threats, after)
            if high <= after:
                return 0, -high
    return _unknown(own ^ taken, taken, plies, count, bound, frame, table)


@njit(cache=True, nogil=True)
def _unknown(theirs, taken, plies, count, bound, frame, table):
    """What ``_enter`` returns, by what the table knows of the positions after the moves; of those
    it leaves the ones that may be above ``bound``."""
    left, score = 0, -((CELLS - plies) // 2)
    for at in range(_MOVES, _MOVES + count):
        answer = frame[at + COLUMNS]
        if answer & (answer - ONE) != ZERO:
            key = _key(theirs, taken | (frame[at] & BOARD), plies + 1)[0]
            low, high, _ = _known(key, table)
            if -high > bound:
                return 0, -high
            if -low <= bound:
                score = max(score, -low)
                continue
        frame[_MOVES + left], frame[_MOVES + left + COLUMNS] = frame[at], answer
        left += 1
    return left, score


@njit(cache=True, nogil=True)
def _above(own, taken, moves, plies, bound, table, limit):
    """A bound of the score: a lower one above ``bound`` where the score is, else an upper one;
    UNKNOWN after ``limit`` positions.

    No win at once may be there; moves: uint64, those that do not lose at once. table: uint64
    [2^k], see _KEY. The stack is an array, as Numba's cache cannot load a function that calls
    itself.
    """
    frames = np.empty((CELLS + 1, _FRAME), np.uint64)
    left = np.empty((CELLS + 1, 3), np.int64)  # the move to search next, how many, the best score
    frames[0, 0], frames[0, 1], frames[0, 2] = own, taken, moves
    depth, fresh, score = 0, True, 0
    while limit > 0:
        frame = frames[depth]
        if fresh:
            limit -= 1
            left[depth, 0] = 0
            left[depth, 1], score = _enter(plies + depth, bound, frame, table)
            left[depth, 2] = score
            done = left[depth, 1] == 0
        else:  # what the last move led to is known
            left[depth, 2] = max(left[depth, 2], -score)
            score = left[depth, 2]
            done = score > bound or left[depth, 0] == left[depth, 1]
            if done and frame[2] & (frame[2] - ONE) != ZERO:
                last = frame[_MOVES - 1 + left[depth, 0]] & BOARD
                _learn(frame[0], frame[1], plies + depth, score, bound, last, table)
        if not done:
            at = _MOVES + left[depth, 0]
            left[depth, 0] += 1
            depth += 1
            frames[depth, 0] = frame[0] ^ frame[1]
            frames[depth, 1] = frame[1] | (frame[at] & BOARD)
            frames[depth, 2] = frame[at + COLUMNS]
        elif depth == 0:
            return score
        else:
            depth -= 1
        fresh, bound = not done, -1 - bound
    return UNKNOWN


@njit(cache=True, nogil=True)
def _learn(own, taken, plies, score, bound, last, table):
    """Keep that the score is at least ``score``, by the move ``last``, where that is above
    ``bound``, else at most that."""
    key, flipped = _key(own, taken, plies)
    if score > bound:
        col = set_bits(last - ONE) // 7
        _keep(key, score, (CELLS - 3 - plies) // 2, COLUMNS - 1 - col if flipped else col, table)
    else:
        _keep(key, -((CELLS - plies) // 2), score, _NO_COLUMN, table)


@njit(cache=True, nogil=True)
def _wins_at_once(own, taken):
    return completing(own, taken) & (taken + BOTTOM) & BOARD != ZERO


@njit(cache=True, nogil=True)
def _within(own, taken, plies, low, high, table):
    """The score in low .. high: first whether it is won or lost, then by halves."""
    if plies == CELLS:
        return 0
    if _wins_at_once(own, taken):
        return (CELLS + 1 - plies) // 2
    moves = answers_to(completing(own ^ taken, taken), taken)
    if moves == ZERO:
        return -((CELLS - plies) // 2)
    low = max(low, -(max(CELLS - 2 - plies, 0) // 2))
    high = min(high, (CELLS - 1 - plies) // 2)
    size = min(len(table), 1 << SMALL_BITS)
    while low < high:
        middle = 0 if low < 0 < high else low + (high - low) // 2
        limit = size << 1 if size < len(table) else 1 << 62
        score = _above(own, taken, moves, plies, middle, table[:size], limit)
        if score == UNKNOWN:
            size = min(len(table), size << 3)
        elif score <= middle:
            high = score
        else:
            low = score
    return low


@njit(cache=True, nogil=True)
def _solve(boards, to_play, ply, low, high, table, out):
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        out[b] = _within(own, boards[b, 0] | boards[b, 1], ply[b], low, high, table)


@njit(cache=True, nogil=True)
def _solve_moves(boards, to_play, ply, table, out):
    """out[b, a]: the score after move a."""
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        taken = boards[b, 0] | boards[b, 1]
        wins = completing(own, taken)
        for col in range(COLUMNS):
            cell = (taken + BOTTOM) & (COLUMN << np.uint64(7 * col))
            if cell == ZERO:
                out[b, col] = UNKNOWN
            elif cell & wins != ZERO:
                out[b, col] = (CELLS + 1 - ply[b]) // 2
            else:
                out[b, col] = -_within(own ^ taken, taken | cell, ply[b] + 1, -CELLS, CELLS, table)


@njit(cache=True, nogil=True)
def _grade(boards, to_play, ply, table, out):
    """``grades``: the best score exactly, of every move only whether it reaches it, or its sign."""
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        taken = boards[b, 0] | boards[b, 1]
        wins = completing(own, taken)
        best = _within(own, taken, ply[b], -CELLS, CELLS, table)
        kept = min(max(best, -1), 1)
        for col in range(COLUMNS):
            cell = (taken + BOTTOM) & (COLUMN << np.uint64(7 * col))
            if cell == ZERO:
                out[b, col] = ILLEGAL
            elif cell & wins != ZERO or -_within(
                    own ^ taken, taken | cell, ply[b] + 1, -best, 1 - best, table) >= best:
                out[b, col] = PERFECT
            elif kept >= 0 and best <= kept:
                out[b, col] = LOSES_VALUE
            elif kept < 0:
                out[b, col] = KEEPS_VALUE
            else:
                score = -_within(own ^ taken, taken | cell, ply[b] + 1, -1, 0, table)
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
        _solve(states.boards, states.to_play, states.ply, -CELLS, CELLS, self.table, out)
        return out

    def values(self, states: Connect4States) -> NDArray[np.int8]:
        """int8 [B]: 1 where the side to move wins, 0 a draw, -1 a loss; far sooner than ``scores``
        where few stones lie."""
        out = np.empty(len(states.ply), np.int8)
        _solve(states.boards, states.to_play, states.ply, -1, 1, self.table, out)
        return np.sign(out)

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
