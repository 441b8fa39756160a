"""Policy iteration: what a restart finds, what is thinned out, what is let through, learning."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import drop_sums
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.arena.play import play_games
from selfplay.arena.players import RandomPlayer, RawPlayer
from selfplay.board.config import RLConfig
from selfplay.board.data import pack
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.inference.evaluator import Evaluator
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, flops
from selfplay.run import boards
from selfplay.run.boards import KeptLearner, gate, train_rl
from selfplay.run.shards import load_shard

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
SMALL = RLConfig(cache_mb=1, sims=4, cheap_sims=2, full_share=0.5, games=8, positions=32, reuse=2,
                 window_min=64, window_max=64, batch_size=16, iterations=2, dtype="float32")


def learner(folder: Path, config: RLConfig = SMALL, spec: NetSpec = SPEC, seed: int = 1
            ) -> KeptLearner:
    return KeptLearner(GAME, spec, config, folder, init=None, device="cpu", seed=seed)


def outputs(evaluator: Any) -> np.ndarray:
    """What a net says of the first moves: a fingerprint of its weights."""
    states = GAME.new(9)
    GAME.step(states, np.arange(9))
    return np.concatenate([part.ravel() for part in evaluator(states, GAME.legal(states))])


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(outputs(a), outputs(b)))


# --------------------------------------------------------------------------- restarts

def test_a_restart_finds_everything_as_it_was(tmp_path: Path) -> None:
    first = learner(tmp_path)
    train_rl(first)
    again = learner(tmp_path)
    assert again.iteration == first.iteration == 2
    (tensors, numbers), (tensors2, numbers2) = first.trainer.state(), again.trainer.state()
    assert numbers == numbers2
    assert tensors.keys() == tensors2.keys()
    assert all(torch.equal(tensors[key], tensors2[key]) for key in tensors)
    assert again.compute == first.compute
    assert again.history == first.history
    assert len(again.window) == len(first.window)
    assert same(again.players.evaluators[0], first.players.evaluators[0])
    rng = (np.random.default_rng(5), np.random.default_rng(5))
    for a, b in zip(first.window.sample(50, rng[0])[0], again.window.sample(50, rng[1])[0],
                    strict=True):
        np.testing.assert_array_equal(a, b)


def test_learning_from_a_shard_on_disk_is_learning_from_fresh_games(tmp_path: Path) -> None:
    """A kill after self-play: the next start learns the same from the shard, and counts it."""
    whole = learner(tmp_path / "whole")
    train_rl(whole)
    parts = learner(tmp_path / "parts")
    train_rl(parts, left=iter([1.0, 1.0, *[0.0] * 99_999]).__next__)  # the time ends in play
    assert parts.iteration == 0
    parts.games(parts, lambda: False, lambda n: None)
    restarted = learner(tmp_path / "parts")
    train_rl(restarted)
    one, other = whole.history[0], restarted.history[0]
    for key in ("policy_loss", "value_loss", "games", "mean_length", "window"):
        assert one[key] == other[key], key
    assert other["evaluations"] > 0
    assert other["flops"] == pytest.approx(
        flops(SPEC) * (other["evaluations"] + 3 * other["positions"]))
    assert 0 < other["play_seconds"] <= other["seconds"]


def test_notes_of_the_cost_that_are_gone_or_damaged(tmp_path: Path) -> None:
    """The user is told to delete them: the games then cost nothing that is known."""
    played = learner(tmp_path)
    played.games(played, lambda: False, lambda n: None)
    note = played.shard(1).with_suffix(".json")
    for damaged in ("{", "[]", '{"seconds": "long"}'):
        note.write_text(damaged)
        with pytest.raises(UserError, match=r"000001\.json: damaged.*delete it"):
            train_rl(learner(tmp_path))
    note.unlink()
    restarted = learner(tmp_path)
    train_rl(restarted)
    first = restarted.history[0]
    assert [first[key] for key in ("evaluations", "play_seconds", "evaluations_per_second")] == [
        0, 0, 0]


def test_whole_parts_without_their_note_become_the_shard(tmp_path: Path) -> None:
    played = learner(tmp_path)
    played.games(played, lambda: False, lambda n: None)
    shard = played.shard(1)
    parts = shard.with_suffix(".parts")
    parts.mkdir()
    shard.rename(parts / "0000.npz")
    shard.with_suffix(".json").unlink()
    restarted = learner(tmp_path)
    train_rl(restarted)
    assert restarted.history[0]["evaluations_per_second"] == 0
    assert shard.exists() and not parts.exists()


def test_a_checkpoint_without_its_compute_is_named(tmp_path: Path) -> None:
    train_rl(learner(tmp_path))
    meta = tmp_path / "ckpt-000002" / checkpoint.META
    facts = json.loads(meta.read_text())
    drop_sums(tmp_path)
    for key in ("compute", "step"):
        meta.write_text(json.dumps({k: v for k, v in facts.items() if k != key}))
        with pytest.raises(UserError, match=r"ckpt-000002/meta\.json: damaged.*delete"):
            learner(tmp_path)


def test_an_iteration_that_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    cut = learner(tmp_path)
    left = iter([1.0] * 2)
    assert train_rl(cut, left=lambda: next(left, 0.0)) is None
    assert not list(tmp_path.rglob("*.npz"))
    assert not checkpoint.listing(tmp_path)


def test_checkpoints_now_and_then(tmp_path: Path) -> None:
    config = replace(SMALL, iterations=5, checkpoint_every=2)
    train_rl(learner(tmp_path, config))
    names = [path.name for path in checkpoint.listing(tmp_path)]
    assert names == ["ckpt-000002", "ckpt-000004", "ckpt-000005"]  # the last one always
    rows = read_history(tmp_path / "history.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(a["seconds"] < b["seconds"] and a["flops"] < b["flops"]
               for a, b in pairwise(rows))


def test_records_on_disk_are_the_games(tmp_path: Path) -> None:
    done = learner(tmp_path)
    train_rl(done)
    for iteration in (1, 2):
        shard = load_shard(done.shard(iteration))
        assert len(shard.columns.value) >= SMALL.positions
        starts = np.concatenate([[0], shard.ends[:-1]])
        seen = set()
        for start, end, value in zip(starts, shard.ends, shard.values, strict=True):
            states = GAME.new(1)
            for action in shard.actions[start:end]:
                seen.add(pack(GAME.observe(states), True)[0].tobytes())
                assert GAME.legal(states)[0, action]
                GAME.step(states, np.array([action]))
            over, result = GAME.result(states)
            assert over[0] and result[0] == value
        assert {row.tobytes() for row in shard.columns.obs} <= seen


# --------------------------------------------------------------------------- thinning

@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 60))
def test_thinning_keeps_the_ends_and_the_spacing(keep: int, iterations: int) -> None:
    """Thinned after every iteration, as a run does it (checkpoints are names here)."""
    kept: list[Path] = []
    dropped: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "listing", lambda folder: list(kept))
        patch.setattr(checkpoint, "drop_training", dropped.append)
        patch.setattr(checkpoint.shutil, "rmtree", lambda path: kept.remove(path))
        for step in range(1, iterations + 1):
            kept.append(Path(f"ckpt-{step:06d}"))
            checkpoint.thin(Path(), keep, evenly=True)
            assert kept[-1].name == f"ckpt-{step:06d}"
            assert not set(kept[-2:]) & set(dropped)
    steps = [int(path.name[5:]) for path in kept]
    assert len(steps) == min(max(keep, 2) + 1, iterations)
    assert steps[0] == 1
    gaps = np.diff(steps)
    assert gaps.max(initial=0) <= 2 * (iterations - 1) / max(len(steps) - 2, 1) + 1


def test_thinning_on_disk(tmp_path: Path) -> None:
    train_rl(learner(tmp_path, replace(SMALL, iterations=6, keep=3)))
    found = checkpoint.listing(tmp_path)
    assert len(found) == 4
    assert (found[0].name, found[-1].name) == ("ckpt-000001", "ckpt-000006")
    for path in found:
        checkpoint.load_net(path, "tictactoe")
    whole = [path.name for path in found if (path / checkpoint.TRAIN).exists()]
    assert whole == ["ckpt-000005", "ckpt-000006"]


def test_a_damaged_newest_checkpoint_costs_its_iteration_only(tmp_path: Path) -> None:
    train_rl(learner(tmp_path, replace(SMALL, iterations=3)))
    (tmp_path / "ckpt-000003" / checkpoint.WEIGHTS).write_bytes(b"")
    shard = learner(tmp_path).shard(3).read_bytes()
    again = learner(tmp_path, replace(SMALL, iterations=3))
    assert again.iteration == 2
    assert train_rl(again) == tmp_path / "ckpt-000003"
    assert again.shard(3).read_bytes() == shard  # its games are learnt from again


# ----------------------------------------------------------------------------- gating

@pytest.mark.parametrize(("score", "let_through"), [(0.49, False), (0.5, True), (0.9, True)])
def test_gating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, let_through: bool
) -> None:
    monkeypatch.setattr(boards, "gate", lambda learner: score)
    gated = learner(tmp_path, replace(SMALL, iterations=1, gating=True))
    before = outputs(gated.players.evaluators[0])
    train_rl(gated)
    assert gated.history[-1]["gate"] == score
    assert np.array_equal(outputs(gated.players.evaluators[0]), before) != let_through
    newest = Evaluator(gated.trainer.inference_net(), GAME, dtype="float32")
    assert same(gated.players.evaluators[0], newest) == let_through
    # who plays is who the checkpoint holds and who a restart lets play; training goes on anyway
    again = learner(tmp_path, replace(SMALL, gating=True))
    assert same(again.players.evaluators[0], gated.players.evaluators[0])
    held, _ = checkpoint.load_net(tmp_path / "ckpt-000001")
    assert same(Evaluator(held, GAME, dtype="float32"), gated.players.evaluators[0])
    restarted = learner(tmp_path, replace(SMALL, gating=True))
    assert same(Evaluator(restarted.trainer.inference_net(), GAME, dtype="float32"), newest)


def test_the_gates_match_is_even_between_equals(tmp_path: Path) -> None:
    equal = learner(tmp_path, replace(SMALL, gating_games=16))
    assert gate(equal) == 0.5


@pytest.mark.parametrize(("quits", "score"), [("new", 0.0), ("old", 1.0)])
def test_the_gate_scores_the_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quits: str, score: float
) -> None:
    import selfplay.arena.players

    class Quitter(RawPlayer):
        def act(self, states: Any, slots: Any) -> Any:
            if self.name == quits:
                return np.full(len(slots), selfplay.arena.players.RESIGN)
            return super().act(states, slots)

    monkeypatch.setattr(selfplay.arena.players, "RawPlayer", Quitter)
    assert gate(learner(tmp_path, replace(SMALL, gating_games=8))) == score


# --------------------------------------------------------------------------- learning

def score_against_random(net: torch.nn.Module, seed: int, games: int = 400) -> float:
    raw = RawPlayer("raw", Evaluator(net, GAME))
    played = play_games(GAME, raw, RandomPlayer("random", GAME), games=games, opening=(0, 2),
                        seed=seed, slots=64)
    return float(np.mean([(1 + g.value * (1 if g.players[0] == "raw" else -1)) / 2
                          for g in played]))


@pytest.mark.learns
def test_self_play_learns(tmp_path: Path, learn_seed: int) -> None:
    config = RLConfig(sims=16, cheap_sims=4, full_share=0.5, games=32, positions=384, reuse=4,
                      window_min=2000, window_max=4000, batch_size=64, learning_rate=5e-3,
                      ema_decay=0.98, temperature_plies=4, opening=(0, 3), iterations=6)
    run = learner(tmp_path, config, replace(SPEC, size="2x16"), learn_seed)
    before = score_against_random(run.trainer.inference_net(), learn_seed)
    train_rl(run)
    after = score_against_random(run.trainer.inference_net(), learn_seed)
    assert after > before + 0.1  # four standard errors of 400 games
    assert after > 0.8
    losses = [row["value_loss"] for row in run.history]
    assert losses[-1] < losses[0]


def test_threads_change_neither_games_nor_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfplay.inference.actors.GROUP_GAMES", {"cpu": 3})
    monkeypatch.setattr("selfplay.board.trainer.SHARD_ROWS", {"cpu": 5})
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        train_rl(learner(tmp_path / str(threads)))
    one, *others = (checkpoint.load_net(tmp_path / name / "ckpt-000002")[0].state_dict()
                    for name in "123")
    games = [load_shard(tmp_path / name / "records" / "000002.npz").actions for name in "123"]
    for weights, actions in zip(others, games[1:], strict=True):
        assert all(torch.equal(tensor, weights[key]) for key, tensor in one.items())
        assert np.array_equal(actions, games[0])
