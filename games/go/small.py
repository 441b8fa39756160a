"""The rules of Go up to 9x9 on sets of points, two words each: the kernels behind ``go.py``.

``states`` says where a point lies in a word. ``large`` keeps chains; here they are found by
flooding when they are needed: a flood takes a few instructions a step, and boards without chains
are small to copy.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .states import ATARI, BANNED, LOST, MOVES, STONES, TWO

S1, S63, S64 = np.uint64(1), np.uint64(63), np.uint64(64)
ZERO, ONE = np.uint64(0), np.uint64(1)
DE_BRUIJN, S58 = np.uint64(0x03F79D71B4CB0A89), np.uint64(58)


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


@njit(cache=True, nogil=True, inline="always")
def rest(low, high):
    """All but the lowest bit."""
    return low & (low - ONE), (high & (high - ONE)) if low == ZERO else high


@njit(cache=True, nogil=True, inline="always")
def flood(low, high, mine_low, mine_high, width):
    """The chains of ``mine`` that contain (low, high), which is part of ``mine``."""
    more_low, more_high = low, high
    while more_low | more_high != ZERO:
        low |= more_low
        high |= more_high
        near_low, near_high = around(low, high, width)
        more_low, more_high = near_low & mine_low & ~low, near_high & mine_high & ~high
    return low, high


@njit(cache=True, nogil=True, inline="always")
def bit_index(low, high, place):
    """The index of the only bit that is set."""
    if low != ZERO:
        return place[(low * DE_BRUIJN) >> S58]
    return S64 + place[(high * DE_BRUIJN) >> S58]


@njit(cache=True, nogil=True, inline="always")
def hash_of(low, high, colour, zobrist, place):
    """The Zobrist hash of stones of one colour; a bit's point is its index plus 1."""
    key = ZERO
    while low | high != ZERO:
        rest_low, rest_high = rest(low, high)
        key ^= zobrist[colour, bit_index(low ^ rest_low, high ^ rest_high, place) + ONE]
        low, high = rest_low, rest_high
    return key


@njit(cache=True, nogil=True, inline="always")
def put_stone(s, i, p, masks, place, board, zobrist, width):
    """Play a stone at bit p and remove what has no liberties; the change of the hash."""
    own = np.int64(s.to_play[i])
    own_low, own_high = s.sets[i, own, 0] | masks[p, 0], s.sets[i, own, 1] | masks[p, 1]
    opp_low, opp_high = s.sets[i, 1 - own, 0], s.sets[i, 1 - own, 1]
    near_low, near_high = masks[p, 2], masks[p, 3]
    free_low = board[0] & ~(own_low | opp_low)
    free_high = board[1] & ~(own_high | opp_high)
    change = zobrist[own, p + ONE]
    breath_low, breath_high = around(free_low, free_high, width)
    dead_low, dead_high, loser = ZERO, ZERO, 1 - own
    if (near_low & opp_low & ~breath_low) | (near_high & opp_high & ~breath_high) != ZERO:
        live_low, live_high = flood(opp_low & breath_low, opp_high & breath_high,
                                    opp_low, opp_high, width)
        dead_low, dead_high = opp_low & ~live_low, opp_high & ~live_high
    if (near_low & free_low) | (near_high & free_high) == ZERO:
        if dead_low | dead_high == ZERO:
            live_low, live_high = flood(own_low & breath_low, own_high & breath_high,
                                        own_low, own_high, width)
            dead_low, dead_high, loser = own_low & ~live_low, own_high & ~live_high, own
        elif (near_low & own_low) | (near_high & own_high) == ZERO:
            rest_low, rest_high = rest(dead_low, dead_high)
            if rest_low | rest_high == ZERO:
                s.ko[i] = bit_index(dead_low, dead_high, place) + ONE
    s.sets[i, own, 0], s.sets[i, own, 1] = own_low, own_high
    if dead_low | dead_high != ZERO:
        change ^= hash_of(dead_low, dead_high, loser, zobrist, place)
        s.sets[i, loser, 0] &= ~dead_low
        s.sets[i, loser, 1] &= ~dead_high
        s.sets[i, LOST + loser, 0] |= dead_low
        s.sets[i, LOST + loser, 1] |= dead_high
    return change


@njit(cache=True, nogil=True, inline="always")
def move(s, i, action, size, max_moves, masks, place, board, zobrist):
    """Play ``action`` (not -1) in row i, whose game is not over; ``survey`` must follow."""
    passing = size * size
    key = s.history[i, s.ply[i]]
    s.ko[i] = 0
    if action != passing:
        p = np.uint64((action // size + 1) * (size + 1) + action % size)
        key ^= put_stone(s, i, p, masks, place, board, zobrist, np.uint64(size + 1))
    elif s.recent[i, 0] == passing:
        s.done[i] = True
    for j in range(3, 0, -1):
        s.recent[i, j] = s.recent[i, j - 1]
    s.recent[i, 0] = action
    s.to_play[i] = 1 - s.to_play[i]
    s.ply[i] += 1
    if s.ply[i] >= max_moves:
        s.done[i] = True
    s.history[i, s.ply[i]] = key
    bit = np.int64(key & np.uint64(s.seen.shape[1] * 64 - 1))
    s.seen[i, bit >> 6] |= ONE << np.uint64(bit & 63)


@njit(cache=True, nogil=True, inline="always")
def has_been(s, i, key):
    """Whether a board of this hash is in the game's past."""
    bit = np.int64(key & np.uint64(s.seen.shape[1] * 64 - 1))
    if (s.seen[i, bit >> 6] >> np.uint64(bit & 63)) & ONE == ZERO:
        return False
    ply = np.int64(s.ply[i])
    while ply >= 0 and s.history[i, ply] != key:
        ply -= 1
    return ply >= 0


@njit(cache=True, nogil=True, inline="always")
def count_liberties(s, i, changed_low, changed_high, board, width):
    """Bring the sets at ATARI and TWO from a board that differed at ``changed`` to this one: only
    chains on and beside these points are flooded, as the others are what they were."""
    black_low, black_high = s.sets[i, STONES, 0], s.sets[i, STONES, 1]
    white_low, white_high = s.sets[i, STONES + 1, 0], s.sets[i, STONES + 1, 1]
    all_low, all_high = black_low | white_low, black_high | white_high
    free_low, free_high = board[0] & ~all_low, board[1] & ~all_high
    near_low, near_high = around(changed_low, changed_high, width)
    left_low, left_high = all_low & (near_low | changed_low), all_high & (near_high | changed_high)
    same_low, same_high = all_low, all_high
    one_low, one_high, two_low, two_high = ZERO, ZERO, ZERO, ZERO
    while left_low | left_high != ZERO:
        low, high = rest(left_low, left_high)
        low, high = left_low ^ low, left_high ^ high
        black = (low & black_low) | (high & black_high) != ZERO
        mine_low, mine_high = black_low if black else white_low, black_high if black else white_high
        near_low, near_high = around(low, high, width)
        more_low, more_high = near_low & mine_low & ~low, near_high & mine_high & ~high
        while more_low | more_high != ZERO:
            low |= more_low
            high |= more_high
            near_low, near_high = around(low, high, width)
            more_low, more_high = near_low & mine_low & ~low, near_high & mine_high & ~high
        left_low &= ~low
        left_high &= ~high
        same_low &= ~low
        same_high &= ~high
        second_low, second_high = rest(near_low & free_low, near_high & free_high)
        third_low, third_high = rest(second_low, second_high)
        alone, few = second_low | second_high == ZERO, third_low | third_high == ZERO
        one_low |= low if alone else ZERO
        one_high |= high if alone else ZERO
        two_low |= low if few else ZERO
        two_high |= high if few else ZERO
    s.sets[i, TWO, 0] = (s.sets[i, TWO, 0] & same_low) | (two_low & ~one_low)
    s.sets[i, TWO, 1] = (s.sets[i, TWO, 1] & same_high) | (two_high & ~one_high)
    s.sets[i, ATARI, 0] = (s.sets[i, ATARI, 0] & same_low) | one_low
    s.sets[i, ATARI, 1] = (s.sets[i, ATARI, 1] & same_high) | one_high


@njit(cache=True, nogil=True, inline="always")
def hash_after(s, i, low, high, place, board, zobrist, width):
    """The hash after a stone on the single bit (low, high); reads the set at ATARI."""
    own = np.int64(s.to_play[i])
    atari_low, atari_high = s.sets[i, ATARI, 0], s.sets[i, ATARI, 1]
    near_low, near_high = around(low, high, width)
    opp_low, opp_high = s.sets[i, 1 - own, 0], s.sets[i, 1 - own, 1]
    own_low, own_high = s.sets[i, own, 0], s.sets[i, own, 1]
    key = s.history[i, s.ply[i]]
    taken_low, taken_high = near_low & opp_low & atari_low, near_high & opp_high & atari_high
    if taken_low | taken_high != ZERO:  # the stone is on their only liberty
        taken_low, taken_high = flood(taken_low, taken_high, opp_low, opp_high, width)
        key ^= hash_of(taken_low, taken_high, 1 - own, zobrist, place)
    else:
        open_low = board[0] & ~(opp_low | (own_low & atari_low))
        open_high = board[1] & ~(opp_high | (own_high & atari_high))
        if (near_low & open_low) | (near_high & open_high) == ZERO:  # suicide
            own_low, own_high = flood(near_low & own_low, near_high & own_high, own_low, own_high,
                                      width)
            return key ^ hash_of(own_low, own_high, own, zobrist, place)
    return key ^ zobrist[own, bit_index(low, high, place) + ONE]


@njit(cache=True, nogil=True, inline="always")
def colours(s, i):
    """The sets of black and of white stones."""
    return (s.sets[i, STONES, 0], s.sets[i, STONES, 1],
            s.sets[i, STONES + 1, 0], s.sets[i, STONES + 1, 1])


@njit(cache=True, nogil=True, inline="always")
def survey(s, i, before, suicide, place, board, zobrist, width):
    """Fill the sets that are derived from the others: ATARI, TWO, MOVES and BANNED. The first two
    are so far of the stones ``before`` (see ``colours``)."""
    now = colours(s, i)
    count_liberties(s, i, (before[0] ^ now[0]) | (before[2] ^ now[2]),
                    (before[1] ^ now[1]) | (before[3] ^ now[3]), board, width)
    own = np.int64(s.to_play[i])
    opp = 1 - own
    free_low = board[0] & ~(s.sets[i, own, 0] | s.sets[i, opp, 0])
    free_high = board[1] & ~(s.sets[i, own, 1] | s.sets[i, opp, 1])
    atari_low, atari_high = s.sets[i, ATARI, 0], s.sets[i, ATARI, 1]
    near_low, near_high = around(
        free_low | (s.sets[i, own, 0] & ~atari_low) | (s.sets[i, opp, 0] & atari_low),
        free_high | (s.sets[i, own, 1] & ~atari_high) | (s.sets[i, opp, 1] & atari_high), width)
    lives_low, lives_high = free_low & near_low, free_high & near_high
    # only where one of its stones was lost can a stone bring back a board
    ask_low, ask_high = lives_low & s.sets[i, LOST + own, 0], lives_high & s.sets[i, LOST + own, 1]
    if suicide:
        ask_low |= free_low & ~lives_low
        ask_high |= free_high & ~lives_high
        lives_low, lives_high = free_low, free_high
    banned_low, banned_high = ZERO, ZERO
    while ask_low | ask_high != ZERO and not s.done[i]:
        rest_low, rest_high = rest(ask_low, ask_high)
        low, high = ask_low ^ rest_low, ask_high ^ rest_high
        if has_been(s, i, hash_after(s, i, low, high, place, board, zobrist, width)):
            banned_low |= low
            banned_high |= high
        ask_low, ask_high = rest_low, rest_high
    going = ZERO if s.done[i] else ~ZERO
    s.sets[i, MOVES, 0], s.sets[i, MOVES, 1] = (lives_low & ~banned_low & going,
                                                lives_high & ~banned_high & going)
    s.sets[i, BANNED, 0], s.sets[i, BANNED, 1] = banned_low, banned_high


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def play(s, actions, size, suicide, max_moves, masks, place, board, zobrist):
    """Play ``actions`` int64 [B, T] in place, column by column; -1 and finished games are left."""
    for i in range(actions.shape[0]):
        ply, before = s.ply[i], colours(s, i)
        for t in range(actions.shape[1]):
            if actions[i, t] >= 0 and not s.done[i]:
                move(s, i, actions[i, t], size, max_moves, masks, place, board, zobrist)
        if s.ply[i] > ply:
            survey(s, i, before, suicide, place, board, zobrist, np.uint64(size + 1))


@njit(cache=True, nogil=True, inline="always")
def duplicate(s, i, d, o):
    """Copy row i of ``s`` to row o of ``d``, and of ``history`` only what has been filled."""
    d.to_play[o], d.ply[o], d.done[o], d.ko[o] = s.to_play[i], s.ply[i], s.done[i], s.ko[i]
    d.komi[o] = s.komi[i]
    for j in range(s.recent.shape[1]):
        d.recent[o, j] = s.recent[i, j]
    for j in range(s.ply[i] + 1):
        d.history[o, j] = s.history[i, j]
    for j in range(s.seen.shape[1]):
        d.seen[o, j] = s.seen[i, j]
    for j in range(s.sets.shape[1]):
        d.sets[o, j, 0], d.sets[o, j, 1] = s.sets[i, j, 0], s.sets[i, j, 1]


@njit(cache=True, nogil=True, inline="always")
def spread_moves(s, i, shift, split, pass_from, out):
    """Fill row i of ``out`` bool [B, A] with the legal moves (see ``moves``)."""
    low, high = s.sets[i, MOVES, 0], s.sets[i, MOVES, 1]
    for k in range(split):
        out[i, k] = (low >> shift[k]) & ONE
    for k in range(split, shift.shape[0]):
        out[i, k] = (high >> shift[k]) & ONE
    out[i, shift.shape[0]] = not s.done[i] and (s.ply[i] >= pass_from or low | high == ZERO)


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def moves(s, shift, split, pass_from, out):
    """Fill ``out`` bool [B, A] with the legal moves.

    shift: uint64 [N * N], the bit of each cell; the first ``split`` cells are in the low word.
    pass_from: ply before which no pass is legal that is not the only move.
    """
    for i in range(out.shape[0]):
        spread_moves(s, i, shift, split, pass_from, out)


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def branch(
    s, rows, paths, size, suicide, max_moves, masks, place, board, zobrist, shift, split,
    pass_from, d, place_of, legal,
):
    """``Go.branch``; ``s`` are the roots, ``d`` is where they go. Returns how many are not over.

    Fills place_of int64 [n] and the first rows of legal bool [n, A].
    """
    live, over = 0, rows.shape[0]
    for i in range(rows.shape[0]):
        duplicate(s, rows[i], d, live)
        for t in range(paths.shape[1]):
            if paths[i, t] < 0 or d.done[live]:
                break
            move(d, live, paths[i, t], size, max_moves, masks, place, board, zobrist)
        if d.ply[live] > s.ply[rows[i]]:
            survey(d, live, colours(s, rows[i]), suicide, place, board, zobrist,
                   np.uint64(size + 1))
        if d.done[live]:
            over -= 1
            if over > live:
                duplicate(d, live, d, over)
            place_of[i] = over
        else:
            spread_moves(d, live, shift, split, pass_from, legal)
            place_of[i] = live
            live += 1
    return live
