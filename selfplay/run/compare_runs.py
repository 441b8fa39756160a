"""Several runs of one game, rated together: two recipes, say, or one before and after a change, or
nets of boards and language models.

The matches that each run has played against the baselines tie them together. Matches between the
runs make the ratings more precise: the last nets of each run against those of every other, then
each checkpoint against those of other runs that are nearest in training time. They are kept in a
folder of their own and continue where they stopped. Where language models are among them, the last
model of each run plays with more and more computation as well.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

from selfplay.arena.elo import outcomes
from selfplay.arena.match import safe_name, shortened
from selfplay.arena.play import Away
from selfplay.arena.players import missing_engine
from selfplay.common.console import Bar, say
from selfplay.common.curves import Outcomes
from selfplay.common.errors import UserError
from selfplay.common.files import in_use, locked, make_folder, write_atomic, write_json
from selfplay.common.words import command, counted
from selfplay.report.axis import Record, metric_of
from selfplay.report.ceilings import ceilings, exchange
from selfplay.report.verdict import with_value
from selfplay.run import compare
from selfplay.run.clock import OVERTIME
from selfplay.run.compare import RANDOM, Pairing, Point
from selfplay.run.folder import Run
from selfplay.run.teacher import expert_of


class Entry(NamedTuple):
    """A run, its name in the comparison, and those of its checkpoints that play."""

    label: str
    run: Run
    points: list[Point]
    texts: bool = False  #: its points are language models
    efforts: tuple[int, ...] = ()
    #: simulations, or answers that vote, that its last one plays with as well

    def modes(self, sims: int) -> list[Point]:
        """Its checkpoints that play with ``sims`` simulations."""
        if self.texts:
            return [] if sims else self.points
        return [p for p in self.points if sims in compare.modes_of(self.run, p.stage)]


class TextRuns(NamedTuple):
    """What there is of runs of language models. points: theirs, by the run's folder."""

    points: Mapping[Path, list[Point]]
    masked: bool = False  #: they choose among legal moves only
    sims: tuple[int, ...] = ()  #: that nets play with beside them
    votes: tuple[int, ...] = ()  #: answers that vote


def entries(runs: Sequence[Run], labels: Sequence[str] = (), texts: TextRuns | None = None
            ) -> list[Entry]:
    """The runs as entries of the comparison, named by ``labels`` or else after their folders.

    Raises UserError for runs that cannot be compared or have no checkpoint.
    """
    names = list(labels) or [run.folder.name for run in runs]
    if len(names) != len(runs) or len(set(names)) < len(names):
        raise UserError(f"compare: {len(runs)} different names wanted, separated by commas "
                        f"(--labels), not {','.join(names)}")
    first = runs[0]
    alike = command("selfplay", "compare", *(run.folder for run in runs), "--set",
                    f"eval.sims={first.config.eval.sims}")
    for run in runs[1:]:
        for what, mine, others, remedy in (
            ("a run of", run.game.name, first.game.name, "compare runs of one game"),
            ("judged with eval.sims", run.config.eval.sims, first.config.eval.sims,
             f"to judge all alike: {alike}"),
        ):
            if mine != others:
                raise UserError(f"{run.folder}: {what} {mine}, {first.folder} {others}; {remedy}")
    texts = texts or TextRuns({})
    found = [Entry(name, run, texts.points[run.folder], True, texts.votes)
             if run.folder in texts.points else
             Entry(name, run, compare.chart_points(run), False, texts.sims)
             for name, run in zip(names, runs, strict=True)]
    for entry in found:
        if not entry.points:
            raise UserError(f"{entry.run.folder}: no checkpoint to compare; train the run first")
    return found


def pairings(found: Sequence[Entry]) -> list[Pairing]:
    """The matches between runs, the most informative first: last against last, with and without
    search; the last ones against ``random`` and the first baseline; neighbours in time."""
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
    if any(entry.texts for entry in found):
        wanted += [Pairing(point.player(0), name, config.games) for entry in found
                   for point in entry.points[::-1] for name in ladder(found)
                   if point.stage != "value"]
    wanted += [pairing for entry in found for pairing in more_compute(entry, ladder(found))]
    unique = {frozenset((p.a, p.b)): p for p in reversed(wanted)}
    return [p for p in wanted if unique.get(frozenset((p.a, p.b))) is p]


def ladder(found: Sequence[Entry]) -> list[str]:
    """Whom all points of all runs play: ``random``, the baselines and the experts that are here."""
    names = dict.fromkeys([RANDOM, *found[0].run.config.eval.baselines,
                           *(expert_of(entry.run) for entry in found)])
    return [name for name in names if missing_engine(name) is None]


def more_compute(entry: Entry, others: Sequence[str]) -> list[Pairing]:
    """The last point of a run with more and more computation, each against the next smaller and
    ``others``, but not ``random``, who loses to all of them."""
    last, games = entry.points[-1], entry.run.config.eval.games
    wanted = [Pairing(last.player(more), last.player(less), games)
              for less, more in pairwise((0, *entry.efforts))]
    return wanted + [Pairing(last.player(effort), name, games) for effort in entry.efforts
                     for name in others if name != RANDOM]


def _nearest(point: Point, others: Sequence[Point]) -> list[Point]:
    """The one of ``others`` that is nearest to ``point`` in training time, if there is any."""
    def gap(other: Point) -> float:
        return abs(other.compute.get("seconds", 0.0) - point.compute.get("seconds", 0.0))

    return sorted(others, key=gap)[:1]


def play_between(
    found: Sequence[Entry], folder: Path, *, device: str, away: Away | None = None,
    left: Callable[[], float] = lambda: math.inf, overtime: float = math.inf,
    progress: Callable[[int, int, Pairing, int], None] = lambda index, count, pairing, done: None,
) -> None:
    """Play the matches between the runs until ``left()`` seconds are used up, and keep them in
    ``folder``, where no other process may play. away, overtime: see ``compare.play_matches``."""
    run = found[0].run

    def place(pairing: Pairing) -> tuple[Path, int]:
        key = f"{pairing.a}|{pairing.b}|{run.config.eval.opening}"
        return (folder / shortened(f"{safe_name(pairing.a)}--{safe_name(pairing.b)}", key),
                zlib.crc32(key.encode()))

    make_folder(folder)
    with in_use(folder, "--out"):
        compare.play_matches(run, pairings(found), device=device, place=place, away=away,
                             left=left, overtime=overtime, progress=progress)


def compared(found: Sequence[Entry], folder: Path) -> Record:
    """Ratings of all checkpoints from all matches on disk, in the form that ``ratings_table`` and
    the chart of several runs read."""
    runs, game = [entry.run for entry in found], found[0].run.game
    teachers = {expert_of(run) for run in runs}
    direct = [(Pairing(match.a, match.b, match.games), match)
              for _, match in compare.read_matches(folder, game)]
    own = [(pairing, result) for entry in found if not entry.texts
           for pairing, result, _ in compare.matches(entry.run)]
    seen = outcomes([(p.a, p.b, *result.counts) for p, result in direct + own], RANDOM)
    rows = compare.rows_of_ratings(direct + own, [run.folder for run in runs],
                                   runs[0].config.eval.sims)
    baselines = {row["player"]: row for run in runs for row in compare.rated_baselines(run, rows)}
    return {
        "game": game.name, "rules": game.rules, "anchor": RANDOM,
        "runs": [compared_run(entry, rows, seen) for entry in found],
        "baselines": [{**row, "expert": row["player"] in teachers}
                      for row in baselines.values() if row["elo"] is not None],
        "matches": [compare.match_row(pairing, result) for pairing, result in direct],
    }


def compared_run(
    entry: Entry, rows: Mapping[str, Record], seen: tuple[Sequence[str], Outcomes]
) -> Record:
    """A run of the comparison: its points; where its last one has played with more and more
    computation, those ratings (search), and what they say (``report.ceilings``)."""
    own = entry.points if entry.texts else ()
    found: Record = {"label": entry.label, "folder": str(entry.run.folder),
                     "recipe": "texts" if entry.texts else entry.run.config.recipe,
                     "points": compare.rated_points(entry.run, rows, own)}
    if not entry.efforts:
        return found
    last = entry.points[-1]
    found["search"] = [
        {**row, "stage": last.stage, "sims": effort} for effort in (0, *entry.efforts)
        if (row := rows.get(last.player(effort))) and row["elo"] is not None]
    return {**found, "spends": "answers" if entry.texts else "simulations",
            "curves": ceilings(found, *seen), "exchange": exchange(found, *seen)}


def ratings_table(result: Record) -> str:
    """Elo and 95% interval of every checkpoint, then the matches between the runs, as text."""
    from selfplay.report.page import aligned, baseline_rows, point_head, point_rows
    from selfplay.report.text import compute_texts

    metric, baselines = metric_of(result), with_value(result, "baselines")
    rows = [["run", *point_head(metric)]]
    for run in result["runs"]:
        rows += [[run["label"], *cells] for cells in point_rows(run["points"], metric)]
    rows += [["", *cells] for cells in baseline_rows(baselines, metric)]
    lines = [f"{m['a']} against {m['b']}: {m['score']:.1%} ({m['low']:.1%} to {m['high']:.1%}) of "
             f"{counted(m['games'], 'game')}" for m in result["matches"]]
    told = [f"{run['label']}: {text}" for run in result["runs"] if "search" in run
            for text in compute_texts({**result, **run})]
    return "\n".join([f"{result['game']}  {result['rules']}", "",
                      aligned(rows, {2, 4, 5, 6, 7, 8, 9}), "", *lines, *told])


def write_compared(result: Record, folder: Path, over: str) -> Path:
    """Write compared.json and compared.png beside the matches; the picture's path.

    over: "flops" or "seconds", what the chart's x axis is.
    """
    from selfplay.report.chart import draw_runs
    from selfplay.report.page import json_ready

    write_json(folder / "compared.json", json_ready(result))
    write_atomic(folder / "compared.png", draw_runs(result, over))
    return folder / "compared.png"


def compare_runs(
    runs: Sequence[Run], labels: Sequence[str], minutes: float, folder: Path, device: str,
    over: str, away: Away | None = None, texts: TextRuns | None = None,
) -> None:
    """Play matches between the runs for ``minutes``, then print and draw the comparison. texts: of
    those runs that are language models'.

    Raises UserError if another process is working on one of the runs.
    """
    found, began = entries(runs, labels, texts), time.monotonic()

    def spent() -> float:
        return time.monotonic() - began

    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(locked(run.folder))
        if minutes > 0:
            bar = stack.enter_context(Bar("matches between the runs", minutes * 60))
            play_between(found, folder, device=device, away=away,
                         left=lambda: minutes * 60 - spent(), overtime=OVERTIME * minutes * 60,
                         progress=lambda index, count, p, n: bar.at(
                     spent(), f"match {index + 1}/{count}  {p.a} - {p.b}  {n}/{p.games}"))
        result = compared(found, folder)
        if texts is not None:
            result["masked"] = texts.masked
    say(ratings_table(result))
    say(f"chart: {write_compared(result, folder, over)}")
