"""What a search knows of a position, as numbers that no longer change.

All of it speaks for the side to move, ``ownership`` and ``score`` too; ``Analysis.flipped`` speaks
for the other. A winrate is (value + 1) / 2, a draw half a win.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.common.stats import wilson
from selfplay.games.base import Game, take
from selfplay.search.line import expected_line
from selfplay.search.search import Search, SearchResult
from selfplay.search.tree import Tree

LONGEST_PV = 30


@dataclass(frozen=True)
class MoveInfo:
    """One move of the root.

    visits: of it in the tree, kept ones included. value: mean in [-1, 1]; of a move that has no
    visit, the root's. prior: the net's share. lcb: lower end of the 95% interval of the winrate,
    as if each visit were a game. order: 0 is the move to make. pv: actions, this move first;
    pv_text: the same as text; pv_visits: of each. proven: its result 1, 0 or -1 where it is known
    for certain. score: the lead in points after it; ownership: float32 [H*W]; of the first moves,
    where the net has such heads.
    """

    action: int
    text: str
    visits: int
    winrate: float
    value: float
    prior: float
    lcb: float
    order: int
    pv: tuple[int, ...]
    pv_text: tuple[str, ...]
    pv_visits: tuple[int, ...]
    proven: float | None = None
    score: float | None = None
    ownership: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Analysis:
    """What is known of a position.

    to_play: 0 or 1. ply: of its states. visits: of the root, its own evaluation included. value:
    its mean in [-1, 1]. raw: the net's own value, before any search. prior: float32 [A], the net's
    policy over legal moves. proven: the result 1, 0 or -1 where it is known; also of a position
    where the game is over, which has no moves. ownership: float32 [H*W] in [-1, 1], and score, the
    lead in points: where the net has such heads, else None. moves: by order.
    """

    to_play: int
    ply: int
    visits: int
    winrate: float
    value: float
    raw: float
    prior: NDArray[np.float32]
    moves: tuple[MoveInfo, ...]
    proven: float | None = None
    over: bool = False
    ownership: NDArray[np.float32] | None = None
    score: float | None = None
    evaluations: int = 0  #: of the net that this thought has cost so far
    seconds: float = 0.0  #: that it has taken so far

    @property
    def best(self) -> MoveInfo | None:
        """The move to make; None where the game is over."""
        return self.moves[0] if self.moves else None

    def flipped(self) -> Analysis:
        """The same, told for the side that is not to move (lcb is then an upper bound)."""
        moves = tuple(replace(m, winrate=1 - m.winrate, value=-m.value, lcb=1 - m.lcb,
                              proven=_minus(m.proven), score=_minus(m.score),
                              ownership=_minus(m.ownership)) for m in self.moves)
        return replace(self, winrate=1 - self.winrate, value=-self.value, raw=-self.raw,
                       moves=moves, proven=_minus(self.proven), score=_minus(self.score),
                       ownership=_minus(self.ownership))


def _minus(number: Any) -> Any:
    return None if number is None else -number


def of_end(game: Game, states: Any) -> Analysis:
    """Of a position (one row) where the game is over."""
    side = 1 - 2 * int(states.to_play[0])
    value = float(game.result(states)[1][0]) * side
    owned, score = None, None
    if game.has_ownership:
        owned = game.ownership(states)[0].astype(np.float32) * side
        score = float(game.score(states)[0]) * side
    return Analysis(int(states.to_play[0]), int(states.ply[0]), 0, (value + 1) / 2, value, value,
                    np.zeros(game.num_actions, np.float32), (), value, True, owned, score)


def analysis_of(game: Game, states: Any, search: Search, row: int = 0) -> Analysis:
    """``analyses_of`` one row. Raises ValueError where nothing has been searched yet."""
    return analyses_of(game, [states], search, [row])[0]


def analyses_of(
    game: Game, positions: Sequence[Any], search: Search, rows: Sequence[int]
) -> list[Analysis]:
    """What the trees ``rows`` of a search have found for ``positions``, states of one row each.

    Moves come in the order in which they would be made: the search's choice, then by visits, value
    and prior, proven losses last. Raises ValueError where nothing has been searched yet.
    """
    found = search.result(rows)
    texts: list[str] = []
    if game.has_sgf:  # texts that do not depend on the position
        texts = [game.action_to_text(positions[0], 0, a) for a in range(game.num_actions)]
    return [_analysis(game, states, search.tree, row, SearchResult(*(part[k] for part in found)),
                      texts) for k, (states, row) in enumerate(zip(positions, rows, strict=True))]


def _analysis(
    game: Game, states: Any, tree: Tree, row: int, found: SearchResult, texts: Sequence[str]
) -> Analysis:
    """found: of this row alone. texts: of all actions, or none where they depend on the
    position."""
    sign = 1.0 - 2.0 * float(tree.to_play[row, 0])
    value = float(found.value)
    means, children = np.full(game.num_actions, value), np.full(game.num_actions, -1, np.int64)
    first = int(tree.first[row, 0])
    edges = slice(first, first + int(tree.degree[row, 0]))
    means[tree.move[row, edges]] = sign * tree.q[row, edges] + 0.0
    children[tree.move[row, edges]] = tree.child[row, edges]
    prior, visits, mean, child, proven = (array.tolist() for array in (
        found.prior, found.visits, means, children, found.proven))
    order = sorted(np.flatnonzero(found.prior > 0).tolist(), key=lambda a: (
        a != found.action, proven[a] == -1, -visits[a], -mean[a], -prior[a], a))
    moves = []
    for number, a in enumerate(order):
        pv, counts = [a], [visits[a]]
        if child[a] > 0:
            behind = expected_line(tree, row, child[a], LONGEST_PV - 1)
            pv, counts = pv + behind[0], counts + behind[1]
        words = [texts[action] for action in pv] if texts else _texts_of_moves(game, states, pv)
        winrate = (mean[a] + 1) / 2
        moves.append(MoveInfo(
            a, words[0], visits[a], winrate, mean[a], prior[a],
            wilson(min(max(winrate, 0.0), 1.0), visits[a])[0], number, tuple(pv), tuple(words),
            tuple(counts), None if math.isnan(proven[a]) else proven[a]))
    return Analysis(
        int(states.to_play[0]), int(states.ply[0]), int(tree.visits[row, 0]), (value + 1) / 2,
        value, sign * float(tree.raw[row, 0]), found.prior.copy(), tuple(moves),
        value if found.decided else None)


def restrict(search: Search, row: int, only: NDArray[np.bool_]) -> None:
    """Let the root of tree ``row``, evaluated and not searched yet, have the moves of ``only``
    bool [A] alone. Follow with ``begin(..., fresh=False)``. ValueError where none is legal."""
    tree = search.tree
    prior = np.where(only, np.abs(tree.prior[row, 0]), np.float32(0))
    if not prior.any():
        raise ValueError("none of these moves is legal")
    tree.prior[row, 0] = prior / prior.sum()
    tree.favourite[row, 0], tree.rest[row, 0], tree.mass[row, 0] = prior.argmax(), 1.0, 0.0
    tree.degree[row, 0] = tree.used[row] = tree.known[row, 0] = 0  # what the rules said of others
    tree.total[row, 0] = tree.mean[row, 0] = tree.raw[row, 0]


def _texts_of_moves(game: Game, states: Any, actions: list[int]) -> list[str]:
    """Moves as text, each in its position."""
    now, texts = take(states, [0]), []
    for action in actions:
        texts.append(game.action_to_text(now, 0, action))
        game.step(now, np.array([action], np.int64))
    return texts
