"""The value net: what is held out, what is learnt, and where it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfplay.board.alphago_config import ValueConfig
from selfplay.board.data import Columns, pack
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.board.value import split_rows
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, seeded
from selfplay.run.boards import train_value

TTT = make("tictactoe")
SPEC = NetSpec("1x8", TTT.obs_shape, TTT.num_actions, TTT.has_ownership)


def centre_rows(count: int, seed: int, play_random: Any, noise: float = 0.0) -> Columns:
    """Random positions, won by who holds the centre, lost where the other does; else drawn."""
    parts = []
    for plies in (3, 4):
        states, _ = play_random(TTT, count // 2, seed + plies, plies)
        parts.append(TTT.observe(states))
    obs = np.concatenate(parts)
    value = (obs[:, 0, 1, 1].astype(np.float32) - obs[:, 1, 1, 1])
    flip = np.random.default_rng(seed).random(len(value)) < noise
    value = np.where(flip, -value, value).astype(np.float32)
    none = np.zeros(len(value), np.float32)
    return Columns(pack(obs, True), np.zeros((len(value), 9), np.float16), none, value,
                   np.zeros((len(value), 9), np.int8), none, none)


def boards(columns: Columns) -> list[frozenset[bytes]]:
    """Each position with its eight images, by numpy's own turning and mirroring."""
    planes = np.unpackbits(columns.obs, axis=1, count=27).reshape(-1, 3, 3, 3)
    return [frozenset(np.rot90(image, turns, (1, 2)).tobytes() for turns in range(4)
                      for image in (one, one[:, :, ::-1])) for one in planes]


def test_no_position_is_on_both_sides_turned_or_mirrored(play_random: Any) -> None:
    rows = centre_rows(2000, 0, play_random)
    train, held = split_rows(TTT, rows, 0.2, 1)
    assert len(train.value) + len(held.value) == 2000
    distinct = len(set(boards(rows)))
    assert 0.1 < len(set(boards(held))) / distinct < 0.3
    assert not set(boards(train)) & set(boards(held))
    assert len(boards(train)) > len(set(boards(train)))  # there are repetitions to be kept apart


def test_more_games_leave_a_position_on_its_side(play_random: Any) -> None:
    rows = centre_rows(1000, 0, play_random)
    few = rows.rows(slice(300))
    held, more = (set(boards(split_rows(TTT, part, 0.2, 1)[1])) for part in (few, rows))
    assert held < more
    assert set(boards(split_rows(TTT, few, 0.2, 2)[1])) != held


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_sides_must_have_some(play_random: Any, share: float) -> None:
    with pytest.raises(UserError, match="value net: 100 positions"):
        split_rows(TTT, centre_rows(100, 0, play_random), share, 1)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    trainer = board_trainer(seeded(40, lambda: build(SPEC)), TrainConfig())
    checkpoint.save(tmp_path / "policy", trainer, SPEC,
                    {"game": TTT.name, "kind": "rl", "step": 1, "compute": {}})
    return tmp_path / "policy"


def learn(folder: Path, rows: Columns, policy: Path, seed: int = 3, **changes: Any) -> Path:
    config = ValueConfig(**{"batch_size": 64, "learning_rate": 5e-3, "evaluate_every": 40,
                            "init": "random", "held_out": 0.2, **changes})
    return train_value(TTT, SPEC, policy, rows, config, folder, device="cpu", seed=seed,
                       about={"policies": {"sft": "x"}},
                       before={"seconds": 5.0, "flops": 1e9, "positions": 7})


@pytest.mark.learns
def test_it_learns_results_and_says_how_well(
    tmp_path: Path, policy: Path, play_random: Any, learn_seed: int
) -> None:
    positions = centre_rows(2000, learn_seed, play_random)
    decided = positions.rows(positions.value != 0)  # 1 if unlearnt
    found = learn(tmp_path / "value", decided, policy, learn_seed, max_steps=100,
                  evaluate_every=20)
    rows = read_history(tmp_path / "value/history.jsonl")
    assert found == checkpoint.best(tmp_path / "value", "value_mse")
    by_step = {row["step"]: row["value_mse"] for row in rows}
    assert found.name == f"ckpt-{min(by_step, key=by_step.get):06d}"
    assert rows[0]["value_mse"] > 0.3 > 0.15 > min(by_step.values())
    meta = checkpoint.read_meta(found)
    assert meta["kind"] == "value" and meta["policies"] == {"sft": "x"}
    assert meta["compute"]["flops"] > 1e9 and meta["compute"]["seconds"] > 5
    (tmp_path / "value/best.json").unlink()
    assert checkpoint.best(tmp_path / "value", "value_mse") == found


@pytest.mark.learns
def test_what_is_learnt_by_heart_shows(
    tmp_path: Path, policy: Path, play_random: Any, learn_seed: int
) -> None:
    """Few positions with results at random: the error falls on those learnt from alone."""
    rows = centre_rows(60, learn_seed, play_random)._replace(
        value=np.random.default_rng(learn_seed).choice([-1, 1], 60).astype(np.float32))
    learn(tmp_path / "value", rows, policy, learn_seed, max_steps=200, evaluate_every=200,
          learning_rate=1e-2, weight_decay=0.0)
    row = read_history(tmp_path / "value/history.jsonl")[-1]
    assert row["train_mse"] < 0.7 < row["value_mse"]


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, policy: Path, play_random: Any
) -> None:
    rows = centre_rows(400, 0, play_random)
    learn(tmp_path / "whole", rows, policy, max_steps=80)
    learn(tmp_path / "cut", rows, policy, max_steps=40)
    learn(tmp_path / "cut", rows, policy, max_steps=80)
    whole, cut = (checkpoint.load_net(tmp_path / name / "ckpt-000080")[0]
                  for name in ("whole", "cut"))
    for mine, theirs in zip(whole.parameters(), cut.parameters(), strict=True):
        assert mine.equal(theirs)


@pytest.mark.learns
def test_more_games_make_a_new_curve(
    tmp_path: Path, policy: Path, play_random: Any, learn_seed: int
) -> None:
    """A curve that was flat with few positions does not keep more of them from being learnt."""
    rows = centre_rows(800, learn_seed, play_random)
    few = rows.rows(slice(80))
    flat = {"patience": 1, "drops": 0, "gain": 0.9, "evaluate_every": 20}
    learn(tmp_path, few, policy, learn_seed, **flat)
    steps = read_history(tmp_path / "history.jsonl")[-1]["step"]
    learn(tmp_path, few, policy, learn_seed, **flat)
    assert read_history(tmp_path / "history.jsonl")[-1]["step"] == steps
    learn(tmp_path, rows, policy, learn_seed, **flat)
    assert read_history(tmp_path / "history.jsonl")[-1]["step"] > steps


@pytest.mark.parametrize("init", ["rl", "random"])
def test_it_starts_from_the_policy_or_from_nothing(
    tmp_path: Path, policy: Path, play_random: Any, init: str
) -> None:
    found = learn(tmp_path / "value", centre_rows(200, 0, play_random), policy, init=init,
                  max_steps=1, learning_rate=1e-12)
    start, _ = checkpoint.load_net(policy)
    net, _ = checkpoint.load_net(found)
    near = [torch.allclose(a, b, atol=1e-6) for a, b in
            zip(start.stem.parameters(), net.stem.parameters(), strict=True)]
    assert all(near) == (init == "rl")
