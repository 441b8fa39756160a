"""Tree search over many games at once: where games, trees and the net meet, once a wave.

A wave walks down every tree by a rule of ``select``, lets the game put the leaves' states into a
scratch batch and say which moves are legal there, evaluates all that are not terminal in one call,
and grows the trees.

Trees may be read between waves (``grow.view``), searched on by another ``begin`` with
``fresh=False``, and follow the game (``advance``, with ``reuse``). ``grow.Growing`` is all of it
for one game, in slices that can stop after any: what a GTP engine or a web board needs.

What is proven (see ``tree``) begins with what the rules say: where a game is over, and which moves
end it. Of every root the game is asked which moves win at once; where it has a kernel for that
(``quick_wins``), also which moves let the opponent win, and whether a leaf has a win, which is then
as good as a finished game and needs no evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.common.errors import UserError
from selfplay.games.rules import Rules, put, take
from selfplay.search import random as rng
from selfplay.search import root, select, tree

#: (states, legal bool [n, A]) -> (logits float32 [n, A], value float32 [n] for the side to move)
Evaluate = Callable[[Any, NDArray[np.bool_]], tuple[NDArray[np.float32], NDArray[np.float32]]]

Rule = Literal["puct", "gumbel", "uct"]

HEADS = 1024  #: views of the scratch states that are kept


@dataclass(frozen=True)
class SearchConfig:
    """How to search. Raises UserError for an unknown rule and for gumbel with reuse.

    puct: AlphaZero's (Silver et al. 2017), first-play urgency, Dirichlet noise and root
    temperature as in KataGo (Wu 2019); noise and root temperature only where ``begin`` asks for
    noise. gumbel: Danihelka et al. 2022. uct: UCB1, for values from rollouts.
    """

    rule: Rule = "puct"
    c_puct: float = 1.1
    fpu_reduction: float = 0.2
    root_fpu_reduction: float = 0.0
    dirichlet_weight: float = 0.25
    dirichlet_total: float = 10.83  #: alpha = this / number of legal moves
    root_temperature: float = 1.1
    gumbel_actions: int = 16  #: moves considered at the root
    c_visit: float = 50.0
    c_scale: float = 1.0
    uct_c: float = 0.7
    reuse: bool = False  #: ``Search.advance`` keeps the subtree of the move made
    proven: bool = True  #: exact values spread through the tree (not for uct)
    leaves: int = 1  #: walks of one tree in one wave, at most; more make few games faster

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise UserError(f"search rule {self.rule!r}: one of {', '.join(get_args(Rule))} wanted")
        if self.rule == "gumbel" and self.reuse:
            raise UserError("search: sequential halving needs a fresh tree; set reuse=False or "
                            "take rule puct")
        if self.leaves < 1:
            raise UserError(f"search: leaves={self.leaves}; at least 1 is needed")


class SearchResult(NamedTuple):
    """What searches found; rows as asked for.

    visits: int32 [n, A], of the root's moves
    policy: float32 [n, A], the improved policy: shares of the visits, or for gumbel
        softmax(logits + sigma(completed Q)). Proven losses have none, unless all moves lose; by
        visits, moves that look no better than a proven draw leave it their share. Of a decided
        root the prior's shares of the visited moves that keep its value
    value: float32 [n], mean value of the root for its side to move; exact where ``decided``
    action: int64 [n], gumbel's winner; otherwise the most visited, of several the one of the
        highest mean value, of several of these the lowest. A proven win if there is one, a
        proven loss only if there is nothing else (then the one most visited, not one that loses
        at once), a proven draw if the best other looks worse
    prior: float32 [n, A], the evaluation's own policy, without noise or temperature
    proven: float32 [n, A], the exact value of each move for the side to move, NaN where unknown
    decided: bool [n], the value of the root is exact, and the search has ended early
    """

    visits: NDArray[np.int32]
    policy: NDArray[np.float32]
    value: NDArray[np.float32]
    action: NDArray[np.int64]
    prior: NDArray[np.float32]
    proven: NDArray[np.float32]
    decided: NDArray[np.bool_]


class Search:
    """Trees for ``batch`` games, which need not be in step with each other.

    A row's search depends on (seed, row), what was asked of this row, and the evaluations;
    not on the other rows. ``max_sims``: the largest budget of one search. Where trees are reused
    there is room for as many kept nodes; a kept tree that leaves too little room is dropped.
    """

    def __init__(
        self, game: Rules, config: SearchConfig, batch: int, max_sims: int, seed: int
    ) -> None:
        self.game, self.config, self.max_sims = game, config, max_sims
        self.capacity = max_sims + 1 + (max_sims if config.reuse else 0)
        streams = rng.streams(seed, np.arange(batch))
        self.tree = tree.new_tree(batch, self.capacity, game.num_actions, streams)
        room = batch * min(config.leaves, max_sims)
        self._walk = tree.new_walk(room, min(self.capacity, game.max_moves))
        self._schedule = np.zeros((batch, max_sims if config.rule == "gumbel" else 0), np.int32)
        self._roots, self._scratch = game.new(batch), game.new(room)
        self._rule = _rule(config)
        self._scores = (np.empty(game.num_actions), np.empty(game.num_actions),
                        np.empty(game.num_actions, np.int32))
        self._left = np.zeros(batch, np.int32)  # simulations to do; a row is active while > 0
        self._sims = np.zeros(batch, np.int32)
        self._noise = np.zeros(batch, np.bool_)
        self._proving = config.proven and config.rule != "uct"
        self._decided = False  # perhaps the root of an active row is exact
        self._heads = dict[tuple[int, int], Any]()

    def seed(self, rows: ArrayLike, seeds: ArrayLike) -> None:
        """Let all later randomness of ``rows`` come from ``seeds`` int [n], one a row."""
        self.tree.rng[np.asarray(rows, np.int64)] = rng.streams(0, np.asarray(seeds, np.int64))

    def begin(
        self, rows: ArrayLike, states: Any, sims: ArrayLike, noise: ArrayLike, fresh: bool = True
    ) -> None:
        """Start a search of ``sims`` simulations in each of ``rows`` int [n].

        states: n rows, the positions to search; none may be over. sims: int [n] or one for all,
        1 to ``max_sims``. noise: bool [n] or one for all, noise at the root (Dirichlet and root
        temperature, or Gumbel draws). fresh=False keeps what ``advance`` has kept, which must
        belong to ``states``; kept visits do not count towards ``sims``.
        The evaluation of a new root takes a wave, but none of its simulations.
        Raises ValueError for a budget out of range and for a position that is over.
        """
        rows = np.asarray(rows, np.int64)
        budget = np.broadcast_to(np.asarray(sims, np.int32), rows.shape)
        if len(rows) and not 1 <= budget.min() <= budget.max() <= self.max_sims:
            raise ValueError(f"sims must be from 1 to max_sims={self.max_sims}: {budget}")
        over = self.game.result(states)[0]
        if over.any():
            raise ValueError(f"search: the game is over in rows {rows[over]}")
        put(self._roots, rows, states)
        size = self.tree.size[rows]
        kept = (size > 0) & (size + budget <= self.capacity) & (not fresh)
        self.tree.size[rows[~kept]] = 0
        self._left[rows] = self._sims[rows] = budget
        self._noise[rows] = noise
        if kept.any():
            self._prepare(rows[kept])

    def advance(self, rows: ArrayLike, actions: ArrayLike) -> None:
        """The games in ``rows`` int [n] have moved by ``actions`` int [n] (-1: not moved).

        Keeps the subtree where the config says reuse and there is one, else forgets the tree.
        Running searches of these rows end. Follow with ``begin(..., fresh=False)``.
        """
        rows, moves = np.asarray(rows, np.int64), np.asarray(actions, np.int64)
        self._left[rows] = 0
        if self.config.reuse:
            root.reroot(self.tree, rows, moves)
        else:
            self.tree.size[rows[moves >= 0]] = 0

    def forget(self, rows: ArrayLike) -> None:
        """Empty the trees of ``rows`` int [n]; their running searches end."""
        rows = np.asarray(rows, np.int64)
        self._left[rows] = 0
        self.tree.size[rows] = 0

    def wave(self, evaluate: Evaluate) -> NDArray[np.int64]:
        """One simulation, or up to ``leaves``, or the evaluation of a new root, in each active row.

        At most one call of ``evaluate``, none where all leaves are terminal. Returns the rows
        int64 [k] whose budget is now spent, or whose value is proven; they rest until the next
        ``begin``. Raises FloatingPointError if values or logits are not finite. After any
        exception the searches under way begin again.
        """
        active = rows = self._left.nonzero()[0]
        if self._stop_decided(active):
            rows = self._left.nonzero()[0]
        if not len(rows):
            return active
        try:
            new = rows[self.tree.size[rows] == 0]
            count, deepest = self._select(rows)
            walk = self._walk
            slot, outcome, to_play, live, legal = self._leaves(count, deepest)
            prior, values = self._evaluate(live, legal, evaluate)
            self._decided |= tree.grow(self.tree, walk.row[:count], walk.leaf[:count], to_play,
                                       slot, outcome, prior, values, self._proving, self._left)
            if len(new):
                self._prepare(new)
        except BaseException:  # Ctrl-C included: some walks will never be backed up
            self.tree.size[rows] = 0
            self._left[rows] = self._sims[rows]
            raise
        self._stop_decided(active)
        return active[self._left[active] == 0]

    def _stop_decided(self, rows: NDArray[np.int64]) -> bool:
        """End the searches of those of the active ``rows`` whose value is proven; perhaps none."""
        perhaps, self._decided = self._decided, False
        if perhaps:
            known = (self.tree.known[rows, 0] == tree.EXACT) & (self.tree.size[rows] > 0)
            self._left[rows[known]] = 0
        return perhaps

    def run(
        self, states: Any, sims: ArrayLike, evaluate: Evaluate, noise: ArrayLike = False
    ) -> SearchResult:
        """Search every row afresh from ``states`` (``batch`` rows), to the end of the budgets."""
        rows = np.arange(len(self._left))
        self.begin(rows, states, sims, noise)
        while self._left.any():
            self.wave(evaluate)
        return self.result(rows)

    def result(self, rows: ArrayLike) -> SearchResult:
        """What the searches of ``rows`` int [n] have found; ValueError where a tree is empty."""
        rows, trees = np.asarray(rows, np.int64), self.tree
        if (trees.size[rows] == 0).any():
            raise ValueError(f"search: nothing is known of rows {rows[trees.size[rows] == 0]}")
        visits = np.empty((len(rows), self.game.num_actions), np.int32)
        q, exact = np.empty(visits.shape), np.empty(visits.shape, np.bool_)
        root.root_moves(trees, rows, visits, q, exact)
        sign = 1.0 - 2.0 * trees.to_play[rows, 0]
        value = (sign * trees.total[rows, 0] / trees.visits[rows, 0]).astype(np.float32)
        prior = np.abs(trees.prior[rows, 0])
        decided = trees.known[rows, 0] == tree.EXACT
        if self.config.rule == "gumbel":
            policy, score = np.empty_like(prior), np.empty(q.shape)
            select.conclude(trees, rows, self.config.c_visit, self.config.c_scale, policy, score)
        else:
            policy = (visits / np.maximum(visits.sum(1, keepdims=True), 1)).astype(np.float32)
            score = q
        score = np.where(decided[:, None], visits + prior, score)
        unseen = np.where(prior > 0, trees.root_score[rows], -np.inf)
        action, fits = root.choose(visits, q, exact, decided, value, score, unseen)
        some = np.flatnonzero(exact.any(1))
        if len(some):
            policy[some] = root.proven_policy(
                policy[some], q[some], exact[some], decided[some], fits[some], prior[some],
                self.config.rule != "gumbel")
        proven = np.where(exact, q, np.nan).astype(np.float32)
        return SearchResult(visits, policy, value, action, prior, proven, decided)

    def _select(self, rows: NDArray[np.int64]) -> tuple[int, int]:
        """Walks in each tree by the rule: (how many, the depth of the deepest)."""
        return select.select(self.tree, rows, self._left, self.config.leaves, *self._rule,
                             self._schedule, self._walk, *self._scores)

    def _leaves(self, count: int, deepest: int) -> tuple[NDArray[Any], ...]:
        """Of the states at the ends of the walks: (slot int64 [n] as ``tree.grow`` takes it,
        outcome float32 [n], to_play int8 [n], the m live states, their legal moves [m, A])."""
        walk = self._walk
        leaves = self._head(count)
        place, legal = self.game.branch(
            self._roots, walk.row[:count], walk.path[:count, :deepest], leaves)
        outcome, slot, live = np.zeros(count, np.float32), place, len(legal)
        if live < count:
            over = np.flatnonzero(place >= live)
            outcome[over] = self.game.result(self._head(count, live))[1][place[over] - live]
            slot = np.where(place < live, place, -1)
        to_play, states = leaves.to_play[place], self._head(live)
        if self._proving and self.game.quick_wins:
            states, legal = self._won(states, legal, slot, outcome, to_play)
        return slot, outcome, to_play, states, legal

    def _won(
        self, states: Any, legal: NDArray[np.bool_], slot: NDArray[np.int64],
        outcome: NDArray[np.float32], to_play: NDArray[np.int8],
    ) -> tuple[Any, NDArray[np.bool_]]:
        """Let leaves with a move that wins at once count as won, but for roots, which want an
        evaluation; (states, legal) of those that are left. Changes ``slot`` and ``outcome``."""
        wins = self.game.wins(states, legal)
        if not wins.any():
            return states, legal
        live, holes, movers = root.end_won(wins, slot, self._walk.leaf, to_play, outcome)
        for hole, mover in zip(holes.tolist(), movers.tolist(), strict=True):  # few
            legal[hole] = legal[mover]
            for field in states:
                field[hole] = field[mover]
        return self._head(live), legal[:live]

    def _head(self, end: int, start: int = 0) -> Any:
        """Views of some rows of the scratch states. They are kept: making them anew takes a tenth
        of a wave when one game is searched alone."""
        if (end, start) not in self._heads:
            if len(self._heads) >= HEADS:
                self._heads.clear()
            self._heads[end, start] = type(self._scratch)(*(f[start:end] for f in self._scratch))
        return self._heads[end, start]

    def _evaluate(
        self, leaves: Any, legal: NDArray[np.bool_], evaluate: Evaluate
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(priors [m, A], values [m]) of m leaves, none of them terminal."""
        if not len(legal):
            return np.empty(legal.shape, np.float32), np.empty(0, np.float32)
        logits, values = evaluate(leaves, legal)
        prior = tree.priors(logits, legal)
        if not math.isfinite(values.sum() + prior.sum()):  # one NaN spoils a sum
            raise FloatingPointError("search: the net's values or logits are not finite; it has "
                                     "diverged, take an earlier checkpoint")
        return prior, np.ascontiguousarray(values, np.float32)

    def _prepare(self, rows: NDArray[np.int64]) -> None:
        """Make evaluated roots ready for their first simulation of this search."""
        config, trees = self.config, self.tree
        if config.rule == "uct":
            return
        prior = np.abs(trees.prior[rows, 0]).astype(np.float64)
        if self._proving:
            self._decided |= self._settle(rows, prior > 0)
        noisy = np.flatnonzero(self._noise[rows])
        legal = prior[noisy] > 0
        if config.rule == "gumbel":
            with np.errstate(divide="ignore"):
                score = np.log(prior)
            score[noisy] += rng.gumbel(trees.rng, rows[noisy], legal)
            root.fill_schedule(trees, rows, config.gumbel_actions, self._sims[rows], self._schedule)
        else:
            score, weight = prior, config.dirichlet_weight
            warm = prior[noisy] ** (1.0 / config.root_temperature)
            warm /= warm.sum(1, keepdims=True)
            draws = rng.dirichlet(trees.rng, rows[noisy], legal, config.dirichlet_total)
            score[noisy] = (1.0 - weight) * warm + weight * draws
        root.set_root(trees, rows, score)

    def _settle(self, rows: NDArray[np.int64], legal: NDArray[np.bool_]) -> bool:
        """Tell the trees which moves of their roots win or lose by the rules; whether this, or
        what is kept of a tree, decides any."""
        states = take(self._roots, rows)
        wins = self.game.wins(states, legal)
        blunders = np.zeros_like(wins)
        if self.game.quick_wins:
            blunders = self.game.blunders(states, legal)
        return root.settle(self.tree, rows, wins, blunders)


def _rule(config: SearchConfig) -> tuple[int, tuple[float, float, float]]:
    """(rule, parameters) as ``select.select`` takes them."""
    if config.rule == "puct":
        return select.PUCT, (config.c_puct, config.fpu_reduction, config.root_fpu_reduction)
    if config.rule == "uct":
        return select.UCT, (config.uct_c, 0.0, 0.0)
    return select.GUMBEL, (config.c_visit, config.c_scale, 0.0)
