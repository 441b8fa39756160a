"""Several runs of one game, rated together: one recipe beside another, before beside after.

The matches that each run has played against the baselines tie them together; matches of the runs
against each other, which lie in a folder of their own and continue where they stopped, make it
sharper: the last nets of each against those of every other, then each checkpoint against those of
the other runs that are nearest in training time.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from selfplay.arena.elo import fit
from selfplay.arena.match import plain, play_match, shortened
from selfplay.arena.players import missing_engine
from selfplay.common.console import Bar, say
from selfplay.common.errors import UserError
from selfplay.common.files import in_use, locked, make_folder, write_atomic, write_json
from selfplay.report.verdict import metric_of
from selfplay.run import compare
from selfplay.run.compare import RANDOM, ROUNDS, Pairing, Point
from selfplay.run.folder import Run


class Entry(NamedTuple):
    """A run, what it is called, and its checkpoints that play."""

    label: str
    run: Run
    points: list[Point]

    def modes(self, sims: int) -> list[Point]:
        """Its checkpoints that play with ``sims`` simulations."""
        return [p for p in self.points if sims in compare.modes_of(self.run, p.stage)]


def entries(runs: Sequence[Run], labels: Sequence[str] = ()) -> list[Entry]:
    """The runs as they enter the comparison; without ``labels`` the folders' names.

    Raises UserError for runs that cannot be compared, or have no checkpoint.
    """
    names = list(labels) or [run.folder.name for run in runs]
    if len(names) != len(runs) or len(set(names)) < len(names):
        raise UserError(f"compare: {len(runs)} different names wanted, separated by commas "
                        f"(--labels), not {','.join(names)}")
    first = runs[0]
    for run in runs[1:]:
        for what, mine, others in (
            ("a run of", run.game.name, first.game.name),
            ("judged with eval.sims", run.config.eval.sims, first.config.eval.sims),
        ):
            if mine != others:
                raise UserError(f"{run.folder}: {what} {mine}, {first.folder} {others}; compare "
                                "runs that are alike, or give --set to all of them")
    found = [Entry(name, run, compare.points(run))
             for name, run in zip(names, runs, strict=True)]
    for entry in found:
        if not entry.points:
            raise UserError(f"{entry.run.folder}: no checkpoint to compare; train the run first")
    return found


def pairings(found: Sequence[Entry]) -> list[Pairing]:
    """The matches between runs, the most telling first: last against last, with search and without;
    the last ones against ``random`` and the first baseline; neighbours in time."""
    config = found[0].run.config.eval
    wanted = []
    for sims in (config.sims, 0):
        last = [entry.modes(sims)[-1] for entry in found if entry.modes(sims)]
        wanted += [Pairing(b.player(sims), a.player(sims), config.decisive_games)
                   for a, b in combinations(last, 2)]
        wanted += [Pairing(p.player(sims), name, config.baseline_games)
                   for name in (RANDOM, *config.baselines[:1]) for p in last
                   if missing_engine(name) is None]
    for sims in (config.sims, 0):
        for mine, other in combinations(found, 2):
            for point in mine.modes(sims):
                for near in _nearest(point, other.modes(sims)):
                    if (point.stage, near.stage) != ("sft", "sft"):  # often the same net
                        wanted.append(Pairing(near.player(sims), point.player(sims), config.games))
    unique = {frozenset((p.a, p.b)): p for p in reversed(wanted)}
    return [p for p in wanted if unique.get(frozenset((p.a, p.b))) is p]


def _nearest(point: Point, others: Sequence[Point]) -> list[Point]:
    """Of ``others`` the one nearest to ``point`` in training time; none where there are none."""
    def gap(other: Point) -> float:
        return abs(other.compute.get("seconds", 0.0) - point.compute.get("seconds", 0.0))

    return sorted(others, key=gap)[:1]


def play(
    found: Sequence[Entry], folder: Path, *, device: str,
    left: Callable[[], float] = lambda: math.inf,
    progress: Callable[[Pairing, int], None] = lambda pairing, done: None,
) -> None:
    """Play the matches between the runs until ``left()`` seconds are used up; all are kept in
    ``folder``, in which no other process may play."""
    run = found[0].run
    make_folder(folder)
    with in_use(folder, "--out"):
        for share, pairing in ((share, p) for share in ROUNDS for p in pairings(found)):
            if left() <= 0:
                return
            key = f"{pairing.a}|{pairing.b}|{run.config.eval.opening}"
            play_match(
                run.game, pairing.a, pairing.b, games=2 * math.ceil(pairing.games * share / 2),
                seed=zlib.crc32(key.encode()), opening=run.config.eval.opening,
                slots=run.config.eval.slots, device=device, stop=lambda: left() <= 0,
                folder=folder / shortened(f"{plain(pairing.a)}--{plain(pairing.b)}", key),
                progress=lambda done, p=pairing: progress(p, done))


def rate(found: Sequence[Entry], folder: Path) -> dict[str, Any]:
    """Ratings of all checkpoints from all matches on disk, as ``write`` and ``table`` read them."""
    direct = [(match.a, match.b, match)
              for _, match in compare.read_matches(folder, found[0].run.game)]
    played = direct + [(p.a, p.b, r) for entry in found for p, r, _ in compare.matches(entry.run)]
    games: dict[str, int] = {}
    for a, b, result in played:
        for name in (a, b):
            games[name] = games.get(name, 0) + result.games
    mine = [compare.rated_points(entry.run, dict.fromkeys(games), games) for entry in found]
    nets = {row["player"] for rows in mine for row in rows}
    ratings = fit([(a, b, *r.counts) for a, b, r in played], anchor=RANDOM, centre=nets)
    baselines = dict.fromkeys([RANDOM, *(name for entry in found for name in (
        *entry.run.config.eval.baselines, entry.run.config.expert.player))])
    return {
        "game": found[0].run.game.name, "rules": found[0].run.game.rules, "anchor": RANDOM,
        "runs": [{"label": entry.label, "folder": str(entry.run.folder),
                  "recipe": entry.run.config.recipe,
                  "points": compare.rated_points(entry.run, ratings, games)} for entry in found],
        "baselines": [compare.rated(name, ratings, games) for name in baselines
                      if name in ratings],
        "matches": [{"a": a, "b": b, "games": r.games, "score": r.score, "low": r.low,
                     "high": r.high} for a, b, r in direct],
    }


def table(result: dict[str, Any]) -> str:
    """Elo and 95% interval of every checkpoint, then the runs' matches against each other."""
    from selfplay.report.page import aligned, baseline_rows, point_head, point_rows

    rows = [["run", *point_head(metric_of(result))]]
    for run in result["runs"]:
        rows += [[run["label"], *cells] for cells in point_rows(run)]
    rows += [["", *cells] for cells in baseline_rows(result)]
    text = aligned(rows, {2, 4, 5, 6, 7, 8, 9})
    lines = [f"{m['a']} against {m['b']}: {m['score']:.1%} ({m['low']:.1%} to {m['high']:.1%}) of "
             f"{m['games']} games" for m in result["matches"]]
    return "\n".join([f"{result['game']}  {result['rules']}", "", text, "", *lines])


def write(result: dict[str, Any], folder: Path, over: str) -> Path:
    """Write compared.json and compared.png beside the matches; the picture's path.

    over: "flops" or "seconds", what the chart's x axis is.
    """
    from selfplay.report.chart_runs import draw_runs
    from selfplay.report.page import plain as plain_json

    write_json(folder / "compared.json", plain_json(result))
    write_atomic(folder / "compared.png", draw_runs(result, over))
    return folder / "compared.png"


def show(
    runs: Sequence[Run], labels: Sequence[str], minutes: float, folder: Path, device: str, over: str
) -> None:
    """Play matches between the runs for so many minutes, then say and draw what there is.

    Raises UserError where another process is at work on one of them.
    """
    found, began = entries(runs, labels), time.monotonic()

    def spent() -> float:
        return time.monotonic() - began

    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(locked(run.folder))
        if minutes > 0:
            bar = stack.enter_context(Bar("matches between the runs", minutes * 60))
            play(found, folder, device=device, left=lambda: minutes * 60 - spent(),
                 progress=lambda p, n: bar.at(spent(), f"{p.a} - {p.b}  {n}/{p.games}"))
        result = rate(found, folder)
    say(table(result))
    say(f"chart: {write(result, folder, over)}")
