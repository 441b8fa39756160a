"""Positions are taught by an exact solver and, beside them, by an expert's games."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Command
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_actor import SMALL, games_of, play, replayed
from test_data import columns

from selfplay.board.alphazero import Learner
from selfplay.board.config import RLConfig, rows_learnt
from selfplay.board.lessons import Beside
from selfplay.board.targets import Exact
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import GameError
from selfplay.games.solve import solver
from selfplay.learn.checkpoint import WEIGHTS
from selfplay.models import NetSpec
from selfplay.run.boards import KeptLearner, train_rl
from selfplay.run.config import preset
from selfplay.run.folder import Run
from selfplay.run.teacher import beside_rl

GAME = make("tictactoe")
LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


@cache
def worth(board: str) -> int:
    """Of a board such as "XO..X....", for who is to move: minimax, apart from all of ours."""
    if any(board[a] == board[b] == board[c] != "." for a, b, c in LINES):
        return -1
    if "." not in board:
        return 0
    return max(-worth(after) for after in replies(board) if after)


def replies(board: str) -> list[str]:
    """The board after a stone on each cell, empty where one lies."""
    stone = "XO"[(9 - board.count(".")) % 2]
    return [board[:c] + stone + board[c + 1 :] if board[c] == "." else "" for c in range(9)]


def board_of(actions: Any) -> str:
    board = ["."] * 9
    for ply, action in enumerate(actions):
        board[action] = "XO"[ply % 2]
    return "".join(board)


def kept_by(board: str) -> list[bool]:
    return [bool(after) and -worth(after) == worth(board) for after in replies(board)]


def after(game: Any, *actions: int) -> Any:
    states = game.new(1)
    game.replay(states, np.array([actions], np.int64).reshape(1, -1))
    return states


# --------------------------------------------------------------------------- an exact solver

@settings(max_examples=60, deadline=None)
@given(st.permutations(range(9)), st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_the_policy_is_the_searchs_without_the_moves_that_lose_the_value(
    order: list[int], ply: int, seed: int
) -> None:
    board = board_of(order[:ply])
    assume(not any(board[a] == board[b] == board[c] != "." for a, b, c in LINES))
    policy = np.random.default_rng(seed).dirichlet(np.ones(9)).astype(np.float32)[None]
    policy *= [[cell == "." for cell in board]]
    taught, value = Exact(GAME, 1)(after(GAME, *order[:ply]), policy)
    if not ply:
        assert np.isnan(value).all() and taught is policy
        return
    kept = np.array(kept_by(board))
    assert value == [worth(board)]
    np.testing.assert_allclose(taught[0], policy[0] * kept / (policy[0] * kept).sum(), rtol=1e-5)


def test_where_the_search_saw_none_of_the_good_moves_all_of_them_are_taught() -> None:
    """X has 0 and 1, O has 4 and must take 2, which draws; a search that wants 7 knows nothing of
    it. Where every move loses all are as good."""
    one = np.eye(9, dtype=np.float32)
    taught, value = Exact(GAME, 3)(after(GAME, 0, 4, 1), one[[7]])
    assert value == [0] and taught.tolist() == one[[2]].tolist()
    lost = (0, 1, 4)  # O cannot stop both 8 and 2, 6 by a corner
    assert worth(board_of(lost)) == -1
    taught, value = Exact(GAME, 3)(after(GAME, *lost), one[[2]] * 0)
    np.testing.assert_allclose(taught[0], [cell == "." for cell in board_of(lost)] / np.float32(6))
    assert value == [-1]


def test_only_positions_after_so_many_moves_are_solved() -> None:
    states = GAME.new(3)
    GAME.replay(states, np.array([[0, -1, -1], [0, 4, -1], [0, 4, 1]]))
    policy = np.full((3, 9), 1 / 9, np.float32)
    kept = policy.copy()
    taught, value = Exact(GAME, 2)(states, policy)
    assert np.isnan(value).tolist() == [True, False, False]
    np.testing.assert_array_equal(policy, kept)  # the search's own is left alone
    np.testing.assert_array_equal(taught[0], kept[0])
    assert Exact(GAME, 9)(states, policy)[0] is policy


def test_connect_four_by_its_own_moves_scores() -> None:
    """Another search of the solver, which gives every move its score."""
    game, rng = make("connect4"), np.random.default_rng(4)
    states = game.new(60)
    for _ in range(24):
        legal = game.legal(states) & ~game.result(states)[0][:, None]
        moves = (legal * rng.random(legal.shape)).argmax(1)
        game.step(states, np.where(legal.any(1), moves, -1))
    going = np.flatnonzero(~game.result(states)[0])
    states = type(states)(*(field[going] for field in states))
    legal = game.legal(states)
    policy = (legal / legal.sum(1, keepdims=True)).astype(np.float32)
    taught, value = Exact(game, 24)(states, policy)
    scores = np.where(legal, solver(game).moves(states), -100)
    best = np.sign(scores.max(1))
    assert len(going) > 10 and set(best.tolist()) > {-1, 1}
    np.testing.assert_array_equal(value, best)
    np.testing.assert_array_equal(taught > 0, legal & (np.sign(scores) == best[:, None]))


def test_ends_that_are_too_far_are_left_to_the_search(play_random: Any) -> None:
    """Of 36 cells 20 are taken after 16 moves, four of them from the start."""
    game = make("othello6x6")
    early, late = (play_random(game, 6, 3, plies)[0] for plies in (10, 22))
    policy = np.full((6, 37), 1 / 37, np.float32)
    assert np.isnan(Exact(game, 1)(early, policy)[1]).all()
    assert not np.isnan(Exact(game, 1)(late, policy)[1]).any()


@pytest.mark.parametrize(("name", "plies"), [("othello6x6", 22), ("tictactoe", 5),
                                             ("connect4", 20)])
def test_values_are_the_signs_of_scores(name: str, plies: int, play_random: Any) -> None:
    game = make(name)
    states, worths = play_random(game, 40, 2, plies)[0], solver(game)
    going = np.flatnonzero(~game.result(states)[0])
    states = type(states)(*(field[going] for field in states))
    scores = worths.moves(states).max(1) if name == "tictactoe" else worths.scores(states)
    assert len(going) > 3
    np.testing.assert_array_equal(worths.values(states), np.sign(scores))


@pytest.mark.parametrize("algorithm", ["gumbel", "puct"])
def test_self_plays_rows_are_taught_the_exact_value(algorithm: str) -> None:
    """From the third move on; before it, and without a solver, the game's result."""
    config = replace(SMALL, algorithm=algorithm, solved_from=3)
    harvest, plain = (play(GAME, c, 300) for c in (config, replace(config, solved_from=0)))
    np.testing.assert_array_equal(harvest.actions, plain.actions)  # play is what it was
    row = wrong = 0
    for actions, result in zip(games_of(harvest), harvest.values, strict=True):
        for ply, position in enumerate(replayed(GAME, actions)[0]):
            if ply < SMALL.opening[1]:
                continue
            board, policy = board_of(actions[:ply]), harvest.columns.policy[row].astype(float)
            value = harvest.columns.value[row]
            assert plain.columns.value[row] == result * position["side"]
            if ply < 3:
                assert value == result * position["side"]
                np.testing.assert_array_equal(policy, plain.columns.policy[row])
            else:
                assert value == worth(board)
                assert policy[~np.array(kept_by(board))].sum() == 0
                assert policy.sum() == pytest.approx(1, abs=0.01)
                wrong += bool(value != result * position["side"])
            row += 1
    assert row == len(harvest.columns.value) and wrong > 10


def test_games_without_a_solver_are_refused_at_the_start(
    run: Command, tmp_path: Path
) -> None:
    with pytest.raises(GameError, match="no exact solver"):
        Exact(make("hex5x5"), 3)
    said = run("rl", "--game", "hex5x5", "--init", "random", "--run", str(tmp_path / "r"),
               "--set", "rl.solved_from=3")
    assert said.code == 1 and "hex5x5: no exact solver; there are some for connect4" in said.err
    assert not (tmp_path / "r").exists()


# ------------------------------------------------------------------------- an expert's games

SHARED = RLConfig(cache_mb=1, sims=4, cheap_sims=2, full_share=0.5, games=8, positions=32, reuse=2,
                  window_min=64, window_max=64, batch_size=16, iterations=2, dtype="float32",
                  expert_share=0.75)


def test_a_batch_has_the_experts_share() -> None:
    """The expert's rows are numbered from 1,000 on."""
    window, rng = Beside(SHARED, columns(50, first=1000)), np.random.default_rng(0)
    window.add(columns(40, seed=1))
    found, rows = window.sample(400, rng)
    assert rows.tolist() == list(range(400))
    experts = found.score >= 1000
    assert experts.sum() == 300
    assert set(found.score[experts].tolist()) == set(range(1000, 1050))
    assert set(found.score[~experts].tolist()) <= set(range(40))
    number = int(found.score[-1]) - 1000
    np.testing.assert_array_equal(found.obs[-1], columns(50, first=1000).obs[number])


def test_a_batch_always_has_a_row_of_ones_own() -> None:
    window = Beside(replace(SHARED, expert_share=0.99), columns(50, first=1000))
    window.add(columns(40))
    assert (window.sample(8, np.random.default_rng(0))[0].score < 1000).sum() == 1


def test_without_a_share_nothing_changes() -> None:
    off = replace(SHARED, expert_share=0.0)
    window, plain = Beside(off, columns(50, first=1000)), Beside(off, None)
    for one in (window, plain):
        one.add(columns(40))
    for a, b in zip(window.sample(9, np.random.default_rng(1))[0],
                    plain.sample(9, np.random.default_rng(1))[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_ones_own_rows_are_used_as_often_as_reuse_says() -> None:
    assert rows_learnt(replace(SHARED, expert_share=0.0), 100) == 200
    assert rows_learnt(SHARED, 100) == 800  # 200 of them one's own


def test_an_iteration_beside_expert_games(tmp_path: Path) -> None:
    """As many steps as rows_learnt says, at the scheduled rate; and the same ones where a run was
    stopped before it and has only its games."""
    spec = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
    taught = play(GAME, SMALL, 100).columns
    config = replace(SHARED, decay_steps=20)

    def learner(folder: Path, iterations: int) -> KeptLearner:
        return KeptLearner(GAME, spec, replace(config, iterations=iterations), folder, init=None,
                           device="cpu", seed=1, lessons=taught)

    whole, parts = learner(tmp_path / "whole", 2), learner(tmp_path / "parts", 1)
    train_rl(whole)
    train_rl(parts)
    for kind in (".npz", ".json"):
        shutil.copy(whole.shard(2).with_suffix(kind), parts.shard(2).with_suffix(kind))
    again = learner(tmp_path / "parts", 2)
    train_rl(again)
    for row in whole.history:
        assert row["positions"] == 16 * row["step"]
    assert isinstance(whole.window, Beside) and whole.window.lessons is taught
    new = len(whole.window.newest().value)
    steps = whole.history[1]["step"] - whole.history[0]["step"]
    assert steps == round(rows_learnt(config, new) / 16)
    warm = (whole.trainer.steps + 1) / 100  # the first hundred steps
    assert 20 < whole.trainer.steps < 99
    for one in (whole, again):
        assert one.trainer.rate() == pytest.approx(config.learning_rate * 0.1 * warm)
    for key in ("step", "policy_loss", "value_loss"):
        assert again.history[1][key] == whole.history[1][key] != whole.history[0][key]
    weights = [tmp_path / name / "ckpt-000002" / WEIGHTS for name in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    with pytest.raises(UserError, match=r"rl\.expert_share: there are no expert games"):
        KeptLearner(GAME, spec, config, tmp_path / "none", init=None, device="cpu", seed=1)


def test_a_net_that_goes_on_draws_other_rows() -> None:
    """As in another run with the same seed, which begins with what the net has learnt from."""
    spec = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
    learner = Learner(GAME, spec, replace(SHARED, expert_share=0.0), seed=1)
    learner.window.add(play(GAME, SMALL, 100).columns)
    drawn = []
    for positions in (0.0, 0.0, 4096.0):
        learner.compute["positions"] = positions
        drawn.append(next(learner._batches(1))[0].obs)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_the_experts_rows_of_a_run(run: Command, tmp_path: Path) -> None:
    config = preset("tictactoe")
    config = replace(config, init="random", rl=replace(config.rl, expert_share=0.5))
    bare = Run(tmp_path / "bare", config, GAME)
    assert beside_rl(bare) == (None, None)
    said = run("rl", "--game", "tictactoe", "--init", "random", "--run", str(tmp_path / "bare"),
               "--set", "rl.expert_share=0.5")
    said.mistake("rl.expert_share: there are no expert games", "--set expert.games=FOLDER")
    assert beside_rl(replace(bare, config=preset("tictactoe", init="random"))) == (None, None)
    made = run("expert", "--game", "tictactoe", "--player", "random", "--games", "30",
               "--out", str(tmp_path / "g.jsonl.gz"))
    assert made.code == 0
    config = replace(config, expert=replace(config.expert, games=(str(tmp_path / "g.jsonl.gz"),)))
    learnt, held = beside_rl(Run(tmp_path / "r", config, GAME))
    assert learnt is not None and held is not None
    assert len(learnt.value) > 5 * len(held.value) > 0


@pytest.mark.parametrize("share", ["1", "-0.1", "nan"])
def test_shares_that_leave_nothing_of_ones_own(
    share: str, run: Command, tmp_path: Path
) -> None:
    said = run("rl", "--game", "tictactoe", "--init", "random", "--run", str(tmp_path / "r"),
               "--set", f"rl.expert_share={share}")
    assert said.code != 0 and "rl.expert_share" in said.err and "Traceback" not in said.err
