"""Games for the value net: who moves when, one position a game, and the same whoever plays them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfplay.board import value
from selfplay.board.data import unpack
from selfplay.board.policy import BoardPolicy, Turn
from selfplay.board.value import (
    GROUP_GAMES,
    SHARD_GAMES,
    Policies,
    play_group,
    play_shard,
    turns,
)
from selfplay.common.errors import UserError
from selfplay.common.threads import Workers
from selfplay.games import make
from selfplay.learn.rollout import Acted
from selfplay.models import build, seeded, spec_for
from selfplay.run.shards import load_shard, make_games, read_rows, shards_here

TTT, C4 = make("tictactoe"), make("connect4")


class Extreme:
    """A policy that takes the lowest legal move, or the highest."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def act(self, batch: Turn) -> Acted:
        moves = np.arange(batch.legal.shape[1])
        action = torch.from_numpy(np.where(batch.legal, self.sign * moves, -99).argmax(1)[:, None])
        return Acted(action, torch.zeros(action.shape), torch.ones(action.shape, dtype=torch.bool))


EXTREMES: Any = Policies(Extreme(-1), Extreme(1))


def nets(game: Any) -> Policies:
    spec = spec_for(game, "1x8")
    return Policies(*(BoardPolicy(seeded(seed, lambda: build(spec)).eval(), game.obs_shape,
                                  game.num_actions).frozen() for seed in (1, 2)))


def games_of(done: Any) -> list[list[int]]:
    return [part.tolist() for part in np.split(done.actions, done.ends)[:-1]]


def alone(game: Any, number: int, latest: int) -> Any:
    return play_group(game, EXTREMES, range(number, number + 1), latest, 7)


@pytest.mark.parametrize("game", [TTT, C4], ids=lambda g: g.name)
def test_the_row_is_the_position_after_the_random_move(game: Any) -> None:
    """Replayed move by move: SFT's before it, RL's after it, and the result for its side."""
    deviated = rows = 0
    for number in range(120):
        first = int(turns(7, range(number, number + 1), game.max_moves)[0][0])
        done, states = alone(game, number, game.max_moves), game.new(1)
        rows += len(done.values)
        for ply, move in enumerate(done.actions.tolist()):
            legal = np.flatnonzero(game.legal(states)[0])
            if ply + 1 < first:
                assert move == legal[0]
            elif ply + 1 > first:
                assert move == legal[-1]
            else:
                assert move in legal
                deviated += move not in (legal[0], legal[-1])
            game.step(states, np.array([move]))
            if ply + 1 == first:
                assert not game.result(states)[0][0]
                obs = unpack(done.columns.obs, game.obs_shape)
                np.testing.assert_array_equal(obs, game.observe(states))
                sign = 1 if states.to_play[0] == 0 else -1
        if len(done.values):
            assert game.result(states) == (True, done.values[0])
            assert done.columns.value == sign * done.values[0]
            assert len(done.actions) > first and done.ends.tolist() == [len(done.actions)]
        else:  # it was over by the random move
            assert len(done.actions) == 0
    assert deviated > 10 and 20 < rows < 120


def test_one_position_a_game() -> None:
    together = play_group(TTT, EXTREMES, range(120), 9, 7)
    single = [alone(TTT, number, 9) for number in range(120)]
    assert len(together.columns.value) == len(together.values) == sum(
        len(one.values) for one in single)
    assert games_of(together) == [moves for one in single for moves in games_of(one)]
    parts_of = zip(*(one.columns[:-1] for one in single), strict=True)
    for column, parts in zip(together.columns[:-1], parts_of, strict=True):
        np.testing.assert_array_equal(column, np.concatenate(parts))
    assert not together.columns.policy_weight.any() and not together.columns.aux_weight.any()


def test_turns_and_random_moves_are_uniform() -> None:
    turn, _ = turns(3, range(9000), 9)
    counts = np.bincount(turn, minlength=10)
    assert counts[0] == 0 and abs(counts[1:] - 1000).max() < 5 * np.sqrt(1000 * 8 / 9)
    first = play_group(TTT, EXTREMES, range(4500), 1, 3)  # the random move is the first of all
    counts = Counter(moves[0] for moves in games_of(first))
    assert len(first.values) == 4500 and sorted(counts) == list(range(9))
    assert max(abs(n - 500) for n in counts.values()) < 5 * np.sqrt(500 * 8 / 9)


@pytest.mark.parametrize("game", [TTT, C4], ids=lambda g: g.name)
def test_the_same_games_on_any_number_of_threads(
    game: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value, "GROUP_GAMES", 32)
    monkeypatch.setattr(value, "SHARD_GAMES", 96)
    policies = nets(game)
    threads = torch.get_num_threads()
    shards = [play_shard(game, policies, 1, game.max_moves, 5, Workers(n)) for n in (1, 3)]
    torch.set_num_threads(threads)
    group = play_group(game, policies, range(128, 160), game.max_moves, 5)
    for one, three in zip(shards[0].columns, shards[1].columns, strict=True):
        np.testing.assert_array_equal(one, three)
    assert games_of(shards[0]) == games_of(shards[1])
    assert len({tuple(moves) for moves in games_of(shards[0])}) > 30
    found = games_of(shards[0])
    assert any(found[k : k + len(group.values)] == games_of(group) for k in range(len(found)))
    other = play_shard(game, policies, 1, game.max_moves, 6, Workers(1))
    assert games_of(other) != found


def test_an_interrupted_folder_goes_on(tmp_path: Path) -> None:
    calls, told = [0], list[int]()

    def make_some(folder: str, stop: Any = lambda: False) -> int:
        return make_games(tmp_path / folder, 3 * SHARD_GAMES - 1,
                          shards_here(TTT, EXTREMES, 9, 2, 1), stop=stop, progress=told.append)

    assert make_some("whole") == 3 * SHARD_GAMES
    assert told == [SHARD_GAMES, 2 * SHARD_GAMES, 3 * SHARD_GAMES]

    def soon() -> bool:
        calls[0] += 1
        return calls[0] > 3

    assert make_some("cut", soon) == SHARD_GAMES  # the first is made in any case, the second not
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["000000.npz"]
    before = (tmp_path / "cut/000000.npz").stat().st_mtime_ns
    assert make_some("cut") == 3 * SHARD_GAMES
    assert (tmp_path / "cut/000000.npz").stat().st_mtime_ns == before
    for path in (tmp_path / "whole").iterdir():
        cut, whole = load_shard(tmp_path / "cut" / path.name), load_shard(path)
        np.testing.assert_array_equal(cut.actions, whole.actions)
        np.testing.assert_array_equal(cut.columns.obs, whole.columns.obs)
    rows = read_rows(tmp_path / "whole")
    assert len(rows.value) <= 3 * SHARD_GAMES and set(rows.value) <= {-1.0, 0.0, 1.0}
    assert SHARD_GAMES % GROUP_GAMES == 0


def test_no_games_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no games for the value net yet"):
        read_rows(tmp_path)
