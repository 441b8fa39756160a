"""One game in play and who thinks about it: turns, taking back, setting up, trees that are kept."""

from __future__ import annotations

import numpy as np
import pytest

import selfplay as sp
from selfplay.games.base import GameError
from selfplay.serve.line import Line, moves_to, stones_of
from selfplay.serve.mind import Mind, mind_of, of_net
from selfplay.serve.thinker import Limits, Thinker


@pytest.fixture(scope="module")
def mind() -> Mind:
    return of_net(sp.net("go5x5", "1x8"), sp.make("go5x5"), "tiny", 16)


def played(game: str, *texts: str) -> Line:
    line = Line(sp.make(game))
    for text in texts:
        line.play(line.game.text_to_action(line.states, 0, text))
    return line


def test_a_line_plays_takes_back_and_refuses() -> None:
    line = played("go5x5", "c3", "b2")
    before = line.states
    with pytest.raises(GameError, match="illegal move"):
        line.play(12)
    assert line.play(0) and line.last == 0 and line.ply == 3
    line.undo(1)
    assert line.states is before
    for count in (3, -1):
        with pytest.raises(GameError, match="no move to take back"):
            line.undo(count)
    assert line.ply == 2


def test_the_same_side_may_move_twice_and_after_two_passes() -> None:
    line = played("go5x5", "c3")
    assert not line.play(0, colour=0)  # black again: white's turn is skipped
    assert line.moves[-1].colour == 0 and line.to_play == 1
    line = played("go5x5", "c3", "pass", "pass")
    assert line.over
    line.play(0, colour=1)
    assert not line.over and stones_of(line.game, line.states)[0].tolist().count(-1) == 1
    line.undo()
    assert line.over and line.ply == 3
    line.skip(1)
    assert not line.over and line.play(5) and line.moves[-1].colour == 1
    with pytest.raises(GameError, match="not second's turn"):
        played("tictactoe").play(0, colour=1)


@pytest.mark.parametrize("to_play", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_any_legal_position_of_go_can_be_set_up(seed: int, to_play: int) -> None:
    game, rng = sp.make("go5x5"), np.random.default_rng(seed)
    states = game.new(1)
    for _ in range(14):
        legal = np.flatnonzero(game.legal(states)[0])
        game.step(states, rng.choice(legal, 1))
    if game.result(states)[0][0]:
        pytest.skip("two passes")
    wanted = stones_of(game, states)[0]
    line = Line(game)
    line.setup(wanted, to_play)
    assert (stones_of(game, line.states)[0] == wanted).all()
    assert line.to_play == to_play and not line.over and line.ply == 0


def test_positions_that_cannot_be_are_refused() -> None:
    game, stones = sp.make("go5x5"), np.zeros(25, int)
    stones[[1, 5]], stones[0] = 1, -1  # a stone without liberties
    with pytest.raises(GameError, match="no moves lead"):
        Line(game).setup(stones, 0)
    drop = sp.make("connect4")
    grid = np.zeros((6, 7), int)
    grid[0, 3], grid[1, 3], grid[0, 2] = 1, -1, 1
    states = drop.new(1)
    for action in moves_to(drop, grid.ravel(), 1):
        drop.step(states, np.array([action]))
    assert (stones_of(drop, states)[0].reshape(6, 7) == grid).all()
    grid[0, 3] = 0  # a stone in the air
    with pytest.raises(GameError, match="no moves lead"):
        moves_to(drop, grid.ravel(), 1)


def test_what_is_found_adds_up(mind: Mind) -> None:
    thinker = Thinker(mind)
    found = thinker.think(Limits(sims=40))
    assert found.visits == 41 == 1 + sum(move.visits for move in found.moves)
    assert [move.order for move in found.moves] == list(range(26))
    assert found.best is not None and found.best.visits == max(m.visits for m in found.moves)
    assert sum(move.prior for move in found.moves) == pytest.approx(1, abs=1e-5)
    assert found.prior == pytest.approx(sp.search("go5x5", sp.make("go5x5").new(1), mind.net,
                                                  sims=1).prior[0], abs=1e-6)
    for move in found.moves:
        assert move.pv[0] == move.action and move.lcb <= move.winrate == (move.value + 1) / 2
        line = Line(mind.game)
        for action, text in zip(move.pv, move.pv_text, strict=True):
            assert line.text(action) == text
            line.play(action)
    mean = (found.raw + sum(m.value * m.visits for m in found.moves)) / found.visits
    assert found.value == pytest.approx(mean, abs=1e-5)
    assert found.ownership is not None and found.ownership.shape == (25,)
    other = found.flipped()
    assert other.value == -found.value and other.moves[0].winrate == 1 - found.moves[0].winrate


def test_the_tree_is_kept_over_moves_and_dropped_by_others(mind: Mind) -> None:
    thinker = Thinker(mind)
    found = thinker.think(Limits(sims=60))
    best = found.moves[0]
    thinker.play(best.action)
    again = thinker.think(Limits(visits=best.visits + 10))
    assert again.visits == best.visits + 10 and again.evaluations <= 12
    assert again.to_play == 1
    thinker.undo()
    assert thinker.think(Limits(visits=1)).visits == 1
    thinker.go_to([best.action, again.moves[0].action])
    assert thinker.line.ply == 2


def test_thinking_can_be_watched_and_stopped(mind: Mind) -> None:
    thinker, told = Thinker(mind), []
    thought = thinker.start(Limits(), told.append, every=0.01)
    while len(told) < 3:
        assert thought.wait(0.01) is None
    thinker.play(12)  # a move ends it
    assert not thought.running
    found = thought.wait()
    assert found is not None and found.visits == told[-1].visits > told[0].visits
    assert thinker.think(Limits(seconds=0.05)).seconds >= 0.05  # and comes back
    thought = thinker.start(Limits())
    thought.stop()
    found = thought.wait()
    assert found is not None and found.visits >= 1


def test_only_some_moves_are_thought_about(mind: Mind) -> None:
    only = np.zeros(26, bool)
    only[[3, 7]] = True
    for who in (mind, mind_of("mcts:50", "go5x5")):
        thinker = Thinker(who)
        found = thinker.think(Limits(sims=50), only=only)
        assert {move.action for move in found.moves} == {3, 7}
        assert sum(move.visits for move in found.moves) == 50
        assert len(thinker.think(Limits(sims=5)).moves) == 26


def test_a_win_that_is_seen_is_made_and_an_end_is_told() -> None:
    thinker = Thinker(mind_of("tictactoe@100"))
    for action in (0, 3, 1, 4):
        thinker.play(action)
    found = thinker.think(Limits(sims=100))
    assert found.best is not None and found.best.action == 2 and found.proven == 1.0
    thinker.play(2)
    end = thinker.think(Limits(sims=100))
    assert end.over and end.best is None and abs(end.value) == 1.0
