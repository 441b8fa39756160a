"""Go 9x9 self-play beside pgx + mctx on the same cores, taken in alternating pairs.

    .venv/bin/pip install -c constraints.txt -e ".[bench]"
    python scripts/bench_pgx.py                     # every core this process may use
    taskset -c 0 python scripts/bench_pgx.py        # one core
    python scripts/bench_pgx.py --jax-python /other/venv/bin/python    # jax installed elsewhere

Ours: ``board.selfplay.SelfPlay`` with a full search for every move and no evaluation cache. Theirs:
pgx's go_9x9 and its own AZNet (v2 blocks) under ``mctx.gumbel_muzero_policy`` with auto-reset, as
in pgx's AlphaZero example; one compiled step that gives its state back to XLA. Before the pairs
each side finds the batch, theirs also the number format and the number of XLA host devices, at
which it is fastest. Both nets are untrained and of the same number of blocks and channels; the
floating-point operations of each are shown. All games start at the beginning.

Units. An evaluation is one position through the net. Ours counts those that the net was given
(leaves where the game is over are not); theirs are batch x (simulations + 1) x steps / s, its root
and one leaf a simulation, finished or not. Moves are moves chosen by a search. ``ratio`` is the
median of the pairs' ratios and says how many times better ours is, ``spread`` is its lowest and
highest. A time to first move runs from the start of the process, imports and compilation included,
until each of its games has made one; "cold" with empty caches, "warm" with each side's cache of
compiled code filled (numba's, which is always on, and JAX_COMPILATION_CACHE_DIR, which is not).

Cores. torch, numba and XLA size their thread pools by the cores the process may use when it
starts, so ``taskset`` alone restricts both sides (OMP_NUM_THREADS does not reach XLA; leave it
unset). Each side has a process of its own, which sleeps on a pipe while the other works; the
processor time that it burns there is shown. A pair in which other programs took more than
``--calm`` of the cores is taken again, and the calmest are kept. ``--clock cpu`` divides by
processor time instead: on one core of a busy machine that is close to what an idle one would show;
on several it hides that a side leaves some of them idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from selfplay.bench.arguments import duration, positive

REMEDY = '.venv/bin/pip install -c constraints.txt -e ".[bench]"'
SIDE = Path(__file__).with_name("bench_pgx_side.py")
MOST_TRIES = 3  #: times the pairs asked for, while the machine is not calm

Sample = dict[str, float]  #: evaluations and moves counted, wall and cpu seconds, others' share
Pair = tuple[Sample, Sample]  #: ours, theirs


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Side:
    """A process that measures, and sleeps on its pipe in between."""

    def __init__(self, kind: str, python: str, **environment: str) -> None:
        self.kind, self.python = kind, python
        self.waited = {"cpu": 0.0, "wall": 1e-9}  #: seconds, between what it was asked to measure
        self.started = time.perf_counter()
        try:
            self.process = subprocess.Popen(
                [python, str(SIDE), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True, env={**os.environ, **environment})
        except OSError as error:
            sys.exit(f"bench_pgx: --jax-python {python}: {error.strerror}; name a Python "
                     "interpreter")

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Its answer; ends the program where it has none."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            sys.exit(f"bench_pgx: the process of {self.kind} ended; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            sys.exit(f"bench_pgx: {self.python}: {answer['missing']}; install what is missing "
                     f"with: {REMEDY}")
        if "refused" in answer:
            sys.exit(f"bench_pgx: {answer['refused']}")
        if do in ("selfplay", "raw"):
            self.waited = {clock: self.waited[clock] + answer["waited"][clock]
                           for clock in self.waited}
        return answer

    def idle(self) -> float:
        """How much of a core it took while it had nothing to do."""
        return self.waited["cpu"] / self.waited["wall"]

    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def take_pairs(
    ours: Callable[[], Sample], theirs: Callable[[], Sample], wanted: int, calm: float
) -> list[Pair]:
    """``wanted`` pairs in which others had at most ``calm`` of the cores.

    Where MOST_TRIES times as many do not yield them: the calmest of all. What was measured plays
    no part in the choice.
    """
    taken: list[Pair] = []
    while (len(taken) < MOST_TRIES * wanted
           and sum(disturbance(pair) <= calm for pair in taken) < wanted):
        taken.append((ours(), theirs()))
        say(f"  pair {len(taken)}: other programs had {disturbance(taken[-1]):.0%} of the cores")
    return sorted(taken, key=disturbance)[:wanted]


def disturbance(pair: Pair) -> float:
    return max(sample["others"] for sample in pair)


def row(
    name: str, unit: str, reference: str, values: list[tuple[float, float]], less: bool = False
) -> dict[str, Any]:
    """A row as ``selfplay.bench`` has them. less: the smaller value is the better one."""
    ratios = [b / a if less else a / b for a, b in values]
    return {"name": name, "unit": unit, "value": median(a for a, _ in values),
            "reference": reference, "reference_value": median(b for _, b in values),
            "ratio": median(ratios), "spread": [min(ratios), max(ratios)]}


def rates(pairs: list[Pair], unit: str, clock: str) -> list[tuple[float, float]]:
    return [(ours[unit] / ours[clock], theirs[unit] / theirs[clock]) for ours, theirs in pairs]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def devices_flag(devices: int) -> dict[str, str]:
    flags = os.environ.get("XLA_FLAGS", "")
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}".strip(),
            "JAX_PLATFORMS": "cpu"}


def tuned(options: argparse.Namespace) -> tuple[Side, dict[str, Any]]:
    """Their side at its best: batch, number format and host devices (one, or one a core)."""
    best: tuple[Side, dict[str, Any]] | None = None
    for devices in sorted({1, cores()}):
        side = Side("theirs", options.jax_python, **devices_flag(devices))
        side.ask("check")
        about = side.ask("start", net=options.net, simulations=options.simulations, batch=0,
                         dtype="float32", devices=devices)
        found = {**about, **side.ask("tune", batches=options.batches), "devices": devices}
        say(f"theirs, {devices} host device(s): {found['notes']}")
        if best and found["rate"] <= best[1]["rate"]:
            side.close()
            continue
        if best:
            best[0].close()
        best = side, found
    assert best
    return best


def our_start(options: argparse.Namespace) -> dict[str, Any]:
    return {"net": options.net, "simulations": options.simulations, "dtype": options.dtype,
            "games": options.games}


def speed_rows(
    options: argparse.Namespace, ours: Side, theirs: Side, found: dict[str, Any]
) -> list[dict[str, Any]]:
    """Self-play by evaluations and by moves, and the nets alone."""
    about = ours.ask("start", **our_start(options))
    about |= ours.ask("tune")
    say(f"ours: {about['about']}; {about['mflop']:.1f} MFLOP an evaluation\n"
        f"theirs: {found['about']}; {found['mflop']:.1f} MFLOP an evaluation")
    kept = []
    for do in ("selfplay", "raw"):
        pairs = take_pairs(partial(ours.ask, do, seconds=options.seconds),
                           partial(theirs.ask, do, seconds=options.seconds),
                           options.pairs, options.calm)
        say(f"{do}: kept {len(pairs)} pairs; other programs had at most "
            f"{max(map(disturbance, pairs)):.0%} of the cores")
        kept.append(pairs)
    say(f"while waiting ours took {ours.idle():.1%} of a core, theirs {theirs.idle():.1%}")
    selfplay, raw = kept
    setting = (f"pgx+mctx, batch {found['batch']}, {found['dtype']}, {found['devices']} host "
               f"device(s); ours: {about['about']}")
    alone = f"their net alone, {found['raw']}; ours: {about['raw']}"
    return [
        row("pgx_selfplay_evals", "evaluations/s", setting,
            rates(selfplay, "evaluations", options.clock)),
        row("pgx_selfplay_moves", "moves/s", setting, rates(selfplay, "moves", options.clock)),
        row("pgx_raw_net", "evaluations/s", alone, rates(raw, "evaluations", options.clock)),
    ]


def start_rows(options: argparse.Namespace, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Time to first move, in new processes that take turns."""
    values: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    parts = {}
    for _ in range(options.starts):
        with tempfile.TemporaryDirectory() as folder:
            for state, taken in values.items():
                ours = Side("ours", sys.executable, NUMBA_CACHE_DIR=f"{folder}/numba")
                our_parts = ours.ask("start", **our_start(options))["parts"]
                our_seconds = ours.seconds()
                ours.close()
                theirs = Side("theirs", options.jax_python, **devices_flag(found["devices"]),
                              JAX_COMPILATION_CACHE_DIR=f"{folder}/jax",
                              JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                              JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1")
                their_parts = theirs.ask(
                    "start", net=options.net, simulations=options.simulations,
                    batch=found["batch"], dtype=found["dtype"], devices=found["devices"])["parts"]
                taken.append((our_seconds, theirs.seconds()))
                theirs.close()
                parts[state] = f"theirs: {their_parts}; ours: {our_parts}"
    return [row(f"pgx_first_move_{state}", "s", parts[state], taken, less=True)
            for state, taken in values.items() if taken]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument("--seconds", type=duration, default=4.0, help="of work in a side of a pair")
    parser.add_argument("--net", default="6x64", help="BLOCKSxCHANNELS, of both sides")
    parser.add_argument("--simulations", type=positive, default=32, help="a move, of both sides")
    parser.add_argument("--games", type=positive, default=256, help="ours, side by side")
    parser.add_argument("--batches", type=sizes, default=[16, 32, 64, 128],
                        help="theirs, to choose from (down to multiples of the host devices): "
                        "16,32,64,128")
    parser.add_argument("--starts", type=int, default=3, help="pairs of cold and of warm starts")
    parser.add_argument("--dtype", default="auto", help="ours: auto (torch's fastest), float32, "
                        "bfloat16, or int8 (OpenVINO)",
                        choices=["auto", "float32", "bfloat16", "int8"])
    parser.add_argument("--jax-python", default=sys.executable, metavar="PATH",
                        help="the interpreter that has jax, pgx, mctx and dm-haiku")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--calm", type=float, default=0.05, metavar="SHARE")
    parser.add_argument("--json", action="store_true", help="one row a line")
    return parser.parse_args(arguments)


def sizes(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def main() -> None:
    options = parsed()
    ours = Side("ours", sys.executable)
    ours.ask("check", dtype=options.dtype)
    theirs, found = tuned(options)
    rows = speed_rows(options, ours, theirs, found)
    ours.close()
    theirs.close()
    rows += start_rows(options, found)
    if options.json:
        for one in rows:
            print(json.dumps(one))
        return
    from selfplay.bench import table

    print(table(rows))


if __name__ == "__main__":
    main()
