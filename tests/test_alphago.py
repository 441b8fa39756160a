"""AlphaGo's player: what a leaf is worth, how it is searched, and how the player is written."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import drop_sums, save_net
from numpy.typing import NDArray
from tiny_games import pile, pile_value

from selfplay.arena import players
from selfplay.arena import spec as alphago
from selfplay.arena.players import parse_player
from selfplay.arena.spec import full_name
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common.errors import UserError
from selfplay.common.files import write_json
from selfplay.games import make
from selfplay.games.base import take
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, seeded
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Search, SearchConfig

TTT = make("tictactoe")


def uneven(states: Any, legal: NDArray[np.bool_]) -> Any:
    """Priors that differ by move; a value that nobody should look at."""
    return np.tile(np.arange(legal.shape[1], dtype=np.float32), (len(legal), 1)), np.full(
        len(legal), 0.77, np.float32)


def flat(states: Any, legal: NDArray[np.bool_]) -> Any:
    return np.zeros(legal.shape, np.float32), np.zeros(len(legal), np.float32)


def perfect(states: Any, legal: NDArray[np.bool_]) -> Any:
    """The true values of a pile for its side to move; logits that nobody should look at."""
    values = np.array([pile_value(int(left)) for left in states.left], np.float32)
    return np.full(legal.shape, 9.0, np.float32), values


def wrong(states: Any, legal: NDArray[np.bool_]) -> Any:
    logits, values = perfect(states, legal)
    return logits, -values


def both(prior: Any, value: Any) -> Any:
    """An ``Evaluate`` with the logits of one and the values of the other."""
    return lambda states, legal: (prior(states, legal)[0], value(states, legal)[1])


@pytest.mark.parametrize(("weight", "alone"), [(0.0, perfect), (1.0, wrong)])
def test_at_its_ends_lambda_leaves_one_of_the_two(weight: float, alone: Any) -> None:
    game = pile(12)
    states = take(game.new(1), np.zeros(5, np.int64))
    states.left[:] = [12, 11, 9, 7, 6]
    found = [Search(game, SearchConfig(rule="puct"), 5, 40, seed=1).run(states, 40, evaluate)
             for evaluate in (players.Mixed(uneven, perfect, wrong, weight), both(uneven, alone))]
    for mixed, plain in zip(*found, strict=True):
        np.testing.assert_array_equal(mixed, plain)


def test_what_has_no_weight_is_not_evaluated() -> None:
    def never(states: Any, legal: Any) -> Any:
        raise AssertionError("evaluated")

    states = pile(7).new(2)
    legal = pile(7).legal(states)
    assert players.Mixed(uneven, perfect, never, 0.0)(states, legal)[1].tolist() == [
        pile_value(7)] * 2
    assert players.Mixed(uneven, never, wrong, 1.0)(states, legal)[1].tolist() == [
        -pile_value(7)] * 2


def test_a_leaf_is_worth_the_mixture() -> None:
    states, legal = pile(7).new(1), pile(7).legal(pile(7).new(1))

    def rollouts(states: Any, legal: Any) -> Any:
        return None, np.array([0.5], np.float32)

    for weight in (0.25, 0.5, 0.9):
        logits, value = players.Mixed(uneven, perfect, rollouts, weight)(states, legal)
        assert value[0] == pytest.approx((1 - weight) * pile_value(7) + weight * 0.5, abs=1e-6)
        assert value.dtype == np.float32 and logits.tolist() == [[0, 1, 2]]


def test_true_values_win_though_rollouts_are_wrong() -> None:
    """As long as they weigh more; where turns do not alternate, too."""
    game = pile(14)
    for stones in range(1, 15):
        states = game.new(1)
        states.left[:] = stones
        if pile_value(stones) < 0:
            continue
        evaluate = players.Mixed(flat, perfect, wrong, 0.25)
        result = Search(game, SearchConfig(rule="puct"), 1, 200, seed=0).run(states, 200, evaluate)
        game.step(states, result.action)
        mine = states.to_play[0] == 0
        assert states.left[0] == 0 or pile_value(int(states.left[0])) == (1 if mine else -1)


@cache
def random_play(own: int, other: int) -> float:
    """The side to move's expected result of uniformly random tic-tac-toe; 9-bit boards."""
    lines = (0o007, 0o070, 0o700, 0o111, 0o222, 0o444, 0o421, 0o124)
    if any(other & line == line for line in lines):
        return -1.0
    empty = [k for k in range(9) if not (own | other) >> k & 1]
    if not empty:
        return 0.0
    return float(np.mean([-random_play(other, own | 1 << k) for k in empty]))


@pytest.mark.parametrize("moves", [[4], [4, 0], [4, 0, 2, 6, 1], [0, 4, 8, 2]])
def test_rollouts_speak_for_the_side_to_move(moves: list[int]) -> None:
    states = TTT.new(1)
    for move in moves:
        TTT.step(states, np.array([move]))
    legal = TTT.legal(states)
    values = [players.Mixed(uneven, uneven, rollout_evaluate(TTT, seed), 1.0)(states, legal)[1][0]
              for seed in range(3000)]
    player = int(states.to_play[0])
    own, other = (int(states.boards[0, side]) for side in (player, 1 - player))
    assert np.mean(values) == pytest.approx(random_play(own, other), abs=4 / np.sqrt(3000))
    assert abs(random_play(own, other)) > 0.1


def test_terminal_leaves_are_exact() -> None:
    """O completes a line in one move; nets and rollouts that say it loses do not matter there."""
    states = TTT.new(1)
    for move in (0, 3, 1, 4, 8):
        TTT.step(states, np.array([move]))

    def losing(states: Any, legal: Any) -> Any:
        return np.zeros(legal.shape, np.float32), np.full(len(legal), 0.9, np.float32)

    result = Search(TTT, SearchConfig(rule="puct"), 1, 60, seed=0).run(
        states, 60, players.Mixed(losing, losing, losing, 0.5))
    assert result.action[0] == 5


# ------------------------------------------------------------------------------- as it is written

@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with two value nets, the first the better, one policy of SFT and one of RL."""
    spec = NetSpec("1x8", TTT.obs_shape, TTT.num_actions, TTT.has_ownership)
    for seed, (stage, step) in enumerate([("sft", 5), ("rl", 7), ("value", 10), ("value", 20)]):
        trainer = board_trainer(seeded(seed, lambda: build(spec)), TrainConfig())
        checkpoint.save(tmp_path / f"run/{stage}/ckpt-{step:06d}", trainer, spec, {
            "game": TTT.name, "kind": stage, "step": step, "compute": {},
            "metrics": {"value_mse": step / 100},
            "policies": {"sft": "sft/ckpt-000005", "rl": "rl/ckpt-000007"}})
    return tmp_path / "run"


def test_names_say_which_nets(folder: Path) -> None:
    best = f"alphago:{folder}/value/ckpt-000010"
    assert full_name(f"alphago:{folder}@64") == f"{best}@64"  # no note: the lower error
    write_json(folder / "value/best.json", {"checkpoint": "ckpt-000020", "flat": False})
    assert full_name(f"alphago:{folder}/value@8x4,lambda=0.5,prior=sft") == (
        f"alphago:{folder}/value/ckpt-000020@8x4")
    odd = f"{best}@64,lambda=0.25,prior=rl"
    assert full_name(odd) == odd
    assert parse_player(odd, TTT).name == odd


@pytest.mark.parametrize(("prior", "path"), [("sft", "sft/ckpt-000005"), ("rl", "rl/ckpt-000007")])
def test_priors_are_those_of_the_policy_that_is_named(
    folder: Path, prior: str, path: str
) -> None:
    words = alphago.parse_alphago(f"{folder}@4,prior={prior}")
    policy, value = players.load_alphago(words, "tictactoe", "cpu")
    for net, expected in ((policy, path), (value, "value/ckpt-000010")):
        other, _ = checkpoint.load_net(folder / expected)
        for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
            assert mine.equal(theirs)


def test_with_one_net_and_no_rollouts_it_plays_as_that_net_with_search(
    folder: Path, play_random: Any
) -> None:
    path = folder / "value/ckpt-000010"
    drop_sums(path)
    write_json(path / "meta.json", {**checkpoint.read_meta(path), "policies": {
        "sft": "value/ckpt-000010"}})
    states, _ = play_random(TTT, 30, 3, plies=2)
    moves = []
    for spec in (f"alphago:{folder}@16,lambda=0", f"net:{path}@16", f"alphago:{folder}@16"):
        player = parse_player(spec, TTT, slots=30)
        player.start(np.arange(30), np.arange(30))
        moves.append(player.act(states, np.arange(30)).tolist())
    assert moves[0] == moves[1] != moves[2]


@pytest.mark.parametrize(("text", "told"), [
    ("{run}", "simulations are needed"),
    ("{run}@0", "simulations are needed"),
    ("{run}@4,lambda=2", "lambda=2"),
    ("{run}@4,lambda=nan", "lambda=nan"),
    ("{run}@4,lambda=half", "lambda=half"),
    ("{run}@4,prior=mcts", "'prior=mcts' is no option"),
    ("{run}@4,rollouts", "'rollouts' is no option"),
    ("{run}x@4", "no folder of a run"),
    ("{run}/rl@4", "no value net"),
    ("{run}/rl/ckpt-000007@4", "no value net"),
])
def test_mistakes_are_one_line(folder: Path, text: str, told: str) -> None:
    save_net(folder / "rl/ckpt-000007", "tictactoe")  # says nothing of policies
    with pytest.raises(UserError, match=told) as error:
        parse_player(f"alphago:{text.format(run=folder)}", TTT)
    assert "\n" not in str(error.value)
