"""A search of one game that goes on for as long as somebody likes, and whose tree can be read.

For whoever talks to people or programs while the search thinks: a GTP engine, a web board.
``Growing`` is searched in slices, read between them, stopped after any, and follows the game move
by move, with the part of the tree that still counts. ``view`` reads the tree of any ``Search``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import Game, take
from selfplay.search import root
from selfplay.search.search import Evaluate, Search, SearchConfig
from selfplay.search.tree import EDGE, EXACT, NODE, Tree, new_tree, new_walk, node_bytes

SLICE = 256  #: simulations of one search inside ``Growing.grow``
TREE_BYTES = 2**30  #: of memory for one tree at most, unless told otherwise


class Move(NamedTuple):
    """A legal move at a node.

    action: int
    visits: simulations that went through it
    value: mean value in [-1, 1] for the side to move at the node; before the first visit the
        node's own mean
    prior: the net's probability, without noise
    proven: the exact value for the side to move at the node, or None where it is not known; then
        ``visits`` is as of the proof, as proven moves are not searched again
    """

    action: int
    visits: int
    value: float
    prior: float
    proven: float | None = None


class View(NamedTuple):
    """What is known of a node.

    to_play: 0 or 1
    visits: how often it was met, its own evaluation included; 0 where nothing is known yet
    value: mean value in [-1, 1] for the side to move
    moves: every legal move: the search's choice first (see ``SearchResult.action``), proven losses
        last, in between by visits, value, prior, lower number; none where the game is over, or as
        good as over because a move wins at once, and where nothing is known yet
    variation: the best move, the best answer to it, and so on, as long as they are known
    proven: the exact value for the side to move, or None
    """

    to_play: int
    visits: int
    value: float
    moves: tuple[Move, ...]
    variation: tuple[int, ...]
    proven: float | None = None


def view(search: Search, row: int = 0, path: Sequence[int] = ()) -> View:
    """The node of ``search``'s tree of game ``row`` that the moves ``path`` lead to from its root.

    Between waves only. Raises ValueError where ``path`` leaves the tree, and for an empty tree.
    """
    if not search.tree.size[row]:
        raise ValueError(f"search: nothing is known of row {row}")
    node = 0
    for ply, action in enumerate(path):
        node = children_of(search.tree, row, node).get(action, -1)
        if node < 0:
            raise ValueError(f"search: the tree does not know {list(path[: ply + 1])}")
    trees = search.tree
    value = float(trees.mean[row, node]) * (1 - 2 * int(trees.to_play[row, node]))
    return View(int(trees.to_play[row, node]), int(trees.visits[row, node]), value,
                _moves_of(search, row, node), _variation(search, row, node),
                value if trees.known[row, node] == EXACT else None)


def children_of(trees: Tree, row: int, node: int) -> dict[int, int]:
    """Move -> node of the moves that have one, of tree ``row``."""
    edges = slice(trees.first[row, node], trees.first[row, node] + trees.degree[row, node])
    found = zip(trees.move[row, edges].tolist(), trees.child[row, edges].tolist(), strict=True)
    return {move: child for move, child in found if child >= 0}


def _moves_of(search: Search, row: int, node: int) -> tuple[Move, ...]:
    """All moves of a node, in order."""
    trees = search.tree
    if trees.terminal[row, node]:
        return ()
    sign, first = 1.0 - 2.0 * trees.to_play[row, node], trees.first[row, node]
    edges, prior = slice(first, first + trees.degree[row, node]), np.abs(trees.prior[row, node])
    at, mean = trees.move[row, edges], sign * trees.mean[row, node]
    visits, exact = np.zeros(len(prior), np.int32), np.zeros(len(prior), np.bool_)
    q = np.full(len(prior), mean)
    visits[at], q[at] = trees.n[row, edges], sign * trees.q[row, edges]
    exact[at] = trees.bar[row, edges] < 0
    decided = trees.known[row, node] == EXACT
    best = root.choose(
        visits[None], q[None], exact[None], np.array([decided]), np.array([mean], np.float32),
        np.where(decided, visits + prior, q)[None], np.where(prior > 0, prior, -np.inf)[None])[0]
    found = [Move(a, int(visits[a]), float(q[a]), float(prior[a]), float(q[a]) if known else None)
             for a, known in enumerate(exact.tolist()) if prior[a]]
    return tuple(sorted(found, key=lambda m: (
        m.action != best[0], m.proven == -1, -m.visits, -m.value, -m.prior, m.action)))


def _variation(search: Search, row: int, node: int) -> tuple[int, ...]:
    """The best moves on both sides from a node."""
    line: list[int] = []
    while moves := _moves_of(search, row, node):
        if not moves[0].visits and moves[0].proven is None:
            break
        line.append(moves[0].action)
        children = children_of(search.tree, row, node)
        if line[-1] not in children:
            break
        node = children[line[-1]]
    return tuple(line)


class _Roomier(Search):
    """A search whose trees may become larger."""

    def reserve(self, nodes: int) -> None:
        """Room for ``nodes`` nodes a tree at least; what the trees hold stays. No search may be
        between its ``begin`` and its last wave."""
        if nodes <= self.capacity:
            return
        old, new = self.tree, new_tree(len(self.tree.size), nodes, self.game.num_actions,
                                       self.tree.rng)
        used = dict.fromkeys((*(NODE.names or ()), "raw", "prior", "bound", "loose"),
                             int(old.size.max()))
        used |= dict.fromkeys(EDGE.names or (), int(old.used.max()))
        for name in Tree._fields:
            part = (slice(None), slice(used[name])) if name in used else slice(None)
            getattr(new, name)[part] = getattr(old, name)[part]
        self.capacity, self.tree = nodes, new
        self._walk = new_walk(len(self._walk.depth), min(nodes, self.game.max_moves))


class Growing:
    """One game, searched by PUCT in slices.

    states: one row, the position to begin at; None: the first of the game. It may be over.
    config: rule, constants and leaves at once; ``reuse`` is set. With leaves=1 slices make the
        same tree as one long search. Gumbel's plan wants a budget, so it is refused (UserError).
    most: nodes of the tree at most; None: as many as fit into TREE_BYTES. Memory is taken as the
        tree grows.

    For one thread at a time. A slice is a call of ``grow``: whoever wants to stop makes no more.

    >>> import selfplay as sp
    >>> from selfplay.search.grow import Growing
    >>> game = sp.make("tictactoe")
    >>> growing = Growing(game, sp.Evaluator(sp.net(game, "1x8"), game))
    >>> growing.grow(16), growing.grow(16), growing.view().visits
    (16, 16, 33)
    >>> best = growing.view().moves[0]
    >>> growing.play(best.action)
    >>> growing.view().visits == best.visits
    True
    """

    def __init__(
        self, game: Game, evaluate: Evaluate, states: Any = None,
        config: SearchConfig | None = None, most: int | None = None,
    ) -> None:
        self.game, self.evaluate = game, evaluate
        self.most = most or max(2, TREE_BYTES // node_bytes(game.num_actions))
        self.search = _Roomier(game, replace(config or SearchConfig(), reuse=True), 1, SLICE, 0)
        self.restart(game.new(1) if states is None else states)

    def restart(self, states: Any) -> None:
        """Go to another position, one row, and forget the tree."""
        if len(states.ply) != 1:
            raise ValueError(f"Growing: one position wanted, not {len(states.ply)}")
        self.search.forget([0])
        self._state = take(states, [0])

    @property
    def states(self) -> Any:
        """The present position, one row; a copy."""
        return take(self._state, [0])

    @property
    def over(self) -> bool:
        """Whether the game is over."""
        return bool(self.game.result(self._state)[0][0])

    def grow(self, sims: int = 16) -> int:
        """Search on, by ``sims`` more simulations; returns how many there were: fewer where the
        tree is full (``most``) or the value is proven, none where the game is over.

        The evaluation of a new position comes before its first simulation and is none. After an
        exception, Ctrl-C included, the tree is empty and may be grown again.
        """
        done = 0
        while done < sims and not self.over:
            size, seen = max(int(self.search.tree.size[0]), 1), max(self.view().visits, 1)
            part = min(sims - done, SLICE, self.most - size)
            if part <= 0:
                break
            if size + part > self.search.capacity:
                self.search.reserve(min(self.most, max(size + part, 2 * self.search.capacity)))
            self.search.begin([0], self._state, part, False, fresh=False)
            while not len(self.search.wave(self.evaluate)):
                pass
            done += self._visits() - seen
            if self.search.tree.known[0, 0] == EXACT:
                break
        return done

    def _visits(self) -> int:
        """Of the root; 1 for the evaluation of one that is still to come."""
        trees = self.search.tree
        return int(trees.visits[0, 0]) if trees.size[0] else 1

    def view(self, path: Sequence[int] = ()) -> View:
        """What is known of the present position, or of the one that the moves ``path`` lead to.

        Raises ValueError where ``path`` leaves the tree.
        """
        if self.search.tree.size[0] or path:
            return view(self.search, 0, path)
        value = self.game.result(self._state)[1][0] if self.over else 0.0
        to_play = int(self._state.to_play[0])
        return View(to_play, 0, float(value * (1 - 2 * to_play)), (), ())

    def play(self, action: int) -> None:
        """Make a move, of either side, and keep what the tree knows of the position after it.

        Raises ValueError for an illegal move; nothing has changed then.
        """
        if not (0 <= action < self.game.num_actions and self.game.legal(self._state)[0, action]):
            raise ValueError(f"Growing: move {action} is not legal here")
        moves: NDArray[np.int64] = np.array([action], np.int64)
        self.game.step(self._state, moves)
        self.search.advance([0], moves)
