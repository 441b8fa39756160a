"""kill -9 and Ctrl-C at any instant: the same command goes on, and nothing finished is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import TINY, selfplay, start

from selfplay.board.alphago_config import SFTConfig
from selfplay.board.config import RLConfig
from selfplay.board.data import Columns
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.learn.optimizer import Trainer
from selfplay.models import NetSpec, build, seeded
from selfplay.run.boards import KeptLearner, best_sft, train_rl, train_sft
from selfplay.run.shards import load_shard

TRAIN = ["train", "--game", "tictactoe", "--run", "run", *TINY]
GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)


# ---------------------------------------------------------------------- the whole command, killed

#: Where a run is: true as soon as the stage is under way.
PHASES: dict[str, Callable[[Path], bool]] = {
    "expert": lambda run: any(run.glob("expert/*.partial.jsonl")),
    "SFT": lambda run: (run / "sft/history.jsonl").exists(),
    "checkpoint": lambda run: any(run.glob("*/.tmp-ckpt-*")),
    "self-play": lambda run: (run / "rl/ckpt-000001").exists(),
    "training": lambda run: (run / "rl/records/000003.npz").exists(),
    "evaluation": lambda run: len(list(run.glob("matches/*/games.jsonl"))) >= 4,
}


def interrupt(folder: Path, reached: Callable[[Path], bool], delay: float, number: int) -> Any:
    """Start the run, send it signal ``number`` so long after it has reached a place."""
    process = start(*TRAIN, cwd=folder)
    while process.poll() is None and not reached(folder / "run"):
        time.sleep(0.0005)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def check_valid(run: Path, iterations: int = 3) -> None:
    """The run is what an undisturbed one is: complete, readable, without doubles or gaps."""
    for path in checkpoint.listing(run / "sft") + checkpoint.listing(run / "rl"):
        checkpoint.load_net(path, "tictactoe")
    for stage in ("sft", "rl"):
        checkpoint.load_training(checkpoint.newest(run / stage))
        assert not list((run / stage).glob(".*")), "something unfinished is left"
    rows = [row["iteration"] for row in read_history(run / "rl/history.jsonl")]
    assert rows == list(range(1, iterations + 1))
    steps = [row["step"] for row in read_history(run / "sft/history.jsonl")]
    assert steps == [10, 20, 25, 30, 40, 45]
    for iteration in range(1, iterations + 1):
        shard = load_shard(run / f"rl/records/{iteration:06d}.npz")
        assert len(shard.columns.value) >= 96
    for match in run.glob("matches/*"):
        lines = [json.loads(line) for line in (match / "games.jsonl").read_text().splitlines()]
        assert sorted(line["index"] for line in lines) == list(range(len(lines)))
    summary = json.loads((run / "summary.json").read_bytes())
    assert {mode["sims"] for mode in summary["modes"].values()} == {0, 4}
    assert summary["games"] > 0
    assert (run / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = selfplay(*TRAIN, cwd=folder, fresh=True)
    assert done.returncode == 0, done.stderr
    check_valid(folder / "run")
    return folder / "run"


def finish(folder: Path, undisturbed: Path) -> None:
    done = selfplay(*TRAIN, cwd=folder)
    assert done.returncode == 0, done.stderr
    check_valid(folder / "run")
    # Expert games and SFT depend on seed and settings alone, whatever has happened meanwhile.
    for name in ("expert/games.jsonl.gz", "sft/ckpt-000045/weights.safetensors", "sft/best.json"):
        assert (folder / "run" / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_killed_in_every_stage(tmp_path: Path, undisturbed: Path) -> None:
    rng = random.Random(1)
    for name, reached in PHASES.items():
        code, _, _ = interrupt(tmp_path, reached, rng.uniform(0, 0.05), signal.SIGKILL)
        assert code == -signal.SIGKILL, f"it had ended before {name}"
    finish(tmp_path, undisturbed)


def test_killed_at_random_instants(tmp_path: Path, undisturbed: Path) -> None:
    rng = random.Random(2)
    for _ in range(3):  # from the first file on, so that the instants are not all in the imports
        interrupt(tmp_path, Path.exists, rng.uniform(0, 4), signal.SIGKILL)
    finish(tmp_path, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_one_line_and_130(tmp_path: Path, undisturbed: Path, number: int) -> None:
    rng = random.Random(3)
    for name in ("SFT", "evaluation"):
        code, _, err = interrupt(tmp_path, PHASES[name], rng.uniform(0, 0.05), number)
        assert (code, err.strip()) == (130, "stopped; the same command continues"), name
    finish(tmp_path, undisturbed)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, undisturbed: Path) -> None:
    """Whatever the first one has set in motion, what is on disk is good."""
    rng = random.Random(4)
    for name in ("expert", "SFT", "self-play", "evaluation"):
        process = start(*TRAIN, cwd=tmp_path)
        while process.poll() is None and not PHASES[name](tmp_path / "run"):
            time.sleep(0.0005)
        process.send_signal(signal.SIGINT)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (name, out, err)
        at_once = "stopped at once; the same command continues"
        assert err.strip() in (at_once, "stopped; the same command continues",
                               f"stopped; the same command continues\n{at_once}"), name
    finish(tmp_path, undisturbed)


def test_a_finished_run_stays_as_it_is(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    kept = [path for path in (tmp_path / "run").rglob("*")
            if path.is_file() and path.suffix in (".safetensors", ".npz", ".jsonl", ".gz")]
    before = {path: path.read_bytes() for path in kept}
    finish(tmp_path, undisturbed)
    assert {path: path.read_bytes() for path in kept} == before


# -------------------------------------------------------- killed before and after every file call

#: Calls after which a file system is in another state than before.
CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
REACHED, COMPLETE = 9, 0
EVERY = 10  #: one of so many calls is died at; before the others it is only kept what is there


def in_a_child(body: Callable[[], object], before_call: Callable[[int], None]) -> int:
    """Run ``body`` in a child that tells ``before_call`` the number of each file call; its exit
    code."""
    child = os.fork()
    if child == 0:
        try:
            _tell(before_call)
            body()
            os._exit(COMPLETE)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _tell(before_call: Callable[[int], None]) -> None:
    count, telling = 0, False  # what ``before_call`` itself calls is not counted

    def told(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal count, telling
            if not telling:
                count, telling = count + 1, True
                before_call(count)
                telling = False
            return function(*args, **options)
        return counted

    for name in CALLS:
        setattr(os, name, told(getattr(os, name)))


def left(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*")}


def every_death(
    tmp_path: Path, prepared: Path, body: Callable[[Path], object], check: Callable[[Path], None]
) -> int:
    """What ``body`` on copies of ``prepared`` leaves, dead at file call 1, 2, ... or alive: all
    checked, but what the death before leaves as well. How many deaths there are.

    A death leaves what is there before its call: that is kept, call by call, while one child lives.
    Children that die indeed leave as much, and are checked, too.
    """
    folder, kept = tmp_path / "copy", tmp_path / "kept"
    calls, before = tmp_path / "calls", dict[Path, int]()

    def anew(source: Path) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(source, folder)

    def keep(call: int) -> None:
        nonlocal before
        if call == 1 or left(folder) != before:
            before = left(folder)
            shutil.copytree(folder, kept / f"{call:04d}")
        calls.write_text(str(call))

    anew(prepared)
    assert in_a_child(lambda: body(folder), keep) == COMPLETE
    check(folder)
    states = sorted(kept.iterdir())
    for state in states:
        check(anew(state))
    for death in range(EVERY, int(calls.read_text()) + 1, EVERY):
        anew(prepared)
        assert in_a_child(lambda: body(folder),
                          lambda call, at=death: call < at or os._exit(REACHED)) == REACHED
        same = max(state for state in states if int(state.name) <= death)
        assert len(left(folder)) == len(left(same)), death
        check(folder)
    return int(calls.read_text())


def trainer(seed: int) -> Trainer:
    found = board_trainer(seeded(seed, lambda: build(SPEC)), TrainConfig(batch_size=8))
    found.step(random_batch(seed))
    return found


def random_columns(rows: int, seed: int) -> Columns:
    """Rows of noise in the shape of tic-tac-toe."""
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 2, (rows, *GAME.obs_shape))
    return Columns(
        obs=np.packbits(planes.reshape(rows, -1).astype(np.bool_), axis=1),
        policy=np.eye(9, dtype=np.float16)[rng.integers(0, 9, rows)],
        policy_weight=np.ones(rows, np.float32),
        value=rng.choice([-1.0, 0.0, 1.0], rows).astype(np.float32),
        ownership=np.zeros((rows, 9), np.int8),
        score=np.zeros(rows, np.float32),
        aux_weight=np.zeros(rows, np.float32),
    )


def random_batch(seed: int) -> Any:
    from selfplay.board.data import batch

    rows = np.arange(8)
    return batch(random_columns(8, seed), rows, GAME, GAME.symmetries(), None)


def meta(step: int) -> dict[str, Any]:
    return {"game": "tictactoe", "kind": "rl", "step": step, "iteration": step, "compute": {}}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_net(path, "tictactoe")[0].state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, replaced: bool) -> None:
    old, new = trainer(1), trainer(2)
    before = tmp_path / "before"
    checkpoint.save(before / "ckpt-000001", old, SPEC, meta(1))
    if replaced:
        checkpoint.save(before / "ckpt-000002", old, SPEC, meta(2))

    def check(folder: Path) -> None:
        found = checkpoint.listing(folder)
        assert found[0].name == "ckpt-000001"
        assert same(weights(found[0]), old.inference_net().state_dict())
        checkpoint.load_training(found[-1])
        for path in found[1:]:
            second = weights(path)
            assert same(second, new.inference_net().state_dict()) or (
                replaced and same(second, old.inference_net().state_dict()))
        checkpoint.save(folder / "ckpt-000002", new, SPEC, meta(2))
        assert {p.name for p in folder.iterdir()} == {"ckpt-000001", "ckpt-000002"}
        assert same(weights(folder / "ckpt-000002"), new.inference_net().state_dict())

    deaths = every_death(
        tmp_path, before,
        lambda folder: checkpoint.save(folder / "ckpt-000002", new, SPEC, meta(2)), check)
    assert deaths >= 15


def test_an_exception_in_the_middle_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    old, new = trainer(1), trainer(2)
    checkpoint.save(tmp_path / "ckpt-000001", old, SPEC, meta(1))
    for name in ("replace", "rename", "fsync"):
        function = getattr(os, name)
        for call in range(100):
            left = [call]

            def failing(*args: Any, left: list[int] = left, real: Any = function) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*args)

            with monkeypatch.context() as patch:
                patch.setattr(os, name, failing)
                try:
                    checkpoint.save(tmp_path / "ckpt-000002", new, SPEC, meta(2))
                    break
                except Killed:
                    pass
            assert same(weights(tmp_path / "ckpt-000001"), old.inference_net().state_dict())
            assert {p.name for p in tmp_path.iterdir()} <= {"ckpt-000001", "ckpt-000002"}
            if (tmp_path / "ckpt-000002").exists():
                assert same(weights(tmp_path / "ckpt-000002"), new.inference_net().state_dict())
        assert call >= 1
        shutil.rmtree(tmp_path / "ckpt-000002")


def test_thinning_leaves_whole_checkpoints(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path / "before" / f"ckpt-{step:06d}", trainer(step), SPEC, meta(step))

    def check(folder: Path) -> None:
        found = checkpoint.listing(folder)
        for path in found:
            weights(path)
        assert found[-1].name == "ckpt-000005"
        checkpoint.load_training(found[-1])
        thin(folder)
        assert len(checkpoint.listing(folder)) == 3  # two, and the one before the newest

    def thin(folder: Path) -> None:
        checkpoint.thin(folder, 2, evenly=True)

    assert every_death(tmp_path, tmp_path / "before", thin, check) >= 10


# float32: a forked child cannot use OpenVINO's threads either
RL = RLConfig(dtype="float32", sims=2, cheap_sims=1, full_share=0.5, games=8, positions=16, reuse=2,
              cache_mb=1, window_min=64,
              window_max=64, batch_size=8, iterations=2, keep=2)


def test_a_self_play_iteration_killed_anywhere(tmp_path: Path) -> None:
    def learn(folder: Path, iterations: int) -> KeptLearner:
        config = RLConfig(**{**vars(RL), "iterations": iterations})
        learner = KeptLearner(GAME, SPEC, config, folder, init=None, device="cpu", seed=1)
        train_rl(learner)
        return learner

    learn(tmp_path / "before", 1)

    def check(folder: Path) -> None:
        seconds = checkpoint.read_meta(checkpoint.newest(folder))["compute"]["seconds"]
        learner = learn(folder, 2)
        rows = read_history(folder / "history.jsonl")
        assert [row["iteration"] for row in rows] == [1, 2]
        assert all(row["mean_length"] > 0 and row["evaluations"] > 0 for row in rows)
        assert learner.kept.spent() >= seconds
        assert learner.compute["flops"] == rows[-1]["flops"] > rows[0]["flops"] > 0
        assert checkpoint.newest(folder).name == "ckpt-000002"
        assert len(learner.window) == sum(
            len(load_shard(learner.shard(i)).columns.value) for i in (1, 2))

    assert every_death(tmp_path, tmp_path / "before", lambda folder: learn(folder, 2), check) >= 20


def test_sft_killed_anywhere_gives_the_same_weights(tmp_path: Path) -> None:
    rows, held = random_columns(64, 1), random_columns(32, 2)
    config = SFTConfig(batch_size=8, evaluate_every=2, max_steps=3)

    def learn(folder: Path) -> Path:
        return train_sft(GAME, SPEC, rows, held, config, folder, device="cpu", seed=4)

    whole = tmp_path / "whole"
    learn(whole)
    (tmp_path / "before").mkdir()

    def check(folder: Path) -> None:
        learn(folder)
        assert same(weights(folder / "ckpt-000003"), weights(whole / "ckpt-000003"))
        assert best_sft(folder).name == best_sft(whole).name
        steps = [row["step"] for row in read_history(folder / "history.jsonl")]
        assert steps == [2, 3]
        assert [p.name for p in checkpoint.listing(folder)] == [
            p.name for p in checkpoint.listing(whole)]

    assert every_death(tmp_path, tmp_path / "before", learn, check) >= 30
