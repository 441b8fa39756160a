"""Games against past selves: whose moves are kept, whose result it is, who is dealt what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfplay.board.alphago_config import PoolConfig
from selfplay.board.data import unpack
from selfplay.board.league_games import LeagueGames, deal_groups, harvest
from selfplay.board.policy import BoardPolicy
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import side, take
from selfplay.games.openings import deal
from selfplay.learn.rollout import Acted
from selfplay.models import NetSpec, build, seeded
from selfplay.run.boards import KeptPool
from selfplay.search import random as rng


class Scripted:
    """Plays its lowest (or highest) legal action and remembers what it was asked."""

    def __init__(self, highest: bool) -> None:
        self.highest = highest
        self.asked: list[Any] = []

    def act(self, turn: Any) -> Acted:
        last = turn.legal.shape[1] - 1
        action = (last - turn.legal[:, ::-1].argmax(1)) if self.highest else turn.legal.argmax(1)
        self.asked += list(zip(turn.rows.tolist(), turn.obs, turn.legal, action, strict=True))
        column = torch.from_numpy(action)[:, None]
        return Acted(column, torch.full(column.shape, -0.5), torch.ones_like(column).bool())


def against_one(
    game: Any, groups: int, size: int, opening: tuple[int, int]
) -> tuple[LeagueGames, Any, Any]:
    deals = deal_groups(game, range(groups), size, opening, seed=4)
    learner, opponent = Scripted(False), Scripted(True)
    made = LeagueGames(game, learner, opponent, deals, rng.streams(0, np.arange(groups * size)))  # type: ignore[arg-type]
    return made, learner, opponent


def finish(made: LeagueGames) -> int:
    ended = 0
    while made.live.any():
        ended += made.rounds(2)
    return ended


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "go5x5",
                                  "dotsandboxes(rows=2,columns=2)"])  # who closes a box moves again
def test_the_trajectories_are_the_learners_moves_and_results(name: str) -> None:
    """Every game replayed move by move: the learner's moves in order, its result at the end."""
    game = make(name)
    made, learner, opponent = against_one(game, 10, 1, (0, 5))
    over = int((~made.live).sum())
    assert finish(made) == 10 - over
    found = harvest([made])
    kept = iter(found.rollout.mask.nonzero()[:, 0].unique_consecutive().tolist())
    outcomes = {True: 0, False: 0}
    for g in range(10):
        states = take(made.deals.states, [g])
        mine = int(made.deals.side[g])
        moves = {True: [m for m in learner.asked if m[0] == g],
                 False: [m for m in opponent.asked if m[0] == g]}
        places = {True: 0, False: 0}
        row = next(kept) if moves[True] else None
        while not game.result(states)[0][0]:
            turn = int(states.to_play[0]) == mine
            _, obs, legal, action = moves[turn][places[turn]]
            np.testing.assert_array_equal(obs, game.observe(states)[0])
            if turn:
                t = places[True]
                inputs = {k: v[row, t : t + 1].numpy() for k, v in found.rollout.inputs.items()}
                np.testing.assert_array_equal(unpack(inputs["obs"], game.obs_shape)[0], obs)
                np.testing.assert_array_equal(
                    np.unpackbits(inputs["legal"], axis=1, count=game.num_actions)[0], legal)
                assert int(found.rollout.action[row, t]) == action
                assert float(found.rollout.logp[row, t]) == -0.5
            places[turn] += 1
            game.step(states, np.array([action]))
        result = float(game.result(states)[1][0]) * (1 if mine == 0 else -1)
        assert found.score[g] == result and found.side[g] == mine
        assert found.length[g] == states.ply[0]
        assert places[True] == len(moves[True]) and places[False] == len(moves[False])
        if row is not None:
            mask, reward = found.rollout.mask[row], found.rollout.reward[row]
            assert mask.tolist() == [t < places[True] for t in range(len(mask))]
            assert reward.tolist() == [
                result if t == places[True] - 1 else 0 for t in range(len(mask))]
        outcomes[result > 0] += 1
    assert {0, 1} == set(found.side.tolist())
    assert outcomes[True] and (outcomes[False] or name == "go5x5")  # there the lowest points win


def test_a_game_without_a_move_of_the_learner_teaches_nothing() -> None:
    """The opponent, on the highest cell, wins before the learner has moved."""
    game = make("tictactoe")
    states = game.new(2)
    for column in ([7, 0], [0, 7], [6, 1], [1, 6]):  # side 0 (1) has two of the top row
        game.step(states, np.array(column))
    deals = deal_groups(game, range(2), 1, (0, 0), seed=0)._replace(
        states=states, side=np.array([1, 1], np.int8), group=np.array([8, 9]))
    made = LeagueGames(game, Scripted(False), Scripted(True), deals, rng.streams(0, np.arange(2)))  # type: ignore[arg-type]
    finish(made)
    found = harvest([made])
    assert found.score.tolist()[0] == -1
    assert found.rollout.group.tolist() == [9]
    assert bool(found.rollout.mask.any(1).all())


def test_groups_share_opening_and_colour() -> None:
    game = make("connect4")
    deals = deal_groups(game, range(3, 9), 4, (1, 5), seed=11)
    assert deals.group.tolist() == [g for g in range(3, 9) for _ in range(4)]
    keys = game.keys(deals.states).reshape(6, 4)
    assert (keys == keys[:, :1]).all() and len(set(keys[:, 0].tolist())) > 3
    assert deals.side.reshape(6, 4).tolist() == [[g % 2] * 4 for g in range(3, 9)]
    for place, number in enumerate(range(3, 9)):
        one = game.new(1)
        for action in deal(game, 11, number, (1, 5), False).actions:
            game.step(one, np.array([action]))
        assert game.keys(one)[0] == keys[place, 0]
    assert set(side(deals.states).tolist()) == {1.0, -1.0}


# ------------------------------------------------------------------------------- the pool

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)


def pool(folder: Path, **settings: Any) -> KeptPool:
    like = BoardPolicy(seeded(0, lambda: build(SPEC)).eval(), GAME.obs_shape, GAME.num_actions)
    return KeptPool(folder, like, SPEC, GAME, PoolConfig(**settings))


def test_who_is_in_the_pool() -> None:
    ten = pool(Path(), every=10)
    assert [ten.steps(i) for i in (1, 10, 11, 35)] == [[0], [0], [0, 10], [0, 10, 20, 30]]
    assert pool(Path(), every=2, size=3).steps(9) == [4, 6, 8]
    assert [i for i in range(1, 25) if ten.joins(i)] == [10, 20]


def test_opponents_are_drawn_uniformly() -> None:
    """Of 8 members 3 at a time, never one twice: each in 3/8 of the draws, within 5 errors."""
    many = pool(Path(), every=1, opponents=3)
    draws = [many.draw(8, np.random.default_rng(i)) for i in range(2000)]
    assert all(len(set(d)) == 3 for d in draws)
    counts = np.bincount(np.concatenate(draws), minlength=8)
    assert np.abs(counts - 750).max() < 5 * np.sqrt(2000 * 3 / 8 * 5 / 8)
    assert sorted(many.draw(2, np.random.default_rng(0))) in ([0, 0, 1], [0, 1, 1])
    assert many.draw(1, np.random.default_rng(0)) == [0, 0, 0]


def test_members_are_checkpoints_of_weights(tmp_path: Path) -> None:
    trainer = board_trainer(seeded(7, lambda: build(SPEC)), TrainConfig())
    made = pool(tmp_path, every=5)
    made.add(5, replace(made.like, net=trainer.inference_net()))
    files = sorted(path.name for path in (tmp_path / "ckpt-000005").iterdir())
    assert files == ["meta.json", "sums.json", "weights.safetensors"]
    states = GAME.new(1)
    obs = torch.from_numpy(GAME.observe(states))
    with torch.no_grad():
        expected = trainer.inference_net()(obs.float()).policy
        found = made.member(5).net(obs.to(next(made.member(5).net.parameters()).dtype)).policy
    assert torch.allclose(found.float(), expected, atol=0.02)
    with pytest.raises(UserError, match=r"pool.*ckpt-000010"):
        made.member(10)
