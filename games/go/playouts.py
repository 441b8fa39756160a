"""Random playouts of Go up to 9x9, on sets of points as ``small`` has them.

Chains are flooded when they are asked for: most stones have a free neighbour, and a flood of a
word takes a few instructions a step. The rules and the choice of moves are those of
``large.playout``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .states import STONES

LARGEST = 9  #: (N + 2) * (N + 1) bits have to fit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S1, S27, S30, S31 = np.uint64(1), np.uint64(27), np.uint64(30), np.uint64(31)
S32, S63, S64 = np.uint64(32), np.uint64(63), np.uint64(64)
ZERO, ONE = np.uint64(0), np.uint64(1)
DE_BRUIJN, S58 = np.uint64(0x03F79D71B4CB0A89), np.uint64(58)


def lookup_tables(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """What the kernels look up.

    masks: uint64 [128, 8], of each bit: itself, its neighbours, its diagonals (low and high words),
        whether it is at the edge, its cell
    place: uint64 [64], the place of the lone bit x is ``place[x * DE_BRUIJN >> 58]``
    board: uint64 [2], all points
    """
    width = size + 1
    masks = [[0, 0, 0] for _ in range(128)]
    for row in range(size):
        for col in range(size):
            for kind, steps in enumerate((
                [(0, 0)], [(0, 1), (1, 0), (0, -1), (-1, 0)], [(1, 1), (1, -1), (-1, 1), (-1, -1)],
            )):
                for down, right in steps:
                    r, c = row + down, col + right
                    if 0 <= r < size and 0 <= c < size:
                        masks[(row + 1) * width + col][kind] |= 1 << ((r + 1) * width + c)
    words = [[word for m in kinds for word in (m % 2**64, m >> 64)]
             + [kinds[2].bit_count() < 4, max(bit // width - 1, 0) * size + bit % width]
             for bit, kinds in enumerate(masks)]
    place = np.zeros(64, np.uint64)
    for bit in range(64):
        place[((int(DE_BRUIJN) << bit) % 2**64) >> 58] = bit
    table = np.array(words, np.uint64)
    return table, place, np.bitwise_or.reduce(table[:, :2])


@njit(cache=True, nogil=True, inline="always")
def around(low, high, width):
    """(low, high) of all bits beside those set, edge columns and rows included."""
    rest = S64 - width
    above_low, above_high = low << width, (high << width) | (low >> rest)
    below_low, below_high = (low >> width) | (high << rest), high >> width
    right_low, right_high = low << S1, (high << S1) | (low >> S63)
    left_low, left_high = (low >> S1) | (high << S63), high >> S1
    return (above_low | below_low | right_low | left_low,
            above_high | below_high | right_high | left_high)


@njit(cache=True, nogil=True)
def chain_of(low, high, mine_low, mine_high, free_low, free_high, width):
    """Flood from (low, high) through ``mine``: (True, ...) at the first bit of ``free`` beside it,
    else (False, all that was reached)."""
    while True:
        near_low, near_high = around(low, high, width)
        if (near_low & free_low) | (near_high & free_high) != ZERO:
            return True, low, high
        next_low, next_high = low | (near_low & mine_low), high | (near_high & mine_high)
        if next_low == low and next_high == high:
            return False, low, high
        low, high = next_low, next_high


@njit(cache=True, nogil=True)
def captured(low, high, mine_low, mine_high, free_low, free_high, width):
    """All chains of ``mine`` that touch (low, high), bits of mine, and nothing of ``free``."""
    dead_low, dead_high = ZERO, ZERO
    while low | high != ZERO:
        seed_low = low & (~low + ONE)
        seed_high = ZERO if seed_low != ZERO else high & (~high + ONE)
        alive, all_low, all_high = chain_of(
            seed_low, seed_high, mine_low, mine_high, free_low, free_high, width)
        if not alive:
            dead_low |= all_low
            dead_high |= all_high
        low &= ~(all_low | seed_low)
        high &= ~(all_high | seed_high)
    return dead_low, dead_high


@njit(cache=True, nogil=True, inline="always")
def two(low, high):
    """Whether at least two bits are set."""
    return ((low != ZERO) & (high != ZERO)) | (low & (low - ONE) != ZERO) | (
        high & (high - ONE) != ZERO)


@njit(cache=True, nogil=True, inline="always")
def one(low, high):
    """Whether exactly one bit is set."""
    return (low | high != ZERO) & (not two(low, high))


@njit(cache=True, nogil=True)
def surrounded(
    near_low, near_high, diagonal_low, diagonal_high, edge,
    own_low, own_high, opp_low, opp_high, free_low, free_high, width,
):
    """Whether a playout may play on an empty point without free neighbours, other than a ko's.

    The stone must capture, or join a chain with another liberty, and must not fill an eye: own
    stones or the edge all round, and fewer than two enemies on the diagonals, none at the edge.
    ``free`` does not contain the point itself.
    """
    touch_low, touch_high = near_low & opp_low, near_high & opp_high
    if touch_low | touch_high == ZERO:
        diagonal_low &= opp_low
        diagonal_high &= opp_high
        if not two(diagonal_low, diagonal_high) and (
                edge == ZERO or diagonal_low | diagonal_high == ZERO):
            return False
    tied, _, _ = chain_of(near_low & own_low, near_high & own_high, own_low, own_high,
                          free_low, free_high, width)
    if tied:
        return True
    dead_low, dead_high = captured(touch_low, touch_high, opp_low, opp_high,
                                   free_low, free_high, width)
    return dead_low | dead_high != ZERO


@njit(cache=True, nogil=True, inline="always")
def bit_index(low, high, place):
    """The index of the only bit that is set."""
    if low != ZERO:
        return place[(low * DE_BRUIJN) >> S58]
    return S64 + place[(high * DE_BRUIJN) >> S58]


@njit(cache=True, nogil=True)
def lead(black_low, black_high, white_low, white_high, board_low, board_high, width):
    """Black's area less White's: stones, and what only their colour reaches over empty points."""
    free_low = board_low & ~(black_low | white_low)
    free_high = board_high & ~(black_high | white_high)
    _, by_black_low, by_black_high = chain_of(
        black_low, black_high, free_low, free_high, ZERO, ZERO, width)
    _, by_white_low, by_white_high = chain_of(
        white_low, white_high, free_low, free_high, ZERO, ZERO, width)
    return (count(by_black_low & ~by_white_low) + count(by_black_high & ~by_white_high)
            - count(by_white_low & ~by_black_low) - count(by_white_high & ~by_black_high))


@njit(cache=True, nogil=True)
def count(word):
    """Bits set."""
    found = 0
    while word != ZERO:
        word &= word - ONE
        found += 1
    return found


@njit(cache=True, nogil=True)
def leads_of(s, wanted, size, board, leads):
    """Fill ``leads`` int32 [B] of the games that are ``wanted`` bool [B] with Black's lead."""
    for i in range(leads.shape[0]):
        if wanted[i]:
            leads[i] = lead(s.sets[i, STONES, 0], s.sets[i, STONES, 1], s.sets[i, STONES + 1, 0],
                            s.sets[i, STONES + 1, 1], board[0], board[1], np.uint64(size + 1))


@njit(cache=True, nogil=True)
def won_by_passing(s, size, board, last, found):
    """Mark in ``found`` bool [B, A] the second pass of who leads; whether some game has had
    ``last`` moves."""
    late = False
    for i in range(found.shape[0]):
        late = late or s.ply[i] >= last
        if s.recent[i, 0] == size * size:
            points = 2 * lead(s.sets[i, STONES, 0], s.sets[i, STONES, 1], s.sets[i, STONES + 1, 0],
                              s.sets[i, STONES + 1, 1], board[0], board[1], np.uint64(size + 1))
            found[i, size * size] = (points < s.komi[i] if s.to_play[i] else points > s.komi[i])
    return late


@njit(cache=True, nogil=True, inline="always")
def random_move(
    masks, empty, left, ko, own_low, own_high, opp_low, opp_high, free_low, free_high, width, state
):
    """(bit or 0 for a pass, its place in ``empty``, next state): a random sensible move.

    Points that were tried and refused lie behind its place.
    """
    tries, chosen = left, ZERO
    while tries > ZERO and chosen == ZERO:
        state += GOLDEN
        z = (state ^ (state >> S30)) * MIX_1
        z = (z ^ (z >> S27)) * MIX_2
        z ^= z >> S31
        j = ((z >> S32) * tries) >> S32
        p = empty[j]
        tries -= ONE
        empty[j] = empty[tries]
        empty[tries] = p
        near_low, near_high = masks[p, 2], masks[p, 3]
        if (near_low & free_low) | (near_high & free_high) != ZERO or (
            p != ko and surrounded(
                near_low, near_high, masks[p, 4], masks[p, 5], masks[p, 6],
                own_low, own_high, opp_low, opp_high,
                free_low & ~masks[p, 0], free_high & ~masks[p, 1], width)
        ):
            chosen = p
    return chosen, tries, state


@njit(cache=True, nogil=True)
def enlist(low, high, empty, left, place):
    """Append the bits of (low, high) to the first ``left`` of ``empty``; returns the new count."""
    while low | high != ZERO:
        one_low = low & (~low + ONE)
        one_high = ZERO if one_low != ZERO else high & (~high + ONE)
        empty[left] = bit_index(one_low, one_high, place)
        left += ONE
        low ^= one_low
        high ^= one_high
    return left


@njit(cache=True, nogil=True)
def play_out(s, size, masks, place, board, rng, leads, made):
    """A playout from each state: ``leads`` int32 [B] is Black's lead at its end, ``rng`` advances.

    made: int16 [B, 2 * N * N] for the moves (cells, N * N is a pass, -1 after the last), or
    [0, 0] where nobody asks for them.
    """
    width, passing = np.uint64(size + 1), size * size
    empty = np.empty(passing, np.uint64)  # unsigned: no index is looked at for its sign
    board_low, board_high = board[0], board[1]
    for i in range(leads.shape[0]):
        black, own = s.to_play[i] == 0, STONES + s.to_play[i]
        own_low, own_high = s.sets[i, own, 0], s.sets[i, own, 1]
        opp_low, opp_high = s.sets[i, 1 - own, 0], s.sets[i, 1 - own, 1]
        left = enlist(board_low & ~(own_low | opp_low), board_high & ~(own_high | opp_high), empty,
                      ZERO, place)
        passes = 1 if s.recent[i, 0] == passing else 0
        ko = np.uint64(max(np.int64(s.ko[i]) - 1, 0))  # 0 is off the board
        state, moves = rng[i], 0
        while moves < 2 * passing and passes < 2 and not s.done[i]:
            free_low = board_low & ~(own_low | opp_low)
            free_high = board_high & ~(own_high | opp_high)
            p, at, state = random_move(masks, empty, left, ko, own_low, own_high, opp_low, opp_high,
                                       free_low, free_high, width, state)
            ko = ZERO
            if made.shape[0] > 0:
                made[i, moves] = passing if p == ZERO else masks[p, 7]
            moves += 1
            passes += 1
            if p != ZERO:
                passes = 0
                left -= ONE
                empty[at] = empty[left]
                near_low, near_high = masks[p, 2], masks[p, 3]
                alone = (near_low & own_low) | (near_high & own_high) == ZERO
                own_low |= masks[p, 0]
                own_high |= masks[p, 1]
                free_low &= ~masks[p, 0]
                free_high &= ~masks[p, 1]
                breath_low, breath_high = around(free_low, free_high, width)
                touch_low = near_low & opp_low & ~breath_low
                touch_high = near_high & opp_high & ~breath_high
                if touch_low | touch_high != ZERO:
                    dead_low, dead_high = captured(touch_low, touch_high, opp_low, opp_high,
                                                   free_low, free_high, width)
                    opp_low &= ~dead_low
                    opp_high &= ~dead_high
                    left = enlist(dead_low, dead_high, empty, left, place)
                    if alone and one(dead_low, dead_high) and (
                            (near_low & free_low) | (near_high & free_high) == ZERO):
                        ko = empty[left - ONE]
            own_low, own_high, opp_low, opp_high = opp_low, opp_high, own_low, own_high
            black = not black
        rng[i] = state
        if made.shape[0] > 0:
            made[i, moves:] = -1
        black_lead = lead(own_low, own_high, opp_low, opp_high, board_low, board_high, width)
        leads[i] = black_lead if black else -black_lead
