"""The search tree as arrays, and the kernels that walk and grow it. Knows no game and no net.

One wave of simulations is: a select kernel walks every tree from its root to a leaf and writes
down the moves; the caller finds out what the leaves are; ``grow`` adds them and backs them up.
Here is the rule PUCT; ``gumbel`` and ``uct`` hold the others.

Node 0 is the root; a parent's number is lower than its children's. ``visits`` of a node counts
its own evaluation, so N(s) = 1 + sum of N(s, a), and N(s, a) is ``visits`` of the child.
Values are kept for player 0 and turned round by ``to_play`` of the node that looks at them.

Speed. A step down looks at the children that exist and at one unvisited move, the one of the
highest prior: ``favourite`` changes only when it gets a node, so ``grow`` keeps it. Helpers that
take a Tree are inlined and index without slicing, since a call or a slice would count references
to its arrays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SMALLEST_PRIOR = np.float32(1e-30)  #: of a legal move, so that its logarithm stays finite


class Tree(NamedTuple):
    """B trees of at most N nodes over A actions.

    children: int32 [B, N, A], a node's children in order of birth, ``degree`` of them
    prior: float32 [B, N, A], softmax of the logits over the legal moves, 0 elsewhere; with a
        minus sign once the move has a node
    degree: int32 [B, N]
    favourite: int32 [B, N], the unvisited move of the highest prior (at the root: of the highest
        ``root_score``), of equals the lowest; -1 if all are visited
    rest: float64 [B, N], prior mass of the unvisited moves
    parent: int32 [B, N], -1 at the root
    action: int32 [B, N], the move that leads here from the parent
    share: float32 [B, N], the prior of that move
    visits: int32 [B, N]
    total: float64 [B, N], sum of the backed-up values, for player 0
    mean: float64 [B, N], total / visits
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
    degree: NDArray[np.int32]
    favourite: NDArray[np.int32]
    rest: NDArray[np.float64]
    parent: NDArray[np.int32]
    action: NDArray[np.int32]
    share: NDArray[np.float32]
    visits: NDArray[np.int32]
    total: NDArray[np.float64]
    mean: NDArray[np.float64]
    raw: NDArray[np.float32]
    to_play: NDArray[np.int8]
    terminal: NDArray[np.bool_]
    size: NDArray[np.int32]
    root_score: NDArray[np.float64]
    rng: NDArray[np.uint64]


class Walk(NamedTuple):
    """Where the walks of a wave ended; entry i belongs to the i-th of the rows given.

    path: int64 [B, D], the moves from the root, ``depth`` of them (see ``pad``)
    depth: int32 [B]
    parent: int32 [B], the last node that the walk left; -1 where the root itself is the leaf
    action: int32 [B], the move made there
    leaf: int32 [B], the node at the end (a terminal one), -1 where there is none yet
    """

    path: NDArray[np.int64]
    depth: NDArray[np.int32]
    parent: NDArray[np.int32]
    action: NDArray[np.int32]
    leaf: NDArray[np.int32]


def new_tree(batch: int, nodes: int, actions: int, rng: NDArray[np.uint64]) -> Tree:
    """Empty trees; 8 * A + 58 bytes a node."""

    def each_node(dtype: type) -> NDArray:
        return np.zeros((batch, nodes), dtype)

    return Tree(
        children=np.empty((batch, nodes, actions), np.int32),
        prior=np.empty((batch, nodes, actions), np.float32),
        degree=each_node(np.int32),
        favourite=each_node(np.int32),
        rest=each_node(np.float64),
        parent=each_node(np.int32),
        action=each_node(np.int32),
        share=each_node(np.float32),
        visits=each_node(np.int32),
        total=each_node(np.float64),
        mean=each_node(np.float64),
        raw=each_node(np.float32),
        to_play=each_node(np.int8),
        terminal=each_node(np.bool_),
        size=np.zeros(batch, np.int32),
        root_score=np.zeros((batch, actions), np.float64),
        rng=rng,
    )


def new_walk(batch: int, depth: int) -> Walk:
    """Room for ``batch`` walks of at most ``depth`` moves."""
    return Walk(np.empty((batch, depth), np.int64), *np.empty((4, batch), np.int32))


@njit(cache=True, nogil=True)
def pad(walk, count):
    """Fill the first ``count`` paths with -1 up to the deepest of them; returns its depth."""
    deepest = 0
    for i in range(count):
        deepest = max(deepest, walk.depth[i])
    for i in range(count):
        for t in range(walk.depth[i], deepest):
            walk.path[i, t] = -1
    return deepest


@njit(cache=True, nogil=True, inline="always")
def _puct_child(tree, b, node, sign, c_puct, reduction):
    """argmax of Q + c_puct * P * sqrt(N(s)) / (1 + N(s, a)) as (move, node or -1).

    An unvisited move counts as Q(s) - reduction * sqrt(prior mass of the visited moves).
    The lowest move among equals.
    """
    explore = c_puct * math.sqrt(tree.visits[b, node])
    best, leaf, top, mass = -1, -1, -np.inf, 0.0
    for k in range(tree.degree[b, node]):
        child = tree.children[b, node, k]
        move = tree.action[b, child]
        prior = tree.root_score[b, move] if node == 0 else np.float64(tree.share[b, child])
        mass += prior
        score = sign * tree.mean[b, child] + explore * prior / (1 + tree.visits[b, child])
        if score > top or (score == top and move < best):
            best, leaf, top = move, child, score
    move = tree.favourite[b, node]
    if move >= 0:
        prior = tree.root_score[b, move] if node == 0 else np.float64(tree.prior[b, node, move])
        score = sign * tree.mean[b, node] - reduction * math.sqrt(mass) + explore * prior
        if score > top or (score == top and move < best):
            best, leaf = move, -1
    return best, leaf


@njit(cache=True, nogil=True)
def select_puct(tree, rows, c_puct, reduction, root_reduction, walk):
    """Walk from each root to a leaf by PUCT (Silver et al. 2017; first-play urgency as KataGo's).

    rows: int64 [n]. reduction, root_reduction: of the value of unvisited moves, in [0, 2].
    Fills ``walk``. A walk ends where a move has no node yet, at a terminal node, or, in a tree of
    size 0, at once.
    """
    for i in range(rows.shape[0]):
        b = rows[i]
        depth, parent, action = 0, -1, -1
        node = 0 if tree.size[b] > 0 else -1
        while node >= 0 and not tree.terminal[b, node]:
            sign = 1.0 - 2.0 * tree.to_play[b, node]
            parent = node
            action, node = _puct_child(tree, b, node, sign, c_puct,
                                       reduction if node > 0 else root_reduction)
            walk.path[i, depth] = action
            depth += 1
        walk.depth[i], walk.parent[i], walk.action[i], walk.leaf[i] = depth, parent, action, node


@njit(cache=True, nogil=True)
def _shift(logits, legal, out):
    """out float32 [n, A]: logits of the legal moves less the highest of these, -inf elsewhere."""
    for i in range(logits.shape[0]):
        top = np.float32(-np.inf)
        for a in range(logits.shape[1]):
            if legal[i, a] and logits[i, a] > top:
                top = logits[i, a]
        for a in range(logits.shape[1]):
            out[i, a] = logits[i, a] - top if legal[i, a] else np.float32(-np.inf)


@njit(cache=True, nogil=True)
def _normalise(odds, legal):
    for i in range(odds.shape[0]):
        mass = np.float32(0.0)
        for a in range(odds.shape[1]):
            mass += odds[i, a]
        scale = np.float32(1.0) / mass
        for a in range(odds.shape[1]):
            share = odds[i, a] * scale
            share = SMALLEST_PRIOR if share < SMALLEST_PRIOR else share
            odds[i, a] = share if legal[i, a] else np.float32(0.0)


def priors(logits: NDArray[np.float32], legal: NDArray[np.bool_]) -> NDArray[np.float32]:
    """float32 [n, A]: softmax of the logits over the legal moves, at least SMALLEST_PRIOR there
    and 0 elsewhere. NaN where a row's logits are not finite."""
    odds = np.empty(legal.shape, np.float32)
    _shift(np.ascontiguousarray(logits, np.float32), legal, odds)
    np.exp(odds, out=odds)  # numpy's is vectorised
    _normalise(odds, legal)
    return odds


@njit(cache=True, nogil=True, inline="always")
def _best_unvisited(tree, b, node):
    """The unvisited move of the highest prior, at the root of the highest score; -1 if none."""
    best = -1
    if node == 0:
        for a in range(tree.prior.shape[2]):
            if tree.prior[b, 0, a] > 0 and (
                best < 0 or tree.root_score[b, a] > tree.root_score[b, best]
            ):
                best = a
    else:
        top = np.float32(0.0)
        for a in range(tree.prior.shape[2]):
            if tree.prior[b, node, a] > top:
                best, top = a, tree.prior[b, node, a]
    return best


@njit(cache=True, nogil=True, inline="always")
def _birth(tree, b, node, parent, action):
    """Tie a new node to its parent."""
    tree.parent[b, node] = parent
    tree.action[b, node] = action
    tree.degree[b, node] = 0
    tree.visits[b, node] = 0
    tree.total[b, node] = 0.0
    if parent >= 0:
        share = tree.prior[b, parent, action]
        tree.share[b, node] = share
        tree.rest[b, parent] -= share
        tree.prior[b, parent, action] = -share
        tree.children[b, parent, tree.degree[b, parent]] = node
        tree.degree[b, parent] += 1
        if action == tree.favourite[b, parent]:
            tree.favourite[b, parent] = _best_unvisited(tree, b, parent)


@njit(cache=True, nogil=True)
def grow(tree, rows, walk, to_play, slot, outcome, prior, favourite, values):
    """Add the leaves of ``walk`` to the trees and back them up.

    rows: int64 [n]. Of the leaf states: to_play int8 [n]; outcome float32 [n] for player 0, which
    counts where slot int64 [n] is -1: a terminal leaf. Elsewhere slot is the leaf's index in
    prior float32 [m, A] (see ``priors``), its argmax favourite int64 [m], and values float32 [m]
    for the side to move. A terminal leaf that is in the tree already is backed up again.
    """
    for i in range(rows.shape[0]):
        b, node, m = rows[i], walk.leaf[i], slot[i]
        value = values[m] * (1 - 2 * to_play[i]) if m >= 0 else outcome[i]
        if node < 0:
            node = tree.size[b]
            tree.size[b] = node + 1
            _birth(tree, b, node, walk.parent[i], walk.action[i])
            tree.raw[b, node] = value
            tree.to_play[b, node] = to_play[i]
            tree.terminal[b, node] = m < 0
            if m >= 0:
                for a in range(prior.shape[1]):
                    tree.prior[b, node, a] = prior[m, a]
                tree.favourite[b, node] = favourite[m]
                tree.rest[b, node] = 1.0
        while node >= 0:
            tree.visits[b, node] += 1
            tree.total[b, node] += value
            tree.mean[b, node] = tree.total[b, node] / tree.visits[b, node]
            node = tree.parent[b, node]


@njit(cache=True, nogil=True)
def set_root(tree, rows, score):
    """Let ``score`` float64 [n, A] stand in for the prior at the roots of ``rows`` int64 [n]."""
    for i in range(rows.shape[0]):
        b = rows[i]
        for a in range(score.shape[1]):
            tree.root_score[b, a] = score[i, a]
        tree.favourite[b, 0] = _best_unvisited(tree, b, 0)


@njit(cache=True, nogil=True)
def root_moves(tree, rows, visits, q):
    """Fill visits int32 [n, A] and q float64 [n, A], the mean value of each visited move of the
    roots for their side to move; 0 elsewhere."""
    visits[:] = 0
    q[:] = 0.0
    for i in range(rows.shape[0]):
        b = rows[i]
        sign = 1.0 - 2.0 * tree.to_play[b, 0]
        for k in range(tree.degree[b, 0]):
            child = tree.children[b, 0, k]
            a = tree.action[b, child]
            visits[i, a] = tree.visits[b, child]
            q[i, a] = sign * tree.mean[b, child]


@njit(cache=True, nogil=True, inline="always")
def _move(tree, b, old, new, number):
    """Copy node ``old`` to place ``new`` <= old; ``number`` int32 [N] maps old places to new."""
    tree.degree[b, new] = tree.degree[b, old]
    for k in range(tree.degree[b, old]):
        tree.children[b, new, k] = number[tree.children[b, old, k]]
    for a in range(tree.prior.shape[2]):
        tree.prior[b, new, a] = tree.prior[b, old, a]
    tree.favourite[b, new] = tree.favourite[b, old]
    tree.rest[b, new] = tree.rest[b, old]
    tree.parent[b, new] = number[tree.parent[b, old]]
    tree.action[b, new] = tree.action[b, old]
    tree.share[b, new] = tree.share[b, old]
    tree.visits[b, new] = tree.visits[b, old]
    tree.total[b, new] = tree.total[b, old]
    tree.mean[b, new] = tree.mean[b, old]
    tree.raw[b, new] = tree.raw[b, old]
    tree.to_play[b, new] = tree.to_play[b, old]
    tree.terminal[b, new] = tree.terminal[b, old]


@njit(cache=True, nogil=True, inline="always")
def _child(tree, b, action):
    """The root's child under ``action``, or -1."""
    found = -1
    for k in range(tree.degree[b, 0]):
        if tree.action[b, tree.children[b, 0, k]] == action:
            found = tree.children[b, 0, k]
    return found


@njit(cache=True, nogil=True)
def reroot(tree, rows, actions):
    """Make the child under ``actions`` int64 [n] the root of its tree, and drop the rest.

    Where there is no such child, or it is terminal, the tree is emptied. -1: no move was made.
    The new root's ``favourite`` is by its prior; ``set_root`` comes next.
    """
    number = np.empty(tree.parent.shape[1], np.int32)
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
        for node in range(root, tree.size[b]):
            if number[node] >= 0:
                _move(tree, b, node, number[node], number)
        tree.parent[b, 0] = -1
        tree.size[b] = count
