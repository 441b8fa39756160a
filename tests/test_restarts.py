"""Games of self-play that begin where an earlier one went wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_actor import SMALL, games_of, play, replayed

from selfplay.board.restarts import KEPT, Restarts
from selfplay.games import make

GAME = make("connect4")


def moves(*actions: int) -> np.ndarray:
    return np.array(actions, np.int16)


def values(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_the_position_from_which_the_searches_were_most_wrong_is_kept() -> None:
    """By hand: player 0 lost (-1). Squares 0.25, 4, 1, 0; means from each on: 1.3125, 1.667, 0.5,
    0. The first two plies were random."""
    kept = Restarts(GAME, 1.0)
    kept.ended(moves(3, 3, 2, 4, 5, 0), values(9, 9, -0.5, 1, 0, -1), -1.0, 2)
    assert [known.tolist() for known in kept.moves] == [[3, 3, 2]]
    np.testing.assert_allclose(kept.regret, [5 / 3])


def test_games_begin_there() -> None:
    kept, rng = Restarts(GAME, 0.5), np.random.default_rng(0)
    states = GAME.new(400)
    assert kept.begin(states, rng) is None
    kept.ended(moves(3, 3, 2, 4), values(0, 0, 1, -1), -1.0, 0)  # [3, 3] with 4 / 2
    kept.ended(moves(0, 1, 2), values(0, 0, 1), 1.0, 1)  # [0, 1]: none wrong from there on
    kept.ended(moves(6, 5, 4), values(-1, -1, 0), 0.0, 1)  # [6] with 1 / 2
    assert [known.tolist() for known in kept.moves] == [[3, 3], [0], [6]]
    np.testing.assert_allclose(kept.regret, [2, 0.5, 0.5])
    made = kept.begin(states, rng)
    assert made is not None
    begun = made[:, 0] >= 0
    assert 160 < begun.sum() < 240
    first = (made[:, 0] == 3).sum() / begun.sum()
    assert 0.55 < first < 0.78  # 2 of 3
    np.testing.assert_array_equal(states.ply, (made >= 0).sum(1))
    expected = GAME.new(400)
    GAME.replay(expected, made)
    np.testing.assert_array_equal(states.boards, expected.boards)


def test_a_game_from_there_moves_its_regret_half_way_and_the_buffer_keeps_the_worst() -> None:
    kept = Restarts(GAME, 1.0)
    kept.ended(moves(3, 3, 2), values(1, 1, -1), -1.0, 1)  # [3] with 4 / 2
    kept.ended(moves(3, 2, 1), values(0, -1, -1), -1.0, 1)  # from [3]: foreseen
    np.testing.assert_allclose(kept.regret, [1])
    for k in range(KEPT + 20):  # six plies of their own each, with regrets of 1.1 and more
        digits = [(k // 7**d) % 7 for d in range(5)]
        kept.ended(moves(*digits, 0, 0), values(*[0] * 5, 1, 1), -(1.1 + k / 1000) / 2, 5)
    assert len(kept.moves) == len(kept.regret) == KEPT
    assert kept.regret.min() > 1 and moves(3).tolist() not in [m.tolist() for m in kept.moves]


def test_a_game_without_searches_leaves_nothing() -> None:
    kept = Restarts(GAME, 1.0)
    kept.ended(moves(3, 3), values(0, 0), 1.0, 2)
    kept.ended(moves(3, 3), values(0.5, 1), 1.0, 0)  # worst at the very beginning
    assert not kept.moves


def test_games_of_another_komi_are_not_begun_from() -> None:
    game = make("go5x5")
    kept, other = Restarts(game, 1.0), game.new(1)
    other.komi[0] += 2
    played = moves(12, 7, 11), values(1, 1, -1), -1.0, 1
    kept.ended(*played, other)
    assert not kept.moves
    kept.ended(*played, game.new(1))
    assert len(kept.moves) == 1


@pytest.mark.parametrize("name", ["connect4", "go5x5"])
def test_rows_belong_to_the_games_that_begin_there(name: str) -> None:
    """The records replay, and what is learnt from are positions after the beginning."""
    game = make(name)
    config = replace(SMALL, restart_share=0.8, opening=(0, 0))
    harvest, row, later = play(game, config, 800), 0, 0
    for actions, result in zip(games_of(harvest), harvest.values, strict=True):
        seen, final = replayed(game, actions)
        assert game.result(final)[1][0] == result
        start = next(k for k, position in enumerate(seen) if np.array_equal(
            position["obs"], harvest.columns.obs[row]))
        later += start > 0
        for position in seen[start:]:
            np.testing.assert_array_equal(harvest.columns.obs[row], position["obs"])
            row += 1
    assert row == len(harvest.columns.value)
    assert later > len(harvest.values) / 3
    again = play(game, config, 800)
    np.testing.assert_array_equal(harvest.actions, again.actions)
