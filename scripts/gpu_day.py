"""What a GPU does with the program: parts in processes of their own, one table at the end.

    scripts/gpu                              # on the GPU, all parts, ten minutes at most
    scripts/gpu --device cpu --small         # here, so that it does not rot

Every part has a time limit, and one that fails or is not possible here is named with its reason and
stops no other. Each figure stands beside a reference measured in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MARK = "ROW "  #: what a line with a row begins with, in a part's output

Row = dict[str, Any]  #: what, value, unit; where there is a reference also beside, other, ratio


class Part(NamedTuple):
    """seconds: it may take; needs: modules without which it is not possible."""

    run: Callable[[argparse.Namespace], Iterator[Row]]
    seconds: float
    needs: tuple[str, ...] = ()


def settings(args: argparse.Namespace) -> tuple[Any, Any]:
    """(game, shape of the net) that parts with boards measure."""
    from selfplay.bench import net, timing
    from selfplay.games import make
    from selfplay.models import spec_for

    if args.small:
        timing.SECONDS = 0.05
        net.BATCHES = dict.fromkeys(("cpu", "cuda"), (16, 64))
        net.LEARNT, net.LOOKS, net.WINDOW = dict.fromkeys(("cpu", "cuda"), (16,)), 1, 1000
    game = make("tictactoe" if args.small else "go9x9")
    return game, spec_for(game, "1x8" if args.small else "6x64")


def beside(row: Row) -> Row:
    """A row of ``selfplay bench`` as one here."""
    return {"what": row["name"].replace("_", " "), "value": row["value"], "unit": row["unit"],
            "beside": row["reference"], "other": row["reference_value"], "ratio": row["ratio"]}


# ------------------------------------------------------------------------------------------- parts


def tests(args: argparse.Namespace) -> Iterator[Row]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
         "tests/test_gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    yield {"what": "tests marked `gpu`", "value": said[-1].strip("= "), "unit": ""}
    if done.returncode:
        raise RuntimeError("; ".join(line for line in said if line.startswith("FAILED"))
                           or said[-1])


def selfplay(args: argparse.Namespace) -> Iterator[Row]:
    from selfplay.bench.net import Nets
    from selfplay.bench.timing import row

    game, spec = settings(args)
    pairs, net = 1 if args.small else 3, Nets(game, spec, args.device)
    size = f"{game.name} {spec.size}"
    yield beside(row("selfplay_over_raw", "evaluations/s", net.selfplay("auto"),
                     f"the same net alone, best of batches; {size}", net.alone("auto"), pairs))
    yield beside(row("selfplay_over_float32", "evaluations/s", net.selfplay("auto"),
                     f"self-play in float32; {size}", net.selfplay("float32"), pairs))
    if args.device != "cpu":
        plain = Nets(game, spec, args.device, graphs=False)
        yield beside(row("selfplay_by_graphs", "evaluations/s", net.selfplay("auto"),
                         f"self-play without CUDA graphs; {size}", plain.selfplay("auto"), pairs))
        yield {"what": "CUDA graphs", "value": graphs_of(net), "unit": ""}


def graphs_of(nets: Any) -> str:
    """Whether the net's passes could be recorded."""
    import torch

    from selfplay.inference.graphs import Graphs
    from selfplay.models import DTYPES, folded, placed

    dtype = DTYPES[nets.evaluators("auto", 1)[0].dtype_name]
    recorded = Graphs(placed(folded(nets.net), nets.device, dtype))
    with torch.inference_mode():
        recorded(torch.from_numpy(nets.obs[:64]).to(nets.device, dtype))
    return f"given up: {recorded.given_up}" if recorded.given_up else "recorded and replayed"


def busy(args: argparse.Namespace) -> Iterator[Row]:
    """The share of the time in which kernels run, by torch's profiler; on a CPU of operators."""
    from torch.profiler import ProfilerActivity, profile

    from selfplay.bench.net import Nets

    game, spec = settings(args)
    on_gpu = args.device != "cpu"
    rate = Nets(game, spec, args.device).selfplay("auto")
    rate()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        start = time.perf_counter()
        rate()
        spent = time.perf_counter() - start
    worked = sum(event.self_device_time_total if on_gpu else event.self_cpu_time_total
                 for event in seen.key_averages()) / 1e6
    yield {"what": "GPU busy in self-play" if on_gpu else "torch busy in self-play",
           "value": 100 * worked / spent, "unit": "% of the time"}


def learner(args: argparse.Namespace) -> Iterator[Row]:
    from selfplay.bench import net
    from selfplay.bench.timing import row

    game, spec = settings(args)
    yield beside(row("learner", "positions/s", net.learner(game, spec, args.device),
                     "forward and backward alone, best of batches",
                     net.backward(game, spec, args.device), 1 if args.small else 3))


def share(args: argparse.Namespace) -> Iterator[Row]:
    """Self-play and learning in a process each on one device, beside each alone."""
    from selfplay.bench.net import Nets

    game, spec = settings(args)
    other = subprocess.Popen([*this(args), "--learn"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None and other.stdout is not None
    rate = Nets(game, spec, args.device).selfplay("auto")
    rate()
    other.stdout.readline()

    def ask() -> None:
        other.stdin.write("go\n")  # type: ignore[union-attr]
        other.stdin.flush()  # type: ignore[union-attr]

    def told() -> float:
        return float(other.stdout.readline())  # type: ignore[union-attr]

    alone = rate()
    ask()
    learnt_alone = told()
    ask()
    both, learnt_both = rate(), told()
    other.communicate()
    for what, unit, mine, before in (("self-play", "evaluations/s", both, alone),
                                     ("learner", "positions/s", learnt_both, learnt_alone)):
        yield {"what": f"{what}, sharing the device", "value": mine, "unit": unit,
               "beside": "alone", "other": before, "ratio": mine / before}


def learn_on_demand(args: argparse.Namespace) -> None:
    """The other process of ``share``: a rate of learning for every line of its input."""
    from selfplay.bench import net

    rate = net.learner(*settings(args), args.device)
    rate()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(rate(), flush=True)


def connect4(args: argparse.Namespace) -> Iterator[Row]:
    """Two runs of the same seconds at once, on the device and on the CPU, and a match of the
    two."""
    minutes = 0.05 if args.small else 2.0
    small = [word for key in ("net=1x8", "rl.games=8", "rl.positions=32", "rl.sims=4",
                              "rl.cheap_sims=2", "rl.batch_size=16", "rl.iterations=1",
                              "eval.games=2", "eval.decisive_games=2", "eval.baseline_games=2",
                              "eval.sims=2", "eval.baselines=random")
             for word in ("--set", key)] if args.small else []
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: subprocess.Popen(
            [*command(), "rl", "--game", "connect4", "--minutes", str(minutes), "--device", device,
             "--run", f"{folder}/{name}", *small],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for name, device in (("device", args.device), ("cpu", "cpu"))}
        for name, process in runs.items():
            _, said = process.communicate()
            if process.returncode:
                raise RuntimeError(f"{name}: {said.strip().splitlines()[-1]}")
        rows = {name: [json.loads(line) for line in Path(
            folder, name, "rl", "history.jsonl").read_text().splitlines()] for name in runs}
        for key, what in (("evaluations", "evaluations"), ("games", "games finished")):
            mine, other = (sum(row.get(key, 0) for row in rows[name]) for name in runs)
            yield {"what": f"Connect Four, {minutes:g} minutes: {what}", "value": mine, "unit": "",
                   "beside": "its twin on the CPU, at the same time", "other": other,
                   "ratio": mine / max(other, 1)}
        games = 2 if args.small else 40
        done = subprocess.run(
            [*command(), "match", f"net:{folder}/device@16", f"net:{folder}/cpu@16", "--game",
             "connect4", "--games", str(games)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        score = next(line for line in done.stdout.splitlines()[::-1] if "%" in line)
        yield {"what": f"... {games} games between the two, 16 simulations", "value": score.strip(),
               "unit": ""}


def llm(args: argparse.Namespace) -> Iterator[Row]:
    """A GRPO step of a model of 85 million parameters, beside TRL's where TRL is there."""
    size, words = ("1x32", "2 2 8 1 1 1") if args.small else ("12x768", "8 8 64 3 2 2")
    options = zip(("prompts", "group", "tokens", "pairs", "steps", "warm"), words.split(),
                  strict=True)
    done = subprocess.run(
        [sys.executable, "scripts/bench_trl.py", "--json", "--device", args.device, "--net", size,
         *(word for name, value in options for word in (f"--{name}", value))],
        cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["failed"])[-1])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    row = {"what": f"GRPO step of a language model, {size}", "value": found["ours"]["wall"],
           "unit": "s"}
    if "trl" in found:
        row |= {"beside": "TRL's GRPOTrainer", "other": found["trl"]["wall"],
                "ratio": found["ratio"]}
    yield row
    if "trl" not in found:
        raise RuntimeError("beside TRL: trl is not installed")


PARTS = {
    "tests": Part(tests, 90, ("pytest", "hypothesis")),
    "selfplay": Part(selfplay, 120),
    "busy": Part(busy, 45),
    "learner": Part(learner, 45),
    "share": Part(share, 60),
    "connect4": Part(connect4, 180),
    "llm": Part(llm, 120, ("transformers", "reasoning_gym")),
}

# ------------------------------------------------------------------------------------------ driver


def command() -> list[str]:
    """``selfplay``, by this Python."""
    return [sys.executable, "-c", "from selfplay.cli import main; main()"]


def this(args: argparse.Namespace) -> list[str]:
    """This program again, on the same device."""
    return [sys.executable, __file__, "--device", args.device, *["--small"] * args.small]


def outcome(name: str, args: argparse.Namespace, seconds: float) -> tuple[list[Row], str]:
    """(rows of a part run in a process of its own, why it is not complete; "" where it is)."""
    missing = [module for module in PARTS[name].needs if find_spec(module) is None]
    if missing:
        return [], f"{', '.join(missing)} not installed"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([*this(args), "--part", name], stdout=out, stderr=err,
                                   start_new_session=True)
        try:
            process.wait(seconds)
            why = "" if process.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            why = f"cut off after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # and what it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        err.seek(0)
        rows = [json.loads(line.removeprefix(MARK)) for line in out if line.startswith(MARK)]
        if why == "failed":
            why = (err.read().strip().splitlines() or [f"ended with {process.returncode}"])[-1]
    return rows, why


def shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: str, rows: list[Row], failed: dict[str, str]) -> str:
    """Markdown that can go into RESULTS.md as it stands."""
    lines = [head, "", "| what | measured | beside | ratio |", "|---|---|---|---|"]
    for row in rows:
        other = f"{shown(row['other'])}: {row['beside']}" if "other" in row else ""
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        lines.append(f"| {row['what']} | {shown(row['value'])} {row['unit']} | {other} | {ratio} |"
                     .replace("  ", " "))
    lines += [f"| {name} | did not run, or not to its end: {why[:300].replace('|', '/')} | | |"
              for name, why in failed.items()]
    return "\n".join(lines)


def heading(args: argparse.Namespace) -> str:
    """Device, versions, commit and command."""
    import torch

    from selfplay.common.machine import hardware

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True, check=False).stdout.strip() or "unknown"
    words = " ".join(["scripts/gpu", *sys.argv[1:]])
    return (f"`{words}`, commit {commit}, {hardware(args.device)}, torch {torch.__version__}"
            f"{', a small form' if args.small else ''}:")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--small", action="store_true", help="a few seconds a part")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="NAME,NAME")
    parser.add_argument("--minutes", type=float, default=10.0, help="at most, of all parts")
    parser.add_argument("--patience", type=float, default=1.0, metavar="X",
                        help="a part may take X times as long as usual, on a busy machine")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--learn", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "auto":
        import torch

        args.device = "cuda" if torch.cuda.is_available() else "cpu"
        args.small = args.small or args.device == "cpu"
    if args.learn:
        learn_on_demand(args)
        return
    if args.part:
        for row in PARTS[args.part].run(args):
            print(MARK + json.dumps(row), flush=True)
        return
    names = args.parts.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    until, rows, failed = time.monotonic() + 60 * args.minutes, list[Row](), dict[str, str]()
    for name in names:
        left = until - time.monotonic()
        most = PARTS[name].seconds * args.patience
        found, why = outcome(name, args, min(most, left)) if left > 5 else (
            [], f"the {args.minutes:g} minutes were over")
        rows += found
        if why:
            failed[name] = why
        print(f"{name}: {why or 'done'}", file=sys.stderr, flush=True)
    print(table(heading(args), rows, failed))


if __name__ == "__main__":
    main()
