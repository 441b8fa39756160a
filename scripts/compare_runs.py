"""Two runs, or more, in one chart: strength of self-play RL against the time it has had.

    .venv/bin/python scripts/compare_runs.py runs/a runs/b --labels before,after --png speed.png

The runs must have begun from the same SFT net (the same weights in the best checkpoint of each),
which is the zero of the chart; matches alone tell them apart from it and from each other. Each
checkpoint chosen plays the one before it, the SFT net, and the checkpoints of the other runs that
are nearest in time. Ratings are a Bradley-Terry fit over all these matches, which lie in --folder
and continue where they stopped.
"""

from __future__ import annotations

import argparse
import sys
from itertools import cycle, pairwise
from pathlib import Path
from typing import NamedTuple

from selfplay import checkpoint
from selfplay.arena import plain, play_match, shortened
from selfplay.console import Bar
from selfplay.elo import Rating, fit
from selfplay.errors import UserError
from selfplay.files import write_atomic
from selfplay.games import make
from selfplay.games.base import GameError
from selfplay.sft import best

COLOURS = ("#174a8b", "#e58606", "#5a8f29", "#7b3f99")


class Point(NamedTuple):
    """A checkpoint of one of the runs."""

    run: int
    path: Path
    minutes: float  #: of RL

    def player(self, sims: int) -> str:
        return f"net:{self.path}" + (f"@{sims}" if sims else "")


def positive(text: str) -> int:
    """An argparse type."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 wanted")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--labels", help="names of the runs, separated by commas")
    parser.add_argument("--points", type=positive, default=6, help="checkpoints of each run")
    parser.add_argument("--minutes", type=float, help="of RL at most; later checkpoints stay out")
    parser.add_argument("--sims", type=int, default=0, help="simulations a move; 0: raw policy")
    parser.add_argument("--games", type=positive, default=100, help="a pairing")
    parser.add_argument("--folder", type=Path, default=Path("runs/compared"))
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    labels = options.labels.split(",") if options.labels else [str(run) for run in options.runs]
    if len(labels) != len(options.runs):
        raise UserError(f"--labels: {len(options.runs)} names wanted, separated by commas")
    zero = f"net:{beginning(options.runs)}" + (f"@{options.sims}" if options.sims else "")
    chosen = [points(number, run, options) for number, run in enumerate(options.runs)]
    ratings = rate(chosen, zero, options)
    for label, found in zip(labels, chosen, strict=True):
        print(label)
        for point in found:
            elo, low, high = ratings[point.player(options.sims)]
            print(f"  {point.path.name}  {point.minutes:5.1f} min of RL  {elo:+5.0f} "
                  f"({low:+.0f} to {high:+.0f})")
    if options.png:
        write_atomic(options.png, lambda file: file.write(draw(labels, chosen, ratings, options)))


def beginning(runs: list[Path]) -> Path:
    """The SFT net that ``runs`` have begun from, as the first of them has it.

    Raises UserError for one that is damaged, or another.
    """
    nets = [best(run / "sft") for run in runs]
    for run, net in zip(runs, nets, strict=True):
        checkpoint.load_net(net)
        if (net / checkpoint.WEIGHTS).read_bytes() != (nets[0] / checkpoint.WEIGHTS).read_bytes():
            raise UserError(f"{runs[0]} and {run}: not begun from the same SFT net ({nets[0]}, "
                            f"{net}); name runs that share one, such as copies made before rl")
    return nets[0]


def points(number: int, run: Path, options: argparse.Namespace) -> list[Point]:
    """Checkpoints of RL as evenly spaced in time as they come, the last always."""
    start = checkpoint.read_meta(best(run / "sft"))["compute"]["seconds"]
    found = [Point(number, path, (checkpoint.read_meta(path)["compute"]["seconds"] - start) / 60)
             for path in checkpoint.listing(run / "rl")]
    found = [p for p in found if p.minutes <= (options.minutes or p.minutes)]
    if not found:
        raise UserError(f"{run}: no RL checkpoint in that time; name a run that has been through "
                        "rl")
    times = [found[-1].minutes * (k + 1) / options.points for k in range(options.points)]
    return sorted({min(found, key=lambda p: abs(p.minutes - time)) for time in times},
                  key=lambda p: p.minutes)


def pairings(chosen: list[list[Point]], zero: str, sims: int) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for mine in chosen:
        for earlier, later in pairwise(mine):
            found[later.player(sims), earlier.player(sims)] = None
        for point in mine:
            found[point.player(sims), zero] = None
            for others in chosen[point.run + 1:]:
                near = min(others, key=lambda p: abs(p.minutes - point.minutes))
                found[near.player(sims), point.player(sims)] = None
    for a, b in pairwise(chosen):  # the last of each, at the end
        last = b[-1].player(sims), a[-1].player(sims)
        found.pop(last, None)
        found[last] = None
    return list(found)


def rate(
    chosen: list[list[Point]], zero: str, options: argparse.Namespace
) -> dict[str, Rating]:
    game = make(checkpoint.read_meta(chosen[0][0].path)["game"])
    results = []
    wanted = pairings(chosen, zero, options.sims)
    with Bar("matches", len(wanted) * options.games, "games") as bar:
        for number, (a, b) in enumerate(wanted):
            words = f"{a}-{b}"
            folder = options.folder / shortened(plain(words), words)
            done = number * options.games
            results.append(play_match(
                game, a, b, games=options.games, seed=0, opening=(2, 6), slots=64, folder=folder,
                device="cpu", progress=lambda n, done=done: bar.at(done + n)))
    for result in results[len(results) - len(chosen) + 1:]:
        print(result.summary())
    names = {point.player(options.sims) for mine in chosen for point in mine}
    return fit([(r.a, r.b, *r.counts) for r in results], zero, centre=names)


def draw(
    labels: list[str], chosen: list[list[Point]], ratings: dict[str, Rating],
    options: argparse.Namespace,
) -> bytes:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, mine, colour in zip(labels, chosen, cycle(COLOURS), strict=False):
        times = [0.0, *(p.minutes for p in mine)]
        found = [Rating(0, 0, 0), *(ratings[p.player(options.sims)] for p in mine)]
        axes.plot(times, [r.elo for r in found], "o-", color=colour, label=label)
        axes.fill_between(times, [r.low for r in found], [r.high for r in found], color=colour,
                          alpha=0.15, linewidth=0)
    axes.axhline(0, color="#6b6b6b", linestyle=":", linewidth=1)
    mode = f"{options.sims} simulations" if options.sims else "raw policy"
    axes.set(xlabel="minutes of self-play RL", ylabel=f"Elo above the SFT net ({mode})",
             xlim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    try:
        main()
    except (UserError, GameError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
