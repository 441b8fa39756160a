"""Nets, players, algorithms and loggers of the user's own; every example of the docs runs."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, TINY, Command
from forked import ran
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import selfplay as sp
from selfplay import models
from selfplay.common.files import read_json
from selfplay.common.history import read_history
from selfplay.run import loggers
from selfplay.run.config import RunConfig, with_algorithm

EXAMPLES = ROOT / "docs/examples"
T = ("--game", "tictactoe")
FAST = [word for word in TINY if not word.startswith("net=")]
FAST = [word for word, after in zip(FAST, [*FAST[1:], ""], strict=True)
        if not (word == "--set" and after == "--set")]


@pytest.fixture
def no_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has named no net."""
    monkeypatch.setattr(models, "OWN", {})


# ---------------------------------------------------------------------------------- examples

@pytest.mark.parametrize("name", ["notebook", "loss"])
def test_a_script_runs(name: str, tmp_path: Path) -> None:
    done = ran(str(EXAMPLES / f"{name}.py"), cwd=tmp_path, anew=True, environment={
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/bin"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


class Trial:
    """The little of an optuna trial that the example uses, where optuna is not installed."""

    def __init__(self) -> None:
        self.reports: list[float] = []

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
        return (low * high) ** 0.5

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return low

    def report(self, value: float, step: int) -> None:
        self.reports.append(value)

    def should_prune(self) -> bool:
        return False


def test_the_sweep_optimises_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        stand_in = types.ModuleType("optuna")
        stand_in.Trial = Trial  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "optuna", stand_in)
    scope: dict[str, Any] = {"__name__": "sweep"}
    exec((EXAMPLES / "sweep.py").read_text(), scope)
    trial = Trial()
    assert 0 <= scope["objective"](trial, iterations=2, games=4) <= 1
    assert len(trial.reports) == 2


def test_every_example_has_a_page_and_every_page_an_example() -> None:
    pages = {page.stem: page.read_text() for page in (ROOT / "docs/guide").glob("own-*.md")}
    for example in EXAMPLES.glob("*.py"):
        assert any(f"examples/{example.name}" in text for text in
                   [p.read_text() for p in (ROOT / "docs/guide").glob("*.md")]), example.name
    for name, text in pages.items():
        files = set(re.findall(r"examples/(\w+\.py)", text))
        assert files, name
        assert all((EXAMPLES / file).exists() for file in files), name


# -------------------------------------------------------------------------------------- nets

def test_a_net_of_ones_own_trains_and_its_file_is_not_run_unasked(
    run: Command, no_nets: None
) -> None:
    Path("mine.py").write_text((EXAMPLES / "net.py").read_text())
    said = run("train", *T, "--run", "r", "--net", "mine.py:build(width=16)", *FAST)
    assert said.code == 0, said.err
    checkpoint = sorted(Path("r/rl").glob("ckpt-*"))[-1]
    size = read_json(checkpoint / "meta.json")["net"]["size"]
    assert size == f"{Path('mine.py').resolve()}:build(width=16)"
    models.OWN.clear()
    match = ("match", f"net:{checkpoint}", "random", *T, "--games", "4", "--out", "m")
    run(*match).mistake("not run unless you name it", "--net", "mine.py:build")
    with pytest.raises(sp.UserError, match="not run unless you name it"):
        sp.load(checkpoint)
    Path("moved").mkdir()
    Path("mine.py").rename("moved/mine.py")
    named = run(*match, "--net", "moved/mine.py:build(width=16)")
    assert named.code == 0, named.err
    models.OWN.clear()
    net = sp.load(checkpoint, net="moved/mine.py:build(width=16)")
    assert net.body[1].out_features == 16
    again = run("train", *T, "--run", "r", "--net", "moved/mine.py:build(width=16)", *FAST)
    assert again.code == 0, again.err


@pytest.mark.parametrize(("words", "hints"), [
    ("nowhere.py:build", ["no such file", "a net"]),
    ("bad.py:NUMBER", ["a function that builds a net"]),
    ("bad.py:build(width=3)", ["no parameter 'width'"]),
])
def test_a_file_that_builds_no_net_is_explained(
    words: str, hints: list[str], run: Command
) -> None:
    Path("bad.py").write_text("NUMBER = 3\ndef build(spec): return None\n")
    run("train", *T, "--run", "r", "--net", words, *FAST).mistake(*hints)


def test_a_net_from_python() -> None:
    net = sp.net("go5x5", f"{EXAMPLES}/net.py:build(width=8)")
    game = sp.make("go5x5")
    found = sp.search(game, game.new(2), net, sims=8)
    assert found.visits.sum() == 16
    again = sp.net("go5x5", f"{EXAMPLES}/net.py:build(width=8)")
    for one, two in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


# ----------------------------------------------------------------------------------- players

def test_a_player_of_ones_own(run: Command) -> None:
    spec = f"{EXAMPLES}/player.py:Corners"
    said = run("match", spec, "random", *T, "--games", "60", "--opening", "0-1")
    assert said.code == 0, said.err
    score = float(re.search(r"([\d.]+)% of 60 games", said.out)[1])  # type: ignore[index]
    assert score > 50 and "player.py:Corners against random" in said.out
    result = sp.match("tictactoe", spec, spec, games=2)
    assert result.a == "player.py:Corners"


@pytest.mark.parametrize(("name", "hints"), [
    ("Nobody", ["no Nobody in it", "Plain"]),
    ("Plain", ["no subclass of selfplay.SlotPlayer"]),
    ("NUMBER", ["a class or a function that makes a player"]),
])
def test_what_is_no_player_is_explained(name: str, hints: list[str], run: Command) -> None:
    Path("bad.py").write_text("NUMBER = 3\nclass Plain: pass\n")
    run("match", f"bad.py:{name}", "random", *T).mistake(*hints)


# -------------------------------------------------------------------------------- algorithms

def test_an_algorithm_is_a_dict_of_settings(run: Command) -> None:
    config = with_algorithm(RunConfig("tictactoe"), f"{EXAMPLES}/algorithm.py:CAUTIOUS")
    plain = with_algorithm(RunConfig("tictactoe"), "rloo")
    assert config.rl.algorithm == "rloo" and config.pg.estimator == plain.pg.estimator
    assert (config.pg.clip_low, config.pg.epochs, config.pool.opponents) == (0.1, 2, 2)
    assert config.pg.value_weight == plain.pg.value_weight
    said = run("rl", *T, "--run", "r", "--init", "random", "--algo",
               f"{EXAMPLES}/algorithm.py:CAUTIOUS", *TINY, "--set", "pool.games=16")
    assert said.code == 0, said.err
    Path("bad.py").write_text("MINE = {'clip_lo': 0.1}\nLIST = []\n")
    run("rl", *T, "--run", "s", "--algo", "bad.py:MINE").mistake("pg.clip_lo", "clip_low")
    run("rl", *T, "--run", "s", "--algo", "bad.py:LIST").mistake("a dict of settings wanted")
    run("rl", *T, "--run", "s", "--algo", "pppo").mistake("pppo", "ppo")


def test_a_loss_term_stands_beside_an_algorithms(run: Command) -> None:
    term = f"{EXAMPLES}/term.py:floor"
    said = run("rl", *T, "--run", "r", "--init", "random", "--algo", "grpo", *TINY,
               "--set", "pool.games=16", "--set", f"pg.extra_loss={term}")
    assert said.code == 0, said.err
    rows = read_history(Path("r/rl/history.jsonl"))
    assert rows and all(row["extra_loss"] >= 0 for row in rows)
    run("rl", *T, "--run", "s", "--init", "random", "--algo", "grpo", *TINY, "--set",
        f"pg.extra_loss={EXAMPLES}/term.py:flor").mistake("no flor in it", "floor")


# ----------------------------------------------------------------------------------- loggers

def test_a_run_tells_tensorboard_and_a_logger_of_ones_own(run: Command) -> None:
    said = run("train", *T, "--run", "r", *TINY, "--log", f"{EXAMPLES}/logger.py:Lines")
    assert said.code == 0, said.err
    lines = [json.loads(line) for line in Path("r/figures.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line}
    assert {"rl loss/policy_loss", "sft strength/top1", "rl sample/game"} <= names
    events = EventAccumulator("r/tb").Reload().Tags()
    assert {"rl loss/policy_loss", "rl cost/play_seconds"} <= set(events["scalars"])
    assert "rl sample/first position" in events["images"]
    assert [name for name in events["scalars"] if " " not in name] == [], "all are explained"
    assert any("what the curves show" in name for name in events["tensors"])
    again = run("train", *T, "--run", "r", *TINY)  # who is told is no setting of the run's
    assert again.code == 0, again.err


@pytest.mark.parametrize(("name", "hints"), [
    ("wandbb", ["wandb, trackio, mlflow or path.py:NAME"]),
    ("nowhere.py:Lines", ["no such file"]),
])
def test_a_logger_that_is_not_there(name: str, hints: list[str], run: Command) -> None:
    run("train", *T, "--run", "r", *TINY, "--log", name).mistake(*hints)
    assert not Path("r").exists()


@pytest.mark.parametrize(("name", "calls"), [
    ("wandb", ["init", "log", "Image", "log", "finish"]),
    ("trackio", ["init", "log", "Image", "log", "finish"]),
    ("mlflow", ["set_experiment", "start_run", "log_dict", "log_metrics", "log_image", "log_text",
                "end_run"]),
])
def test_other_libraries_are_told(
    name: str, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By stand-ins: the libraries themselves want a server."""
    made: list[str] = []

    class Library(types.ModuleType):
        def __getattr__(self, call: str) -> Any:
            if call.startswith("__"):
                raise AttributeError(call)
            return lambda *arguments, **named: made.append(call)

    monkeypatch.setitem(sys.modules, name, Library(name))
    seen = loggers.Loggers(tmp_path, {"seed": 0}, (name,))
    seen.log("rl", {"step": 3, "policy_loss": 1.0})
    seen.loggers[1].image("board", np.zeros((2, 2, 3), np.uint8), 3)
    seen.loggers[1].text("game", "a1", 3)
    seen.close()
    assert made == calls


def test_a_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(sp.UserError, match="pip install wandb"):
        loggers.Loggers(tmp_path, {}, ("wandb",))


def test_a_sample_game_is_the_nets(tmp_path: Path) -> None:
    game, net = sp.make("tictactoe"), sp.net("tictactoe", "1x8")
    state = torch.get_rng_state()
    one, two = (loggers.sample_game(game, net) for _ in range(2))
    assert one.text == two.text and torch.equal(torch.get_rng_state(), state)
    moves = one.text.splitlines()[0].split()
    states = game.new(1)
    for text in moves:
        best = sp.player(game, net).act(states, np.array([0]))
        assert game.action_to_text(states, 0, int(best[0])) == text
        game.step(states, best)
    assert game.result(states)[0][0]


def test_events_that_cannot_be_written_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfplay.run.loggers.os.access", lambda *_: False)
    with pytest.raises(sp.UserError, match=r"tb: cannot be written: Read-only file system"):
        loggers.Loggers(tmp_path, {})
