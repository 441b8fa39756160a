"""The search trees as arrays, and the kernels that fill, move and read them. Knows no game, no net,
and no rule by which to walk (``select`` has those).

Node 0 is the root; a parent's number is lower than its children's. ``visits`` of a node counts
its own evaluation, so N(s) = 1 + sum of N(s, a), and N(s, a) is ``visits`` of the child.
Values are kept for player 0 and turned round by ``to_play`` of the node that looks at them.

Proofs (MCTS-Solver: Winands et al. 2008). The value of a finished game is exact; so is that of a
node with a winning move, and of one whose moves all lead to exact values: the best. The best exact
move bounds a node's value from below, as its side to move sees it; the mean keeps to the bound (as
in Score Bounded MCTS: Cazenave and Saffidine 2010), and the ancestors get what a node gains by it.

Speed. What is known of a node fills one cache line. What a walk asks of a node's children lies
side by side in a block of edges, which moves to one of twice the size when it is full. Helpers
that take a Tree are inlined and index without slicing, since a call or a slice would count
references to its arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SMALLEST_PRIOR = np.float32(1e-30)  #: of a legal move, so that its logarithm stays finite
LINE = 64  #: bytes of a cache line
LOWEST, HIGHEST = np.int32(-(2**31)), np.int32(2**31 - 1)
EDGES = 4  #: places for edges a node: blocks of 2, 4, .. come to fewer than 4 for each edge

#: what is known of a node
NODE = np.dtype({
    "names": ["total", "mean", "rest", "mass", "parent", "edge", "visits", "first", "degree",
              "favourite", "action", "to_play", "terminal", "pending", "known"],
    "formats": [*["f8"] * 4, *["i4"] * 7, "i1", "?", "?", "i1"],
    "offsets": [0, 8, 16, 24, 32, 36, 40, 44, 48, 52, 56, 60, 61, 62, 63],
    "itemsize": 64,
})

#: what is known of an edge: two fill a cache line
EDGE = np.dtype([("q", "f8"), ("weight", "f8"), ("n", "i4"), ("move", "i4"), ("child", "i4"),
                 ("bar", "f4")])

#: ``known``: some move of the node loses; some exact one does not; the node itself is exact
TRIED, BOUNDED, EXACT = 1, 2, 3
CLOSED = np.float32(-np.inf)  #: ``bar`` of an edge to an exact value; 0 of an open one


class Tree(NamedTuple):
    """B trees of at most N nodes over A actions, E = EDGES * N.

    Of each node, all views of one array of NODE:

    total: float64 [B, N], sum of the backed-up values, for player 0
    mean: float64 [B, N], total / visits
    rest: float64 [B, N], prior mass of the unvisited moves
    mass: float64 [B, N], sum of ``weight`` over the visited moves
    parent: int32 [B, N], -1 at the root
    edge: int32 [B, N], the edge that leads here, -1 at the root
    visits: int32 [B, N]; walks count as visits at once, and bring their value later
    first: int32 [B, N], the first of the node's edges, ``degree`` of them in order of birth
    degree: int32 [B, N]
    favourite: int32 [B, N], the unvisited move of the highest prior (at the root: of the highest
        ``root_score``), of equals the lowest; -1 if all are visited
    action: int32 [B, N], the move that leads here from the parent
    to_play: int8 [B, N]
    terminal: bool [B, N], the game is over here, or as good as over: a move wins at once
    pending: bool [B, N], a walk has made this node and its evaluation is not there yet

    known: int8 [B, N], 0, TRIED, BOUNDED or EXACT

    raw: float32 [B, N], the evaluation of the node itself, for player 0
    prior: float32 [B, N, A], softmax of the logits over the legal moves, 0 elsewhere; with a
        minus sign once the move has an edge
    bound: float32 [B, N], from BOUNDED on: the best exact value among the moves, for player 0
    loose: float64 [B, N], where BOUNDED: what ``total`` would be without the bound

    Of each edge, all views of one array of EDGE:

    child: int32 [B, E], the node it leads to; -1 at the root, where the value alone is known
    move: int32 [B, E]
    n: int32 [B, E], ``visits`` of the child
    bar: float32 [B, E], 0, or CLOSED where ``q`` is exact
    q: float64 [B, E], ``mean`` of the child; before its first value that of the parent
    weight: float64 [B, E], the move's prior, at the root its ``root_score``

    Of each tree:

    size: int32 [B], nodes in use; 0 is a tree whose root is not evaluated yet
    used: int32 [B], edges in use
    root_score: float64 [B, A], what stands in for the prior at the root: PUCT's prior with
        temperature and noise, Gumbel's logits plus Gumbel draws
    rng: uint64 [B], one splitmix64 state a row
    """

    total: NDArray[np.float64]
    mean: NDArray[np.float64]
    rest: NDArray[np.float64]
    mass: NDArray[np.float64]
    parent: NDArray[np.int32]
    edge: NDArray[np.int32]
    visits: NDArray[np.int32]
    first: NDArray[np.int32]
    degree: NDArray[np.int32]
    favourite: NDArray[np.int32]
    action: NDArray[np.int32]
    to_play: NDArray[np.int8]
    terminal: NDArray[np.bool_]
    pending: NDArray[np.bool_]
    known: NDArray[np.int8]
    raw: NDArray[np.float32]
    prior: NDArray[np.float32]
    bound: NDArray[np.float32]
    loose: NDArray[np.float64]
    child: NDArray[np.int32]
    move: NDArray[np.int32]
    n: NDArray[np.int32]
    q: NDArray[np.float64]
    weight: NDArray[np.float64]
    bar: NDArray[np.float32]
    size: NDArray[np.int32]
    used: NDArray[np.int32]
    root_score: NDArray[np.float64]
    rng: NDArray[np.uint64]


class Walk(NamedTuple):
    """Where the walks of a wave ended; W is room for so many.

    path: int64 [W, D], the moves from the root, then -1 up to the depth of the deepest walk
    depth: int32 [W]
    row: int64 [W], the tree
    leaf: int32 [W], the node at the end
    """

    path: NDArray[np.int64]
    depth: NDArray[np.int32]
    row: NDArray[np.int64]
    leaf: NDArray[np.int32]


def new_walk(count: int, depth: int) -> Walk:
    """Room for ``count`` walks of at most ``depth`` moves."""
    return Walk(np.empty((count, depth), np.int64), np.empty(count, np.int32),
                np.empty(count, np.int64), np.empty(count, np.int32))


def node_bytes(actions: int) -> int:
    """Bytes that a node takes."""
    return NODE.itemsize + 16 + 4 * actions + EDGES * EDGE.itemsize


def _lines(batch: int, count: int, dtype: np.dtype) -> NDArray:
    """Zeros [batch, count], the first at the start of a cache line."""
    size = batch * count * dtype.itemsize
    memory = np.zeros(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(batch, count)


def new_tree(batch: int, nodes: int, actions: int, rng: NDArray[np.uint64]) -> Tree:
    """Empty trees of ``node_bytes`` a node, and edges for all moves of the root besides."""
    node, edge = _lines(batch, nodes, NODE), _lines(batch, EDGES * (nodes + actions), EDGE)
    return Tree(
        **{name: node[name] for name in NODE.names or ()},
        raw=np.zeros((batch, nodes), np.float32),
        prior=np.empty((batch, nodes, actions), np.float32),
        bound=np.zeros((batch, nodes), np.float32),
        loose=np.zeros((batch, nodes), np.float64),
        child=edge["child"],
        move=edge["move"],
        n=edge["n"],
        q=edge["q"],
        weight=edge["weight"],
        bar=edge["bar"],
        size=np.zeros(batch, np.int32),
        used=np.zeros(batch, np.int32),
        root_score=np.zeros((batch, actions), np.float64),
        rng=rng,
    )


@njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
def _shift(logits, bits, legal, out, out_bits):
    """out float32 [n, A]: logits of the legal moves less the highest of these, -inf elsewhere.

    bits, out_bits: int32 [n, A], logits and out as they lie in memory. Of integers a processor
    takes many maxima at a time; of negative floats their order is the other way round.
    """
    for i in range(logits.shape[0]):
        top = LOWEST
        for a in range(logits.shape[1]):
            key = bits[i, a] ^ ((bits[i, a] >> np.int32(31)) & HIGHEST)
            top = max(top, key if legal[i, a] else LOWEST)
        out_bits[i, 0] = top ^ ((top >> np.int32(31)) & HIGHEST)
        highest = out[i, 0]
        for a in range(logits.shape[1]):
            out[i, a] = logits[i, a] - highest if legal[i, a] else np.float32(-np.inf)


@njit(cache=True, nogil=True)
def _normalise(odds, legal):
    masses = np.empty(8, np.float32)
    for start in range(0, odds.shape[0], 8):
        rows = min(8, odds.shape[0] - start)
        masses[:] = 0.0
        for a in range(odds.shape[1]):  # eight sums at a time, as each waits for its last addition
            for j in range(rows):
                masses[j] += odds[start + j, a]
        for j in range(rows):
            scale = np.float32(1.0) / masses[j]
            for a in range(odds.shape[1]):
                share = odds[start + j, a] * scale
                share = SMALLEST_PRIOR if share < SMALLEST_PRIOR else share
                odds[start + j, a] = share if legal[start + j, a] else np.float32(0.0)


def priors(logits: NDArray[np.float32], legal: NDArray[np.bool_]) -> NDArray[np.float32]:
    """float32 [n, A]: softmax of the logits over the legal moves, at least SMALLEST_PRIOR there
    and 0 elsewhere. NaN where a row's logits are not finite."""
    odds = np.empty(legal.shape, np.float32)
    logits = np.ascontiguousarray(logits, np.float32)
    _shift(logits, logits.view(np.int32), legal, odds, odds.view(np.int32))
    np.exp(odds, out=odds)  # numpy's is vectorised
    _normalise(odds, legal)
    return odds


@njit(cache=True, nogil=True, inline="always")
def _all_closed(tree, b, node):
    """Whether every move of a node leads to an exact value."""
    if tree.favourite[b, node] >= 0:
        return False
    for e in range(tree.first[b, node], tree.first[b, node] + tree.degree[b, node]):
        if tree.bar[b, e] == 0:
            return False
    return True


@njit(cache=True, nogil=True, inline="always")
def _learn(tree, b, node, edge):
    """The value of the child under the closed ``edge`` has become exact: raise the bound."""
    sign = 1 - 2 * tree.to_play[b, node]
    found = tree.bound[b, tree.child[b, edge]]
    if tree.known[b, node] < BOUNDED:
        tree.known[b, node] = BOUNDED if sign * found > -1 else TRIED
        tree.bound[b, node], tree.loose[b, node] = found, tree.total[b, node]
    elif sign * found > sign * tree.bound[b, node]:
        tree.bound[b, node] = found
    if sign * found >= 1 or _all_closed(tree, b, node):
        tree.known[b, node] = EXACT


@njit(cache=True, nogil=True, inline="always")
def _keep_to_bound(tree, b, node, value):
    """The node's total after one more value, from BOUNDED on."""
    least = np.float64(tree.bound[b, node]) * tree.visits[b, node]
    if tree.known[b, node] == EXACT:
        return least
    tree.loose[b, node] += value
    total = tree.loose[b, node]
    return max(total, least) if tree.to_play[b, node] == 0 else min(total, least)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")  # type: ignore[call-overload]
def grow(tree, rows, leaves, to_play, slot, outcome, prior, values, proving, left):
    """Bring the values of walks that ended at ``leaves`` int32 [n] of the trees ``rows`` int64 [n].

    Of the leaf states: to_play int8 [n]; outcome float32 [n] for player 0, which counts where
    slot int64 [n] is -1: a terminal leaf. Elsewhere slot is the leaf's index in prior float32
    [m, A] (see ``priors``) and values float32 [m] for the side to move. Pending leaves are filled
    in; a terminal one that was there already is backed up again.
    proving: whether exact values spread. left: int32 [B], counts every walk down, but for those
    that brought a root its evaluation. Returns whether an exact value has reached a root.
    """
    decided, bits = False, prior.view(np.int32)  # see ``_shift``
    for i in range(rows.shape[0]):
        b, node, m = rows[i], leaves[i], slot[i]
        value = values[m] * (1 - 2 * to_play[i]) if m >= 0 else np.float64(outcome[i])
        news = False  # the node's value has just become exact
        left[b] -= node > 0
        if tree.pending[b, node]:
            tree.pending[b, node] = False
            tree.raw[b, node] = value
            tree.to_play[b, node] = to_play[i]
            tree.terminal[b, node] = m < 0
            if m >= 0:
                top, favourite = np.int32(0), HIGHEST
                for a in range(prior.shape[1]):
                    tree.prior[b, node, a] = prior[m, a]
                    top = max(top, bits[m, a])
                for a in range(prior.shape[1]):
                    favourite = min(favourite, np.int32(a) if bits[m, a] == top else HIGHEST)
                tree.favourite[b, node] = favourite
                tree.rest[b, node] = 1.0
            elif proving:
                tree.known[b, node], tree.bound[b, node], news = EXACT, outcome[i], True
        while True:
            total = tree.total[b, node] + value
            mean = total / tree.visits[b, node]
            if tree.known[b, node] >= BOUNDED:
                total = _keep_to_bound(tree, b, node, value)
                value = total - tree.total[b, node]
                mean = total / tree.visits[b, node]
                if tree.known[b, node] == EXACT:
                    mean = np.float64(tree.bound[b, node])
            tree.total[b, node], tree.mean[b, node] = total, mean
            edge = tree.edge[b, node]
            if edge < 0:
                break
            tree.q[b, edge] = mean
            node = tree.parent[b, node]
            if news:
                tree.bar[b, edge] = CLOSED
                news = tree.known[b, node] != EXACT
                if news:
                    _learn(tree, b, node, edge)
                    news = tree.known[b, node] == EXACT
        decided = decided or tree.known[b, 0] == EXACT
    return decided
