"""Boards learnt by several processes: the same games and weights as by one, to the bit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import ROOT
from together import same_files, together

from selfplay.board.config import RLConfig
from selfplay.cli import cli, mistakes
from selfplay.common import ranks
from selfplay.common.console import say
from selfplay.common.files import locked, write_json
from selfplay.games import make
from selfplay.models import NetSpec
from selfplay.run.boards import KeptLearner, KeptPolicyLearner, train_pg, train_rl
from selfplay.run.config import override, preset
from selfplay.run.keep import append
from selfplay.run.stage import by_first

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
SMALL = RLConfig(cache_mb=1, sims=4, cheap_sims=2, full_share=0.5, games=8, positions=32, reuse=2,
                 window_min=64, window_max=64, batch_size=16, iterations=2, dtype="float32")


def learn(folder: Path, iterations: int) -> None:
    """Self-play in three groups, learnt in shards of five rows."""
    import selfplay.board.trainer
    import selfplay.inference.actors

    torch.set_num_threads(1)
    selfplay.inference.actors.GROUP_GAMES = {"cpu": 3}
    selfplay.board.trainer.SHARD_ROWS = {"cpu": 5}
    config = replace(SMALL, iterations=iterations)
    train_rl(KeptLearner(GAME, SPEC, config, folder / "rl", init=None, device="cpu", seed=1))


def learn_by_policy(folder: Path) -> None:
    """Policy gradient against a pool of two."""
    config = override(preset("tictactoe"), [
        "net=1x8", "rl.algorithm=ppo", "rl.iterations=1", "pool.games=16", "pool.opponents=2",
        "pg.epochs=1", "pg.minibatches=2"])
    train_pg(KeptPolicyLearner(GAME, SPEC, config, folder / "pg", init=None, device="cpu", seed=1))


def both(folder: Path) -> None:
    learn(folder, 1)
    learn(folder, 2)  # another start: games under way at the end of one are not kept
    learn_by_policy(folder)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    assert together(1, both, folder) == [0]
    return folder


def test_two_processes_make_the_games_and_weights_of_one(by_one: Path, tmp_path: Path) -> None:
    assert together(2, both, tmp_path) == [0, 0]
    for pattern in ("*.npz", "*.safetensors"):
        same_files(by_one, tmp_path, pattern)


def test_another_number_of_processes_goes_on(by_one: Path, tmp_path: Path) -> None:
    """Three begin and two go on."""
    assert together(3, learn, tmp_path, 1) == [0, 0, 0]
    assert together(2, learn, tmp_path, 2) == [0, 0]
    same_files(by_one / "rl", tmp_path / "rl", "*.npz")
    same_files(by_one / "rl" / "ckpt-000002", tmp_path / "rl" / "ckpt-000002", "*.safetensors")


class Second(ranks.Alone):
    """The second of two processes, of which one has spoken or none."""

    rank, size = 1, 2

    def __init__(self, spoken: bool = False) -> None:
        self.spoken = spoken

    def may_speak(self) -> bool:
        before, self.spoken = self.spoken, True
        return not before


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "selfplay", "rl", "--help"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert "Usage: python -m selfplay rl" in done.stdout or "selfplay rl" in done.stdout


@pytest.mark.parametrize(("place", "words"), [
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: a whole number wanted"),
    ({"WORLD_SIZE": "2"}, "RANK=: a whole number wanted"),
    ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2: from 0 to 1 wanted"),
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK=x: a whole number"),
    ({"WORLD_SIZE": "2", "RANK": "0"}, "process 1 of 2 does not find the others"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
     "process 1 of 2 does not find the others"),
    ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "no.such.machine.invalid",
      "MASTER_PORT": "1"}, "MASTER_ADDR=no.such.machine.invalid: no such machine"),
    ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a..b", "MASTER_PORT": "1"},
     "MASTER_ADDR=a..b: no such machine")])
def test_variables_that_are_not_torchruns_are_one_line(
    place: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["selfplay", "train"])
    assert mistakes.run_command(cli) == 1
    said = capsys.readouterr().err
    assert words in said and "WORLD_SIZE" in said and said.count("\n") == 1


def test_a_command_of_one_process_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["selfplay", "games"])
    with ranks.belonging(Second()):
        assert mistakes._run_here(cli) == 1
    assert capsys.readouterr().err == (
        "selfplay: selfplay games: is the work of one process; start it without torchrun\n")


@pytest.mark.parametrize(("spoken", "lines"), [(False, 1), (True, 0)])
def test_one_process_says_why_all_end(
    spoken: bool, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where torch.distributed says that the other one is gone."""
    def gone() -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:4")

    monkeypatch.setattr(sys, "argv", ["selfplay", "rl"])
    monkeypatch.setattr(mistakes, "keep_compiled", gone)
    with ranks.belonging(Second(spoken)):
        assert mistakes._run_here(cli) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == lines and said.count("the same command continues") == lines


def test_only_the_first_process_writes_and_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ranks.belonging(Second()):
        write_json(tmp_path / "file.json", {})
        append(tmp_path / "rows.jsonl", [{}])
        with locked(tmp_path / "run"):
            say("nothing")
        by_first(lambda: write_json(tmp_path / "other.json", {}))
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_shares_are_all_and_none_twice() -> None:
    class Third(ranks.Alone):
        size = 3

    for count in range(8):
        found = []
        for rank in range(3):
            with ranks.belonging(Third()):
                ranks.here().rank = rank
                found += ranks.share(count)
        assert found == list(range(count))
