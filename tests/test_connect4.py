"""Connect Four against OpenSpiel and published counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyspiel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.games import make
from selfplay.games.base import take

GAME = make("connect4")


def children(states: Any) -> Any:
    """Every legal move played in every state."""
    rows, actions = np.nonzero(GAME.legal(states))
    played = take(states, rows)
    GAME.step(played, actions)
    return played


def test_perft() -> None:
    """Numbers of move sequences (OpenSpiel's are the same)."""
    level, counts = GAME.new(1), []
    for _ in range(7):
        level = children(level)
        counts.append(len(level.ply))
    assert counts == [7, 49, 343, 2401, 16_807, 117_649, 823_536]


def test_distinct_positions() -> None:
    """Numbers of positions by ply (OEIS A212693), and of those just won at ply 7."""
    level, counts = GAME.new(1), [1]
    for _ in range(7):
        level = children(level)
        _, first = np.unique(level.boards, axis=0, return_index=True)
        level = take(level, first)
        counts.append(len(first))
    assert counts == [1, 7, 49, 238, 1120, 4263, 16_422, 54_859]
    done, value = GAME.result(level)
    assert done.sum() == (value == 1).sum() == 728


def test_agrees_with_openspiel() -> None:
    """Legal moves, the end and the result, in 10,000 random games."""
    rng, batch = np.random.default_rng(0), 10_000
    root = pyspiel.load_game("connect_four").new_initial_state()
    spiel = [root.clone() for _ in range(batch)]
    states, going = GAME.new(batch), np.arange(batch)
    while len(going):
        legal = GAME.legal(states)[going]
        expected = np.array([spiel[row].legal_actions_mask() for row in going], np.bool_)
        assert (legal == expected).all()
        actions = np.full(batch, -1)
        actions[going] = (legal + rng.random(legal.shape)).argmax(1)
        GAME.step(states, actions)
        for row in going.tolist():
            spiel[row].apply_action(int(actions[row]))
        over, _ = GAME.result(states)
        assert over[going].tolist() == [spiel[row].is_terminal() for row in going]
        going = np.flatnonzero(~over)
    value = GAME.result(states)[1]
    assert value.tolist() == [node.returns()[0] for node in spiel]
    assert set(value.tolist()) == {-1.0, 0.0, 1.0}
    assert not GAME.legal(states).any()


LINES = [
    [(row + i * up, col + i * right) for i in range(4)]
    for up, right in ((0, 1), (1, 0), (1, 1), (1, -1))
    for row in range(6)
    for col in range(7)
    if 0 <= row + 3 * up < 6 and 0 <= col + 3 * right < 7
]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 6), max_size=60))
def test_a_board_of_lists_agrees(columns: list[int]) -> None:
    """A second implementation that knows nothing of bits: all 69 lines, cell by cell."""
    assert len(LINES) == 69
    states, board, won = GAME.new(1), {}, 0
    for col in columns:
        height = sum((row, col) in board for row in range(6))
        assert bool(GAME.legal(states)[0, col]) == (height < 6 and not won)
        if height == 6 or won:
            continue
        mark = 1 - 2 * (len(board) % 2)
        board[height, col] = mark
        if any(all(board.get(cell) == mark for cell in line) for line in LINES):
            won = mark
        GAME.step(states, np.array([col]))
    done, value = GAME.result(states)
    assert done[0] == (won != 0 or len(board) == 42)
    assert value[0] == won
    assert states.ply[0] == len(board)
    own, other, _ = GAME.observe(states)[0].astype(int)
    picture = (own - other) * (1 - 2 * int(states.to_play[0]))
    assert picture.tolist() == [[board.get((r, c), 0) for c in range(7)] for r in range(6)]


@pytest.mark.parametrize("columns", ["", "44", "4455", "424", "33425"])
def test_rollouts_are_uniformly_random(columns: str) -> None:
    """Beside the mean of OpenSpiel's own rollouts, which its search bot returns at the root."""
    games = 40_000
    moves = [int(column) - 1 for column in columns]
    spiel = pyspiel.load_game("connect_four")
    node = spiel.new_initial_state()
    for move in moves:
        node.apply_action(move)
    rollouts = pyspiel.RandomRolloutEvaluator(games, 7)
    bot = pyspiel.MCTSBot(spiel, rollouts, 1.0, 1, 10, False, 7, False)
    theirs = mean_at_root(bot, node)
    states = GAME.new(games)
    GAME.replay(states, np.tile(np.array(moves, np.int64), (games, 1)))
    ours = GAME.rollout(states, np.arange(games, dtype=np.uint64) << np.uint64(20)).mean()
    # Five standard errors of the difference of two means of values in [-1, 1].
    assert abs(ours - theirs) < 5 * np.sqrt(2 / games)


def mean_at_root(bot: Any, node: Any) -> float:
    """Player 0's mean result; OpenSpiel books it for the side to move at ``node``."""
    root = bot.mcts_search(node)
    assert (root.explore_count, root.player) == (1, node.current_player())
    return root.total_reward * (1 - 2 * root.player)


def test_text_and_board_agree() -> None:
    states = GAME.new(1)
    for text in ("4", "4", "7"):
        GAME.step(states, np.array([GAME.text_to_action(states, 0, text)]))
    empty = ". . . . . . .\n"
    assert GAME.render(states, 0) == 4 * empty + ". . . O . . .\n. . . X . . X\n1 2 3 4 5 6 7"
    own, other, ones = GAME.observe(states)[0]
    assert np.argwhere(own).tolist() == [[1, 3]], "O moves next; row 0 is the bottom"
    assert np.argwhere(other).tolist() == [[0, 3], [0, 6]]
    assert ones.all()
    assert GAME.symmetries().actions.tolist() == [list(range(7)), list(range(7))[::-1]]
