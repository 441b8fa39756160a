"""Loops in memory, as a notebook runs them: no folder, stopped anywhere, and the same weights as a
run in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from test_kill import random_columns
from torch import nn

from selfplay.board.alphago_config import SFTConfig
from selfplay.board.alphazero import Learner, alphazero
from selfplay.board.config import RLConfig
from selfplay.board.league import PolicyLearner, league
from selfplay.board.supervised import sft_lesson
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.learn.plateau import until_flat
from selfplay.models import NetSpec
from selfplay.run.boards import KeptLearner, KeptPolicyLearner, train_pg, train_rl, train_sft
from selfplay.run.config import override, preset, with_algorithm

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
SMALL = RLConfig(cache_mb=1, sims=4, cheap_sims=2, full_share=0.5, games=8, positions=32, reuse=2,
                 window_min=64, window_max=64, batch_size=16, iterations=3, dtype="float32")
HERE = {"init": None, "device": "cpu", "seed": 1}


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for what may be written: nothing comes into the working directory."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield tmp_path
    assert not list(here.iterdir())


def same(net: nn.Module, path: Path) -> bool:
    other = checkpoint.load_net(path, "tictactoe")[0].state_dict()
    return all(torch.equal(value, other[key]) for key, value in net.state_dict().items())


def test_self_play_is_stopped_anywhere_and_goes_on(tmp_path: Path) -> None:
    learner = Learner(GAME, SPEC, SMALL, seed=1)
    first = list(islice(alphazero(learner), 1))
    stops = iter([False, False, True])  # within the games of the second iteration
    assert list(alphazero(learner, stop=lambda: next(stops, True))) == []
    rows = first + list(alphazero(learner))
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert all(row["policy_loss"] > 0 and row["games"] > 0 for row in rows)
    assert not any(key.endswith("seconds") for row in rows for key in row)
    assert list(alphazero(learner)) == []


def test_self_play_is_that_of_a_folder(tmp_path: Path) -> None:
    learner = Learner(GAME, SPEC, SMALL, seed=1)
    rows = list(alphazero(learner))
    kept = KeptLearner(GAME, SPEC, SMALL, tmp_path / "rl", **HERE)
    newest = train_rl(kept)
    assert newest is not None and same(learner.inference_net(), newest)
    for row, other in zip(rows, kept.history, strict=True):
        assert {key: other[key] for key in row} == row


def test_gating_wants_a_judge() -> None:
    gated = replace(SMALL, gating=True, iterations=1)
    with pytest.raises(ValueError, match="judge"):
        next(alphazero(Learner(GAME, SPEC, gated)))
    learner = Learner(GAME, SPEC, gated)
    before = [p.clone() for p in learner.inference_net().parameters()]
    (row,) = alphazero(learner, judge=lambda learner: 0.4)
    assert row["gate"] == 0.4
    assert all(map(torch.equal, before, learner.inference_net().parameters()))


def test_policy_gradient_is_that_of_a_folder(tmp_path: Path) -> None:
    config = override(with_algorithm(preset("tictactoe"), "grpo"), [
        "rl.iterations=3", "pool.games=16", "pool.group=4", "pool.every=2", "pool.opponents=2"])
    learner = PolicyLearner(GAME, SPEC, config, seed=1)
    rows = list(islice(league(learner), 1)) + list(league(learner))
    kept = KeptPolicyLearner(GAME, SPEC, config, tmp_path / "rl", **HERE)
    newest = train_pg(kept)
    assert newest is not None and same(learner.inference_net(), newest)
    for row, other in zip(rows, kept.history, strict=True):
        assert {key: other[key] for key in row} == row


def test_sft_is_that_of_a_folder(tmp_path: Path) -> None:
    rows, held = random_columns(64, 1), random_columns(32, 2)
    config = SFTConfig(batch_size=8, evaluate_every=2, max_steps=5)
    trainer, lesson = sft_lesson(GAME, SPEC, rows, held, config, seed=4)
    first = list(islice(until_flat(trainer, lesson, config), 1))  # a closed loop stops its threads
    found = first + list(until_flat(trainer, lesson, config, first))
    assert [row["step"] for row in found] == [2, 4, 5]
    train_sft(GAME, SPEC, rows, held, config, tmp_path / "sft", device="cpu", seed=4)
    assert same(trainer.inference_net(), tmp_path / "sft/ckpt-000005")
