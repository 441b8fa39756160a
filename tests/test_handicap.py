"""Handicap games of self-play, against positions and komi worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from selfplay.board.config import RLConfig
from selfplay.board.selfplay import Actor
from selfplay.games.base import side
from selfplay.games.go import Go
from selfplay.games.go.handicap import begin, most_komi, put_stones, set_fair_komi

SEVEN, NINE = Go(7), Go(9)
C3, G7, C7, G3 = 20, 60, 56, 24  # on 9x9; row * 9 + column, A1 is 0


def stones_of(game: Go, states: Any) -> NDArray[np.int64]:
    """int64 [B]: Black's stones less White's."""
    own, other = (game.observe(states)[:, k].sum((1, 2), dtype=np.int64) for k in (0, 1))
    return (own - other) * side(states).astype(np.int64)


def test_black_has_his_stones_and_white_is_to_move() -> None:
    stones = np.array([2, 3, 4, 2, 1] * 8)
    states = NINE.new(len(stones))
    moves = put_stones(NINE, states, stones, np.random.default_rng(1))
    assert moves.shape == (40, 7)
    assert (states.to_play == 1).all() and not states.done.any()
    assert states.ply.tolist() == (2 * stones - 1).tolist() == (moves >= 0).sum(1).tolist()
    assert stones_of(NINE, states).tolist() == stones.tolist()
    again = NINE.new(len(stones))
    for column in moves.T:  # they are legal moves
        live = np.flatnonzero(column >= 0)
        assert NINE.legal(again)[live, column[live]].all()
        NINE.step(again, column)
    assert (again.history == states.history).all()
    usual = {2: {C3, G7}, 3: {C3, G7, G3}, 4: {C3, G7, G3, C7}}
    found = [set(row[:n:2]) == usual.get(count) for row, n, count in
             zip(moves.tolist(), (2 * stones).tolist(), stones.tolist(), strict=True)]
    assert 6 <= sum(found) <= 26  # about half of 32
    rows, columns = moves[:, ::2][moves[:, ::2] >= 0] // 9, moves[:, ::2][moves[:, ::2] >= 0] % 9
    assert {int(rows.min()), int(columns.max())} == {1, 7}  # none on the first line


def behind_by(points: NDArray[np.float64]) -> Any:
    """A net that knows Black's lead without komi, and nothing else."""
    def evaluate(states: Any, legal: NDArray[np.bool_]) -> tuple[Any, Any]:
        value = np.tanh(points - states.komi / 2) * side(states)
        return np.zeros(legal.shape, np.float32), value.astype(np.float32)

    return evaluate


@pytest.mark.parametrize(("lead", "komi"), [
    (7.0, 7.0), (21.0, 21.0), (20.7, 20.5), (-3.0, -3.0), (80.0, 63.5), (-90.0, -63.5), (0.0, 0.0)])
def test_fair_komi_is_what_the_net_thinks_black_leads_by(lead: float, komi: float) -> None:
    """The highest with which he is not behind, in half points; planes spell 63.5 at most."""
    states = NINE.new(2)
    NINE.step(states, np.array([40, -1]))  # in one game White is to move
    set_fair_komi(NINE, states, behind_by(np.full(2, lead)))
    assert states.komi.tolist() == [2 * komi] * 2
    assert (most_komi(NINE), most_komi(SEVEN)) == (127, 98)


def test_a_varied_komi_is_as_far_from_the_fair_one() -> None:
    states = NINE.new(3)
    drawn = np.array([14, 11, 16], np.int16)  # 7, 5.5 and 8, where the game's own is 7
    begin(NINE, states, np.array([2, 2, 3]), drawn, behind_by(np.array([21.0, 21.0, 34.5])),
          np.random.default_rng(1))
    assert states.komi.tolist() == [42, 39, 71]


@pytest.mark.parametrize("room", [128, 2])
def test_self_play_begins_some_games_with_handicap(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their stones stand in the record, also where there is no room for them at first; without
    handicap nothing is drawn for it."""
    monkeypatch.setattr("selfplay.board.selfplay.FIRST_PLIES", room)
    config = RLConfig(sims=2, cheap_sims=1, full_share=1.0, games=16, handicap=0.5,
                      handicap_stones=(2, 3), komi_share=0.0, komi_wild=0.0, opening=(1, 2))
    evaluate = behind_by(np.array(30.0))
    actor = Actor(SEVEN, evaluate, config, seed=4)
    given = actor.book.opening >= 3  # white to move after 2 or 3 stones
    assert 3 <= given.sum() <= 13
    assert (actor.states.komi == np.where(given, 60, 14)).all()
    assert (actor.states.to_play[given] == 1).all()
    assert set(stones_of(SEVEN, actor.states)[given].tolist()) == {2, 3}
    again = SEVEN.new(16)
    SEVEN.replay(again, np.where(np.arange(5) < actor.book.opening[:, None],
                                 actor.book.action[:, :5], -1))
    assert (stones_of(SEVEN, again) == stones_of(SEVEN, actor.states)).all()
    none = [Actor(SEVEN, evaluate, replace(config, handicap=0.0, handicap_stones=some), seed=4)
            for some in ((2, 3), (4, 9))]
    assert (none[0].book.action == none[1].book.action).all()
    assert (none[0].states.komi == 14).all() and (none[0].book.opening <= 2).all()
