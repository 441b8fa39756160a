"""Go's random playouts, on words of bits (up to 9x9) and on chains: the same tests for both."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from go_boards import FIVE, NINE, drawn, go_on, random_games, same

from selfplay.games.base import take
from selfplay.games.go import Go, playouts


@pytest.fixture(params=["words", "chains"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whose playouts are asked for; without it, words up to 9x9 and chains above."""
    if request.param == "chains":
        monkeypatch.setattr(playouts, "LARGEST", 0)
    yield request.param


def test_rollout_depends_on_its_own_row_only() -> None:
    states, _ = random_games(NINE, 40, 50, seed=8)
    before = take(states, slice(None))
    seeds = np.arange(40, dtype=np.uint64) * np.uint64(977)
    rng = seeds.copy()
    values = NINE.rollout(states, rng)
    assert same(states, before) and set(values) <= {-1.0, 0.0, 1.0}
    open_ = ~states.done
    assert (rng != seeds)[open_].all()
    rows = np.array([31, 4, 17])
    alone = seeds[rows].copy()
    assert np.array_equal(NINE.rollout(take(states, rows), alone), values[rows])
    assert np.array_equal(alone, rng[rows])


def test_rollout_of_a_finished_game_is_its_result() -> None:
    states, _ = random_games(FIVE, 200, 50, seed=9)
    done, value = FIVE.result(states)
    assert done.all() and len(set(value)) > 1
    assert np.array_equal(FIVE.rollout(states, np.arange(200, dtype=np.uint64)), value)


@pytest.mark.parametrize("white", [False, True])
def test_rollout_keeps_two_eyes(white: bool) -> None:
    """Black lives with two eyes; whoever fills them in loses the board."""
    states = drawn(FIVE, """
        . X X X .
        X X X X X
        X X X X X
        X X X X X
        X X X X X
    """, white)
    many = take(states, np.zeros(500, int))
    assert (FIVE.rollout(many, np.arange(500, dtype=np.uint64)) == 1).all()


CORNER = """
    O O O O O
    O . O . O
    O O O O O
    X O O O O
    . X O . O
"""


def test_rollout_captures() -> None:
    """White's only move outside an own eye takes the corner."""
    game = Go(5, komi=-24.5)  # White needs every point
    states = take(drawn(game, CORNER, white=True), np.zeros(100, int))
    assert (game.rollout(states, np.arange(100, dtype=np.uint64)) == -1).all()


def test_rollout_after_a_pass_ends_with_the_next() -> None:
    """Black has no move and would lose the corner if White were to move once more."""
    game = Go(5, komi=-22)  # 3 points to 22 now, 0 to 25 then
    states = drawn(game, CORNER, white=True)
    go_on(game, states, "pass")
    assert game.rollout(states, np.array([1], np.uint64)) == 1


@pytest.mark.parametrize(("white", "first", "value"), [(0, "", 1), (1, "", -1), (1, "B1", -1)])
def test_rollout_fills_false_eyes_and_knows_simple_ko(white: int, first: str, value: int) -> None:
    """B1 is all that is left to play. Black connects there, a false eye, and leads by 27 points;
    White takes a ko there, Black may not take back at once, White connects: 23 points."""
    board = """
        . O X X X X X
        O O X . X X X
        . O X X X X X
        O O X X X X X
        O O X X X . X
        O X X X X X X
        X . X X X X X
    """
    game = Go(7, komi=25)
    states = drawn(game, board, white=bool(white))
    go_on(game, states, first)
    many = take(states, np.zeros(300, int))
    assert (game.rollout(many, np.arange(300, dtype=np.uint64)) == value).all()


def test_rollouts_favour_the_first_move_by_less_than_komi() -> None:
    for komi, low, high in ((0, 0.0, 0.2), (7, -0.4, 0.0)):
        game = Go(9, komi=komi)
        values = game.rollout(game.new(4000), np.arange(4000, dtype=np.uint64))
        assert low < values.mean() < high
