"""SIGKILL at random instants: the same command goes on, to the weights of an undisturbed run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from attacking import Attack
from command import TINY

from selfplay.cli import main
from selfplay.learn import checkpoint

TEXT = ["llm", "train", "--task", "chain_sum(min_terms=2,max_terms=2,min_digits=1,max_digits=1)",
        "--recipe", "grpo", "--minutes", "600", "--run", "run",
        *(word for setting in (
            "net=1x32", "sft.max_steps=20", "sft.evaluate_every=5", "sft.batch_size=8",
            "sft.looked_at=4", "data.held_out=8", "rl.prompts=4", "rl.group=4", "rl.steps=9",
            "rl.evaluate_every=3", "rl.evaluate_prompts=4", "rl.checkpoint_every=2",
            "eval.samples=1", "sample.max_new_tokens=6",
        ) for word in ("--set", setting))]
BOARD = ["train", "--game", "tictactoe", "--algo", "ppo", "--run", "run", *TINY, "--set",
         "rl.iterations=9", "--set", "pool.games=24", "--set", "pool.every=3"]
KILLS = 6  #: of one run, then it may end


def started(words: list[str], folder: Path) -> int:
    """``selfplay WORDS`` in a copy of this process; its number."""
    child = os.fork()
    if child == 0:
        said = os.open(folder.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        sys.argv = ["selfplay", *words]
        try:
            main()
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        finally:
            os._exit(9)
    return child


def finish(words: list[str], folder: Path) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(started(words, folder), 0)[1])
    assert code == 0, folder.with_suffix(".said").read_text()[-2000:]


def killed(words: list[str], folder: Path, after: float) -> bool:
    """Whether it was, or had ended by itself before; that must have been well."""
    child, deadline = started(words, folder), time.monotonic() + after
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, folder.with_suffix(".said").read_text()[-2000:]
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def weights(run: Path) -> dict[str, bytes]:
    """Those of the newest checkpoint of each stage."""
    newest = filter(None, (checkpoint.newest(run / stage) for stage in ("sft", "rl")))
    return {str(file.relative_to(run)): file.read_bytes()
            for path in newest for file in path.glob("*.safetensors")}


def kill(attack: Attack, words: list[str], tmp_path: Path, kills: int) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    began = time.monotonic()
    finish(words, whole)
    took = time.monotonic() - began
    expected = weights(whole / "run")
    assert {name.split("/")[0] for name in expected} == {"sft", "rl"}
    number = done = 0
    while done < kills:
        folder, rng = tmp_path / str(number), attack.rng(number)
        folder.mkdir()
        instants: list[str] = []
        for _ in range(KILLS):
            after = rng.uniform(0, took / 3)
            if done + len(instants) < kills and killed(words, folder, after):
                instants.append(f"{after:.2f}")
        what = f"run {number}, killed after {', '.join(instants)} s"
        with attack.variant(what):
            finish(words, folder)
            found = weights(folder / "run")
            assert found.keys() == expected.keys(), sorted(found)
            assert found == expected, [name for name in found if found[name] != expected[name]]
            left = list((folder / "run").rglob(".*"))
            assert not left, left
        done += len(instants)
        number += 1
    attack.figures |= {"kills": done, "an undisturbed run": f"{took:.0f} s"}
    attack.must_have_held()


@pytest.mark.attack
def test_killed_language_models(attack: Attack, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
    pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

    kill(attack, TEXT, tmp_path, attack.count(2, 60))


@pytest.mark.attack
def test_killed_board_runs(attack: Attack, tmp_path: Path) -> None:
    kill(attack, BOARD, tmp_path, attack.count(2, 60))
