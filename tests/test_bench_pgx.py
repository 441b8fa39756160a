"""scripts/bench_pgx.py without jax: the pairs it keeps, what it counts of ours, its refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from script import SCRIPTS, load, start

from selfplay.games import make

KEYS = {"name", "unit", "value", "reference", "reference_value", "ratio", "spread"}

#: Stands in for the interpreter with jax: 330 evaluations and 10 moves in 2 s, or 500 of the net.
THEIRS = """
import json, sys
answers = {
    "check": {}, "start": {"parts": "", "mflop": 1.0, "about": "stub"},
    "tune": {"batch": 8, "dtype": "float32", "rate": 5.0, "raw": "batch 8", "notes": ""},
    "selfplay": {"evaluations": 330, "moves": 10, "wall": 2.0, "cpu": 1.0, "others": 0.0},
    "raw": {"evaluations": 500, "wall": 2.0, "cpu": 1.0, "others": 0.0},
}
for line in sys.stdin:
    answer = answers[json.loads(line)["do"]]
    print(json.dumps({**answer, "waited": {"cpu": 0.0, "wall": 1.0}}), flush=True)
"""


bench, side = load("bench_pgx"), load("bench_pgx_side")


def interpreter(folder: Path, *arguments: str) -> str:
    """A stand-in for an interpreter, which passes ``arguments`` to this one."""
    path = folder / "python"
    path.write_text("#!/bin/sh\nexec " + " ".join(f"'{a}'" for a in (sys.executable, *arguments))
                    + "\n")
    path.chmod(0o755)
    return str(path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return start("bench_pgx", *arguments)


def sample(units: float, others: float) -> dict[str, float]:
    return {"moves": units, "wall": 2.0, "cpu": 1.0, "others": others}


def test_disturbed_pairs_are_taken_again() -> None:
    disturbed = [0.5, 0.0, 0.3, 0.01, 0.02]
    turns, ours = [], count()

    def mine() -> dict[str, float]:
        turns.append("ours")
        return sample(next(ours), 0.0)

    def other() -> dict[str, float]:
        turns.append("theirs")
        return sample(1.0, disturbed[len(turns) // 2 - 1])

    kept = bench.take_pairs(mine, other, 3, calm=0.05)
    assert [pair[0]["moves"] for pair in kept] == [1.0, 3.0, 4.0]
    assert turns == ["ours", "theirs"] * 5


def test_on_a_machine_that_is_never_calm_the_calmest_pairs_are_kept() -> None:
    noise = [0.9, 0.4, 0.8, 0.3, 0.7, 0.6]
    taken = count()
    kept = bench.take_pairs(lambda: sample(1.0, noise[next(taken)]), lambda: sample(9.0, 0.0), 2,
                            calm=0.05)
    assert [pair[0]["others"] for pair in kept] == [0.3, 0.4]


def test_ratios_say_how_many_times_better_ours_is() -> None:
    pairs = [(sample(8.0, 0.0), sample(2.0, 0.0)), (sample(6.0, 0.0), sample(2.0, 0.0)),
             (sample(4.0, 0.0), sample(4.0, 0.0))]
    wall, cpu = bench.rates(pairs, "moves", "wall"), bench.rates(pairs, "moves", "cpu")
    assert wall == [(4.0, 1.0), (3.0, 1.0), (2.0, 2.0)]
    assert cpu == [(8.0, 2.0), (6.0, 2.0), (4.0, 4.0)]
    faster = bench.row("x", "moves/s", "them", wall)
    assert (faster["value"], faster["reference_value"]) == (3.0, 1.0)
    assert (faster["ratio"], faster["spread"]) == (3.0, [1.0, 4.0])
    sooner = bench.row("x", "s", "them", [(2.0, 6.0)], less=True)
    assert sooner["ratio"] == 3.0


def test_moves_are_those_on_the_boards_and_each_costs_its_simulations_and_a_root() -> None:
    game = make("go9x9")
    crew = side.our_selfplay(game, "1x8", "float32", simulations=3, games=4)
    (actor,) = crew.actors
    plies = actor.states.ply.sum()
    moves = side.our_moves(crew, 0.0)
    moves += side.our_moves(crew, 0.05)
    assert moves == actor.states.ply.sum() - plies  # none has ended: 4 at a time, few plies
    assert moves >= 8 and moves % 4 == 0
    # a leaf that ends the game is free
    assert moves * 3 < actor.evaluate.evaluations <= moves * 4 + 4 * 3


def test_first_moves_wait_for_no_net_that_does_not_play(monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], side.our_evaluators

    def counted(*arguments: Any) -> list[Any]:
        built.append(build(*arguments))
        return built[-1]

    monkeypatch.setattr(side, "our_evaluators", counted)
    monkeypatch.setattr(side, "RAW_BATCHES", (16,))
    monkeypatch.setattr(side, "TUNE_SECONDS", 0.0)
    ours = side.Ours()
    about = ours.start(net="1x8", simulations=3, dtype="float32", games=4)
    assert len(built) == 1 and built[0][0].evaluations > 0
    assert "4 games" in about["about"] and "float32" in about["about"]
    assert ours.tune() == {"raw": "batch 16"}
    assert len(built) == 2
    assert ours.raw(0.0)["evaluations"] == 0
    assert ours.raw(0.01)["evaluations"] % (16 * len(built[1])) == 0


def test_batches_are_multiples_of_the_devices() -> None:
    assert side.spread_evenly([32, 16, 64], 1) == [16, 32, 64]
    assert side.spread_evenly([16, 32, 64], 12) == [12, 24, 60]
    assert side.spread_evenly([16, 32, 64], 48) == [48]
    assert side.spread_evenly([16, 20, 32], 16) == [16, 32]
    assert side.spread_evenly([16, 32], 100) == [100]


class Devices:
    """As much of jax as their raw net asks for; ``rows``: evaluated by each call."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.random = SimpleNamespace(PRNGKey=lambda seed: None,
                                      bernoulli=lambda key, p, shape: np.zeros(shape))

    def pmap(self, function: Any) -> Any:
        def mapped(*arrays: Any) -> Any:
            return function(*arrays)

        mapped.lower = lambda *arrays: SimpleNamespace(compile=lambda: mapped)  # type: ignore
        return mapped

    def block_until_ready(self, rows: Any) -> None:
        self.rows.append(int(rows))


@pytest.mark.parametrize("devices", [1, 12, 48, 300])
def test_rows_counted_of_theirs_are_rows_evaluated(
    devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    jax, played = Devices(), []
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setattr(side, "TUNE_SECONDS", 0.0)
    theirs = side.Theirs()
    theirs.devices, theirs.model = devices, None
    theirs._net = lambda dtype: lambda model, planes: np.prod(planes.shape[:2])

    def begin(batch: int, dtype: str) -> None:
        theirs.batch = batch
        played.append(batch)

    theirs._begin, theirs._step = begin, lambda: theirs.batch
    monkeypatch.setattr(side, "rate_of", lambda step, seconds: float(step()))
    found = theirs.tune(batches=[16, 128])
    assert all(rows > 0 and rows % devices == 0 for rows in jax.rows + played)
    assert theirs.raw(0.0)["evaluations"] == 0
    jax.rows.clear()
    assert theirs.raw_step() == sum(jax.rows) == max(devices, 256 // devices * devices)
    assert found["batch"] == max(devices, 128 // devices * devices)


def test_a_batch_that_devices_cannot_share_is_no_batch() -> None:
    theirs = side.Theirs()
    theirs.devices = 12
    assert theirs._each(24) == 2
    for batch in (0, 6, 16):
        with pytest.raises(ValueError, match=f"{batch} is no multiple of 12"):
            theirs._each(batch)


def test_rows_of_a_run(tmp_path: Path) -> None:
    stub = tmp_path / "theirs.py"
    stub.write_text(THEIRS)
    done = run("--jax-python", interpreter(tmp_path, str(stub)), "--json", "--pairs", "2",
               "--seconds", "0.01", "--net", "1x8", "--games", "4", "--simulations", "3",
               "--starts", "0")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == [
        "pgx_selfplay_evals", "pgx_selfplay_moves", "pgx_raw_net"]
    assert [row["reference_value"] for row in rows] == [165.0, 5.0, 250.0]
    for row in rows:
        assert set(row) == KEYS
        assert 0 < row["spread"][0] <= row["ratio"] <= row["spread"][1]
    evaluations, moves = rows[:2]
    assert 3 < evaluations["value"] / moves["value"] <= 4.01


def test_warm_starts_find_the_caches_that_cold_ones_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        caches: list[tuple[str, str | None]] = []  # noqa: RUF012

        def __init__(self, kind: str, python: str, **environment: str) -> None:
            self.kind = kind
            name = "NUMBA_CACHE_DIR" if kind == "ours" else "JAX_COMPILATION_CACHE_DIR"
            self.caches.append((kind, environment[name]))

        def ask(self, do: str, **options: Any) -> dict[str, Any]:
            return {"parts": ""}

        def seconds(self) -> float:
            return 2.0 if self.kind == "ours" else 6.0

        def close(self) -> None:
            pass

    monkeypatch.setattr(bench, "Side", Fake)
    rows = bench.start_rows(bench.parsed(["--starts", "2"]),
                            {"devices": 1, "batch": 8, "dtype": "float32"})
    assert [row["name"] for row in rows] == ["pgx_first_move_cold", "pgx_first_move_warm"]
    assert all(row["ratio"] == 3.0 and row["value"] == 2.0 for row in rows)
    assert Fake.caches[:2] == Fake.caches[2:4] and Fake.caches[4:6] == Fake.caches[6:]
    assert len({folder for _, folder in Fake.caches}) == 4  # two folders a pair of starts


def test_an_interpreter_that_is_not_there_is_refused_in_a_line() -> None:
    done = run("--jax-python", "/no/such/python")
    assert done.returncode != 0 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "--jax-python /no/such/python" in done.stderr


def test_without_jax_a_line_says_how_to_get_it(tmp_path: Path) -> None:
    bare = interpreter(tmp_path, "-I", "-S", str(SCRIPTS / "bench_pgx_side.py"), "theirs")
    done = run("--jax-python", bare)
    assert done.returncode != 0 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "'jax'" in done.stderr and '".[bench]"' in done.stderr
