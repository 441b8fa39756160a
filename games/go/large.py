"""Go on arrays, for boards above 9x9 (``small`` has the others): the kernels behind ``go.py``.

``states`` says how a board lies in its arrays. Rollouts look at simple ko only; the others know
positional superko.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .states import (
    COUNT_AT,
    EDGE,
    EMPTY,
    FREE,
    ILLEGAL,
    LEGAL,
    OPEN,
    REPEATS,
    SQUARES_MASK,
    SUM_AT,
    SUM_MASK,
)

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ONE, S27, S30, S31, S32 = (np.uint64(bits) for bits in (1, 27, 30, 31, 32))


@njit(cache=True, nogil=True)
def liberty(point):
    """What one pseudo-liberty at ``point`` adds to a chain's packed sums."""
    p = np.int64(point)
    return (np.int64(1) << COUNT_AT) + (p << SUM_AT) + p * p


@njit(cache=True, nogil=True)
def in_atari(packed):
    """Whether all pseudo-liberties (at least one) are the same point."""
    total = (packed >> SUM_AT) & SUM_MASK
    return (packed >> COUNT_AT) * (packed & SQUARES_MASK) == total * total


@njit(cache=True, nogil=True)
def neighbour(point, k, width):
    """The k-th of the four neighbours."""
    step = width if k in (0, 3) else 1
    return point - step if k < 2 else point + step


@njit(cache=True, nogil=True)
def remove_chain(stones, chain, following, liberties, start, width, gone, count):
    """Take a chain without liberties off the board; its points go to ``gone[count:]``."""
    first = count
    p = np.int64(start)
    while True:
        gone[count] = p
        count += 1
        stones[p] = EMPTY
        chain[p] = p
        liberties[p] = 0
        p = np.int64(following[p])
        if p == start:
            break
    for j in range(first, count):
        p = np.int64(gone[j])
        following[p] = p
        packed = liberty(p)
        for k in range(4):
            liberties[np.int64(chain[neighbour(p, k, width)])] += packed
    return count


@njit(cache=True, nogil=True, inline="always")
def join(chain, following, liberties, p, into):
    """Make the chain ``p`` part of the chain ``into``."""
    liberties[into] += liberties[p]
    q = p
    while True:
        chain[q] = into
        q = np.int64(following[q])
        if q == p:
            break
    link = following[into]
    following[into] = following[p]
    following[p] = link


@njit(cache=True, nogil=True, inline="always")
def place(stones, chain, following, liberties, p, own, width, gone):
    """Play a stone. Returns the number of stones in ``gone``; below 0 where they are the
    player's own (suicide)."""
    packed = liberty(p)
    for k in range(4):
        liberties[np.int64(chain[neighbour(p, k, width)])] -= packed
    stones[p] = own
    head = p
    attacked = False
    for k in range(4):
        n = neighbour(p, k, width)
        other = np.int64(chain[n])
        if stones[n] == own and other != head:
            if head == p:  # the new stone is the one to relabel
                join(chain, following, liberties, p, other)
                head = other
            else:
                join(chain, following, liberties, other, head)
        elif stones[n] == 3 - own and liberties[other] >> COUNT_AT == 0:
            attacked = True
    count = 0
    if attacked:
        for k in range(4):
            n = neighbour(p, k, width)
            if stones[n] == 3 - own and liberties[np.int64(chain[n])] >> COUNT_AT == 0:
                count = remove_chain(stones, chain, following, liberties, n, width, gone, count)
    elif liberties[head] >> COUNT_AT == 0:
        return -remove_chain(stones, chain, following, liberties, p, width, gone, count)
    return count


@njit(cache=True, nogil=True, inline="always")
def ko_point(following, liberties, p, count, gone):
    """The point where recapturing the lone stone ``p`` at once is forbidden; 0 if none."""
    if count == 1 and np.int64(following[p]) == p and liberties[p] >> COUNT_AT == 1:
        return np.int64(gone[0])
    return np.int64(0)


@njit(cache=True, nogil=True)
def has_seen(seen, history, ply, key):
    """Whether ``key`` is among ``history[: ply + 1]``."""
    bit = np.int64(key & np.uint64(seen.shape[0] * 64 - 1))
    if (seen[bit >> 6] >> np.uint64(bit & 63)) & ONE == 0:
        return False
    while ply >= 0 and history[ply] != key:
        ply -= 1
    return ply >= 0


@njit(cache=True, nogil=True)
def hash_without(stones, chain, following, p, colour, need_atari, liberties, width, zobrist, key):
    """``key`` less the distinct chains of ``colour`` around ``p`` (those in atari only)."""
    for k in range(4):
        n = neighbour(p, k, width)
        head = np.int64(chain[n])
        if stones[n] != colour or (need_atari and not in_atari(liberties[head])):
            continue
        again = False
        for j in range(k):
            m = neighbour(p, j, width)
            again = again or (stones[m] == colour and np.int64(chain[m]) == head)
        if again:
            continue
        q = head
        while True:
            key ^= zobrist[colour - 1, q]
            q = np.int64(following[q])
            if q == head:
                break
    return key


@njit(cache=True, nogil=True)
def status(
    stones, chain, following, liberties, lost, history, seen, ply, p, own, width, suicide, zobrist,
):
    """ILLEGAL (suicide), LEGAL or REPEATS (positional superko) of a stone on the empty point p."""
    lives = liberties[p] >> COUNT_AT > 0
    again = lost[p] & own != 0  # else no earlier board has this stone and what else there is
    if lives and not again:
        return LEGAL
    captures = False
    for k in range(4):  # no branches: they would be guesswork for the processor
        n = neighbour(p, k, width)
        atari = in_atari(liberties[np.int64(chain[n])])
        lives |= (stones[n] == own) & (not atari)
        captures |= (stones[n] == 3 - own) & atari
    lives = lives or captures
    if not lives and not suicide:
        return ILLEGAL
    if lives and not again:
        return LEGAL
    key = history[ply]
    if lives:
        key ^= zobrist[own - 1, p]
        if captures:
            key = hash_without(stones, chain, following, p, 3 - own, True, liberties, width,
                               zobrist, key)
    else:
        key = hash_without(stones, chain, following, p, own, False, liberties, width, zobrist, key)
    return REPEATS if has_seen(seen, history, ply, key) else LEGAL


@njit(cache=True, nogil=True, inline="always")
def move(s, i, action, zobrist, size, max_moves, gone):
    """Play ``action`` (not -1) in row i, whose game is not over."""
    width, passing = size + 1, size * size
    own = np.int64(s.to_play[i]) + 1
    key = s.history[i, s.ply[i]]
    s.ko[i] = 0
    if action != passing:
        p = (action // size + 1) * width + action % size + 1
        following, liberties = s.following[i], s.liberties[i]
        count = place(s.stones[i], s.chain[i], following, liberties, p, own, width, gone)
        key ^= zobrist[own - 1, p]
        colour = own if count < 0 else 3 - own
        for j in range(abs(count)):
            key ^= zobrist[colour - 1, gone[j]]
            s.lost[i, gone[j]] |= colour
        s.ko[i] = ko_point(following, liberties, p, count, gone)
    elif s.recent[i, 0] == passing:
        s.done[i] = True
    for j in range(3, 0, -1):
        s.recent[i, j] = s.recent[i, j - 1]
    s.recent[i, 0] = action
    s.to_play[i] = 2 - own
    s.ply[i] += 1
    if s.ply[i] >= max_moves:
        s.done[i] = True
    s.history[i, s.ply[i]] = key
    bit = np.int64(key & np.uint64(s.seen.shape[1] * 64 - 1))
    s.seen[i, bit >> 6] |= ONE << np.uint64(bit & 63)


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def play(s, zobrist, actions, size, max_moves, gone):
    """Play ``actions`` int64 [B, T] in place, column by column; -1 and finished games are left."""
    for i in range(actions.shape[0]):
        for t in range(actions.shape[1]):
            if actions[i, t] >= 0 and not s.done[i]:
                move(s, i, actions[i, t], zobrist, size, max_moves, gone)


@njit(cache=True, nogil=True, inline="always")
def survey(s, i, size, suicide, zobrist, verdicts):
    """Fill verdicts uint8 [P]: LEGAL, ILLEGAL or REPEATS of the points of row i."""
    own = np.int8(s.to_play[i] + 1)
    for p in range(verdicts.shape[0]):  # one vector instruction for 64 points
        empty = s.stones[i, p] == EMPTY
        free = empty & (s.liberties[i, p] >= FREE) & (s.lost[i, p] & own == 0)
        verdicts[p] = np.uint8(free) * LEGAL + np.uint8(empty & (not free)) * OPEN
    for p in range(size + 2, (size + 1) * (size + 1)):
        if verdicts[p] == OPEN:
            verdicts[p] = status(
                s.stones[i], s.chain[i], s.following[i], s.liberties[i], s.lost[i], s.history[i],
                s.seen[i], np.int64(s.ply[i]), p, np.int64(own), size + 1, suicide, zobrist)


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def legality(s, zobrist, size, suicide, verdicts, out):
    """Fill ``out`` uint8 [B, A], ILLEGAL everywhere on entry; finished games are left so."""
    for i in range(out.shape[0]):
        if s.done[i]:
            continue
        survey(s, i, size, suicide, zobrist, verdicts)
        for row in range(size):
            for col in range(size):
                out[i, row * size + col] = verdicts[(row + 1) * (size + 1) + col + 1]
        out[i, size * size] = LEGAL


@njit(cache=True, nogil=True, inline="always")
def duplicate(s, i, d, o):
    """Copy row i of ``s`` to row o of ``d``; of ``history`` no more than there is."""
    d.to_play[o], d.ply[o], d.done[o], d.ko[o] = s.to_play[i], s.ply[i], s.done[i], s.ko[i]
    d.komi[o] = s.komi[i]
    for p in range(s.stones.shape[1]):
        d.stones[o, p], d.lost[o, p] = s.stones[i, p], s.lost[i, p]
    for p in range(s.stones.shape[1]):
        d.chain[o, p], d.following[o, p] = s.chain[i, p], s.following[i, p]
    for p in range(s.stones.shape[1]):
        d.liberties[o, p] = s.liberties[i, p]
    for j in range(s.recent.shape[1]):
        d.recent[o, j] = s.recent[i, j]
    for j in range(s.ply[i] + 1):
        d.history[o, j] = s.history[i, j]
    for j in range(s.seen.shape[1]):
        d.seen[o, j] = s.seen[i, j]


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def branch(
    s, rows, moves, zobrist, size, suicide, max_moves, gone, verdicts, d, place_of, legal
):
    """``Go.branch``; ``s`` are the roots, ``d`` is where they go. Returns how many are not over.

    Fills place_of int64 [n] and the first rows of legal bool [n, A].
    """
    count = rows.shape[0]
    live, over = 0, count
    for i in range(count):
        duplicate(s, rows[i], d, live)
        for t in range(moves.shape[1]):
            if moves[i, t] < 0 or d.done[live]:
                break
            move(d, live, moves[i, t], zobrist, size, max_moves, gone)
        if d.done[live]:
            over -= 1
            if over > live:
                duplicate(d, live, d, over)
            place_of[i] = over
            continue
        survey(d, live, size, suicide, zobrist, verdicts)
        for row in range(size):
            for col in range(size):
                verdict = verdicts[(row + 1) * (size + 1) + col + 1]
                legal[live, row * size + col] = verdict == LEGAL
        legal[live, size * size] = True
        place_of[i] = live
        live += 1
    return live


@njit(cache=True, nogil=True, inline="always")
def plausible(stones, chain, liberties, p, own, width, ko):
    """Whether a playout may play on the empty point p: legal by simple ko, no own one-point eye.

    An eye has own stones or the edge all round and fewer than two enemy diagonals (none at the
    edge), the usual test of Monte Carlo Go programs.
    """
    if liberties[p] >> COUNT_AT > 0:
        return True
    if p == ko:
        return False
    escapes, captures, eye = False, False, True
    for k in range(4):
        n = neighbour(p, k, width)
        if stones[n] == own:
            escapes = escapes or not in_atari(liberties[np.int64(chain[n])])
        elif stones[n] == 3 - own:
            eye = False
            captures = captures or in_atari(liberties[np.int64(chain[n])])
    if not (escapes or captures):
        return False
    if not eye:
        return True
    enemies, edge = 0, 0
    for d in (-width - 1, -width + 1, width - 1, width + 1):
        if stones[p + d] == 3 - own:
            enemies += 1
        elif stones[p + d] == EDGE:
            edge = 1
    return enemies + edge >= 2


@njit(cache=True, nogil=True, inline="always")
def playout(stones, chain, following, liberties, empty, gone, own, passes, ko, size, state):
    """Random moves until two passes or 2 * N * N moves; returns the generator's new state."""
    width = size + 1
    left = 0
    for p in range(width + 1, (size + 1) * width):
        if stones[p] == EMPTY:
            empty[left] = p
            left += 1
    for _ in range(2 * size * size):
        if passes >= 2:
            break
        tries = left
        p = np.int64(0)
        while tries > 0:
            state += GOLDEN
            z = (state ^ (state >> S30)) * MIX_1
            z = (z ^ (z >> S27)) * MIX_2
            z ^= z >> S31
            j = (np.int64(z >> S32) * tries) >> 32
            p = np.int64(empty[j])
            tries -= 1
            empty[j] = empty[tries]
            if plausible(stones, chain, liberties, p, own, width, ko):
                break
            empty[tries] = p
            p = np.int64(0)
        ko = 0
        if p == 0:
            passes += 1
        else:
            passes = 0
            left -= 1
            empty[tries] = empty[left]
            count = place(stones, chain, following, liberties, p, own, width, gone)
            for j in range(count):
                empty[left] = gone[j]
                left += 1
            ko = ko_point(following, liberties, p, count, gone)
        own = 3 - own
    return state


@njit(cache=True, nogil=True, inline="always")
def link(stones, chain, following, liberties, size, gone):
    """Work out the chains and liberties of a board from its stones."""
    width = size + 1
    for p in range(stones.shape[0]):
        chain[p] = following[p] = p
        liberties[p], gone[p] = 0, stones[p]
    for p in range(width + 1, (size + 1) * width):
        if stones[p] != EDGE:
            stones[p] = EMPTY
            for k in range(4):
                liberties[neighbour(p, k, width)] += liberty(p)
    for p in range(width + 1, (size + 1) * width):  # no stone goes: all have a liberty at the end
        if gone[p] != EDGE and gone[p] != EMPTY:
            place(stones, chain, following, liberties, p, np.int64(gone[p]), width, gone)


@njit(cache=True, nogil=True)
def rollout(to_play, done, recent, ko, size, rng, boards):
    """Play ``boards`` int8 [B, P] to their end; ``rng`` advances. Other arrays as in GoStates."""
    points = boards.shape[1]
    chain, following = np.empty(points, np.uint16), np.empty(points, np.uint16)
    liberties = np.empty(points, np.int64)
    empty, gone = np.empty(points, np.int16), np.empty(points, np.int16)
    for i in range(boards.shape[0]):
        if done[i]:
            continue
        link(boards[i], chain, following, liberties, size, gone)
        passes = 1 if recent[i, 0] == size * size else 0
        rng[i] = playout(boards[i], chain, following, liberties, empty, gone,
                         np.int64(to_play[i]) + 1, passes, np.int64(ko[i]), size, rng[i])
