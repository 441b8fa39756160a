"""Passes that come too early: none in self-play, and none of a raw net that contradicts itself."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from harvesting import played
from numpy.typing import NDArray

from selfplay.arena.players import RawPlayer
from selfplay.board.config import RLConfig
from selfplay.board.selfplay import Actor, search_config
from selfplay.games import make
from selfplay.games.base import take
from selfplay.games.go import Go
from selfplay.run.config import preset
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Search


@pytest.mark.parametrize("size", [9, 11])  # sets of points; chains
def test_a_game_may_hold_passes_back(size: int, play_random: Any) -> None:
    game = Go(size)
    late = game.passing_late(0.25)
    wait = size * size // 4
    assert isinstance(late, Go) and late.pass_from == wait and game.pass_from == 0
    states, out = late.new(3), late.new(3)
    rows = np.arange(3)
    for ply in range(wait + 2):
        legal, theirs = late.legal(states), game.legal(states)
        assert (legal[:, :-1] == theirs[:, :-1]).all()
        assert (legal[:, -1] == (ply >= wait)).all() and theirs[:, -1].all()
        place, found = late.branch(states, rows, np.empty((3, 0), np.int64), out)
        assert (found[place] == legal).all()
        moves = (legal * np.random.default_rng(ply).random(legal.shape))[:, :-1].argmax(1)
        place, found = late.branch(states, rows, moves[:, None], out)
        late.step(states, moves)
        assert (found[place] == late.legal(states)).all()


def test_who_can_do_nothing_else_passes() -> None:
    game = Go(5).passing_late(1.0)
    states = game.new(1)  # white has the corner's two eyes, and black nowhere else to go
    eyes = {0, 4}
    for point in range(25):
        if point not in eyes:
            game.step(states, np.array([25]))
            game.step(states, np.array([point]))
    assert states.to_play[0] == 0 and states.ply[0] > 25
    assert game.legal(states)[0].nonzero()[0].tolist() == [25]
    early = replaced_ply(states, 10)
    assert game.legal(early)[0].nonzero()[0].tolist() == [25]


def replaced_ply(states: Any, ply: int) -> Any:
    early = take(states, [0])
    early.ply[:] = ply
    return early


def test_self_play_does_not_pass_early() -> None:
    game, counts = make("go5x5"), []
    for share in (0.0, 0.8):
        config = RLConfig(sims=6, cheap_sims=2, games=16, opening=(0, 2), pass_from=share)
        harvest = played(Actor(game, rollout_evaluate(game, 1), config, 3), 400)
        games = np.split(harvest.actions, harvest.ends[:-1])
        early = [g[:20] == game.pass_action for g in games]
        counts.append(sum(int(e.sum()) for e in early))
        assert all((g[-2:] == game.pass_action).all() or len(g) == game.max_moves for g in games)
    assert counts[0] > 4 and counts[1] == 0


class Stub:
    """Likes a pass best, then the points from the last to the first."""

    def __init__(self, value: float) -> None:
        self.game, self.value = Go(5, komi=2.0), value

    def __call__(
        self, states: Any, legal: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count = len(legal)
        return (np.tile(np.arange(26, dtype=np.float32), (count, 1)),
                np.full(count, self.value, np.float32))


def test_a_raw_net_does_not_lose_by_a_pass_what_it_thinks_won() -> None:
    """Black's stone at 0 and White's at 3: by area White is ahead by the komi."""
    game = Go(5, komi=2.0)
    states = game.new(3)
    game.replay(states, np.array([[0, 3, -1], [0, 3, 25], [25, -1, -1]]))
    # black is to move and behind; white, ahead; white, ahead on an empty board

    def acts(value: float, rows: list[int]) -> list[int]:
        return RawPlayer("raw", Stub(value)).act(take(states, rows), np.array(rows)).tolist()

    assert acts(0.5, [0, 1, 2]) == [24, 25, 25]
    assert acts(-0.95, [0, 1, 2]) == [25, 25, 25]  # it has given the game up
    lone = replace_komi(take(states, [1]), -3)
    assert RawPlayer("raw", Stub(0.0)).act(lone, np.array([0])).tolist() == [24]
    level = replace_komi(take(states, [1]), 0)  # one point each: a draw
    for value, move in ((0.5, 25), (0.95, 24)):
        assert RawPlayer("raw", Stub(value)).act(level, np.array([0])).tolist() == [move]


def replace_komi(states: Any, komi: float) -> Any:
    states.komi[:] = 2 * komi
    return states


def test_a_raw_net_passes_where_there_is_nothing_else() -> None:
    game = Go(5, komi=0.0)
    states = game.new(1)
    for point in range(25):
        if point not in (0, 4):
            game.step(states, np.array([25]))
            game.step(states, np.array([point]))
    stub = Stub(0.9)
    stub.game = game
    assert RawPlayer("raw", stub).act(states, np.array([0])).tolist() == [25]


def test_self_play_may_pass_a_game_that_is_lost() -> None:
    """Black has 15 points and has passed. White, with 10, can pass or fill one of its two eyes,
    after which Black takes them all; a search that proves things knows that a pass loses."""
    game = make("go5x5(komi=0)")
    black, white = ([p for p in range(25) if (p % 5 < 3) is left and p not in (0, 20, 4, 24)]
                    for left in (True, False))
    pairs = zip(black, [25] * (len(black) - len(white)) + white, strict=True)
    states = game.new(1)
    game.replay(states, np.array([[*chain(*pairs), 25]]))
    assert states.to_play[0] == 1 and game.legal(states)[0].nonzero()[0].tolist() == [4, 24, 25]

    def lost(states: Any, legal: NDArray[np.bool_]) -> tuple[Any, Any]:
        value = np.where(states.to_play[: len(legal)] == 0, 1, -1).astype(np.float32)
        return np.zeros(legal.shape, np.float32), value

    learnt = []
    for config in (preset("go5x5").rl, preset("go9x9(komi=0)").rl, RLConfig(proven=True)):
        search = Search(game, search_config(config), 1, 32, 0)
        learnt.append(search.run(states, 32, lost).policy[0, 25])
    assert learnt == [pytest.approx(1 / 3)] * 2 + [0]


def test_other_games_are_left_alone() -> None:
    game = make("connect4")
    assert game.passing_late(0.5) is game
