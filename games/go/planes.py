"""What a Go board shows: areas and observation planes. Kernels that only read."""

from __future__ import annotations

import numpy as np
from numba import njit

from .states import (
    ATARI,
    BANNED,
    BLACK,
    COUNT_AT,
    EDGE,
    EMPTY,
    REPEATS,
    SQUARES_MASK,
    STONES,
    SUM_AT,
    SUM_MASK,
    TWO,
    WHITE,
)

PLANES = 16  #: that show the board
KOMI_PLANES = 8  #: that spell the komi
ONE = np.uint64(1)
UNCLAIMED = 2


@njit(cache=True, nogil=True)
def flood_region(stones, start, width, owner, region):
    """Mark the empty region of ``start`` in ``owner``; (its points, BLACK | WHITE it touches)."""
    region[0] = start
    owner[start] = UNCLAIMED
    touched, found, done = 0, 1, 0
    while done < found:
        q = np.int64(region[done])
        done += 1
        for step in (-width, -1, 1, width):
            n = q + step
            if stones[n] == EMPTY:
                if owner[n] == 0:
                    owner[n] = UNCLAIMED
                    region[found] = n
                    found += 1
            elif stones[n] != EDGE:
                touched |= stones[n]
    return found, touched


@njit(cache=True, nogil=True)
def area(stones, size, owner, region):
    """Tromp-Taylor area: fill ``owner`` int8 [P] (+1 black, -1 white); black's lead on the board.

    An empty region counts for the one colour that it touches. ``region`` is scratch, [P].
    """
    width = size + 1
    owner[:] = 0
    lead = 0
    for p in range(width + 1, (size + 1) * width):
        if stones[p] == BLACK or stones[p] == WHITE:
            owner[p] = 3 - 2 * stones[p]
            lead += 3 - 2 * stones[p]
        elif stones[p] == EMPTY and owner[p] == 0:
            found, touched = flood_region(stones, p, width, owner, region)
            if touched in (BLACK, WHITE):
                lead += (3 - 2 * touched) * found
                for j in range(found):
                    owner[np.int64(region[j])] = 3 - 2 * touched
    return lead


@njit(cache=True, nogil=True)
def areas(boards, wanted, size, owners, leads):
    """Of each of ``boards`` int8 [B, P] that is ``wanted`` bool [B], fill ``owners`` int8
    [B, N * N] (+1 black, -1 white, 0 nobody) and ``leads`` int32 [B]."""
    width = size + 1
    owner = np.empty(boards.shape[1], np.int8)
    region = np.empty(boards.shape[1], np.int16)
    for i in range(boards.shape[0]):
        if not wanted[i]:
            continue
        leads[i] = area(boards[i], size, owner, region)
        if owners.shape[0] == 0:
            continue
        cell = 0
        for row in range(size):
            for p in range((row + 1) * width + 1, (row + 2) * width):
                owners[i, cell] = 0 if owner[p] == UNCLAIMED else owner[p]
                cell += 1


@njit(cache=True, nogil=True, inline="always")
def few_liberties(stones, following, packed, head, width):
    """1, 2 or 3 (3 or more) liberties of a chain whose packed sums are given."""
    count = packed >> COUNT_AT
    if count > 8 or np.int64(following[head]) == head:  # a liberty counts at most four times
        return min(count, 3)
    total = (packed >> SUM_AT) & SUM_MASK
    if count * (packed & SQUARES_MASK) == total * total:
        return 1
    one, two = np.int64(0), np.int64(0)
    q = np.int64(head)
    while True:
        for step in (-width, -1, 1, width):
            n = q + step
            if stones[n] != EMPTY or n in (one, two):
                continue
            if one == 0:
                one = n
            elif two == 0:
                two = n
            else:
                return 3
        q = np.int64(following[q])
        if q == head:
            return 2


@njit(cache=True, nogil=True, inline="always")
def fill(out, i, plane, value):
    """Write a number all over a plane; a slice would take a loop without vectors."""
    for k in range(out.shape[2]):
        out[i, plane, k] = value


@njit(cache=True, nogil=True, inline="always")
def even_planes(s, i, out):
    """Write the planes of row i that are the same all over, and the last moves. The komi as the
    side to move has it is spelt by a bit a plane."""
    cells, komi = out.shape[2], np.int64(s.komi[i])
    most = 1 << (KOMI_PLANES - 1)
    halves = min(max(komi if s.to_play[i] == 1 else -komi, -most), most - 1)
    for bit in range(KOMI_PLANES):
        fill(out, i, PLANES + bit, (halves >> bit) & 1)
    fill(out, i, 2, 1)
    fill(out, i, 14, s.to_play[i])
    fill(out, i, 15, s.recent[i, 0] == cells)
    for j in range(4):
        fill(out, i, 9 + j, 0)
        if 0 <= s.recent[i, j] < cells:
            out[i, 9 + j, s.recent[i, j]] = 1


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def observe(s, moves, size, codes, out):
    """Fill ``out`` uint8 [B, PLANES + KOMI_PLANES, N * N]; ``Go`` lists the planes.

    moves: uint8 [B, A], REPEATS where ``large.legality`` says so. codes: scratch uint8 [2, P].
    """
    width, cells = size + 1, size * size
    heads, code = codes[0], codes[1]
    for i in range(out.shape[0]):
        stones, chain, following = s.stones[i], s.chain[i], s.following[i]
        own = s.to_play[i] + 1
        for p in range(width, stones.shape[0]):  # 1-3 own chains by liberties, 4-6 the enemy's
            if stones[p] != EMPTY and chain[p] == p and stones[p] != EDGE:
                few = few_liberties(stones, following, s.liberties[i, p], p, width)
                heads[p] = few if stones[p] == own else few + 3
        cell = 0
        for row in range(size):
            for p in range((row + 1) * width + 1, (row + 2) * width):
                code[cell] = 0 if stones[p] == EMPTY else heads[chain[p]]
                cell += 1
        for k in range(cells):  # a loop for each plane: a vector loop of two arrays
            out[i, 0, k] = (code[k] > 0) & (code[k] < 4)
        for k in range(cells):
            out[i, 1, k] = code[k] > 3
        for k in range(cells):
            out[i, 13, k] = moves[i, k] == REPEATS
        for plane in range(1, 7):
            for k in range(cells):
                out[i, plane + 2, k] = code[k] == plane
        even_planes(s, i, out)


@njit(cache=True, nogil=True, inline="always")
def mark_cells(s, i, word, start, end, shift, code):
    """Say of the cells ``start`` to ``end`` which sets they are in: a bit of ``code`` for each."""
    own = s.to_play[i]
    ours, others = s.sets[i, STONES + own, word], s.sets[i, STONES + 1 - own, word]
    atari, two, banned = s.sets[i, ATARI, word], s.sets[i, TWO, word], s.sets[i, BANNED, word]
    for k in range(start, end):
        at = shift[k]
        code[k] = (
            (ours >> at & ONE) | (others >> at & ONE) << ONE | (atari >> at & ONE) << np.uint64(2)
            | (two >> at & ONE) << np.uint64(3) | (banned >> at & ONE) << np.uint64(4))


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def observe_sets(s, shift, split, code, out):
    """``observe`` for BitStates, ``out`` as there; shift and split as in ``small.moves``. code:
    scratch uint8 [at least N * N]."""
    cells = shift.shape[0]
    for i in range(out.shape[0]):
        mark_cells(s, i, 0, 0, split, shift, code)
        mark_cells(s, i, 1, split, cells, shift, code)
        for colour in range(2):  # a loop for each plane: a vector loop of two arrays
            for k in range(cells):
                out[i, colour, k] = (code[k] >> colour) & 1
            for few in range(2):
                for k in range(cells):
                    out[i, 3 + 3 * colour + few, k] = code[k] == (1 << colour) + (4 << few)
            for k in range(cells):
                out[i, 5 + 3 * colour, k] = code[k] == 1 << colour
        for k in range(cells):
            out[i, 13, k] = code[k] >> 4
        even_planes(s, i, out)
