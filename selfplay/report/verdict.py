"""The judgement: did RL pass the SFT ceiling.

Pure functions of an evaluation, the plain dict that report.py describes. sentences.py says what is
decided here, chart.py and report.py show it. A record that has passed ``rated`` or ``levels`` has
its strength under "value", whatever it is measured in.

What strength is measured in: Elo, of matches, or accuracy, of answered questions.

The chart, the verdict and the report ask here for every word and number that differs between the
two; an evaluation (see report.py) names its measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfplay.report.axis import Record, finite

KEPT = ("player", "step", "flops", "seconds", "positions", "low", "high")
PATIENT = 0.8  # of the steps: where the held-out curve must have had its best to count as flat


class Ceiling(NamedTuple):
    """SFT's best point of one mode, and whether the curve had stopped rising."""

    sims: int
    best: Record
    start: Record  # where the flat stretch begins; the best point itself where none was seen
    flat: bool


def judge(evaluation: Record) -> list[Record]:
    """For each mode (raw policy, each number of simulations): did RL pass SFT's best?

    SFT is the stage `first` (a base where nothing is taught), and what follows it the stage
    `later`: RL, or in a mode that the search with the value net has, that one; their figures stand
    under "sft" and "rl" all the same. Both stages' best points are those of
    ``best``. `passed` is "yes", "no" or "undecided" and rests on two looks: do the 95%
    intervals overlap, and does the 95% interval of the direct match exclude 50%. One that is
    undecided leaves the other to decide; a contradiction is undecided. `decided_by` says which.
    """
    found, measure = [], metric_of(evaluation)
    for sims in modes(rated(evaluation)):
        learner, stage = first(evaluation), later(evaluation, sims)
        sft, rl = best(evaluation, learner, sims), best(evaluation, stage, sims)
        match = deciding_match(evaluation, sft, rl, sims) if sft and rl else None
        passed, decided_by = "undecided", "nothing to compare"
        if sft and rl:
            passed, decided_by = combine(by_match(match), by_intervals(sft, rl),
                                          f"{measure.name} intervals")
        ceiling = ceiling_of(evaluation, sims)
        found.append(
            {
                "mode": measure.mode_key(sims),
                "sims": sims,
                "first": learner,
                "stage": stage,
                "sft": keep(sft, measure),
                "rl": keep(rl, measure),
                "sft_flat": ceiling.flat if ceiling else None,
                "sft_flat_from_flops": ceiling.start.get("flops") if ceiling else None,
                "passed": passed,
                "decided_by": decided_by,
                "match": match,
            }
        )
    return found


def first(evaluation: Record) -> str:
    """The stage whose best is the ceiling: SFT, or a base that nobody has taught."""
    found = {point["stage"] for point in rated(evaluation)}
    return next((stage for stage in LEARNERS if stage in found), "sft")


def later(evaluation: Record, sims: int) -> str:
    """The stage whose points are to pass the ceiling in this mode: the last that has any."""
    found = {p["stage"] for p in rated(evaluation) if p.get("sims", 0) == sims}
    return next((stage for stage in IMPROVERS if stage in found), "rl")


def modes(points: Sequence[Record]) -> list[int]:
    """The numbers of simulations that occur, raw (0) first."""
    return sorted({int(point.get("sims", 0)) for point in points})


def rated(evaluation: Record) -> list[Record]:
    """The points that have been measured, with "value"."""
    return [p for p in levels(evaluation, "points") if finite(p["value"])]


def levels(evaluation: Record, kind: str = "baselines") -> list[Record]:
    """Baselines or points with "value", what they are measured at (None: they are not)."""
    key = metric_of(evaluation).key
    return [{**record, "value": record.get(key)} for record in evaluation.get(kind, [])]


def best(evaluation: Record, stage: str, sims: int) -> Record | None:
    """The stage's point of this mode that is surely the highest: by the lower end of its
    interval, as a point of few games is easily lucky; the earlier one of two equals. Looks in
    passing count only where nothing else was measured: the highest of many is a lucky one."""
    points = [p for p in rated(evaluation) if p["stage"] == stage and p.get("sims", 0) == sims]
    return max([p for p in points if not p.get("look")] or points, default=None,
               key=lambda p: (p["low"] if finite(p.get("low")) else -math.inf, p["value"]))


def keep(point: Record | None, measure: Metric) -> Record | None:
    kept = (*KEPT, measure.key, measure.counted)
    return {key: point.get(key) for key in kept} if point else None


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


def deciding_match(evaluation: Record, sft: Record, rl: Record, sims: int) -> Record | None:
    """The direct match of the two stages in this mode, seen from RL's side; None without one.

    Of the matches between checkpoints that are not significantly below their stage's best, the
    one with most games (of equals, of the later RL, then SFT checkpoint). The choice must not look
    at who won: picking the best by Elo would pick the luckiest, and its own match with it.
    """
    sides: dict[str, dict[str, Record]] = {"sft": {}, "rl": {}}
    both = (first(evaluation), later(evaluation, sims))
    for point in rated(evaluation):
        side, top = ("sft", sft) if point["stage"] == both[0] else ("rl", rl)
        mine = point.get("sims", 0) == sims and point["stage"] in both
        if mine and not significantly_below(point, top):
            sides[side][point["player"]] = point
    found = []
    for match in evaluation.get("matches", []):
        for side, other in (("a", "b"), ("b", "a")):
            rl_point, sft_point = sides["rl"].get(match[side]), sides["sft"].get(match[other])
            if rl_point and sft_point:
                rank = (match.get("games", 0), rl_point.get("step", 0), sft_point.get("step", 0))
                found.append((rank, seen_by(match, side)))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def seen_by(match: Record, side: str) -> Record:
    """The match as RL's: score and interval of RL, which sat at `side`."""
    turned = side == "b"
    score, low, high = match.get("score"), match.get("low"), match.get("high")
    if turned:
        score, low, high = (1 - x if finite(x) else None for x in (score, high, low))
    return {
        "rl": match[side],
        "sft": match["a" if turned else "b"],
        "games": match.get("games", 0),
        "wins": match.get("losses" if turned else "wins"),
        "draws": match.get("draws"),
        "losses": match.get("wins" if turned else "losses"),
        "score": score,
        "low": low,
        "high": high,
        "command": match.get("command"),
    }


def ceilings(evaluation: Record) -> list[Ceiling]:
    """SFT's best of each mode that has SFT points."""
    found = [ceiling_of(evaluation, sims) for sims in modes(rated(evaluation))]
    return [ceiling for ceiling in found if ceiling]


def ceiling_of(evaluation: Record, sims: int) -> Ceiling | None:
    """SFT's best, and whether the curve was flat: a ceiling, not just the last point measured.

    Flat by strength: a point at no more than half of SFT's compute is level with the best, so the
    second half of the training brought nothing that could be measured. Flat by the held-out curve:
    it stopped improving (see held_out_stop), and the points reach as far; or the stage has ended by
    itself, as even its lowest learning rate gained no more.
    """
    learner, measure = first(evaluation), metric_of(evaluation)
    top = best(evaluation, learner, sims)
    if top is None:
        return None
    series = [p for p in rated(evaluation) if p["stage"] == learner and p.get("sims", 0) == sims]
    key = "flops" if all(finite(p.get("flops")) for p in series) else "step"
    series.sort(key=lambda p: p.get(key) or 0)
    half = (series[-1].get(key) or 0) / 2
    for point in (p for p in series if 0 < (p.get(key) or 0) <= half):
        if well_known(point, top, measure) and not significantly_below(point, top):
            return Ceiling(sims, top, point, True)
    stop = held_out_stop(evaluation)
    reached = stop is not None and series[-1].get("step", 0) >= PATIENT * stop["step"]
    return Ceiling(sims, top, top, reached or bool(evaluation.get("sft_flat")))


def held_out_stop(evaluation: Record) -> Record | None:
    """The row of SFT's lowest held-out policy loss, if a fifth of the steps followed in vain."""
    rows = [r for r in evaluation.get("sft_history") or [] if finite(r.get("policy_loss"))]
    if not rows:
        return None
    lowest = min(rows, key=lambda row: row["policy_loss"])
    return lowest if lowest["step"] <= PATIENT * max(row["step"] for row in rows) else None


def significantly_below(point: Record, top: Record) -> bool:
    """Is the gap wider than both half-widths in quadrature? False where one is unknown."""
    if not (finite(point.get("high")) and finite(top.get("low"))):
        return False
    up, down = point["high"] - point["value"], top["value"] - top["low"]
    return top["value"] - point["value"] > math.hypot(up, down)


def well_known(a: Record, b: Record, measure: Metric) -> bool:
    """Are both known well enough to be called level where no difference is seen?"""
    widths = [record["high"] - record["low"] for record in (a, b)
              if finite(record.get("high")) and finite(record.get("low"))]
    return len(widths) == 2 and math.hypot(*widths) / 2 <= measure.level


#: The stages of all recipes, in the order of training.
STAGES = ("base", "sft", "rl", "own", "rl2", "free", "rlhf", "student", "value")
NAMES = {"base": "Base", "sft": "SFT", "rl": "RL", "own": "Own answers", "rl2": "Second RL",
         "free": "RL, no budget", "rlhf": "RLHF", "student": "Student", "value": "AlphaGo"}
LEARNERS = ("sft", "base")  #: learn what others have made: the ceiling to pass, the first that is
IMPROVERS = ("value", "rlhf", "rl2", "rl")  #: are to pass it, the first that is there


@dataclass(frozen=True)
class Metric:
    """A unit of strength. Records have it under ``key``, with its 95% interval low and high, and
    under ``counted`` the number of games or questions it rests on."""

    key: str
    name: str
    counted: str
    title: str  #: of the chart, before "against training compute"
    form: str  #: format of a number
    sign: str  #: right behind a number
    unit: str  #: behind a number and its interval
    least: float  #: what an axis spans at least
    level: float  #: a wider interval of a difference says nothing about who is level
    zero: bool  #: does the axis show 0, the anchor
    raw: str  #: what the mode 0 is called, at length and in short
    raw_short: str
    more: str  #: the same of a mode that spends {} simulations or samples
    more_short: str
    more_key: str
    improver: str  #: what follows SFT on the axis
    about: str  #: what an evaluation's "rules" are
    expert: str  #: how a sentence names the expert

    def mode(self, sims: int) -> str:
        return self.more.format(sims) if sims else self.raw

    def mode_short(self, sims: int) -> str:
        return self.more_short.format(sims) if sims else self.raw_short

    def mode_key(self, sims: int) -> str:
        return f"{self.more_key}@{sims}" if sims else "raw"


ELO = Metric(
    key="elo", name="Elo", counted="games", title="Strength", form=".0f", sign="",
    unit=" Elo", least=100.0, level=150.0, zero=True, raw="raw policy", raw_short="raw",
    more="{} simulations", more_short="{} sims", more_key="search", improver="self-play RL",
    about="Rules", expert="The expert {}")
#: In percent; ``sims`` is the number of answers whose majority counts, 0 a single one.
ACCURACY = Metric(
    key="accuracy", name="accuracy", counted="questions", title="Accuracy", form=".1f", sign="%",
    unit="", least=20.0, level=8.0, zero=False, raw="one answer", raw_short="one answer",
    more="majority of {} answers", more_short="majority of {}", more_key="majority",
    improver="RL", about="Task", expert="{}")
METRICS = {measure.key: measure for measure in (ELO, ACCURACY)}


def metric_of(evaluation: dict[str, Any]) -> Metric:
    """The measure that an evaluation names, Elo where it names none."""
    return METRICS[evaluation.get("measure", "elo")]
