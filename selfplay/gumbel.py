"""The rule of Gumbel AlphaZero (Danihelka et al. 2022, "Policy improvement by planning with
Gumbel"), beside PUCT in ``mcts``.

At the root, the m moves with the highest Gumbel draw + logit share the simulations by sequential
halving; below it, visits follow the improved policy. Q-values are rescaled from [-1, 1] to [0, 1],
as MuZero does where the bounds are known:
sigma(q) = (c_visit + max_b N(b)) * c_scale * (q + 1) / 2.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


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
    degree, most = tree.degree[b, node], 0
    for k in range(degree):
        child = tree.children[b, node, k]
        visits[k] = tree.visits[b, child]
        share[k] = tree.share[b, child]
        sigmas[k] = sign * tree.mean[b, child]
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
def _root_child(tree, b, wanted, sigmas, visits):
    """The best by draw + logit + sigma among the moves with ``wanted`` visits, as (move, node)."""
    best, leaf, top = -1, -1, -np.inf
    if wanted == 0:
        best = tree.favourite[b, 0]
    else:
        for k in range(tree.degree[b, 0]):
            if visits[k] == wanted:
                child = tree.children[b, 0, k]
                move = tree.action[b, child]
                score = tree.root_score[b, move] + sigmas[k]
                if best < 0 or score > top or (score == top and move < best):
                    best, leaf, top = move, child, score
    return best, leaf


@njit(cache=True, nogil=True, inline="always")
def _inner_child(tree, b, node, policy, visits, factor):
    """argmax of pi'(a) - N(a) / (1 + sum of N), as (move, node or -1): visits come to lie as pi'.

    The lowest move among equals.
    """
    best, leaf, top = -1, -1, -np.inf
    for k in range(tree.degree[b, node]):
        child = tree.children[b, node, k]
        move = tree.action[b, child]
        score = policy[k] - visits[k] / tree.visits[b, node]
        if best < 0 or score > top or (score == top and move < best):
            best, leaf, top = move, child, score
    move = tree.favourite[b, node]
    if move >= 0:
        score = factor * tree.prior[b, node, move]
        if best < 0 or score > top or (score == top and move < best):
            best, leaf = move, -1
    return best, leaf


@njit(cache=True, nogil=True)
def select_gumbel(tree, rows, c_visit, c_scale, schedule, walk):
    """``mcts.select_puct`` by Gumbel AlphaZero's rule.

    schedule: int32 [B, S], ``considered_visits`` of each row's present search, whose tree began
    empty (the t-th simulation finds 1 + t visits at the root).
    """
    actions = tree.prior.shape[2]
    sigmas, share = np.empty(actions), np.empty(actions)
    visits = np.empty(actions, np.int32)
    for i in range(rows.shape[0]):
        b = rows[i]
        depth, parent, action = 0, -1, -1
        node = 0 if tree.size[b] > 0 else -1
        while node >= 0 and not tree.terminal[b, node]:
            parent, degree = node, tree.degree[b, node]
            unvisited = _sigmas(tree, b, node, c_visit, c_scale, sigmas, visits, share)
            if node == 0:
                wanted = schedule[b, tree.visits[b, 0] - 1]
                action, node = _root_child(tree, b, wanted, sigmas, visits)
            else:
                factor = _improve(sigmas, share, degree, unvisited, tree.rest[b, node])
                action, node = _inner_child(tree, b, node, sigmas, visits, factor)
            walk.path[i, depth] = action
            depth += 1
        walk.depth[i], walk.parent[i], walk.action[i], walk.leaf[i] = depth, parent, action, node


@njit(cache=True, nogil=True)
def plan(tree, rows, m, sims, schedule):
    """Fill the rows of schedule int32 [B, S] for searches of ``sims`` int32 [n] simulations.

    rows: int64 [n], with evaluated roots; m: moves to consider, or all if fewer are legal.
    """
    for i in range(rows.shape[0]):
        count = 0
        for a in range(tree.prior.shape[2]):
            count += tree.prior[rows[i], 0, a] != 0
        considered_visits(min(m, count), schedule[rows[i], : sims[i]])


@njit(cache=True, nogil=True)
def conclude(tree, rows, c_visit, c_scale, policy, winners):
    """What the search found at each root.

    Fills policy float32 [n, A], the improved policy softmax(logits + sigma(completed Q)) without
    the draws, and winners int64 [n]: the best by draw + logit + sigma among the moves with the
    most visits.
    """
    actions = policy.shape[1]
    sigmas, share = np.empty(actions), np.empty(actions)
    visits = np.empty(actions, np.int32)
    for i in range(rows.shape[0]):
        b, degree = rows[i], tree.degree[rows[i], 0]
        unvisited = _sigmas(tree, b, 0, c_visit, c_scale, sigmas, visits, share)
        most = 0
        for k in range(degree):
            most = max(most, visits[k])
        winners[i] = _root_child(tree, b, most, sigmas, visits)[0]
        factor = _improve(sigmas, share, degree, unvisited, tree.rest[b, 0])
        for a in range(actions):
            policy[i, a] = max(tree.prior[b, 0, a], 0.0) * factor
        for k in range(degree):
            policy[i, tree.action[b, tree.children[b, 0, k]]] = sigmas[k]
