"""Tic-tac-toe against OpenSpiel, and against the numbers everyone knows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyspiel
import pytest

from selfplay.games import make
from selfplay.games.base import take

GAME = make("tictactoe")


def children(states: Any) -> Any:
    """Every legal move played in every state."""
    rows, actions = np.nonzero(GAME.legal(states))
    played = take(states, rows)
    GAME.step(played, actions)
    return played


def test_game_tree() -> None:
    """255,168 games and 5,478 positions (exhaustive counting; OpenSpiel agrees)."""
    level, ended, positions = GAME.new(1), {1: 0, 0: 0, -1: 0}, set()
    leaves = []
    for _ in range(10):
        positions |= {tuple(boards) for boards in level.boards.tolist()}
        done, value = GAME.result(level)
        for winner in ended:
            ended[winner] += int((done & (value == winner)).sum())
        leaves.append(len(done))
        level = children(level)
    assert len(level.ply) == 0
    assert leaves == [1, 9, 72, 504, 3024, 15120, 54720, 148176, 200448, 127872]
    assert ended == {1: 131_184, -1: 77_904, 0: 46_080}
    assert len(positions) == 5478


def test_agrees_with_openspiel() -> None:
    """Legal moves, the end and the result, in 10,000 random games (cells have the same numbers)."""
    rng, batch = np.random.default_rng(0), 10_000
    spiel = [pyspiel.load_game("tic_tac_toe").new_initial_state() for _ in range(batch)]
    states = GAME.new(batch)
    for _ in range(GAME.max_moves + 1):
        expected = np.array([node.legal_actions_mask() for node in spiel], np.bool_)
        legal = GAME.legal(states)
        assert (legal == expected).all()
        done, value = GAME.result(states)
        assert done.tolist() == [node.is_terminal() for node in spiel]
        assert value.tolist() == [node.returns()[0] for node in spiel]
        actions = np.where(done, -1, (legal + rng.random(legal.shape)).argmax(1))
        GAME.step(states, actions)
        for node, action in zip(spiel, actions.tolist(), strict=True):
            if action >= 0:
                node.apply_action(action)
    assert done.all()


@functools.cache
def random_play_value(history: tuple[int, ...]) -> float:
    """Exact expectation of uniformly random play, by OpenSpiel's rules."""
    node = pyspiel.load_game("tic_tac_toe").new_initial_state()
    for action in history:
        node.apply_action(action)
    if node.is_terminal():
        return node.returns()[0]
    moves = node.legal_actions()
    return sum(random_play_value((*history, move)) for move in moves) / len(moves)


@pytest.mark.parametrize("history", [(4, 0, 8), (4, 1), (0, 4, 8, 2)])
def test_rollouts_are_uniformly_random(history: tuple[int, ...]) -> None:
    games = 40_000
    states = GAME.new(games)
    GAME.replay(states, np.tile(history, (games, 1)))
    ends = GAME.rollout(states, np.arange(games, dtype=np.uint64) << np.uint64(20))
    # Five standard errors of a mean of values in [-1, 1].
    assert abs(ends.mean() - random_play_value(history)) < 5 / np.sqrt(games)


def test_text_and_board_agree() -> None:
    states = GAME.new(1)
    for text in ("a1", "c1", "b3"):
        GAME.step(states, np.array([GAME.text_to_action(states, 0, text)]))
    assert GAME.render(states, 0) == "3 . X .\n2 . . .\n1 X . O\n  a b c"
    own, other, ones = GAME.observe(states)[0]
    assert own.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]], "O moves next; row 0 is the bottom"
    assert other.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert ones.all()
    assert len(GAME.symmetries().cells) == 8
