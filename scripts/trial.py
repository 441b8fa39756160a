"""Does a setting pay? Variants learn in turn for equal time, then their nets play each other.

    python scripts/trial.py --game connect4 --minutes 6 --variant "" --variant "rl.value_lambda=0.9"
    python scripts/trial.py --game go9x9 --start runs/go9x9 --minutes 30 --seeds 3 --variant ...

Every run has so many minutes of processor time: other programs take nothing from it, and a slower
search or net has to pay for itself, which equal numbers of games or evaluations would hide. Kernels
are compiled before. The order of the variants turns round with every seed (a b b a); all play in
the arithmetic that the first run chooses. Each last net plays those of the first variant, every
seed against every seed, and its own run's net of half the time, which tells Elo an hour and what a
doubling is worth. Of the two 95% intervals one is by the games alone, the other by how far the
seeds lie apart (Student's t). What a gain is worth in time, by the games, has the errors of both:
of the gain and of the doubling. Killed, or asked for more, it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import variance
from typing import Any, NamedTuple

import torch

from selfplay.arena.elo import Rating, fit
from selfplay.arena.match import MatchResult, play_match, safe_name, shortened
from selfplay.bench.arguments import duration, positive
from selfplay.common.console import Bar, say
from selfplay.common.errors import UserError
from selfplay.common.files import locked, read_json, write_json
from selfplay.games.base import GameError
from selfplay.learn import checkpoint
from selfplay.report.page import json_ready
from selfplay.run.boards import KeptLearner, train_rl
from selfplay.run.folder import Run, freeze, net_spec
from selfplay.run.start import open_or_start
from selfplay.run.teacher import beside_rl

STUDENT = {2: 4.303, 4: 2.776, 6: 2.447, 8: 2.306, 10: 2.228}  #: 97.5% points of t


class Meter:
    """Processor seconds of a run over all its starts, and when each iteration was learnt."""

    def __init__(self, file: Path) -> None:
        found: dict[str, Any] = read_json(file, dict) if file.exists() else {}
        self.file, self.before = file, float(found.get("seconds", 0.0))
        self.at: dict[str, float] = found.get("at", {})
        self.since = self.saved = time.process_time()

    def spent(self) -> float:
        return self.before + time.process_time() - self.since

    def save(self, iteration: int | None = None) -> None:
        if iteration is not None:
            self.at.setdefault(str(iteration), self.spent())
        if iteration is not None or time.process_time() - self.saved > 2:
            self.saved = time.process_time()
            write_json(self.file, {"seconds": self.spent(), "at": self.at})


class Trained(NamedTuple):
    """A variant's run by one seed: checkpoints, and the processor seconds behind them."""

    variant: int
    seed: int
    half: Path
    last: Path
    seconds: tuple[float, float]

    @property
    def doublings(self) -> float:
        """Of the time, between the two."""
        return math.log2(self.seconds[1] / self.seconds[0])


def learner_of(run: Run, folder: Path) -> KeptLearner:
    init = None if run.config.init == "random" else Path(run.config.init)
    return KeptLearner(run.game, net_spec(run), run.config.rl, folder, init=init, device="cpu",
                       seed=run.config.seed, lessons=beside_rl(run)[0])


def warm(run: Run) -> None:
    """A small iteration that is thrown away: it compiles and loads what the run will use."""
    rl = replace(run.config.rl, games=8, positions=8, reuse=1.0, iterations=1)
    with tempfile.TemporaryDirectory() as folder:
        train_rl(learner_of(replace(run, config=replace(run.config, rl=rl)), Path(folder)))


def trained(run: Run, variant: int, minutes: float, title: str, chosen: Path) -> Trained:
    """Let the run learn until it has had its minutes. chosen: where the first run notes its
    arithmetic. Raises UserError if it has learnt from fewer than two iterations."""
    folder = run.folder / "rl"
    with locked(run.folder), Bar(title, minutes * 60) as bar:
        freeze(run)
        if chosen.exists() and not (folder / chosen.name).exists():
            write_json(run.path("rl", chosen.name), {"dtype": read_json(chosen, dict)["dtype"]})
        meter = Meter(run.folder / "processor.json")

        def progress(what: str, done: int, total: int) -> None:
            meter.save()
            bar.at(meter.spent(), f"iteration {learner.iteration}  {what} {done:,}/{total:,}")

        learner = learner_of(run, folder)
        meter.save(learner.iteration)  # a kill may have come before its own note
        train_rl(learner, left=lambda: minutes * 60 - meter.spent(), progress=progress,
                 log=lambda row: meter.save(int(row["iteration"])))
        meter.save(learner.iteration)
    found = checkpoint.listing(folder)
    if len(found) < 2:
        raise UserError(f"{run.folder}: {len(found)} of at least 2 iterations; more --minutes, or "
                        "--set rl.positions=1024")
    when = [meter.at[str(checkpoint.read_meta(path)["step"])] for path in found]
    half = halfway(when)
    return Trained(variant, run.config.seed, found[half], found[-1], (when[half], when[-1]))


def halfway(when: Sequence[float]) -> int:
    """Which net, but for the last, was made nearest half the last one's time; when: seconds."""
    return min(range(len(when) - 1), key=lambda k: abs(when[k] - when[-1] / 2))


def rating(matches: Sequence[MatchResult]) -> Rating:
    """Elo of the first players of all matches above the second ones, 95% by games."""
    return fit([("a", "b", *match.counts) for match in matches], anchor="b")["a"]


def by_seeds(matches: dict[tuple[int, int], MatchResult]) -> tuple[float, float]:
    """The 95% interval by the spread of the seeds (of the one variant, of the other)."""
    sides = [[rating([m for pair, m in matches.items() if pair[side] == seed]).elo
              for seed in {pair[side] for pair in matches}] for side in (0, 1)]
    if not (degrees := sum(len(side) - 1 for side in sides)):
        return -math.inf, math.inf
    half = STUDENT.get(degrees, 2.2) * math.sqrt(sum(variance(side) / len(side) for side in sides))
    elo = rating([*matches.values()]).elo
    return elo - half, elo + half


def times_worth(elo: Rating, doubling: Rating) -> list[float] | None:
    """How many times the time a gain is worth, 2 ** (elo / doubling), and its 95% interval by the
    errors of both, whose games are apart: with half intervals A and B those ratios x for which
    (elo - x doubling)**2 <= A**2 + (x B)**2 (Fieller 1954, JRSS B 16:175). None where the
    doubling's own interval is not above 0: the ratio could then be any."""
    if doubling.low <= 0:
        return None
    a, b = (((one.high - one.low) / 2) ** 2 for one in (elo, doubling))  # of the half intervals
    square, both = doubling.elo**2 - b, elo.elo * doubling.elo
    root = math.sqrt(elo.elo**2 * b + doubling.elo**2 * a - a * b)
    ratios = (elo.elo / doubling.elo, (both - root) / square, (both + root) / square)
    return [2.0 ** max(-999.0, min(x, 999.0)) for x in ratios]  # within what a float holds


def compared(options: argparse.Namespace, runs: Sequence[Trained], like: Run
             ) -> Iterator[dict[str, Any]]:
    nets: dict[Path, Any] = {}
    each = 2 * math.ceil(options.games / options.seeds / 2)  # an opening is played twice

    def match(a: Path, b: Path, sims: int) -> MatchResult:
        mode = f"@{sims}" if sims else ""
        name = "--".join(str(path.relative_to(options.out)) for path in (a, b)) + mode
        with Bar(name, each, "games") as bar:
            return play_match(like.game, f"net:{a}{mode}", f"net:{b}{mode}", games=each, seed=1,
                              opening=like.config.eval.opening, nets=nets, progress=bar.at,
                              folder=options.out / "matches" / shortened(safe_name(name), name))

    for sims, variant in product(options.sims, range(len(options.variant))):
        mine = [run for run in runs if run.variant == variant]
        gain = rating([match(run.last, run.half, sims) for run in mine])
        seconds = sum(run.seconds[1] - run.seconds[0] for run in mine) / len(mine)
        row: dict[str, Any] = {"sims": sims, "variant": options.variant[variant],
                               "elo_an_hour": [elo * 3600 / seconds for elo in gain]}
        if not variant:
            mean = sum(run.doublings for run in mine) / len(mine)
            doubling = Rating(*(elo / mean for elo in gain))
            row["doubling"] = list(doubling)
        else:
            met = {(run.seed, other.seed): match(run.last, other.last, sims)
                   for run in mine for other in runs if not other.variant}
            elo = rating([*met.values()])
            row |= {"elo": list(elo), "by_seeds": list(by_seeds(met)),
                    "games": sum(m.games for m in met.values()),
                    "points": {f"{a}-{b}": m.score for (a, b), m in met.items()},
                    "doubling": list(doubling), "times": times_worth(elo, doubling)}
        yield row


def words(row: dict[str, Any]) -> str:
    def band(found: Sequence[float], form: str) -> str:
        return "{} ({} to {})".format(*(format(x, form) for x in found))

    text = (f"@{row['sims']} {row['variant'] or 'as it is'}: {band(row['elo_an_hour'], '.0f')} "
            "Elo an hour")
    if "elo" not in row:
        return f"{text}, {band(row['doubling'], '+.0f')} a doubling of the time"
    if row["times"]:
        worth = f"worth {band(row['times'], '.3g')} times the time"
    else:
        why = "does not pay" if row["doubling"][2] < 0 else "is not told apart from nothing"
        worth = f"a doubling of the time {why}, so what that is worth in time is not told"
    points = ", ".join(f"{seeds} {score:.1%}" for seeds, score in row["points"].items())
    return (f"{text}\n    {band(row['elo'], '+.0f')} Elo by games, by seeds "
            f"{row['by_seeds'][0]:+.0f} to {row['by_seeds'][1]:+.0f}; {worth}\n"
            f"    {row['games']} games, points by seeds {points}")


def trial(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    turns = [(v, seed) for seed in range(options.seeds)
             for v in range(len(options.variant))[:: -1 if seed % 2 else 1]]
    runs = {(v, seed): open_or_start(
        options.out / f"{chr(97 + v)}{seed}", options.game, init=options.start, seed=seed,
        assignments=[*options.set, *options.variant[v].split()]) for v, seed in turns}
    first, rows = runs[0, 0], []
    for v in range(len(options.variant)):
        warm(runs[v, 0])
    found = [trained(runs[v, seed], v, options.minutes, f"{chr(97 + v)}{seed} "
                     + (options.variant[v] or "as it is"), first.folder / "rl/dtype.json")
             for v, seed in turns]
    say(f"{options.game}: {options.minutes:g} processor minutes a run from {options.start}, "
        f"{options.seeds} seeds; nets and games in {options.out}")
    for row in compared(options, found, first):
        say(words(row))
        rows.append(row)
    write_json(options.out / "trial.json", json_ready({"minutes": options.minutes, "rows": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", required=True)
    parser.add_argument("--variant", action="append", required=True, metavar="KEY=VALUE...")
    parser.add_argument("--set", action="append", default=[], help="a setting of all variants")
    parser.add_argument("--start", default="random", help="a checkpoint or a run [random]")
    parser.add_argument("--minutes", type=duration, default=6.0, help="of each run [6]")
    parser.add_argument("--seeds", type=positive, default=2, help="runs of each variant [2]")
    parser.add_argument("--games", type=positive, default=400, help="of each net [400]")
    parser.add_argument("--sims", type=int, nargs="+", default=[0, 32], help="0: raw [0 32]")
    parser.add_argument("--out", type=Path, help="[runs/trials/NAME]")
    options = parser.parse_args()
    name = "-".join([options.game, *options.set, *options.variant])
    options.out = options.out or Path("runs/trials", shortened(safe_name(name), name))
    try:
        trial(options)
    except (UserError, GameError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
