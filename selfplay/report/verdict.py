"""The judgement, made once from an evaluation: did RL pass the SFT ceiling.

``verdict_of`` decides all that is to be decided; text, chart and page only tell it. An evaluation
is the plain dict that ``page`` describes. Points and baselines of a verdict have their strength
under "value", whatever it is measured in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.report.axis import Metric, Record, finite, metric_of
from selfplay.report.style import STAGES

#: Learn what others have made: the ceiling to pass, the first that is there.
LEARNERS = ("sft", "base", "student")
IMPROVERS = ("value", "rlhf", "dpo", "rl2", "rl")  #: are to pass it, the first that is there
PATIENT = 0.8  # of the steps: where the held-out curve must have had its best to count as flat
#: What may be missing beside a stage: any point; any point of which the metric says something.
POINTS, SIGNAL = "points", "signal"


@dataclass(frozen=True)
class Mode:
    """A mode (raw policy, each number of simulations): did its later stage pass the first's best?

    The stages' figures stand under `sft` and `rl` whatever the two are. Both are ``surely_best``,
    None where nothing was rated. `passed` is "yes", "no" or "undecided" and rests on two looks: do
    the 95% intervals overlap, and does the 95% interval of the direct match exclude 50%. One that
    is undecided leaves the other to decide; a contradiction is undecided. `decided_by` says which.
    It is "missing" where there are no two figures to compare.
    """

    sims: int
    first: str  #: SFT, or a base where nothing is taught, or a student without either
    stage: str  #: RL, or what follows it in this mode (the search with a value net, RLHF)
    sft: Record | None
    rl: Record | None
    flat: bool  #: had the first stage's curve stopped rising: a ceiling, not just its last point
    flat_from: Record | None  #: where the flat stretch begins; the best itself where none was seen
    match: Record | None  #: the direct match, as RL's
    passed: str
    decided_by: str


@dataclass(frozen=True)
class Verdict:
    """What an evaluation shows."""

    evaluation: Record
    metric: Metric
    points: tuple[Record, ...]  #: those that have been measured
    baselines: tuple[Record, ...]  #: all; the value of one that was not played is None
    first: str  #: the stage whose best is the ceiling
    modes: tuple[Mode, ...]
    bests: tuple[Record, ...]  #: of the later stages, one a mode
    stop: Record | None  #: the row of the lowest held-out policy loss, if it rose after that
    missing: tuple[str, ...]  #: stages without a point, POINTS or SIGNAL


def verdict_of(evaluation: Record) -> Verdict:
    """Decide all that the report tells of an evaluation."""
    metric, points = metric_of(evaluation), rated(evaluation)
    there = {point["stage"] for point in points}
    first = next((stage for stage in LEARNERS if stage in there), "sft")
    stop = held_out_stop(evaluation.get("sft_history") or [])
    missing = missing_of(points, metric, evaluation.get("remedies") or {})
    modes = tuple(judge_mode(evaluation, points, sims, first, stop, SIGNAL in missing)
                  for sims in sims_of(points))
    later = {mode.stage for mode in modes} | {"rl", "value"}
    bests = [surely_best(points, stage, mode.sims) for stage in STAGES if stage in later - {first}
             for mode in modes]
    return Verdict(evaluation, metric, tuple(points), tuple(with_value(evaluation, "baselines")),
                   first, modes, tuple(point for point in bests if point), stop, missing)


def judge_mode(
    evaluation: Record, points: Sequence[Record], sims: int, first: str, stop: Record | None,
    mute: bool,
) -> Mode:
    """The verdict on one mode of the measured points; mute: they say nothing, wherever they are."""
    metric, mine = metric_of(evaluation), [p for p in points if p.get("sims", 0) == sims]
    stage = next((s for s in IMPROVERS if any(p["stage"] == s for p in mine)), "rl")
    sft, rl = surely_best(mine, first, sims), surely_best(mine, stage, sims)
    start = flat_from(mine, first, sft, metric) if sft else None
    steps = [p.get("step", 0) for p in mine if p["stage"] == first]
    reached = stop is not None and max(steps, default=0) >= PATIENT * stop["step"]
    flat = len(steps) > 1 and bool(start or reached or evaluation.get("sft_flat"))
    match, passed, decided_by = None, "missing", "nothing to compare"
    if sft and rl:
        matches = evaluation.get("matches", [])
        match = deciding_match(matches, level(mine, first, sft), level(mine, stage, rl))
        if not mute:
            passed, decided_by = combine(by_match(match), by_intervals(sft, rl),
                                         f"{metric.name} intervals")
    return Mode(sims, first, stage, sft, rl, flat, start or sft, match, passed, decided_by)


def missing_of(points: Sequence[Record], metric: Metric, remedies: Record) -> tuple[str, ...]:
    """What there would have to be for a verdict; of its stages those that ``remedies`` names."""
    if not points:
        return (POINTS,)
    if max(point["value"] for point in points) <= metric.nothing:
        return (SIGNAL,)
    there = {point["stage"] for point in points}
    return tuple(stage for stage in STAGES if stage in remedies and stage not in there
                 and stage in (*LEARNERS, *IMPROVERS))


# -------------------------------------------------------------------------------------- points


def sims_of(points: Sequence[Record]) -> list[int]:
    """The numbers of simulations that occur, raw (0) first."""
    return sorted({int(point.get("sims", 0)) for point in points})


def with_value(evaluation: Record, kind: str) -> list[Record]:
    """Baselines or points with "value", what they are measured at (None: they are not)."""
    key = metric_of(evaluation).key
    return [{**record, "value": record.get(key)} for record in evaluation.get(kind, [])]


def rated(evaluation: Record) -> list[Record]:
    """The points that have been measured, with "value"."""
    return [point for point in with_value(evaluation, "points") if finite(point["value"])]


def surely_best(points: Sequence[Record], stage: str, sims: int) -> Record | None:
    """The stage's point of this mode that is surely the highest: by the lower end of its
    interval, as a point of few games is easily lucky; the earlier one of two equals. Looks in
    passing count only where nothing else was measured: the highest of many is a lucky one."""
    mine = [p for p in points if p["stage"] == stage and p.get("sims", 0) == sims]
    return max([p for p in mine if not p.get("look")] or mine, default=None,
               key=lambda p: (p["low"] if finite(p.get("low")) else -math.inf, p["value"]))


def level(points: Sequence[Record], stage: str, top: Record) -> dict[str, Record]:
    """The stage's points that are not significantly below its best, by player."""
    return {point["player"]: point for point in points
            if point["stage"] == stage and not significantly_below(point, top)}


def significantly_below(point: Record, top: Record) -> bool:
    """Is the gap wider than both half-widths in quadrature? False where one is unknown."""
    if not (finite(point.get("high")) and finite(top.get("low"))):
        return False
    up, down = point["high"] - point["value"], top["value"] - top["low"]
    return top["value"] - point["value"] > math.hypot(up, down)


def well_known(a: Record, b: Record, metric: Metric) -> bool:
    """Are both known well enough to be called level where no difference is seen?"""
    widths = [record["high"] - record["low"] for record in (a, b)
              if finite(record.get("high")) and finite(record.get("low"))]
    return len(widths) == 2 and math.hypot(*widths) / 2 <= metric.level


# ---------------------------------------------------------------------------------- the two looks


def by_intervals(sft: Record, rl: Record) -> str:
    """ "yes" or "no" where the two intervals do not overlap."""
    if finite(rl.get("low")) and finite(sft.get("high")) and rl["low"] > sft["high"]:
        return "yes"
    if finite(rl.get("high")) and finite(sft.get("low")) and rl["high"] < sft["low"]:
        return "no"
    return "undecided"


def by_match(match: Record | None) -> str:
    """ "yes" or "no" where the 95% interval of RL's score excludes 50%."""
    if match is None or not (finite(match.get("low")) and finite(match.get("high"))):
        return "undecided"
    return "yes" if match["low"] > 0.5 else "no" if match["high"] < 0.5 else "undecided"


def combine(match: str, intervals: str, name: str) -> tuple[str, str]:
    """(passed, decided_by) of the two looks; name: what the intervals are called."""
    if match == intervals:
        return match, "neither" if match == "undecided" else f"direct match and {name}"
    if "undecided" not in (match, intervals):
        return "undecided", f"direct match and {name} contradict each other"
    return (intervals, name) if match == "undecided" else (match, "direct match")


def deciding_match(
    matches: Sequence[Record], sft: dict[str, Record], rl: dict[str, Record]
) -> Record | None:
    """The direct match of the two stages in a mode, seen from RL's side; None without one.

    sft, rl: the checkpoints that are ``level`` with their stage's best. Of the matches between
    them the one with most games (of equals, of the later RL, then SFT checkpoint). The choice must
    not look at who won: picking the best by Elo would pick the luckiest, and its own match with it.
    """
    found = []
    for match in matches:
        for side, other in (("a", "b"), ("b", "a")):
            mine, theirs = rl.get(match[side]), sft.get(match[other])
            if mine and theirs:
                rank = (match.get("games", 0), mine.get("step", 0), theirs.get("step", 0))
                found.append((rank, seen_by(match, side)))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def seen_by(match: Record, side: str) -> Record:
    """The match as RL's: score and interval of RL, which sat at `side`."""
    other, won, lost = ("b", "wins", "losses") if side == "a" else ("a", "losses", "wins")
    score, low, high = match.get("score"), match.get("low"), match.get("high")
    if side == "b":
        score, low, high = (1 - x if finite(x) else None for x in (score, high, low))
    return {"rl": match[side], "sft": match[other], "games": match.get("games", 0),
            "wins": match.get(won), "draws": match.get("draws"), "losses": match.get(lost),
            "score": score, "low": low, "high": high, "command": match.get("command")}


# ------------------------------------------------------------------------------- flat stretches


def flat_from(
    points: Sequence[Record], stage: str, top: Record, metric: Metric
) -> Record | None:
    """The stage's first point at no more than half of its compute that is level with its best: the
    second half of the training brought nothing that could be measured."""
    series = [point for point in points if point["stage"] == stage]
    key = "flops" if all(finite(point.get("flops")) for point in series) else "step"
    series.sort(key=lambda point: point.get(key) or 0)
    half = (series[-1].get(key) or 0) / 2
    return next((point for point in series if 0 < (point.get(key) or 0) <= half
                 and well_known(point, top, metric) and not significantly_below(point, top)), None)


def held_out_stop(history: Sequence[Record]) -> Record | None:
    """The row of the lowest held-out policy loss, if a fifth of the steps followed in vain."""
    rows = [row for row in history if finite(row.get("policy_loss"))]
    lowest = min(rows, key=lambda row: row["policy_loss"], default=None)
    late = lowest is None or lowest["step"] > PATIENT * max(row["step"] for row in rows)
    return None if late else lowest
