"""Walks down the trees of ``tree``, by the rules of PUCT, UCT and Gumbel AlphaZero.

PUCT: Silver et al. 2017, with KataGo's first-play urgency. UCT: Kocsis and Szepesvari 2006, UCB1
at every node, for values from rollouts. Gumbel: Danihelka et al. 2022; at the root it follows a
plan of ``gumbel``, below it the visits follow the improved policy. Its Q-values are rescaled from
[-1, 1] to [0, 1], as MuZero does where the bounds are known:
sigma(q) = (c_visit + max_b N(b)) * c_scale * (q + 1) / 2.

Several walks of one tree may start before the first is backed up. As in WU-UCT (Liu et al. 2020,
"Watch the unobserved"), each counts as a visit from its start, so that the next is drawn elsewhere,
but adds no value until ``tree.grow``. A walk that reaches a leaf whose evaluation is already
pending is undone, and the tree starts no more walks in this wave.

PUCT and Gumbel follow no edge to an exact value (``tree.bar``): every walk learns something.

Speed. A step down looks at the children that exist and at one unvisited move, the one of the
highest prior: ``favourite`` changes only when that move gets a node. ``select`` is compiled without
numba's counting of references (``_nrt``), which took a third of the time of a search; such a
kernel cannot allocate: its scratch arrays are passed in.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

PUCT, UCT, GUMBEL = 0, 1, 2
FAR = np.int64(2**63 - 1)
NONE = np.int32(2**31 - 1)  #: above any move
SIGN = np.int64(2**63 - 1)  #: all bits of a float64 but its sign


@njit(cache=True, nogil=True, inline="always")
def _best_unvisited(tree, b, node, bits):
    """The unvisited move of the highest prior, at the root of the highest score; -1 if none.

    bits: int32 [B, N, A], ``prior`` as it lies in memory: of floats above 0 the order is the same.
    """
    best = -1
    if node == 0:
        for a in range(tree.prior.shape[2]):
            if tree.prior[b, 0, a] > 0 and (
                best < 0 or tree.root_score[b, a] > tree.root_score[b, best]
            ):
                best = a
    else:
        top, first = np.int32(0), NONE
        for a in range(tree.prior.shape[2]):
            top = max(top, bits[b, node, a])
        for a in range(tree.prior.shape[2]):
            first = min(first, np.int32(a) if bits[b, node, a] == top else NONE)
        if top > 0:
            best = np.int64(first)
    return best


@njit(cache=True, nogil=True, inline="always")
def _roomy(tree, b, node):
    """The place of a new edge of ``node``, its block moved to one of twice the size if full."""
    degree = tree.degree[b, node]
    if degree == 0:
        tree.first[b, node] = tree.used[b]
        tree.used[b] += 2
    elif degree > 1 and degree & (degree - 1) == 0:
        old, new = tree.first[b, node], tree.used[b]
        for k in range(degree):
            tree.child[b, new + k] = tree.child[b, old + k]
            tree.move[b, new + k] = tree.move[b, old + k]
            tree.n[b, new + k] = tree.n[b, old + k]
            tree.q[b, new + k] = tree.q[b, old + k]
            tree.weight[b, new + k] = tree.weight[b, old + k]
            tree.bar[b, new + k] = tree.bar[b, old + k]
            if tree.child[b, old + k] >= 0:
                tree.edge[b, tree.child[b, old + k]] = new + k
        tree.first[b, node] = new
        tree.used[b] += 2 * degree
    tree.degree[b, node] = degree + 1
    return tree.first[b, node] + degree


@njit(cache=True, nogil=True, inline="always")
def _birth(tree, b, parent, action, bits):
    """A new node, pending, tied to its parent (-1: a root); returns it."""
    node = np.int64(0)
    if parent < 0:
        tree.used[b] = 0
        tree.edge[b, 0] = -1
    else:
        node = np.int64(tree.size[b])
        share = tree.prior[b, parent, action]
        tree.rest[b, parent] -= share
        tree.prior[b, parent, action] = -share
        weight = tree.root_score[b, action] if parent == 0 else np.float64(share)
        tree.mass[b, parent] += weight
        e = _roomy(tree, b, parent)
        tree.child[b, e], tree.move[b, e], tree.n[b, e] = node, action, 1
        tree.q[b, e], tree.weight[b, e] = tree.mean[b, parent], weight
        tree.edge[b, node], tree.bar[b, e] = e, 0
        if action == tree.favourite[b, parent]:
            tree.favourite[b, parent] = _best_unvisited(tree, b, parent, bits)
    tree.size[b] = node + 1
    tree.parent[b, node], tree.action[b, node] = parent, action
    tree.degree[b, node], tree.visits[b, node] = 0, 0
    tree.total[b, node], tree.mass[b, node] = 0.0, 0.0
    tree.terminal[b, node], tree.pending[b, node], tree.known[b, node] = False, True, 0
    return node


@njit(cache=True, nogil=True, inline="always")
def _top(tree, b, node, keys):
    """(place among the edges, move) of the highest score, of equals the lowest move; -1, -1 where
    there are no edges.

    keys: int64 [A], the scores (no NaN, no -0) as they lie in memory. Of integers a processor
    takes the maximum of eight at a time, and of negative floats the order is the other way round.
    """
    first, degree, top = tree.first[b, node], tree.degree[b, node], -FAR
    for k in range(degree):
        top = max(top, keys[k] ^ ((keys[k] >> 63) & SIGN))
    top ^= (top >> 63) & SIGN
    found = FAR
    for k in range(degree):
        key = (np.int64(tree.move[b, np.uint64(first + k)]) << 32) | k
        found = min(found, key if keys[k] == top else FAR)
    if found == FAR:
        return np.int64(-1), np.int64(-1)
    return found & 0xFFFFFFFF, found >> 32


@njit(cache=True, nogil=True, inline="always")
def _puct(tree, b, node, sign, c_puct, reduction, score, keys):
    """argmax of Q + c_puct * P * sqrt(N(s)) / (1 + N(s, a)) as (edge or -1, move).

    An unvisited move counts as Q(s) - reduction * sqrt(prior mass of the visited moves).
    The lowest move among equals.
    """
    explore = c_puct * math.sqrt(tree.visits[b, node])
    first = tree.first[b, node]
    for k in range(tree.degree[b, node]):
        e = np.uint64(first + k)
        score[k] = sign * tree.q[b, e] + explore * tree.weight[b, e] / np.float64(
            np.int32(1) + tree.n[b, e]) + 0.0
    if tree.known[b, node] != 0:
        for k in range(tree.degree[b, node]):
            score[k] += tree.bar[b, first + k]
    best, action = _top(tree, b, node, keys)
    edge = first + best if best >= 0 else np.int64(-1)
    move = tree.favourite[b, node]
    if move >= 0:
        prior = tree.root_score[b, move] if node == 0 else np.float64(tree.prior[b, node, move])
        unvisited = (sign * tree.mean[b, node] - reduction * math.sqrt(tree.mass[b, node])
                     + explore * prior)
        if edge < 0 or unvisited > score[best] or (unvisited == score[best] and move < action):
            edge, action = np.int64(-1), np.int64(move)
    return edge, action


@njit(cache=True, nogil=True, inline="always")
def _draw(rng, b, n):
    """A number below n from row b's splitmix64 stream."""
    rng[b] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[b]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(32)
    return np.int64((z * np.uint64(n)) >> np.uint64(32))


@njit(cache=True, nogil=True, inline="always")
def _random_unvisited(tree, b, node):
    """A random unvisited move, of which there is at least one."""
    unvisited = 0
    for a in range(tree.prior.shape[2]):
        unvisited += tree.prior[b, node, a] > 0
    skip, found = _draw(tree.rng, b, unvisited), -1
    for a in range(tree.prior.shape[2]):
        if tree.prior[b, node, a] > 0:
            if skip == 0:
                found = a
                break
            skip -= 1
    return found


@njit(cache=True, nogil=True, inline="always")
def _uct(tree, b, node, sign, c, score):
    """argmax of Q + c * sqrt(ln N(s) / N(s, a)), as (edge or -1, move).

    Unvisited moves come first, in random order; among equals the first born.
    """
    if tree.favourite[b, node] >= 0:
        return np.int64(-1), np.int64(_random_unvisited(tree, b, node))
    log_n, first = math.log(tree.visits[b, node]), tree.first[b, node]
    best, top = np.int64(-1), -np.inf
    for k in range(tree.degree[b, node]):
        e = np.uint64(first + k)
        score[k] = sign * tree.q[b, e] + c * math.sqrt(log_n / tree.n[b, e])
    for k in range(tree.degree[b, node]):
        if score[k] > top:
            best, top = first + k, score[k]
    return best, np.int64(tree.move[b, best])


@njit(cache=True, nogil=True)
def mixed_value(q, visits, share, raw, count):
    """v_mix, the value of an unvisited move (the paper's appendix D, equation 33).

    q, share: float [>= count], mean values and priors of the ``count`` visited moves; visits:
    int of the same; raw: the node's own evaluation. In and out for the side to move.
    """
    total, mass, weighted = 0, 0.0, 0.0
    for k in range(count):
        total += visits[k]
        mass += share[k]
        weighted += share[k] * q[k]
    if total == 0:
        return raw
    return (raw + total * weighted / mass) / (1 + total)


@njit(cache=True, nogil=True, inline="always")
def _sigmas(tree, b, node, c_visit, c_scale, sigmas, visits, share):
    """sigma(completed Q) at a node: sigmas[k] of its k-th child; that of unvisited moves returned.

    Also fills the children's visits and share. Room for A entries in each.
    """
    sign = 1.0 - 2.0 * tree.to_play[b, node]
    first, degree, most = tree.first[b, node], tree.degree[b, node], 0
    for k in range(degree):
        e = np.uint64(first + k)
        visits[k] = tree.n[b, e]
        share[k] = tree.weight[b, e] if node > 0 else -tree.prior[b, 0, tree.move[b, e]]
        sigmas[k] = sign * tree.q[b, e]
        most = max(most, visits[k])
    value = mixed_value(sigmas, visits, share, sign * tree.raw[b, node], degree)
    scale = (c_visit + most) * c_scale
    for k in range(degree):
        sigmas[k] = scale * (sigmas[k] + 1.0) / 2.0
    return scale * (value + 1.0) / 2.0


@njit(cache=True, nogil=True, inline="always")
def _improve(sigmas, share, degree, unvisited, rest):
    """Turn sigmas[k] into pi'[k] of pi' = softmax(logits + sigma(completed Q)), in place.

    Returned is the factor that makes pi' of an unvisited move from its prior: these all share
    one sigma. rest: their prior mass.
    """
    top = unvisited
    for k in range(degree):
        top = max(top, sigmas[k])
    factor = math.exp(unvisited - top)
    mass = factor * max(rest, 0.0)
    for k in range(degree):
        sigmas[k] = share[k] * math.exp(sigmas[k] - top)
        mass += sigmas[k]
    for k in range(degree):
        sigmas[k] /= mass
    return factor / mass


@njit(cache=True, nogil=True, inline="always")
def _gumbel_root(tree, b, wanted, sigmas, visits):
    """The best by draw + logit + sigma among the open moves with ``wanted`` visits, as (edge,
    move). Where there is none, as moves have become exact: among those with the most visits
    below that, so that an unvisited move steps in; else with the fewest above."""
    edge, action, top = np.int64(-1), np.int64(tree.favourite[b, 0]), -np.inf
    rank = np.int64(-FAR) if action < 0 else np.int64(0)
    first = tree.first[b, 0]
    for k in range(tree.degree[b, 0]):
        mine = np.int64(visits[k] if visits[k] <= wanted else -visits[k])
        if tree.bar[b, first + k] == 0 and mine >= rank:
            move = tree.move[b, first + k]
            score = tree.weight[b, first + k] + sigmas[k]
            if mine > rank or edge < 0 or score > top or (score == top and move < action):
                edge, action, top, rank = first + k, np.int64(move), score, mine
    return edge, action


@njit(cache=True, nogil=True, inline="always")
def _gumbel_inner(tree, b, node, policy, visits, factor):
    """argmax of pi'(a) - N(a) / (1 + sum of N), as (edge or -1, move): visits come to lie as pi'.

    The lowest move among equals; no move with an exact value.
    """
    edge, action, top = np.int64(-1), np.int64(-1), -np.inf
    first, known = tree.first[b, node], tree.known[b, node] != 0
    for k in range(tree.degree[b, node]):
        if known and tree.bar[b, first + k] < 0:
            continue
        move = tree.move[b, first + k]
        score = policy[k] - visits[k] / tree.visits[b, node]
        if edge < 0 or score > top or (score == top and move < action):
            edge, action, top = first + k, np.int64(move), score
    move = tree.favourite[b, node]
    if move >= 0:
        score = factor * tree.prior[b, node, move]
        if edge < 0 or score > top or (score == top and move < action):
            edge, action = np.int64(-1), np.int64(move)
    return edge, action


@njit(cache=True, nogil=True, inline="always")
def _take_back(tree, b, node):
    """Undo the visits of a walk that ended at ``node``, which is pending."""
    while tree.edge[b, node] >= 0:
        tree.n[b, tree.edge[b, node]] -= 1
        node = tree.parent[b, node]
        tree.visits[b, node] -= 1


# numpy's error model: a check for a division by 0 would keep loops from becoming vector loops
@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")  # type: ignore[call-overload]
def select(tree, rows, left, most, rule, parameters, schedule, walk, score, share, visits):
    """Walks from the roots of ``rows`` int64 [n] to leaves; fills ``walk``, returns (how many, the
    depth of the deepest).

    left: int32 [B], walks that each tree may still have, ``most`` of them now; one where the root
    itself is still to be evaluated. A walk ends at a terminal node, or at a new one for a move that
    had none.
    rule, parameters: PUCT, (c_puct, reduction, root_reduction), the reductions of the value of
    unvisited moves in [0, 2]; UCT, (c, -, -); GUMBEL, (c_visit, c_scale, -).
    schedule: int32 [B, S], for GUMBEL ``root.considered_visits`` of each row's present search,
    whose tree began empty (the t-th simulation finds 1 + t visits at the root). The walks of a
    call stay within one round of it: what the next is about has to be known first.
    """
    keys, bits = score.view(np.int64), tree.prior.view(np.int32)
    count = 0
    for i in range(rows.shape[0]):
        b = rows[i]
        new = tree.size[b] == 0
        if new:
            _birth(tree, b, -1, -1, bits)
        start, limit = tree.visits[b, 0] - 1, 1 if new else min(left[b], most)
        for _ in range(limit):
            if rule == GUMBEL and not new and (
                schedule[b, tree.visits[b, 0] - 1] != schedule[b, start]
            ):
                break
            node, depth, edge = np.int64(0), 0, np.int64(0)
            while edge >= 0 and not tree.terminal[b, node] and not tree.pending[b, node]:
                sign = 1.0 - 2.0 * tree.to_play[b, node]
                if rule == PUCT:
                    edge, action = _puct(tree, b, node, sign, parameters[0],
                                         parameters[1] if node > 0 else parameters[2], score, keys)
                elif rule == UCT:
                    edge, action = _uct(tree, b, node, sign, parameters[0], score)
                else:
                    unvisited = _sigmas(tree, b, node, parameters[0], parameters[1], score,
                                        visits, share)
                    if node == 0:
                        wanted = schedule[b, tree.visits[b, 0] - 1]
                        edge, action = _gumbel_root(tree, b, wanted, score, visits)
                    else:
                        factor = _improve(score, share, tree.degree[b, node], unvisited,
                                          tree.rest[b, node])
                        edge, action = _gumbel_inner(tree, b, node, score, visits, factor)
                tree.visits[b, node] += 1
                walk.path[count, depth] = action
                depth += 1
                if edge < 0:
                    node = _birth(tree, b, node, action, bits)
                else:
                    tree.n[b, edge] += 1
                    node = np.int64(tree.child[b, edge])
            if edge >= 0 and tree.pending[b, node] and not new:
                _take_back(tree, b, node)
                break
            tree.visits[b, node] += 1
            walk.depth[count], walk.row[count], walk.leaf[count] = depth, b, node
            count += 1
    deepest = 0
    for i in range(count):
        deepest = max(deepest, walk.depth[i])
    for i in range(count):
        for t in range(walk.depth[i], deepest):
            walk.path[i, t] = -1
    return count, deepest


@njit(cache=True, nogil=True)
def conclude(tree, rows, c_visit, c_scale, policy, score):
    """What a search by GUMBEL found at each root.

    Fills policy float32 [n, A], the improved policy softmax(logits + sigma(completed Q)) without
    the draws, and score float64 [n, A], draw + logit + sigma of the moves that have an edge.
    """
    actions = policy.shape[1]
    sigmas, share = np.empty(actions), np.empty(actions)
    visits = np.empty(actions, np.int32)
    for i in range(rows.shape[0]):
        b = rows[i]
        first, degree = tree.first[b, 0], tree.degree[b, 0]
        unvisited = _sigmas(tree, b, 0, c_visit, c_scale, sigmas, visits, share)
        for k in range(degree):
            score[i, tree.move[b, first + k]] = tree.weight[b, first + k] + sigmas[k]
        factor = _improve(sigmas, share, degree, unvisited, tree.rest[b, 0])
        for a in range(actions):
            policy[i, a] = max(tree.prior[b, 0, a], 0.0) * factor
        for k in range(degree):
            policy[i, tree.move[b, first + k]] = sigmas[k]
