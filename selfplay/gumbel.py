"""The rule of Gumbel AlphaZero (Danihelka et al. 2022, "Policy improvement by planning with
Gumbel"), beside PUCT and UCT in ``mcts``.

At the root, the m moves with the highest Gumbel draw + logit share the simulations by sequential
halving; below it, visits follow the improved policy. Q-values are rescaled from [-1, 1] to [0, 1],
as MuZero does where the bounds are known:
sigma(q) = (c_visit + max_b N(b)) * c_scale * (q + 1) / 2.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

ILLEGAL = -2  # as in mcts; kernels read constants of their own file only


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
    t, level, width = 0, 0, m
    while t < n:
        rounds = n if m <= 1 else max(1, n // (phases * width))
        for _ in range(rounds):
            for _ in range(max(1, width)):
                if t < n:
                    out[t] = level
                    t += 1
            level += 1
        width = max(2, width // 2)


@njit(cache=True, nogil=True)
def mixed_value(children, prior, visits, total, sign, raw):
    """v_mix, the value of an unvisited move (the paper's appendix D, equation 33).

    children: int [A], one node's; prior: float [A]; visits, total: [N] of the whole tree;
    raw: the node's own evaluation. In and out for the side to move, whose sign is ``sign``.
    """
    count, mass, weighted = 0, 0.0, 0.0
    for a in range(children.shape[0]):
        child = children[a]
        if child >= 0:
            count += visits[child]
            mass += prior[a]
            weighted += prior[a] * sign * total[child] / visits[child]
    if count == 0:
        return raw
    return (raw + count * weighted / mass) / (1 + count)


@njit(cache=True, nogil=True)
def _sigmas(children, prior, visits, total, sign, raw, c_visit, c_scale, out):
    """out float64 [A]: sigma(completed Q) of each legal move, -inf elsewhere."""
    most = 0
    for a in range(children.shape[0]):
        if children[a] >= 0:
            most = max(most, visits[children[a]])
    scale = (c_visit + most) * c_scale
    unvisited = scale * (mixed_value(children, prior, visits, total, sign, raw) + 1.0) / 2.0
    for a in range(children.shape[0]):
        child = children[a]
        if child >= 0:
            out[a] = scale * (sign * total[child] / visits[child] + 1.0) / 2.0
        elif child == ILLEGAL:
            out[a] = -np.inf
        else:
            out[a] = unvisited
    return unvisited


@njit(cache=True, nogil=True)
def _improve(children, prior, sigmas, unvisited):
    """Turn ``sigmas`` into pi' = softmax(logits + sigma(completed Q)) in place.

    All unvisited moves share one sigma, so that only visited ones cost an exponential.
    """
    top = -np.inf
    for a in range(sigmas.shape[0]):
        top = max(top, sigmas[a])
    base = math.exp(unvisited - top) if unvisited <= top else 0.0
    mass = 0.0
    for a in range(sigmas.shape[0]):
        if children[a] >= 0:
            sigmas[a] = prior[a] * math.exp(sigmas[a] - top)
        elif children[a] == ILLEGAL:
            sigmas[a] = 0.0
        else:
            sigmas[a] = prior[a] * base
        mass += sigmas[a]
    for a in range(sigmas.shape[0]):
        sigmas[a] /= mass


@njit(cache=True, nogil=True)
def _root_action(children, visits, score, sigmas, wanted):
    """The best by draw + logit + sigma among the moves with ``wanted`` visits."""
    best, top = -1, -np.inf
    for a in range(children.shape[0]):
        child = children[a]
        if child == ILLEGAL or (visits[child] if child >= 0 else 0) != wanted:
            continue
        if best < 0 or score[a] + sigmas[a] > top:
            best, top = a, score[a] + sigmas[a]
    return best


@njit(cache=True, nogil=True)
def _inner_action(children, visits, policy, here):
    """argmax of pi'(a) - N(a) / (1 + sum of N): visits come to lie as pi' does."""
    best, top = -1, -np.inf
    for a in range(children.shape[0]):
        child = children[a]
        if child == ILLEGAL:
            continue
        score = policy[a] - (visits[child] / visits[here] if child >= 0 else 0.0)
        if best < 0 or score > top:
            best, top = a, score
    return best


@njit(cache=True, nogil=True)
def select_gumbel(tree, rows, c_visit, c_scale, schedule, walk):
    """``mcts.select_puct`` by Gumbel AlphaZero's rule.

    schedule: int32 [B, S], ``considered_visits`` of each row's present search, whose tree began
    empty (the t-th simulation finds 1 + t visits at the root).
    """
    sigmas = np.empty(tree.prior.shape[2])
    for i in range(rows.shape[0]):
        b = rows[i]
        node, depth = 0, 0
        walk.parent[i] = -1
        walk.action[i] = -1
        visits, total = tree.visits[b], tree.total[b]
        while node >= 0 and tree.size[b] > 0 and not tree.terminal[b, node]:
            sign = 1.0 - 2.0 * tree.to_play[b, node]
            children, prior = tree.children[b, node], tree.prior[b, node]
            unvisited = _sigmas(children, prior, visits, total, sign, sign * tree.raw[b, node],
                                c_visit, c_scale, sigmas)
            if node == 0:
                wanted = schedule[b, visits[0] - 1]
                action = _root_action(children, visits, tree.root_score[b], sigmas, wanted)
            else:
                _improve(children, prior, sigmas, unvisited)
                action = _inner_action(children, visits, sigmas, node)
            walk.parent[i] = node
            walk.action[i] = action
            walk.path[i, depth] = action
            depth += 1
            node = children[action]
        walk.depth[i] = depth
    deepest = 0
    for i in range(rows.shape[0]):
        deepest = max(deepest, walk.depth[i])
    for i in range(rows.shape[0]):
        walk.path[i, walk.depth[i] : deepest] = -1
    return deepest


@njit(cache=True, nogil=True)
def plan(tree, rows, draws, m, sims, schedule):
    """Prepare evaluated roots: their scores (draw + logit) and their schedules.

    draws: float64 [n, A] Gumbel draws, or 0 for none; m: moves to consider (at most the legal
    ones are); sims: int32 [n]; fills ``tree.root_score`` and ``schedule`` int32 [B, S].
    """
    for i in range(rows.shape[0]):
        b = rows[i]
        count = 0
        for a in range(draws.shape[1]):
            tree.root_score[b, a] = -np.inf
            if tree.children[b, 0, a] != ILLEGAL:
                tree.root_score[b, a] = draws[i, a] + math.log(tree.prior[b, 0, a])
                count += 1
        considered_visits(min(m, count), schedule[b, : sims[i]])


@njit(cache=True, nogil=True)
def conclude(tree, rows, c_visit, c_scale, policy, actions):
    """What the search found at each root.

    Fills policy float32 [n, A], the improved policy softmax(logits + sigma(completed Q)) without
    the draws, and actions int64 [n], the winner: the best by draw + logit + sigma among the moves
    with the most visits.
    """
    sigmas = np.empty(policy.shape[1])
    for i in range(rows.shape[0]):
        b = rows[i]
        sign = 1.0 - 2.0 * tree.to_play[b, 0]
        children, prior, visits = tree.children[b, 0], tree.prior[b, 0], tree.visits[b]
        unvisited = _sigmas(children, prior, visits, tree.total[b], sign, sign * tree.raw[b, 0],
                            c_visit, c_scale, sigmas)
        most = 0
        for a in range(children.shape[0]):
            if children[a] >= 0:
                most = max(most, visits[children[a]])
        actions[i] = _root_action(children, visits, tree.root_score[b], sigmas, most)
        _improve(children, prior, sigmas, unvisited)
        for a in range(children.shape[0]):
            policy[i, a] = sigmas[a]
