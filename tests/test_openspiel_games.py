"""The OpenSpiel adapter: what it takes, what it refuses, and that it plays as native games do."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest

from selfplay.games import make
from selfplay.games.base import GameError
from selfplay.games.openspiel import playable


@pytest.mark.parametrize(("native", "adapted"), [
    ("tictactoe", "openspiel:tic_tac_toe"),
    ("connect4", "openspiel:connect_four"),
])  # fmt: skip
def test_plays_as_the_native_game(native: str, adapted: str) -> None:
    ours, theirs, rng, batch = make(native), make(adapted), np.random.default_rng(1), 200
    a, b = ours.new(batch), theirs.new(batch)
    for _ in range(ours.max_moves + 1):
        legal = ours.legal(a)
        assert (theirs.legal(b) == legal).all()
        assert (a.to_play == b.to_play).all() and (a.ply == b.ply).all()
        for x, y in zip(ours.result(a), theirs.result(b), strict=True):
            assert (x == y).all()
        actions = np.where(legal.any(1), (legal + rng.random(legal.shape)).argmax(1), -1)
        ours.step(a, actions)
        theirs.step(b, actions)
    assert ours.result(a)[0].all()
    assert (ours.num_actions, ours.max_moves) == (theirs.num_actions, theirs.max_moves)


@pytest.mark.parametrize("name", playable())
def test_every_listed_game_loads_and_starts(name: str) -> None:
    game = make(f"openspiel:{name}")
    states = game.new(2)
    for _ in range(3):
        legal = game.legal(states)
        game.step(states, np.where(legal.any(1), legal.argmax(1), -1))
    assert game.observe(states).shape == (2, *game.obs_shape)
    assert (np.abs(game.result(states)[1]) <= 1).all()


@pytest.mark.parametrize(("spec", "missing"), [
    ("kuhn_poker", "not deterministic and not of perfect information"),
    ("phantom_ttt", "not of perfect information"),
    ("backgammon", "not deterministic"),
    ("matrix_pd", "not sequential"),
    ("matrix_pd", "not zero-sum"),
    ("chinese_checkers(players=3)", "not for two players"),
])  # fmt: skip
def test_refuses_by_naming_what_is_missing(spec: str, missing: str) -> None:
    with pytest.raises(GameError) as error:
        make(f"openspiel:{spec}")
    assert missing in str(error.value)
    assert spec not in playable()


@pytest.mark.parametrize(("spec", "hint"), [
    ("otelo", "'openspiel:othello'"),
    ("", "openspiel:name"),
    ("hex(board_size=3", "openspiel:name"),
    ("hex)", "openspiel:name"),
    ("hex(size=3)", "board_size"),
    ("hex(board_size=abc)", "board_size"),
    ("hex(board_size=0)", "empty"),
    ("go(board_size=100)", "19"),
    ("misere", "game"),
])  # fmt: skip
def test_mistakes_are_named_in_one_line(spec: str, hint: str) -> None:
    with pytest.raises(GameError) as error:
        make(f"openspiel:{spec}")
    assert hint in str(error.value) and "\n" not in str(error.value)


def test_long_lists_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    for spec in ("otelo", "hex(size=3)", "hex(board_size=3"):
        with pytest.raises(GameError):
            make(f"openspiel:{spec}")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("spec", "shape"), [
    ("openspiel:hex(board_size=4)", (10, 4, 4)),
    ("openspiel:gomoku", (2, 3, 225)),
    ("openspiel:oware", (15, 1, 1)),
])  # fmt: skip
def test_tensors_become_planes(spec: str, shape: tuple[int, ...]) -> None:
    """The tensor's own axes, and one plane for the side to move."""
    assert make(spec).obs_shape == shape


def test_the_last_plane_is_the_side_to_move(play_random: Any) -> None:
    """Without it the two players of breakthrough could not tell whose turn it is."""
    game = make("openspiel:dots_and_boxes")
    turns = []
    for plies in range(1, 10):
        states, _ = play_random(game, 20, 2, plies=plies)
        seen = game.observe(states)
        assert (seen[:, -1] == states.to_play[:, None, None]).all()
        expected = [
            node.observation_tensor(node.current_player())
            for node in states.nodes
            if not node.is_terminal()
        ]
        going = ~game.result(states)[0]
        assert np.allclose(seen[going, :-1].reshape(going.sum(), -1), expected)
        turns.append(states.to_play)
    assert (np.diff(turns, axis=0) == 0).any(), "who closes a box moves again"


def test_results_are_scaled_to_one(play_random: Any) -> None:
    """Every result of a game lies in [-1, 1] and is OpenSpiel's own, scaled."""
    game = make("openspiel:oware")
    states, _ = play_random(game, 20, 3)
    raw = np.array([node.returns()[0] for node in states.nodes])
    _, value = game.result(states)
    scale = max(abs(game.game.max_utility()), abs(game.game.min_utility()))
    assert np.allclose(value * scale, raw) and (np.abs(value) <= 1).all()
    assert len(np.unique(np.sign(value))) > 1


def test_games_and_states_travel_between_processes(play_random: Any) -> None:
    game = make("openspiel:hex(board_size=3)")
    states, actions = play_random(game, 3, 4, plies=4)
    copy, moved = pickle.loads(pickle.dumps((game, states)))
    again = copy.new(3)
    copy.replay(again, actions)
    assert (copy.observe(moved) == game.observe(states)).all()
    assert (copy.observe(again) == game.observe(states)).all()


def test_openspiel_says_nothing_beside_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GameError, match="board_size"):
        make("openspiel:hex(board_size=x)")
    assert capfd.readouterr().err == ""
    print("still there", file=sys.stderr)
    assert capfd.readouterr().err == "still there\n"


def test_boards_too_small_to_play_on_are_refused_in_one_line() -> None:
    with pytest.raises(GameError, match="no legal move to begin with"):
        make("openspiel:clobber(rows=1,columns=2)")
    game = make("openspiel:hex(board_size=1)")
    states = game.new(1)
    game.step(states, np.array([0]))
    for ask in (lambda: game.legal(states), lambda: game.rollout(states, np.zeros(1, np.uint64))):
        with pytest.raises(GameError, match="knows no legal one") as caught:
            ask()
        assert "\n" not in str(caught.value)
