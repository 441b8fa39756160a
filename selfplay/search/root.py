"""What happens at the roots. Before a search: scores with noise, what the rules tell of the moves,
the plan of Gumbel AlphaZero. After it: what was found, what follows from what is proven,
and the tree that is left when a move is made.

The plan (Danihelka et al. 2022, "Policy improvement by planning with Gumbel"): at the root, the m
moves with the highest Gumbel draw + logit share the simulations by sequential halving. The walks
that keep to it are in ``select``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from selfplay.search.tree import BOUNDED, CLOSED, EXACT, TRIED


@njit(cache=True, nogil=True)
def considered_visits(m, out):
    """Fill ``out`` int32 [n]: simulation t goes to a move that has had ``out[t]`` visits so far.

    Sequential halving (the paper's algorithm 1) of n simulations over m moves: log2(m) phases of
    about equal length, half of the moves in each after the first, at least two in the last.
    """
    n = out.shape[0]
    phases = 0
    while (1 << phases) < m:
        phases += 1
    t, level, width = 0, 0, max(1, m)
    while t < n:
        rounds = n if m <= 1 else max(1, n // (phases * width))
        for _ in range(rounds):
            for _ in range(width):
                if t < n:
                    out[t] = level
                    t += 1
            level += 1
        width = max(2, width // 2)


@njit(cache=True, nogil=True)
def fill_schedule(tree, rows, m, sims, schedule):
    """Fill the rows of schedule int32 [B, S] for searches of ``sims`` int32 [n] simulations.

    rows: int64 [n], with evaluated roots and no node yet below; m: moves to consider, or all if
    fewer are open.
    """
    for i in range(rows.shape[0]):
        count = 0
        for a in range(tree.prior.shape[2]):
            count += tree.prior[rows[i], 0, a] > 0
        considered_visits(min(m, count), schedule[rows[i], : sims[i]])


@njit(cache=True, nogil=True)
def set_root(tree, rows, score):
    """Let ``score`` float64 [n, A] stand in for the prior at the roots of ``rows`` int64 [n]."""
    for i in range(rows.shape[0]):
        b, favourite = rows[i], -1
        for a in range(score.shape[1]):
            tree.root_score[b, a] = score[i, a]
            if tree.prior[b, 0, a] > 0 and (favourite < 0 or score[i, a] > score[i, favourite]):
                favourite = a
        tree.favourite[b, 0] = favourite
        mass = 0.0
        for e in range(tree.first[b, 0], tree.first[b, 0] + tree.degree[b, 0]):
            tree.weight[b, e] = score[i, tree.move[b, e]]
            mass += tree.weight[b, e]
        tree.mass[b, 0] = mass


@njit(cache=True, nogil=True, inline="always")
def _make_room(tree, b, count):
    """Move the root's edges to a block with room for ``count`` more."""
    degree, old, new, size = tree.degree[b, 0], tree.first[b, 0], tree.used[b], 2
    while size < degree + count:
        size *= 2
    for k in range(degree):
        e, child = new + k, tree.child[b, old + k]
        tree.child[b, e], tree.move[b, e] = child, tree.move[b, old + k]
        tree.n[b, e], tree.q[b, e] = tree.n[b, old + k], tree.q[b, old + k]
        tree.bar[b, e] = tree.bar[b, old + k]
        if child >= 0:
            tree.edge[b, child] = e
    tree.first[b, 0] = new
    tree.used[b] += size


@njit(cache=True, nogil=True, inline="always")
def _add(tree, b, facts, value):
    """Edges without a node for the unvisited moves of ``facts`` bool [A]; returns how many."""
    count = 0
    for a in range(facts.shape[0]):
        count += facts[a] and tree.prior[b, 0, a] > 0
    if count > 0:
        _make_room(tree, b, count)
    for a in range(facts.shape[0]):
        share = tree.prior[b, 0, a]
        if facts[a] and share > 0:
            e = tree.first[b, 0] + tree.degree[b, 0]
            tree.rest[b, 0] -= share
            tree.prior[b, 0, a] = -share
            tree.child[b, e], tree.move[b, e], tree.n[b, e] = -1, a, 0
            tree.q[b, e], tree.bar[b, e] = value, CLOSED
            tree.degree[b, 0] += 1
    return count


@njit(cache=True, nogil=True)
def settle(tree, rows, wins, losses):
    """Tell the trees what the rules say of their roots' moves; ``set_root`` must follow.

    rows: int64 [n], with evaluated roots; wins, losses: bool [n, A], moves that win, moves that
    lose. Where there are wins, they alone are noted; a move that has an edge keeps it. Where
    this decides the root, the new edges count as visited once, so that there are visits to read.
    Returns whether a root is EXACT.
    """
    decided = False
    for i in range(rows.shape[0]):
        b, won, left = rows[i], wins[i].any(), 0
        value = 1 - 2 * tree.to_play[b, 0] if won else 2 * tree.to_play[b, 0] - 1
        count = _add(tree, b, wins[i] if won else losses[i], value)
        if count > 0 and (won or tree.known[b, 0] != EXACT):
            if won or tree.known[b, 0] < BOUNDED:
                tree.known[b, 0], tree.bound[b, 0] = TRIED, value
            end = tree.first[b, 0] + tree.degree[b, 0]
            for e in range(tree.first[b, 0], end):
                left += tree.bar[b, e] == 0
            for a in range(wins.shape[1]):
                left += tree.prior[b, 0, a] > 0
            if won or left == 0:
                for e in range(end - count, end):
                    tree.n[b, e] = 1
                tree.visits[b, 0] += count
                tree.known[b, 0], tree.mean[b, 0] = EXACT, tree.bound[b, 0]
                tree.total[b, 0] = tree.mean[b, 0] * tree.visits[b, 0]
        decided = decided or tree.known[b, 0] == EXACT
    return decided


@njit(cache=True, nogil=True)
def end_won(wins, slot, leaves, to_play, outcome):
    """Count leaves with a move that wins as terminal, but for roots.

    wins: bool [m, A], of the live leaves; slot, to_play, outcome: of all n, as ``tree.grow`` takes
    them; slot and outcome are changed; leaves: int32 [>= n], their nodes. Returns how many are
    still live, and the rows (to, from, each int64 [k]) that make these the first when moved.
    """
    live, owner = wins.shape[0], np.full(wins.shape[0], -1)
    for i in range(slot.shape[0]):
        j, won = slot[i], False
        if j >= 0 and leaves[i] > 0:
            for a in range(wins.shape[1]):
                won |= wins[j, a]
        if won:
            slot[i], outcome[i] = -1, 1 - 2 * to_play[i]
            live -= 1
        elif j >= 0:
            owner[j] = i
    holes = np.flatnonzero(owner[:live] < 0)
    movers = live + np.flatnonzero(owner[live:] >= 0)
    for k in range(len(holes)):
        slot[owner[movers[k]]] = holes[k]
    return live, holes, movers


@njit(cache=True, nogil=True)
def root_moves(tree, rows, visits, q, exact):
    """Fill visits int32 [n, A], q float64 [n, A], the mean value of each visited move of the
    roots for their side to move, and exact bool [n, A], whether it is exact; 0 elsewhere."""
    visits[:] = 0
    q[:] = 0.0
    exact[:] = False
    for i in range(rows.shape[0]):
        b = rows[i]
        sign = 1.0 - 2.0 * tree.to_play[b, 0]
        for e in range(tree.first[b, 0], tree.first[b, 0] + tree.degree[b, 0]):
            visits[i, tree.move[b, e]] = tree.n[b, e]
            q[i, tree.move[b, e]] = sign * tree.q[b, e]
            exact[i, tree.move[b, e]] = tree.bar[b, e] < 0


def choose(
    visits: NDArray[np.int32], q: NDArray[np.float64], exact: NDArray[np.bool_],
    decided: NDArray[np.bool_], value: NDArray[np.float32], score: NDArray[np.float64],
    unseen: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(action int64 [n], bool [n, A], the moves that it was chosen from), by ``score``.

    Of a decided root the visited moves of its value, so that the lost do not lose at once. Else
    the most visited of those without an exact value, and the exact ones that do not lose. If there
    are none, as nothing but losses was visited: the best of the others by ``unseen``, which is
    -inf for illegal moves.
    """
    most = np.where(exact, 0, visits).max(1, keepdims=True)
    usual = ~exact & (visits == most) & (most > 0) | exact & (q > -1)
    fits = np.where(decided[:, None], exact & (q == value[:, None]) & (visits > 0), usual)
    action = np.where(fits, score, -np.inf).argmax(1)
    none = np.flatnonzero(~fits.any(1))
    if len(none):
        action[none] = np.where(exact[none], -np.inf, unseen[none]).argmax(1)
    return action, fits


def proven_policy(
    policy: NDArray[np.float32], q: NDArray[np.float64], exact: NDArray[np.bool_],
    decided: NDArray[np.bool_], fits: NDArray[np.bool_], prior: NDArray[np.float32],
    by_visits: bool,
) -> NDArray[np.float32]:
    """float32 [n, A]: the policy of rows with exact moves, as ``SearchResult`` says; arguments
    likewise. by_visits: what a proven draw was denied, as it is not visited again, is given back.
    """
    lost = exact & (q <= -1)
    share = np.where(lost, 0, policy)
    if by_visits:
        top = np.where(exact, q, -1.0).max(1, keepdims=True)
        below = (q <= top) & (top > -1)
        heirs = prior * (exact & (q == top))
        heirs /= np.maximum(heirs.sum(1, keepdims=True), np.float32(1e-30))
        share = np.where(below, heirs * (share * below).sum(1, keepdims=True), share)
    share = np.where(share.sum(1, keepdims=True) > 0, share, prior * ~exact)
    share = np.where(decided[:, None], prior * fits, share)
    return (share / share.sum(1, keepdims=True)).astype(np.float32)


@njit(cache=True, nogil=True, inline="always")
def _move_node(tree, b, old, new, parent):
    """Copy node ``old`` to place ``new`` <= old, all but what its edges say."""
    for a in range(tree.prior.shape[2]):
        tree.prior[b, new, a] = tree.prior[b, old, a]
    tree.total[b, new] = tree.total[b, old]
    tree.mean[b, new] = tree.mean[b, old]
    tree.rest[b, new] = tree.rest[b, old]
    tree.mass[b, new] = tree.mass[b, old]
    tree.parent[b, new] = parent
    tree.visits[b, new] = tree.visits[b, old]
    tree.degree[b, new] = tree.degree[b, old]
    tree.favourite[b, new] = tree.favourite[b, old]
    tree.action[b, new] = tree.action[b, old]
    tree.to_play[b, new] = tree.to_play[b, old]
    tree.terminal[b, new] = tree.terminal[b, old]
    tree.pending[b, new] = tree.pending[b, old]
    tree.known[b, new] = tree.known[b, old]
    tree.raw[b, new] = tree.raw[b, old]
    tree.bound[b, new] = tree.bound[b, old]
    tree.loose[b, new] = tree.loose[b, old]


@njit(cache=True, nogil=True, inline="always")
def _child(tree, b, action):
    """The root's child under ``action``, or -1."""
    found = -1
    for e in range(tree.first[b, 0], tree.first[b, 0] + tree.degree[b, 0]):
        if tree.move[b, e] == action:
            found = tree.child[b, e]
    return found


@njit(cache=True, nogil=True)
def reroot(tree, rows, actions):
    """Make the child under ``actions`` int64 [n] the root of its tree, and drop the rest.

    Where there is no such child, or it is terminal, the tree is emptied. -1: no move was made.
    The new root's ``favourite``, ``weight`` and ``mass`` are by its prior; ``set_root`` must
    follow.
    """
    number = np.empty(tree.parent.shape[1], np.int32)
    child, move, n = np.empty((3, tree.child.shape[1]), np.int32)
    q, weight = np.empty((2, tree.child.shape[1]))
    bar = np.empty(tree.child.shape[1], np.float32)
    for i in range(rows.shape[0]):
        b = rows[i]
        if actions[i] < 0 or tree.size[b] == 0:
            continue
        root = _child(tree, b, actions[i])
        if root < 0 or tree.terminal[b, root]:
            tree.size[b] = 0
            continue
        number[: tree.size[b]] = -1
        number[root] = 0
        count = 1
        for node in range(root + 1, tree.size[b]):
            if number[tree.parent[b, node]] >= 0:
                number[node] = count
                count += 1
        used = 0
        for old in range(root, tree.size[b]):
            new = number[old]
            if new < 0:
                continue
            first = tree.first[b, old]
            _move_node(tree, b, old, new, number[tree.parent[b, old]])
            tree.first[b, new] = used
            room = 2
            for k in range(tree.degree[b, new]):
                child[used + k] = number[tree.child[b, first + k]]
                move[used + k] = tree.move[b, first + k]
                n[used + k] = tree.n[b, first + k]
                q[used + k] = tree.q[b, first + k]
                weight[used + k] = tree.weight[b, first + k]
                bar[used + k] = tree.bar[b, first + k]
                room = room if k < room else 2 * room
            used += room if tree.degree[b, new] > 0 else 0
        tree.size[b], tree.used[b] = count, used
        tree.parent[b, 0] = tree.edge[b, 0] = -1
        for node in range(count):
            for e in range(tree.first[b, node], tree.first[b, node] + tree.degree[b, node]):
                tree.child[b, e], tree.move[b, e], tree.n[b, e] = child[e], move[e], n[e]
                tree.q[b, e], tree.weight[b, e], tree.bar[b, e] = q[e], weight[e], bar[e]
                tree.edge[b, child[e]] = e
