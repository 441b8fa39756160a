"""Games between two raw policies, as trajectories of one of them, the learner.

``LeagueGames`` are games against one opponent, in step: a round is a move of the learner in all of
them, then one of the opponent. Every game draws from its own stream and knows nothing of
the others, so what is played does not depend on how many threads share them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from selfplay.board.policy import BoardPolicy, Turn, inputs_of
from selfplay.games.base import Game, put, take
from selfplay.games.openings import deal
from selfplay.learn.rollout import Rollout, joined

RULES_SALT = 0x6B  #: tells the draws of rules from others of the seed


class Deals(NamedTuple):
    """How n games begin. The games of a group share opening, colour and opponent.

    states: after the openings; side: int8 [n], the learner's; group: int64 [n].
    """

    states: Any
    side: NDArray[np.int8]
    group: NDArray[np.int64]


def deal_groups(
    game: Game, numbers: range, size: int, opening: tuple[int, int], seed: int,
    rules: Any = None,
) -> Deals:
    """Groups ``numbers`` of ``size`` games each. Opening g of ``seed`` is ``play.deal``'s; the
    learner is player 0 in even groups and player 1 in odd ones. rules: settings by which the game
    varies them (``Game.vary``), from group to group; None: it does not."""
    states = game.new(len(numbers) * size)
    for place, number in enumerate(numbers):
        dealt = deal(game, seed, number, opening, False)
        one = game.new(1)
        if rules is not None:
            game.vary(one, rules, np.random.default_rng([seed, number, RULES_SALT]))
        for action in dealt.actions:
            game.step(one, np.array([action]))
        put(states, slice(place * size, (place + 1) * size), take(one, np.zeros(size, np.int64)))
    group = np.repeat(np.arange(numbers.start, numbers.stop), size)
    return Deals(states, (group % 2).astype(np.int8), group)


class Moves(NamedTuple):
    """The learner's moves of one round; the first axis is the games that it moved in."""

    rows: NDArray[np.int64]
    obs: NDArray[Any]
    legal: NDArray[np.uint8]
    action: NDArray[np.int64]
    logp: NDArray[np.float32]


class LeagueGames:
    """n games under way between the learner and one opponent.

    streams: uint64 [n], a generator (``search.random``) a game, advanced in place.
    """

    def __init__(
        self, game: Game, learner: BoardPolicy, opponent: BoardPolicy, deals: Deals,
        streams: NDArray[np.uint64],
    ) -> None:
        self.game, self.deals, self.streams = game, deals, streams
        self.policies = (learner, opponent)
        self.states = take(deals.states, np.arange(len(deals.side)))
        self.moves: list[Moves] = []
        self.live = ~game.result(self.states)[0]
        self.evaluations = 0

    def rounds(self, count: int) -> int:
        """Play at most so many more rounds. Returns how many games have ended in them."""
        before = int(self.live.sum())
        for _ in range(count):
            for mine in (True, False):
                self._half(mine)
            if not self.live.any():
                break
        return before - int(self.live.sum())

    def _half(self, mine: bool) -> None:
        """One move of the learner, or of the opponent, wherever it is to move."""
        turn = (self.states.to_play == self.deals.side) == mine
        rows = np.flatnonzero(self.live & turn)
        if not len(rows):
            return
        game, now = self.game, take(self.states, rows)
        obs, legal = game.observe(now), game.legal(now)
        acted = self.policies[0 if mine else 1].act(Turn(obs, legal, self.streams, rows))
        action = acted.action[:, 0].numpy()
        if mine:
            self.moves.append(Moves(rows, *inputs_of(game, obs, legal), action,
                                     acted.logp[:, 0].numpy()))
        everywhere = np.full(len(self.live), -1, np.int64)
        everywhere[rows] = action
        game.step(self.states, everywhere)
        self.live = ~game.result(self.states)[0]
        self.evaluations += len(rows)

    @property
    def progress(self) -> tuple[Any, ...]:
        """How far the games are, for a process that has dealt the same."""
        return self.moves, self.states, self.live, self.evaluations

    @progress.setter
    def progress(self, found: tuple[Any, ...]) -> None:
        self.moves, self.states, self.live, self.evaluations = found

    def scores(self) -> NDArray[np.float32]:
        """float32 [n]: each game's result for the learner, +1 a win."""
        value = self.game.result(self.states)[1]
        return np.where(self.deals.side == 0, value, -value).astype(np.float32)


class Played(NamedTuple):
    """Finished games, in the order of the opponents.

    rollout: of the learner's moves, the result as the reward of its last one; games that ended
    without any are not in it. score, length (plies, the opening's included), side: [games];
    opponent: int64 [games], the number of its ``LeagueGames``.
    """

    rollout: Rollout
    score: NDArray[np.float32]
    length: NDArray[np.int32]
    side: NDArray[np.int8]
    opponent: NDArray[np.int64]


def harvest(groups: list[LeagueGames]) -> Played:
    """The finished games; all must have ended."""
    rollout = joined([_rollout_of(played) for played in groups])
    score = np.concatenate([played.scores() for played in groups])
    some = rollout.mask.any(1)
    return Played(
        rollout=rollout.rows(some) if bool(some.any()) else rollout, score=score,
        length=np.concatenate([played.states.ply for played in groups]),
        side=np.concatenate([played.deals.side for played in groups]),
        opponent=np.repeat(np.arange(len(groups)), [len(played.live) for played in groups]))


def _rollout_of(played: LeagueGames) -> Rollout:
    """The games against one opponent, row by row."""
    games, counts = len(played.live), np.zeros(len(played.live), np.int64)
    for moves in played.moves:
        counts[moves.rows] += 1
    room = (games, max(int(counts.max()), 1))
    sample = inputs_of(played.game, played.game.observe(take(played.states, slice(0, 1))),
                       np.zeros((1, played.game.num_actions), np.bool_))
    obs, legal = (np.zeros((*room, part.shape[1]), part.dtype) for part in sample)
    action, logp = np.zeros(room, np.int64), np.zeros(room, np.float32)
    step = np.zeros(games, np.int64)
    for moves in played.moves:
        at = (moves.rows, step[moves.rows])
        obs[at], legal[at], action[at], logp[at] = moves[1:]
        step[moves.rows] += 1
    mask = np.arange(room[1]) < counts[:, None]
    reward = np.where(np.arange(room[1]) == counts[:, None] - 1, played.scores()[:, None], 0)
    return Rollout(
        inputs={"obs": torch.from_numpy(obs), "legal": torch.from_numpy(legal)},
        action=torch.from_numpy(action), mask=torch.from_numpy(mask),
        logp=torch.from_numpy(logp), reward=torch.from_numpy(reward.astype(np.float32)),
        group=torch.from_numpy(played.deals.group))
