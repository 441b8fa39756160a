"""The search tree as arrays, and the kernels that walk and grow it. Knows no game and no net.

One wave of simulations is: a select kernel walks every tree from its root to a leaf and writes
down the moves; the caller finds out what the leaves are; ``grow`` adds them and backs them up.
Here are the rules PUCT and UCT; ``gumbel`` holds the third.

Node 0 is the root; a parent's number is lower than its children's. ``visits`` of a node counts
its own evaluation, so N(s) = 1 + sum of N(s, a), and N(s, a) is ``visits`` of the child.
Values are kept for player 0 and turned round by ``to_play`` of the node that looks at them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNVISITED, ILLEGAL = -1, -2  #: entries of ``Tree.children`` that are no node
SMALLEST_PRIOR = 1e-30  #: of a legal move, so that its logarithm stays finite


class Tree(NamedTuple):
    """B trees of at most N nodes over A actions.

    children: int32 [B, N, A], node, UNVISITED or ILLEGAL; undefined for a terminal node
    prior: float32 [B, N, A], softmax of the logits over the legal moves, 0 elsewhere
    parent: int32 [B, N], -1 at the root
    visits: int32 [B, N]
    total: float64 [B, N], sum of the backed-up values, for player 0
    raw: float32 [B, N], the evaluation of the node itself, for player 0
    to_play: int8 [B, N]
    terminal: bool [B, N]
    size: int32 [B], nodes in use; 0 is a tree whose root is not evaluated yet
    root_score: float64 [B, A], what stands in for the prior at the root: PUCT's prior with
        temperature and noise, Gumbel's logits plus Gumbel draws
    rng: uint64 [B], one splitmix64 state a row
    """

    children: NDArray[np.int32]
    prior: NDArray[np.float32]
    parent: NDArray[np.int32]
    visits: NDArray[np.int32]
    total: NDArray[np.float64]
    raw: NDArray[np.float32]
    to_play: NDArray[np.int8]
    terminal: NDArray[np.bool_]
    size: NDArray[np.int32]
    root_score: NDArray[np.float64]
    rng: NDArray[np.uint64]


class Walk(NamedTuple):
    """Where the walks of a wave ended; row i belongs to the i-th of the rows given.

    path: int64 [B, D], the moves from the root, valid to ``depth`` and -1 up to the deepest
    depth: int32 [B]
    parent: int32 [B], the last node that the walk left; -1 where the root itself is the leaf
    action: int32 [B], the move made there
    """

    path: NDArray[np.int64]
    depth: NDArray[np.int32]
    parent: NDArray[np.int32]
    action: NDArray[np.int32]


def new_tree(batch: int, nodes: int, actions: int, rng: NDArray[np.uint64]) -> Tree:
    """Empty trees; 8 * A + 26 bytes a node."""
    return Tree(
        children=np.empty((batch, nodes, actions), np.int32),
        prior=np.empty((batch, nodes, actions), np.float32),
        parent=np.empty((batch, nodes), np.int32),
        visits=np.empty((batch, nodes), np.int32),
        total=np.empty((batch, nodes), np.float64),
        raw=np.empty((batch, nodes), np.float32),
        to_play=np.empty((batch, nodes), np.int8),
        terminal=np.zeros((batch, nodes), np.bool_),
        size=np.zeros(batch, np.int32),
        root_score=np.zeros((batch, actions), np.float64),
        rng=rng,
    )


def new_walk(batch: int, depth: int) -> Walk:
    """Room for ``batch`` walks of at most ``depth`` moves."""
    return Walk(
        path=np.empty((batch, depth), np.int64),
        depth=np.empty(batch, np.int32),
        parent=np.empty(batch, np.int32),
        action=np.empty(batch, np.int32),
    )


@njit(cache=True, nogil=True)
def _pad(path, depth, count):
    """Fill the paths with -1 up to the deepest, whose depth is returned."""
    deepest = 0
    for i in range(count):
        deepest = max(deepest, depth[i])
    for i in range(count):
        for t in range(depth[i], deepest):
            path[i, t] = -1
    return deepest


@njit(cache=True, nogil=True)
def _puct_action(children, prior, visits, total, here, sign, c_puct, reduction):
    """argmax of Q + c_puct * P * sqrt(N(s)) / (1 + N(s, a)); the lowest action among equals.

    An unvisited move counts as Q(s) - reduction * sqrt(prior mass of the visited moves).
    """
    mass = 0.0
    for a in range(children.shape[0]):
        if children[a] >= 0:
            mass += prior[a]
    first_play = sign * total[here] / visits[here] - reduction * math.sqrt(mass)
    explore = c_puct * math.sqrt(visits[here])
    best, top = -1, -np.inf
    for a in range(children.shape[0]):
        child = children[a]
        if child == ILLEGAL:
            continue
        if child >= 0:
            n = visits[child]
            score = sign * total[child] / n + explore * prior[a] / (1 + n)
        else:
            score = first_play + explore * prior[a]
        if best < 0 or score > top:
            best, top = a, score
    return best


@njit(cache=True, nogil=True)
def select_puct(tree, rows, c_puct, reduction, root_reduction, walk):
    """Walk from each root to a leaf by PUCT (Silver et al. 2017; first-play urgency as KataGo's).

    rows: int64 [n]. reduction, root_reduction: of the value of unvisited moves, in [0, 2].
    Fills ``walk`` and returns the depth of its deepest path. A walk ends where a move has no
    node yet, at a terminal node, or, in a tree of size 0, at once.
    """
    for i in range(rows.shape[0]):
        b = rows[i]
        node, depth = 0, 0
        walk.parent[i] = -1
        walk.action[i] = -1
        while node >= 0 and tree.size[b] > 0 and not tree.terminal[b, node]:
            sign = 1.0 - 2.0 * tree.to_play[b, node]
            children, visits, total = tree.children[b, node], tree.visits[b], tree.total[b]
            if node == 0:
                action = _puct_action(children, tree.root_score[b], visits, total, node, sign,
                                      c_puct, root_reduction)
            else:
                action = _puct_action(children, tree.prior[b, node], visits, total, node, sign,
                                      c_puct, reduction)
            walk.parent[i] = node
            walk.action[i] = action
            walk.path[i, depth] = action
            depth += 1
            node = children[action]
        walk.depth[i] = depth
    return _pad(walk.path, walk.depth, rows.shape[0])


@njit(cache=True, nogil=True)
def _draw(rng, b, n):
    """A number below n from row b's splitmix64 stream."""
    rng[b] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[b]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(32)
    return np.int64((z * np.uint64(n)) >> np.uint64(32))


@njit(cache=True, nogil=True)
def _uct_action(children, visits, total, here, sign, c, rng, b):
    """A random unvisited move, else argmax of Q + c * sqrt(ln N(s) / N(s, a))."""
    unvisited = 0
    for a in range(children.shape[0]):
        unvisited += children[a] == UNVISITED
    if unvisited > 0:
        skip = _draw(rng, b, unvisited)
        for a in range(children.shape[0]):
            if children[a] == UNVISITED:
                if skip == 0:
                    return a
                skip -= 1
    log_n = math.log(visits[here])
    best, top = -1, -np.inf
    for a in range(children.shape[0]):
        child = children[a]
        if child < 0:
            continue
        n = visits[child]
        score = sign * total[child] / n + c * math.sqrt(log_n / n)
        if best < 0 or score > top:
            best, top = a, score
    return best


@njit(cache=True, nogil=True)
def select_uct(tree, rows, c, walk):
    """``select_puct`` with the rule UCB1 (Kocsis and Szepesvari 2006) for values in [-1, 1]."""
    for i in range(rows.shape[0]):
        b = rows[i]
        node, depth = 0, 0
        walk.parent[i] = -1
        walk.action[i] = -1
        while node >= 0 and tree.size[b] > 0 and not tree.terminal[b, node]:
            sign = 1.0 - 2.0 * tree.to_play[b, node]
            children = tree.children[b, node]
            action = _uct_action(children, tree.visits[b], tree.total[b], node, sign, c,
                                 tree.rng, b)
            walk.parent[i] = node
            walk.action[i] = action
            walk.path[i, depth] = action
            depth += 1
            node = children[action]
        walk.depth[i] = depth
    return _pad(walk.path, walk.depth, rows.shape[0])


@njit(cache=True, nogil=True)
def _fill(children, prior, logits, legal):
    """A new node's moves: softmax of the logits over the legal ones."""
    top = np.float32(-np.inf)
    for a in range(legal.shape[0]):
        if legal[a] and logits[a] > top:
            top = logits[a]
    mass = 0.0
    for a in range(legal.shape[0]):
        if legal[a]:
            children[a] = UNVISITED
            prior[a] = math.exp(logits[a] - top)
            mass += prior[a]
        else:
            children[a] = ILLEGAL
            prior[a] = 0.0
    scale = np.float32(1.0 / mass)
    for a in range(legal.shape[0]):
        if legal[a]:
            prior[a] = max(prior[a] * scale, np.float32(SMALLEST_PRIOR))


@njit(cache=True, nogil=True)
def grow(tree, rows, walk, to_play, done, outcome, logits, values, legal):
    """Add the leaves of ``walk`` to the trees and back them up.

    rows: int64 [n]. Of the leaf states: to_play int8 [n], done bool [n], outcome float32 [n] for
    player 0. Of those not done, in order: logits float32 [m, A], values float32 [m] for the side
    to move, legal bool [m, A]. A terminal leaf that is in the tree already is backed up again.
    """
    m = 0
    for i in range(rows.shape[0]):
        b, parent, action = rows[i], walk.parent[i], walk.action[i]
        node = tree.children[b, parent, action] if parent >= 0 else -1
        if done[i]:
            value = outcome[i]
        else:
            value = values[m] * (1 - 2 * to_play[i])
        if node < 0:
            node = tree.size[b]
            tree.size[b] = node + 1
            if parent >= 0:
                tree.children[b, parent, action] = node
            tree.parent[b, node] = parent
            tree.visits[b, node] = 0
            tree.total[b, node] = 0.0
            tree.raw[b, node] = value
            tree.to_play[b, node] = to_play[i]
            tree.terminal[b, node] = done[i]
            if not done[i]:
                _fill(tree.children[b, node], tree.prior[b, node], logits[m], legal[m])
        m += not done[i]
        while node >= 0:
            tree.visits[b, node] += 1
            tree.total[b, node] += value
            node = tree.parent[b, node]


@njit(cache=True, nogil=True)
def _move(tree, b, old, new, number):
    """Copy node ``old`` to place ``new`` <= old, renumbering what it points to."""
    for a in range(tree.children.shape[2]):
        child = tree.children[b, old, a]
        if child >= 0 and not tree.terminal[b, old]:
            child = number[child]
        tree.children[b, new, a] = child
        tree.prior[b, new, a] = tree.prior[b, old, a]
    tree.parent[b, new] = number[tree.parent[b, old]] if new > 0 else -1
    tree.visits[b, new] = tree.visits[b, old]
    tree.total[b, new] = tree.total[b, old]
    tree.raw[b, new] = tree.raw[b, old]
    tree.to_play[b, new] = tree.to_play[b, old]
    tree.terminal[b, new] = tree.terminal[b, old]


@njit(cache=True, nogil=True)
def reroot(tree, rows, actions):
    """Make the child under ``actions`` int64 [n] the root of its tree, and drop the rest.

    Where there is no such child, or it is terminal, the tree is emptied. -1: no move was made.
    """
    number = np.empty(tree.parent.shape[1], np.int32)
    for i in range(rows.shape[0]):
        b = rows[i]
        if actions[i] < 0 or tree.size[b] == 0:
            continue
        root = tree.children[b, 0, actions[i]]
        if root < 0 or tree.terminal[b, root]:
            tree.size[b] = 0
            continue
        number[: tree.size[b]] = -1
        number[root] = 0
        count = 1
        for node in range(root + 1, tree.size[b]):
            parent = tree.parent[b, node]
            if parent >= root and number[parent] >= 0:
                number[node] = count
                count += 1
        for node in range(root, tree.size[b]):
            if number[node] >= 0:
                _move(tree, b, node, number[node], number)
        tree.size[b] = count
