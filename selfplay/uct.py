"""The rule UCT (Kocsis and Szepesvari 2006), UCB1 at every node, beside PUCT in ``mcts``.

For values from rollouts in [-1, 1]; priors are not looked at.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


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
def _uct_child(tree, b, node, sign, c):
    """argmax of Q + c * sqrt(ln N(s) / N(s, a)), as (move, node)."""
    log_n = math.log(tree.visits[b, node])
    best, leaf, top = -1, -1, -np.inf
    for k in range(tree.degree[b, node]):
        child = tree.children[b, node, k]
        score = sign * tree.mean[b, child] + c * math.sqrt(log_n / tree.visits[b, child])
        if score > top:
            best, leaf, top = tree.action[b, child], child, score
    return best, leaf


@njit(cache=True, nogil=True)
def select_uct(tree, rows, c, walk):
    """``mcts.select_puct`` by UCB1 with the constant ``c``.

    Unvisited moves come first, in random order; among equals the first born.
    """
    for i in range(rows.shape[0]):
        b = rows[i]
        depth, parent, action = 0, -1, -1
        node = 0 if tree.size[b] > 0 else -1
        while node >= 0 and not tree.terminal[b, node]:
            sign = 1.0 - 2.0 * tree.to_play[b, node]
            parent = node
            if tree.favourite[b, node] >= 0:
                action, node = _random_unvisited(tree, b, node), -1
            else:
                action, node = _uct_child(tree, b, node, sign, c)
            walk.path[i, depth] = action
            depth += 1
        walk.depth[i], walk.parent[i], walk.action[i], walk.leaf[i] = depth, parent, action, node
