"""The search of ``connect4``'s solver: kernels over bitboards, and its table."""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .grades import ILLEGAL, KEEPS_VALUE, LOSES_VALUE, PERFECT

CELLS, COLUMNS = 42, 7
UNKNOWN = -128  #: the score of a move that is not legal
MIRRORED = 10  #: stones below which a position and its mirror image are one
#: A search begins with 2^16 entries, which lie in a processor's cache: up to twice as fast as in
#: all of the table. After twice as many positions it begins again with eight times as many.
SMALL_BITS = 16

_ONE, _ZERO = np.uint64(1), np.uint64(0)
_CELLS_OF_COLUMN = np.uint64(0b0111111)
_BOTTOM = np.uint64(sum(1 << 7 * col for col in range(COLUMNS)))
_FULL = np.uint64(int(_BOTTOM) * int(_CELLS_OF_COLUMN))
_ODD = np.uint64(int(_BOTTOM) * 0b010101)  # rows 1, 3, 5
_EVEN = np.uint64(int(_BOTTOM) * 0b101010)
_ROW_2, _ROW_3, _ROW_4, _ROW_6 = (np.uint64(int(_BOTTOM) << row) for row in (1, 2, 3, 5))
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
def _four(stones):
    """Whether four of ``stones`` lie in a row."""
    for step in (1, 6, 7, 8):
        pairs = stones & (stones >> np.uint64(step))
        if pairs & (pairs >> np.uint64(2 * step)) != _ZERO:
            return True
    return False


@njit(cache=True, nogil=True)
def _answers(threats, taken):
    """The cells that may be played without losing to the very next stone, where the opponent would
    complete a four on ``threats``; 0: all lose."""
    reach = (taken + _BOTTOM) & _FULL
    forced = reach & threats
    if forced != _ZERO:
        if forced & (forced - _ONE) != _ZERO:  # two wins cannot both be stopped
            return _ZERO
        reach = forced
    return reach & ~(threats >> _ONE)  # not right below a cell where they win


@njit(cache=True, nogil=True)
def _claimeven(own, taken, threats, bound):
    """An upper bound of the first player's score, who is to move; CELLS where none is found that
    is not above ``bound``. threats: the cells that complete a four of the second's.

    The second answers every move above it, and a move on an even row by the next such row of
    another column: the first gets at most the odd rows and the even cells within reach, and nothing
    above an even cell that completes a four of the second's: who plays below that loses.
    """
    reach, empty = (taken + _BOTTOM) & _FULL, taken ^ _FULL
    even = empty & _EVEN & ~reach
    threats &= even
    if bound < -2 and threats & _ROW_2 == _ZERO:
        return CELLS
    above = threats << _ONE
    above |= (above << _ONE) & _FULL & ~_BOTTOM
    above |= (above << np.uint64(2)) & _FULL & ~(_BOTTOM | _ROW_2)
    if _four(own | (empty & _ODD & ~above) | (reach & _EVEN)):
        return CELLS
    if threats != _ZERO:  # it falls when all other columns are full, if not before
        return -3 if threats & _ROW_2 != _ZERO else -2 if threats & _ROW_4 != _ZERO else -1
    if bound >= 0:
        return 0
    if _four((own ^ taken) | (even & ~_ROW_6)):
        return -2
    return -1 if _four((own ^ taken) | even) else CELLS


@njit(cache=True, nogil=True)
def _zugzwang(own, taken, threats, bound):
    """As ``_claimeven``, for the second player, who is to move.

    Where a cell on an odd row completes a four of the first's, leave out the cell right below it:
    an even number of columns has an odd rest. The first answers above; where nothing is left there,
    in another column with an odd rest. The second gets at most the cells within reach, the even
    rows below that cell and the odd rows of other columns, and then must play the one left out.
    """
    reach, empty = (taken + _BOTTOM) & _FULL, taken ^ _FULL
    threats &= _ODD & ~reach
    if bound < -1:
        threats &= _ROW_3
    if bound < -2 or threats == _ZERO:
        return CELLS
    for col in range(COLUMNS):
        column = _CELLS_OF_COLUMN << np.uint64(7 * col)
        threat = threats & column
        if threat == _ZERO:
            continue
        threat &= ~threat + _ONE  # the lowest
        below = (threat - _ONE) & column
        if not _four(own | reach | (empty & ((_ODD & ~column) | (_EVEN & below)))):
            return -2 if threat & _ROW_3 != _ZERO else -1
    return CELLS


@njit(cache=True, nogil=True)
def _key(own, taken, plies):
    """(key of a position, not 0; whether it is that of its mirror image)."""
    key = own + taken + _BOTTOM
    if plies < MIRRORED:
        mirrored = _ZERO
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
    if moves & (moves - _ONE) != _ZERO:  # a position with one move is not kept
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
        cell = moves & (_CELLS_OF_COLUMN << np.uint64(7 * col))
        if cell == _ZERO:
            continue
        _prefetch(table, _slot(_key(own ^ taken, taken | cell, plies + 1)[0], table))
        threats = _completing(own | cell, taken | cell)
        answer = _answers(threats, taken | cell)
        if answer == _ZERO:  # all the opponent's moves lose
            return 0, most
        hope = 20 * _count(threats) + 4 * (COLUMNS - _count(answer)) + _FOURS[_count(cell - _ONE)]
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
            stones, threats = taken | (frame[at] & _FULL), frame[at + 2 * COLUMNS]
            if plies & 1 == 0:
                high = _zugzwang(own ^ taken, stones, threats, after)
            else:
                high = _claimeven(own ^ taken, stones, threats, after)
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
        if answer & (answer - _ONE) != _ZERO:
            key = _key(theirs, taken | (frame[at] & _FULL), plies + 1)[0]
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
            if done and frame[2] & (frame[2] - _ONE) != _ZERO:
                last = frame[_MOVES - 1 + left[depth, 0]] & _FULL
                _learn(frame[0], frame[1], plies + depth, score, bound, last, table)
        if not done:
            at = _MOVES + left[depth, 0]
            left[depth, 0] += 1
            depth += 1
            frames[depth, 0] = frame[0] ^ frame[1]
            frames[depth, 1] = frame[1] | (frame[at] & _FULL)
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
        col = _count(last - _ONE) // 7
        _keep(key, score, (CELLS - 3 - plies) // 2, COLUMNS - 1 - col if flipped else col, table)
    else:
        _keep(key, -((CELLS - plies) // 2), score, _NO_COLUMN, table)


@njit(cache=True, nogil=True)
def _wins_at_once(own, taken):
    return _completing(own, taken) & (taken + _BOTTOM) & _FULL != _ZERO


@njit(cache=True, nogil=True)
def _within(own, taken, plies, low, high, table):
    """The score in low .. high: first whether it is won or lost, then by halves."""
    if plies == CELLS:
        return 0
    if _wins_at_once(own, taken):
        return (CELLS + 1 - plies) // 2
    moves = _answers(_completing(own ^ taken, taken), taken)
    if moves == _ZERO:
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
def solve(boards, to_play, ply, low, high, table, out):
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        out[b] = _within(own, boards[b, 0] | boards[b, 1], ply[b], low, high, table)


@njit(cache=True, nogil=True)
def solve_moves(boards, to_play, ply, table, out):
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
                out[b, col] = -_within(own ^ taken, taken | cell, ply[b] + 1, -CELLS, CELLS, table)


@njit(cache=True, nogil=True)
def grade(boards, to_play, ply, table, out):
    """``grades``: the best score exactly, of every move only whether it reaches it, or its sign."""
    for b in range(len(ply)):
        own = boards[b, to_play[b]]
        taken = boards[b, 0] | boards[b, 1]
        wins = _completing(own, taken)
        best = _within(own, taken, ply[b], -CELLS, CELLS, table)
        kept = min(max(best, -1), 1)
        for col in range(COLUMNS):
            cell = (taken + _BOTTOM) & (_CELLS_OF_COLUMN << np.uint64(7 * col))
            if cell == _ZERO:
                out[b, col] = ILLEGAL
            elif cell & wins != _ZERO or -_within(
                    own ^ taken, taken | cell, ply[b] + 1, -best, 1 - best, table) >= best:
                out[b, col] = PERFECT
            elif kept >= 0 and best <= kept:
                out[b, col] = LOSES_VALUE
            elif kept < 0:
                out[b, col] = KEEPS_VALUE
            else:
                score = -_within(own ^ taken, taken | cell, ply[b] + 1, -1, 0, table)
                out[b, col] = KEEPS_VALUE if score >= 1 else LOSES_VALUE
