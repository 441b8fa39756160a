"""Games by policy gradient: restarts, threads, breakdowns, what is noted down, learning."""

from __future__ import annotations

import os
import signal
import time
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Command, selfplay, start

from selfplay.board import league
from selfplay.board.policy import BoardPolicy
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.games.base import take
from selfplay.learn import checkpoint
from selfplay.learn.config import ALGORITHMS
from selfplay.models import NetSpec, build, flops, seeded
from selfplay.run.boards import KeptPolicyLearner, train_pg
from selfplay.run.config import RunConfig, override, preset, with_algorithm

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)


def config(name: str = "ppo", *changes: str) -> RunConfig:
    return override(preset("tictactoe"), [
        f"rl.algorithm={name}", "rl.iterations=3", "pool.games=24", "pool.every=2",
        "pool.opponents=3", "pg.minibatches=2", *changes])


def learner(folder: Path, settings: RunConfig | None = None, seed: int = 1) -> KeptPolicyLearner:
    return KeptPolicyLearner(GAME, SPEC, settings or config(), folder, init=None, device="cpu",
                         seed=seed)


def weights(folder: Path, step: int) -> bytes:
    return (folder / f"ckpt-{step:06d}" / checkpoint.WEIGHTS).read_bytes()


# ------------------------------------------------------------------- restarts and threads

@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_a_restart_goes_on_as_if_nothing_had_happened(tmp_path: Path, name: str) -> None:
    """Cut after every iteration, and in the middle of one, against a run in one piece."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_pg(learner(whole, config(name, "rl.iterations=5")))
    for iterations in (1, 2, 5):
        left = chain([1.0] * 3, repeat(0.0))  # the time ends within an iteration's games
        train_pg(learner(cut, config(name, "rl.iterations=5")), left=left.__next__)
        train_pg(learner(cut, config(name, f"rl.iterations={iterations}")))
    assert weights(cut, 5) == weights(whole, 5)
    for step in (0, 2, 4):
        assert weights(cut / "pool", step) == weights(whole / "pool", step)
    assert not (cut / "pool/ckpt-000005").exists()
    rows = [[{k: v for k, v in row.items() if not k.endswith(("seconds", "_mb"))}
             for row in read_history(folder / "history.jsonl")] for folder in (whole, cut)]
    assert rows[0] == rows[1] and len(rows[0]) == 5


def test_iterations_after_the_last_checkpoint_come_again(tmp_path: Path) -> None:
    """A kill undoes what had no checkpoint; a later member of the pool that is there already, and
    rows of the history, are made again."""
    settings = config("grpo", "rl.iterations=6", "rl.checkpoint_every=3", "pool.every=2")
    train_pg(learner(tmp_path / "whole", settings))
    train_pg(learner(tmp_path / "cut", settings))
    for name in ("ckpt-000006",):
        for file in (tmp_path / "cut" / name).iterdir():
            file.unlink()
    (tmp_path / "cut/pool/ckpt-000004" / checkpoint.WEIGHTS).write_bytes(b"half")
    train_pg(learner(tmp_path / "cut", settings))
    assert weights(tmp_path / "cut", 6) == weights(tmp_path / "whole", 6)
    rows = [row["iteration"] for row in read_history(tmp_path / "cut/history.jsonl")]
    assert rows == [1, 2, 3, 4, 5, 6]


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    for threads in (1, 3):
        torch.set_num_threads(threads)
        made = learner(tmp_path / str(threads))
        assert made.workers.threads == threads
        train_pg(made)
    assert weights(tmp_path / "1", 3) == weights(tmp_path / "3", 3)
    assert weights(tmp_path / "1", 3) != weights(tmp_path / "1", 2)


def test_killed_at_any_instant(tmp_path: Path) -> None:
    words = ["rl", "--game", "tictactoe", "--init", "random", "--algo", "ppo", "--minutes", "60",
             *(word for setting in ("net=1x8", "rl.iterations=8", "pool.games=24", "pool.every=3")
               for word in ("--set", setting))]
    done = selfplay(*words, "--run", "whole", cwd=tmp_path, fresh=True)
    assert done.returncode == 0, done.stderr
    draw = np.random.default_rng(0)
    for step in (1, 4):
        process = start(*words, "--run", "cut", cwd=tmp_path)
        while process.poll() is None and not (tmp_path / f"cut/rl/ckpt-{step:06d}").exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    done = selfplay(*words, "--run", "cut", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "cut/rl", 8) == weights(tmp_path / "whole/rl", 8)
    assert not list((tmp_path / "cut/rl").glob(".*"))
    assert set(os.listdir(tmp_path / "cut/rl/pool")) == set(
        os.listdir(tmp_path / "whole/rl/pool"))


# --------------------------------------------------------------------------------- learning

#: iterations, games each, and a learning rate with which so few tell: nothing clips REINFORCE and
#: RLOO, CISPO's gradient always counts, GSPO's clip lets each step go a little way
LESSONS = {"reinforce": (16, 256, 0.01), "rloo": (16, 256, 0.01), "gspo": (30, 128, 0.05),
           "ppo": (10, 256, 0.01), "cispo": (16, 256, 0.01)}


@pytest.mark.learns
@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_algorithm_learns(tmp_path: Path, name: str, learn_seed: int) -> None:
    """From nothing: the expected score against random moves, exactly, over all games there are."""
    spec = NetSpec("1x16", GAME.obs_shape, GAME.num_actions, False)
    iterations, games, rate = LESSONS.get(name, (16, 256, 0.02))
    settings = config(name, f"rl.iterations={iterations}", f"pool.games={games}", "pool.every=5",
                      "pool.opening=0,0", "pg.kl_weight=0", f"pg.learning_rate={rate}")
    made = KeptPolicyLearner(GAME, spec, settings, tmp_path, init=None, device="cpu",
                             seed=learn_seed)
    before = expected_score(made.policy)
    train_pg(made)
    assert before == pytest.approx(0.5, abs=0.05)
    assert expected_score(made.policy) > before + 0.05


def expected_score(policy: BoardPolicy) -> float:
    """Of ``policy`` (1 a win, 0.5 a draw), as drawn at temperature 1, against uniformly random
    moves, the mean of both colours: every line of play by its probability."""
    levels, parents = [GAME.new(1)], []
    while True:  # all positions, ply by ply, each once
        legal = GAME.legal(levels[-1])
        rows, moves = np.nonzero(legal)
        if not len(rows):
            break
        after = take(levels[-1], rows)
        GAME.step(after, moves)
        _, first, place = np.unique(after.boards, axis=0, return_index=True, return_inverse=True)
        parents.append((rows, moves, place.ravel()))
        levels.append(take(after, first))
    value = GAME.result(levels[-1])[1]
    both = np.stack([value, value])  # of player 0; the policy is player 0, player 1
    for states, (rows, moves, place) in zip(levels[-2::-1], parents[::-1], strict=True):
        legal = GAME.legal(states)
        logits, _ = policy._forward(torch.from_numpy(GAME.observe(states)))
        own = torch.softmax(logits.detach().masked_fill(~torch.from_numpy(legal), -1e9), 1).numpy()
        other = legal / np.maximum(legal.sum(1, keepdims=True), 1)
        done, result = GAME.result(states)
        mover = int(states.to_play[~done][0])
        now = np.stack([result, result]).astype(np.float64)
        for seat in (0, 1):
            chances = own if seat == mover else other
            np.add.at(now[seat], rows, chances[rows, moves] * both[seat][place])
        both = now
    return float((1 + (both[0, 0] - both[1, 0]) / 2) / 2)


def test_the_expected_score_of_random_moves_is_a_half() -> None:
    """The sum above, by hand: the first player of two random ones wins 58.5 % and draws 12.7 %."""
    spec = NetSpec("1x16", GAME.obs_shape, GAME.num_actions, False)
    net = seeded(0, lambda: build(spec)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    uniform = BoardPolicy(net, GAME.obs_shape, 9, dtype="float32")
    assert expected_score(uniform) == pytest.approx(0.5, abs=1e-6)


def test_batchnorms_keep_their_statistics(tmp_path: Path) -> None:
    made = learner(tmp_path)
    before = {k: v.clone() for k, v in made.policy.net.state_dict().items()}
    train_pg(made)
    after = made.policy.net.state_dict()
    kept = {k for k in before if "running" in k or "tracked" in k}
    assert kept and all(torch.equal(before[k], after[k]) for k in kept)
    assert any(not torch.equal(before[k], after[k]) for k in before)


@pytest.mark.learns
def test_a_gain_for_what_won(tmp_path: Path, learn_seed: int) -> None:
    """One step of REINFORCE raises the mean log-probability of moves that won against that of
    moves that lost."""
    made = learner(tmp_path, config("reinforce", "pool.games=200", "pg.minibatches=1",
                                    "pg.learning_rate=0.001"), learn_seed)
    rollout = made.play().rollout
    won = rollout.reward.sum(1)
    before = made._seen(made.policy, rollout).logp.sum(1)
    made.learn(rollout)
    change = made._seen(made.policy, rollout).logp.sum(1) - before
    assert change[won > 0].mean() > change[won < 0].mean() + 0.001


# --------------------------------------------------------------------------------- the notes

@pytest.mark.learns
def test_what_a_row_says(tmp_path: Path, learn_seed: int) -> None:
    made = learner(tmp_path, config("grpo", "pool.group=4", "pg.kl_weight=0.1",
                                    "pg.learning_rate=0.01"), learn_seed)
    played = made.play()
    scores = played.score.tolist()
    groups = [set(scores[start : start + 4]) for start in range(0, 24, 4)]
    train_pg(made)
    row, last = made.history[0], made.history[-1]
    assert row["games"] == 24
    assert row["score"] == pytest.approx(np.mean([(s + 1) / 2 for s in scores]))
    assert row["moves"] == int(played.rollout.mask.sum())
    if len(played.rollout) == 24:
        assert row["no_signal"] == pytest.approx(np.mean([len(found) == 1 for found in groups]))
    assert row["ref_kl"] < 1e-4 < last["ref_kl"]  # the first policy is the reference
    assert 0 <= row["act_kl"] < 1e-4
    assert "value_loss" not in row
    assert {"entropy", "clip_fraction", "sample_kl", "mean_length", "draws"} <= row.keys()
    passes = row["updates"] / 2
    assert row["positions"] == pytest.approx(row["moves"] * passes)
    assert row["flops"] > flops(SPEC) * row["moves"] * (3 * passes + 1)


def test_a_critic_is_noted_down(tmp_path: Path) -> None:
    train_pg(made := learner(tmp_path))
    assert {"value_loss", "explained_variance"} <= made.history[0].keys()


def test_dr_grpo_divides_by_the_moves_that_there_may_be(tmp_path: Path) -> None:
    assert learner(tmp_path / "a", config("dr_grpo")).optimizer.config.constant_length == 9
    set_to = config("dr_grpo", "pg.constant_length=4")
    assert learner(tmp_path / "b", set_to).optimizer.config.constant_length == 4


def test_the_past_does_not_change(tmp_path: Path) -> None:
    """Opponents are the policies of their time, not the one that learns."""
    train_pg(made := learner(tmp_path, config("ppo", "rl.iterations=5")))
    for step in (2, 4):
        assert weights(tmp_path / "pool", step) == weights(tmp_path, step)
    again = made.pool.member(2).evaluate(made.play().rollout).logp
    now = made.policy.frozen().evaluate(made.play().rollout).logp
    assert not torch.equal(again, now)


# ------------------------------------------------------------------------------- breakdowns

@pytest.mark.parametrize(("changes", "says"), [
    (["pg.learning_rate=1e9"], "lower learning rate"),
    (["pg.max_kl=1e-12", "pg.kl_weight=0"], "divergence sample_kl"),
])
def test_a_breakdown_leaves_the_last_checkpoint(
    tmp_path: Path, changes: list[str], says: str
) -> None:
    settings = config("ppo", "rl.iterations=1")
    train_pg(learner(tmp_path, settings))
    before = weights(tmp_path, 1)
    worse = config("ppo", "rl.iterations=9", *changes)
    with pytest.raises(UserError, match=says) as error:
        train_pg(learner(tmp_path, worse))
    rate = worse.pg.learning_rate / 3
    assert str(error.value).endswith(f"go on from it with --init {tmp_path}/ckpt-000001 --run NEW "
                                     f"--set pg.learning_rate={rate:.2g}")
    assert "\n" not in str(error.value)
    if rate > 1:
        with pytest.raises(UserError, match="no checkpoint yet, begin again with --run NEW --set"):
            train_pg(learner(tmp_path / "new", worse))
    assert weights(tmp_path, 1) == before
    checkpoint.load_training(checkpoint.newest(tmp_path))


def test_nan_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = learner(tmp_path)
    train_pg(made, left=chain([1.0] * 6, repeat(0.0)).__next__)
    monkeypatch.setattr(
        league.PolicyLearner, "_seen", lambda self, policy, rollout: league.Evaluated(
            rollout.logp * torch.nan, rollout.logp, rollout.logp))
    with pytest.raises(UserError, match=r"the loss is nan.*last good checkpoint"):
        train_pg(learner(tmp_path))


# ------------------------------------------------------------------------ the command line

T = ("--game", "tictactoe")
FEW = ("--init", "random", "--minutes", "5", "--set", "net=1x8", "--set", "rl.iterations=2",
       "--set", "pool.games=16")


def test_the_command(run: Command, tmp_path: Path) -> None:
    said = run("rl", *T, "--algo", "grpo", *FEW, "--set", "pg.clip_high=0.28", "--run", "r")
    assert said.code == 0, said.err
    assert "RL: 2 iterations" in said.out
    row = read_history(tmp_path / "r/rl/history.jsonl")[-1]
    assert row["iteration"] == 2 and "no_signal" in row
    assert any((tmp_path / "r/tb").iterdir())
    said = run("match", "net:r", "net:r/rl/pool/ckpt-000000", *T, "--games", "4")
    assert said.code == 0, said.err
    said = run("rl", *T, "--algo", "puct", "--run", "r")
    said.mistake("was started with rl.algorithm=grpo, not puct")
    said = run("rl", *T, "--algo", "grpo", "--set", "pg.clip_high=0.3", "--run", "r")
    said.mistake("pg.clip_high=0.28, not 0.3")
    said = run("rl", "--run", "r", "--minutes", "5", "--set", "rl.iterations=3")
    assert said.code == 0, said.err
    assert "RL: 3 iterations" in said.out


@pytest.mark.parametrize(("words", "says"), [
    (("--algo", "ppoo"), "ppo"),
    (("--algo", "ppo", "--set", "pg.clip=1"), "did you mean pg.clip_"),
    (("--algo", "ppo", "--set", "pg.estimator=best"), "one of return, mean, gae"),
    (("--algo", "ppo", "--set", "pool.every=0"), "more than 0"),
    (("--algo", "ppo", "--set", "pg.gamma=1.5"), "at most 1"),
    (("--algo", "grpo", "--set", "pool.group=1"), "pool.group"),
    (("--algo", "grpo", "--set", "pool.group=17", "--set", "pool.games=16"), "pool.games"),
])
def test_mistakes(run: Command, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    run("rl", *T, *FEW, *words, "--run", "r").mistake(says)
    assert not (tmp_path / "r/rl").exists()


def test_an_algorithm_brings_its_settings_and_set_has_the_last_word() -> None:
    base = preset("tictactoe")
    grpo = with_algorithm(base, "grpo")
    assert (grpo.pg.estimator, grpo.pg.average) == ("group", "sequence")
    assert grpo.pool.opening == (0, 3)
    changed = override(base, ["pg.clip_high=0.3", "rl.algorithm=dapo"])
    assert (changed.pg.clip_low, changed.pg.clip_high) == (0.2, 0.3)
    assert override(changed, ["rl.algorithm=dapo"]) == changed
    assert with_algorithm(changed, "gumbel") == base


def test_the_policy_becomes_the_reference(tmp_path: Path) -> None:
    """After every second iteration the reference is the policy as it had joined the pool."""
    settings = config("grpo", "pool.every=1", "pg.reset_every=2", "pg.learning_rate=0.01",
                      "pool.group=4")
    made = learner(tmp_path / "whole", settings)
    train_pg(made)
    near = [row["ref_kl"] for row in made.history]
    assert near[0] < 1e-6 < 1e-5 < near[1] and near[2] < near[1] / 10
    assert made.optimizer.trainer.forgot == 2 * 2  # of two minibatches each
    train_pg(learner(tmp_path / "cut", override(settings, ["rl.iterations=2"])))
    train_pg(learner(tmp_path / "cut", settings))
    assert weights(tmp_path / "cut", 3) == weights(tmp_path / "whole", 3)
