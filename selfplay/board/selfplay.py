"""Self-play: many games at once against oneself, turned into training rows.

Here a position enters the learning cycle: the actor holds B games, the search asks the net about
one leaf of each per wave, and every finished search becomes a move and, if it was a full one, a
row of ``data.Columns``. Games are never in step: each has its own budget.

Games are in groups, a thread at work on one at a time; of several processes each has some. What
groups play depends on their number, fixed by the config, not on who shares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from selfplay.board.config import RLConfig, scheduled
from selfplay.board.data import Columns, concat, pack
from selfplay.common import ranks
from selfplay.common.threads import Workers
from selfplay.games.rules import Rules, put, take
from selfplay.inference.actors import groups_of
from selfplay.inference.evaluator import Evaluator
from selfplay.search import random as rng
from selfplay.search.search import Rule, Search, SearchConfig, SearchResult

#: Waves until games whose searches are over move: numpy's calls cost, whatever their rows.
TOGETHER = 4
FIRST_PLIES = 128  #: room for a game's moves at first; some games may last for thousands


class Harvest(NamedTuple):
    """Finished games."""

    columns: Columns  #: a row for every position that is trained on
    actions: NDArray[np.int16]  #: [moves of all games], in order; game g: [ends[g - 1], ends[g])
    ends: NDArray[np.int64]  #: [games]
    values: NDArray[np.float32]  #: [games], results for player 0
    sizes: NDArray[np.int8] | None = None  #: [games], of the boards, where these differ


class _Book(NamedTuple):
    """The record of each game in flight; axes B (games) and T (moves)."""

    action: NDArray[np.int16]  # [B, T]
    slot: NDArray[np.int32]  # [B, T] ply of the k-th trained-on position
    rows: NDArray[np.int32]  # [B] how many there are
    obs: NDArray[Any]  # [B, T, P]
    policy: NDArray[np.float16]  # [B, T, A]
    sign: NDArray[np.int8]  # [B, T] +1 where player 0 was to move
    value: NDArray[np.float32]  # [B, T] the search's, for player 0, by ply
    exact: NDArray[np.float32]  # [B, T] the solver's of the k-th such position, NaN: none
    opening: NDArray[np.int32]  # [B] random plies to play before the search takes over
    no_resign: NDArray[np.bool_]  # [B] this game is played out whatever the value


def search_config(config: RLConfig) -> SearchConfig:
    """The search of self-play (tree reuse only where visits are comparable: PUCT)."""
    return SearchConfig(rule=cast(Rule, config.algorithm), reuse=config.algorithm == "puct",
                        proven=config.proven)


class Actor:
    """B games against oneself, kept in flight between calls of ``play``.

    The games depend on ``seed``, ``group`` (one of several with this seed), the config and the
    weights, not on the number of threads.
    """

    def __init__(
        self, game: Rules, evaluate: Callable[..., Any], config: RLConfig, seed: int,
        group: int = 0, iteration: int = 1,
    ) -> None:
        """iteration: whose simulations the searches have, by ``config.sims_from``."""
        batch, plies = config.games, min(game.max_moves, FIRST_PLIES)
        self.game, self.evaluate, self.config = game, evaluate, config
        self.budget = scheduled(config, iteration)
        self.rng = np.random.default_rng([seed, 0xAC, group])
        most = max(config.sims, config.cheap_sims, config.sims_from[0])
        stream = int(rng.streams(seed, np.array([group]))[0])
        self.search = Search(game.passing_late(config.pass_from), search_config(config), batch,
                             most, stream)
        self.states = game.new(batch)
        sample = pack(game.observe(take(self.states, slice(0, 1))), game.obs_binary)

        def moves(dtype: Any, *axes: int) -> NDArray[Any]:
            return np.zeros((batch, plies, *axes), dtype)

        self.book = _Book(
            action=moves(np.int16), slot=moves(np.int32), rows=np.zeros(batch, np.int32),
            obs=moves(sample.dtype, sample.shape[1]), policy=moves(np.float16, game.num_actions),
            sign=moves(np.int8), value=moves(np.float32), exact=moves(np.float32),
            opening=np.zeros(batch, np.int32), no_resign=np.zeros(batch, np.bool_))
        self.full = np.zeros(batch, np.bool_)
        self.exact: Callable[..., Any] = lambda states, policy: (policy, np.nan)
        if config.solved_from:  # imported for few
            self.exact = import_module("selfplay.board.targets").Exact(game, config.solved_from)
        self._rested: list[NDArray[np.int64]] = []  # rows whose searches are over, by waves
        self._deal(np.arange(batch))
        self._think(np.arange(batch))

    def wave(self) -> Harvest | None:
        """One wave of the search, and what follows from it; the games that have ended, if any."""
        self._rested.append(self.search.wave(self.evaluate))
        if len(self._rested) < TOGETHER and sum(map(len, self._rested)) < self.config.games:
            return None
        ready = np.sort(np.concatenate(self._rested))
        self._rested = []
        if not len(ready):
            return None
        self._move(ready)
        harvest = self._collect(ready)
        self._think(ready)
        return harvest

    def _deal(self, rows: NDArray[np.int64]) -> None:
        """New games in ``rows``, their random opening plies played."""
        low, high = self.config.opening
        fresh = self.game.new(len(rows))
        plies = self.rng.integers(low, high + 1, len(rows))
        self.book.rows[rows] = 0
        self.book.no_resign[rows] = self.rng.random(len(rows)) < self.config.resign_checked
        for ply in range(min(high, self.book.action.shape[1])):
            mask = self.game.opening_moves(fresh) & (plies > ply)[:, None]
            weights = mask * self.rng.random(mask.shape)
            moves = np.where(mask.any(1), weights.argmax(1), -1)
            self.book.action[rows, ply] = moves
            self.game.step(fresh, moves)
        over = self.game.result(fresh)[0]
        if over.any():  # an opening that ended the game teaches nothing
            put(fresh, np.flatnonzero(over), self.game.new(int(over.sum())))
        begun = self.game.vary(fresh, self.config, self.rng, self.evaluate)
        if begun is not None:
            while begun.shape[1] > self.book.action.shape[1]:
                self.book = _roomier(self.book)
            anew = np.flatnonzero(begun[:, 0] >= 0)
            self.book.action[rows[anew], : begun.shape[1]] = begun[anew]
        self.book.opening[rows] = fresh.ply
        put(self.states, rows, fresh)

    def _think(self, rows: NDArray[np.int64]) -> None:
        """Start the next search of ``rows``: full in some, cheap in the others."""
        full = self.rng.random(len(rows)) < self.config.full_share
        self.full[rows] = full
        sims = np.where(full, self.budget.sims, self.budget.cheap_sims).astype(np.int32)
        self.search.begin(rows, take(self.states, rows), sims, full, fresh=False)

    def _move(self, rows: NDArray[np.int64]) -> None:
        """Record what the finished searches of ``rows`` found, and play their moves."""
        ply, to_play = self.states.ply[rows], self.states.to_play[rows]
        result = self.search.result(rows)
        actions = self._choose(ply, result)
        if ply.max() >= self.book.action.shape[1]:
            self.book = _roomier(self.book)
        book = self.book
        book.action[rows, ply] = actions
        book.value[rows, ply] = result.value * (1 - 2 * to_play)
        keep = self.full[rows]
        kept, at = rows[keep], self.book.rows[rows[keep]]
        book.slot[kept, at] = ply[keep]
        now = take(self.states, kept)
        book.obs[kept, at] = pack(self.game.observe(now), self.game.obs_binary)
        book.policy[kept, at], book.exact[kept, at] = self.exact(now, result.policy[keep])
        book.sign[kept, at] = 1 - 2 * to_play[keep]
        book.rows[kept] += 1
        self.resigned = self._resigns(rows, to_play, result)
        moves = np.full(self.config.games, -1, np.int64)
        moves[rows] = actions
        self.game.step(self.states, moves)
        self.search.advance(rows, actions)

    def _choose(self, ply: NDArray[np.int32], result: SearchResult) -> NDArray[np.int64]:
        """The search's choice; in the first plies a sample of policy ** (1 / temperature)."""
        early = ply < self.config.temperature_plies
        with np.errstate(divide="ignore"):
            logits = np.log(result.policy[early]) / max(self.config.temperature, 1e-3)
        noise = self.rng.gumbel(size=result.policy.shape)
        result.action[early] = (logits + noise[early]).argmax(1)
        return result.action

    def _resigns(
        self, rows: NDArray[np.int64], to_play: NDArray[np.int8], result: SearchResult
    ) -> NDArray[np.float32]:
        """float32 [n]: the result for player 0 where the side to move resigns, else 0."""
        if self.config.resign <= 0:
            return np.zeros(len(rows), np.float32)
        gives_up = (result.value < -self.config.resign) & ~self.book.no_resign[rows]
        return np.where(gives_up, np.where(to_play == 0, -1.0, 1.0), 0.0).astype(np.float32)

    def _collect(self, rows: NDArray[np.int64]) -> Harvest | None:
        """Rows of the games that have just ended, and new games in their place."""
        states = take(self.states, rows)
        done, value = self.game.result(states)
        value = np.where(done, value, self.resigned)
        over = done | (self.resigned != 0)
        if not over.any():
            return None
        ended, finals = rows[over], take(states, over)
        known = done[over]  # a resigned board has no final ownership
        if self.game.has_ownership:
            owner, score = self.game.ownership(finals), self.game.score(finals)
        else:
            cells = self.game.board_shape[0] * self.game.board_shape[1]
            owner = np.zeros((len(ended), cells), np.int8)
            score, known = np.zeros(len(ended), np.float32), np.zeros(len(ended), np.bool_)
        parts, actions = [], []
        for g, row in enumerate(ended):
            target = lambda_returns(self.book.value[row, : finals.ply[g]], value[over][g],
                                    self.config.value_lambda)
            parts.append(self._columns(row, target, owner[g], score[g], known[g]))
            actions.append(self.book.action[row, : finals.ply[g]].copy())
        harvest = Harvest(
            columns=concat(parts),
            actions=np.concatenate(actions),
            ends=np.cumsum(finals.ply, dtype=np.int64),
            values=value[over].astype(np.float32),
            sizes=self._sizes(len(ended)),
        )
        self.search.forget(ended)
        self._deal(ended)
        return harvest

    def _columns(self, row: int, target: Any, owner: Any, score: float, known: bool) -> Columns:
        book, n = self.book, int(self.book.rows[row])
        sign, exact = book.sign[row, :n], book.exact[row, :n]
        result = (target[book.slot[row, :n]] * sign).astype(np.float32)
        return Columns(
            obs=book.obs[row, :n].copy(),
            policy=book.policy[row, :n].copy(),
            policy_weight=np.ones(n, np.float32),
            value=np.where(np.isnan(exact), result, exact),
            ownership=(owner[None, :] * sign[:, None]).astype(np.int8),
            score=(score * sign).astype(np.float32),
            aux_weight=np.full(n, known, np.float32),
            size=self._sizes(n),
        )

    def _sizes(self, n: int) -> NDArray[np.int8] | None:
        return np.full(n, self.game.board_shape[0], np.int8) if self.config.sizes else None


def lambda_returns(values: NDArray[np.float32], result: float, lam: float) -> NDArray[np.float64]:
    """float64 [T]: the value target of every ply of a game, g[t] = (1 - lam) v[t] + lam g[t + 1]
    with g[T] = ``result`` (the lambda-return of Sutton and Barto 2018, 12.1, from the search's
    value of the position itself on). values: [T], the search's, for the player of ``result``."""
    steps = accumulate(values[::-1], lambda g, v: (1 - lam) * v + lam * g, initial=result)
    return np.fromiter(steps, float)[:0:-1]


def _roomier(book: _Book) -> _Book:
    """A copy with twice the room for moves."""
    return book._replace(**{
        name: np.concatenate([field, np.zeros_like(field)], axis=1)
        for name, field in book._asdict().items() if field.ndim > 1
    })


def join_harvests(parts: list[Harvest]) -> Harvest:
    moves = np.cumsum([0] + [len(p.actions) for p in parts])[:-1]
    return Harvest(
        columns=concat([p.columns for p in parts]),
        actions=np.concatenate([p.actions for p in parts]),
        ends=np.concatenate([p.ends + m for p, m in zip(parts, moves, strict=True)]),
        values=np.concatenate([p.values for p in parts]),
        sizes=None if parts[0].sizes is None else np.concatenate([p.sizes for p in parts]),
    )


#: Waves between two meetings: as many as come to so many floating-point operations of the net in
#: a group (a tenth of a second of a core), so that a stop is soon heard, but no more than these.
WORK, WAVES = 2e10, 8


class SelfPlay:
    """Many games against oneself, kept in flight between calls of ``play``.

    evaluators: one a group (see ``groups_of``), used by one thread at a time. threads: at most
    so many groups at once; the games and their order do not depend on it. work: floating-point
    operations of an evaluation (see ``models.flops``). iteration: as ``plan`` takes it.
    """

    def __init__(
        self, game: Rules, evaluators: Sequence[Evaluator], config: RLConfig, seed: int,
        threads: int, work: float = 0.0, iteration: int = 1,
    ) -> None:
        groups = groups_of(game, config.games, evaluators[0].device.type, config.sizes)
        if len(groups) != len(evaluators):
            raise ValueError(f"{len(evaluators)} evaluators for {len(groups)} groups")
        self.actors = [
            Actor(groups[group][0], evaluators[group], replace(config, games=groups[group][1]),
                  seed=seed, group=group, iteration=iteration)
            for group in ranks.share(len(groups))]
        self.waves = max(1, min(WAVES, int(WORK / max(work * groups[0][1], 1.0))))
        self.workers = Workers(min(threads, len(self.actors)))

    def play(
        self, positions: int, stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda n: None,
    ) -> Harvest | None:
        """Play until finished games have yielded at least ``positions`` training rows; those in
        flight go on in the next call. ``stop`` is asked, and finished games are counted, when
        the groups meet."""
        done, have = list[Harvest](), 0
        while have < positions and not stop():
            found = [h for h in ranks.here().gathered(
                self.workers.map(self._some_waves, self.actors)) if h is not None]
            done += found
            if rows := sum(len(h.columns.value) for h in found):
                have += rows
                progress(rows)
        return join_harvests(done) if done else None

    def plan(self, iteration: int) -> None:
        """Let the searches that begin from now on have the simulations of this iteration."""
        for actor in self.actors:
            actor.budget = scheduled(actor.config, iteration)

    def in_flight(self) -> tuple[int, int]:
        """How many games are under way here, and how many training rows they have so far."""
        return (sum(len(actor.book.rows) for actor in self.actors),
                sum(int(actor.book.rows.sum()) for actor in self.actors))

    def _some_waves(self, actor: Actor) -> Harvest | None:
        done = [h for h in (actor.wave() for _ in range(self.waves)) if h is not None]
        return join_harvests(done) if done else None
