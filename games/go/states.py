"""What a Go game is made of: the names of its numbers, and the arrays of its state.

Points. A board of N x N is stored as a padded line with one column of edge between the rows:
cell (row, col) is point ``(row + 1) * (N + 1) + col + 1``, its neighbours are +-1 and
+-(N + 1), and every neighbour and diagonal of a cell exists. P = (N + 2) * (N + 1) + 1 points.

Chains are circular linked lists (``following``) whose stones all name the same ``chain``.
``liberties`` of a chain packs three sums over its pseudo-liberties, the pairs (stone, empty
neighbour): how many there are, of their points, of the points' squares. By Cauchy-Schwarz
count * squares == sum ** 2 exactly where all of them are one point, so that a test for atari
costs no walk. An empty point is a chain of its own, of which the same sums are kept: placing
a stone needs no new count, and no update asks what it is updating.

Boards of up to 9x9 are made of sets of points, two words of 64 bits each, low and high. Cell
(row, col) is bit ``(row + 1) * (N + 1) + col``, which is its point less 1: one column and one row
at either end stay empty, so that a shift by 1 or N + 1 never brings a stone round the edge.

These names are compiled into the kernels of ``large``, ``small``, ``planes`` and
``playouts``, and numba's cache does not notice when they change here: delete ``__pycache__`` then.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EMPTY, BLACK, WHITE, EDGE = 0, 1, 2, 3

# liberties: count in bits 48.., sum of points in bits 28..47, sum of squares in bits 0..27;
# 19x19 has fewer than 720 pseudo-liberties a chain on points up to 419.
COUNT_AT, SUM_AT = 48, 28
SUM_MASK, SQUARES_MASK = (1 << 20) - 1, (1 << 28) - 1

ILLEGAL, LEGAL, REPEATS, OPEN = 0, 1, 2, 3  #: OPEN: has to be looked at closely
FREE = 1 << COUNT_AT  #: packed sums not below this belong to at least one pseudo-liberty


class GoStates(NamedTuple):
    """B games above 9x9; P points of the padded board, L = max_moves + 1.

    to_play: int8 [B], 0 black, 1 white
    ply: int32 [B]
    done: bool [B]
    stones: int8 [B, P], EMPTY, BLACK, WHITE or EDGE
    chain: uint16 [B, P], the point that stands for this point's chain
    following: uint16 [B, P], the next stone of the same chain, in a circle
    liberties: int64 [B, P], packed sums, valid where ``chain[p] == p``
    ko: int16 [B], point that simple ko forbids, 0 if none (read by rollouts)
    komi: int16 [B], in half points, so that each game of a batch may have its own
    lost: int8 [B, P], BLACK | WHITE of the stones that have ever left this point. A board that
        comes back has the new stone on a point that has lost one of its colour since
    recent: int16 [B, 4], the last actions, newest first; -1 before the first move
    history: uint64 [B, L], Zobrist hash of the board after each ply; 0 is the empty board
    seen: uint64 [B, F], a set of bits (Bloom filter with one hash) over ``history``
    """

    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    stones: NDArray[np.int8]
    chain: NDArray[np.uint16]
    following: NDArray[np.uint16]
    liberties: NDArray[np.int64]
    ko: NDArray[np.int16]
    komi: NDArray[np.int16]
    lost: NDArray[np.int8]
    recent: NDArray[np.int16]
    history: NDArray[np.uint64]
    seen: NDArray[np.uint64]


#: what ``BitStates.sets`` are; the first four by colour
STONES, LOST, ATARI, TWO, MOVES, BANNED = 0, 2, 4, 5, 6, 7
SETS = 8


class BitStates(NamedTuple):
    """B games on boards of up to 9x9. The last four sets follow from the rest (superko's
    from the history); they are kept as searches ask for them more than once.

    to_play, ply, done, ko, komi, recent, history, seen: as in GoStates
    sets: uint64 [B, SETS, 2], sets of points: at STONES and STONES + 1 the black and the white
        stones; at LOST and LOST + 1 where such stones have ever left; at ATARI and TWO the stones,
        of both colours, of chains with one and two liberties; at MOVES where the side to move may
        play, at BANNED where superko alone forbids it (both empty once the game is over)
    """

    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    ko: NDArray[np.int16]
    komi: NDArray[np.int16]
    recent: NDArray[np.int16]
    history: NDArray[np.uint64]
    seen: NDArray[np.uint64]
    sets: NDArray[np.uint64]

    @property
    def stones(self) -> NDArray[np.int8]:
        """int8 [B, P], as in GoStates."""
        size = math.isqrt(self.history.shape[1] // 2)  # L = 2 * N * N + 1
        bits = np.unpackbits(np.ascontiguousarray(self.sets[:, STONES : STONES + 2]).view(np.uint8),
                             axis=2, bitorder="little").view(np.int8)
        out = np.full((len(bits), (size + 2) * (size + 1) + 1), EDGE, np.int8)
        inside = out[:, size + 1 : -size - 2].reshape(-1, size, size + 1)[:, :, 1:]
        cells = bits[:, :, size + 1 : (size + 1) ** 2].reshape(-1, 2, size, size + 1)[..., :-1]
        inside[:] = BLACK * cells[:, 0] + WHITE * cells[:, 1]
        return out

    @property
    def lost(self) -> NDArray[np.uint64]:
        """uint64 [B, 2, 2], the sets at LOST."""
        return self.sets[:, LOST : LOST + 2]
