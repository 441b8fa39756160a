"""Stones of Connect Four as bits: threats, answers, and bounds of the score without a search.

Bits lie as in ``connect4``; a score is that of ``solve.connect4``. Who answers every move above it
gets a part of the board that is known beforehand; often this bounds the score (after Allis, "A
knowledge-based approach of Connect-Four", 1988).
"""

from __future__ import annotations

import numpy as np
from numba import njit

CELLS, COLUMNS = 42, 7

ONE, ZERO = np.uint64(1), np.uint64(0)
COLUMN = np.uint64(0b0111111)
BOTTOM = np.uint64(sum(1 << 7 * col for col in range(COLUMNS)))
BOARD = np.uint64(int(BOTTOM) * int(COLUMN))
_ODD = np.uint64(int(BOTTOM) * 0b010101)  # rows 1, 3, 5
_EVEN = np.uint64(int(BOTTOM) * 0b101010)
_ROW_2, _ROW_3, _ROW_4, _ROW_6 = (np.uint64(int(BOTTOM) << row) for row in (1, 2, 3, 5))


@njit(cache=True, nogil=True)
def completing(stones, taken):
    """The empty cells, within reach or not, that would complete a four of ``stones``."""
    found = (stones << ONE) & (stones << np.uint64(2)) & (stones << np.uint64(3))
    for step in (6, 7, 8):
        one, two, three = np.uint64(step), np.uint64(2 * step), np.uint64(3 * step)
        below = (stones << one) & (stones << two)
        above = (stones >> one) & (stones >> two)
        found |= below & ((stones << three) | (stones >> one))
        found |= above & ((stones >> three) | (stones << one))
    return found & (BOARD ^ taken)


@njit(cache=True, nogil=True)
def set_bits(bits):
    """Set bits."""
    bits = bits - ((bits >> ONE) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + (
        (bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def four(stones):
    """Whether four of ``stones`` lie in a row."""
    for step in (1, 6, 7, 8):
        pairs = stones & (stones >> np.uint64(step))
        if pairs & (pairs >> np.uint64(2 * step)) != ZERO:
            return True
    return False


@njit(cache=True, nogil=True)
def answers_to(threats, taken):
    """The cells that may be played without losing to the very next stone, where the opponent would
    complete a four on ``threats``; 0: all lose."""
    reach = (taken + BOTTOM) & BOARD
    forced = reach & threats
    if forced != ZERO:
        if forced & (forced - ONE) != ZERO:  # two wins cannot both be stopped
            return ZERO
        reach = forced
    return reach & ~(threats >> ONE)  # not right below a cell where they win


@njit(cache=True, nogil=True)
def claimeven(own, taken, threats, bound):
    """An upper bound of the first player's score, who is to move; CELLS where none is found that
    is not above ``bound``. threats: the cells that complete a four of the second's.

    The second answers every move above it, and a move on an even row by the next such row of
    another column: the first gets at most the odd rows and the even cells within reach, and nothing
    above an even cell that completes a four of the second's: who plays below that loses.
    """
    reach, empty = (taken + BOTTOM) & BOARD, taken ^ BOARD
    even = empty & _EVEN & ~reach
    threats &= even
    if bound < -2 and threats & _ROW_2 == ZERO:
        return CELLS
    above = threats << ONE
    above |= (above << ONE) & BOARD & ~BOTTOM
    above |= (above << np.uint64(2)) & BOARD & ~(BOTTOM | _ROW_2)
    if four(own | (empty & _ODD & ~above) | (reach & _EVEN)):
        return CELLS
    if threats != ZERO:  # it falls when all other columns are full, if not before
        return -3 if threats & _ROW_2 != ZERO else -2 if threats & _ROW_4 != ZERO else -1
    if bound >= 0:
        return 0
    if four((own ^ taken) | (even & ~_ROW_6)):
        return -2
    return -1 if four((own ^ taken) | even) else CELLS


@njit(cache=True, nogil=True)
def zugzwang(own, taken, threats, bound):
    """As ``claimeven``, for the second player, who is to move.

    Where a cell on an odd row completes a four of the first's, the first answers every move above
    it, and one that leaves no even number of cells so (below that cell, or in another column) by
    the next such: the second gets at most the cells within reach, the even rows below that cell and
    the odd rows of other columns, and when those are full must play right below it.
    """
    reach, empty = (taken + BOTTOM) & BOARD, taken ^ BOARD
    threats &= _ODD & ~reach
    if bound < -1:
        threats &= _ROW_3
    if bound < -2 or threats == ZERO:
        return CELLS
    for col in range(COLUMNS):
        column = COLUMN << np.uint64(7 * col)
        threat = threats & column
        if threat == ZERO:
            continue
        threat &= ~threat + ONE  # the lowest
        below = (threat - ONE) & column
        if not four(own | reach | (empty & ((_ODD & ~column) | (_EVEN & below)))):
            return -2 if threat & _ROW_3 != ZERO else -1
    return CELLS
