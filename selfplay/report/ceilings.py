"""Ceilings as statistics: a saturating curve through the points of each stage and mode.

``ceilings`` fits them (``common.curves``) and returns plain records for an evaluation's "curves",
which text, chart and page show; what the data cannot bear is refused there, in words. A stage's
compute counts from where it began: RL's from the SFT that it started from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.common.curves import (
    BEND,
    DRAWS,
    Curve,
    Floats,
    Outcomes,
    binomial,
    fit_curve,
    fit_line,
    middle,
    sigmoid,
)
from selfplay.report.axis import Metric, Record, finite, metric_of, y_limits
from selfplay.report.style import STAGES
from selfplay.report.verdict import IMPROVERS, LEARNERS, rated, sims_of

LEAST = 5  #: points of a curve of four parameters
TIMES = 10  #: times the compute, for which strength is predicted
WIDEST = 0.5  #: of the chart's height: the widest middle that says anything of a ceiling
MOST = 5.0  #: of the misfit: beyond it the points lie on no such curve
BAND = 25  #: places at which the band is noted
KNOWN = 1000.0  #: between the ends of an exchange rate's middle
NO_BEND = "a straight line over the logarithm of compute fits as well, so no bend is seen yet"
GRID = 200  #: places at which a curve is looked at, whether it is above a ceiling
KEYS = ("flops", "seconds", "step")  #: what compute is, the first that all points have


class Series(NamedTuple):
    """The points of a stage and mode that a curve can go through, by compute. start: the compute
    (of KEYS) and seconds at which the stage began."""

    stage: str
    sims: int
    points: list[Record]
    key: str
    start: dict[str, float]

    @property
    def spent(self) -> Floats:
        """Compute of each point since the stage began, float [K]."""
        return np.array([point[self.key] for point in self.points]) - self.start[self.key]


def ceilings(
    evaluation: Record, names: Sequence[str] = (), seen: Outcomes | None = None,
    draws: int = DRAWS,
) -> list[Record]:
    """A record for every stage and mode that has more than one point:

    stage, sims, points (their number), key (what compute is), start (where the stage began),
    refused (why there is no ceiling; empty where there is one). Where a straight line fits as
    well: gain (times, value, low, high: what so many times the compute bring on it). Where there
    is a ceiling: value, low, high (of it), misfit, band ([compute, value, low, high], compute
    cumulative), ahead (times, value, low, high: predicted for so many times the stage's compute).
    Of a stage that follows one with a ceiling: passes (seconds of it, low, high, until it is above
    that, and the share of draws in which it is by its last point).

    names: the players whose games ``seen`` is a likelihood of; without it the points' questions
    are what was seen.
    """
    metric, points = metric_of(evaluation), rated(evaluation)
    found, learnt = list[Record](), dict[int, tuple[Series, Curve]]()
    all_series = [one for sims in sims_of(points) for one in series_of(points, sims)
                  if len(one.points) > 1]
    span = float(np.ptp(y_limits([*points, *_baselines(evaluation, metric)], metric)))
    for one in all_series:
        curve = None
        if len(one.points) >= LEAST:
            curve = _fit(one, points, names, seen, draws)
        row: Record = {"stage": one.stage, "sims": one.sims, "points": len(one.points),
                       "key": one.key, "start": one.start[one.key],
                       "refused": refusal(one, curve, span)}
        if curve is not None and not row["refused"]:
            row |= _told_of(one, curve)
            if one.stage in LEARNERS:
                learnt[one.sims] = one, curve
        if row["refused"] == NO_BEND:
            gain = fit_line(*_games_of(one, points, names, seen), np.log(one.spent) / np.log(TIMES),
                            draws=draws)
            row["gain"] = {"times": TIMES, **_figure(*gain)}
        if curve is not None and one.stage in IMPROVERS and one.sims in learnt:
            row |= _passing(one, curve, *learnt[one.sims])
        found.append(row)
    return found


def series_of(points: Sequence[Record], sims: int) -> list[Series]:
    """The series of a mode, in the order of the stages. Points without compute are left out."""
    mine = [p for p in points if p.get("sims", 0) == sims]
    key = next((key for key in KEYS if all(finite(p.get(key)) for p in points)), "")
    found: list[Series] = []
    start = dict.fromkeys((*KEYS, "seconds"), 0.0)
    for stage in STAGES if key else ():
        series = sorted((p for p in mine if p["stage"] == stage), key=lambda p: p[key])
        if not series:
            continue
        follows = stage in IMPROVERS and start[key] <= series[0][key]
        begun = start if follows else dict.fromkeys(start, 0.0)
        kept = [p for p in series if p[key] > begun[key]]
        if kept:
            found.append(Series(stage, sims, kept, key, begun))
        start = {name: float(series[-1].get(name) or 0.0) for name in start}
    return found


def _baselines(evaluation: Record, metric: Metric) -> list[Record]:
    return [{"value": row[metric.key]} for row in evaluation.get("baselines", [])
            if finite(row.get(metric.key))]


def _fit(
    one: Series, points: Sequence[Record], names: Sequence[str], seen: Outcomes | None,
    draws: int,
) -> Curve:
    nets = {point["player"] for point in points}
    centre = np.array([index for index, name in enumerate(names) if name in nets], np.int64)
    return fit_curve(*_games_of(one, points, names, seen), np.log(one.spent),
                     centre=None if seen is None else centre, draws=draws)


def _games_of(
    one: Series, points: Sequence[Record], names: Sequence[str], seen: Outcomes | None
) -> tuple[Outcomes, Floats, NDArray[np.int64]]:
    """(what was seen, all values to start from, which of these are the series')."""
    if seen is None:
        asked = np.array([p["questions"] for p in one.points])
        shares = np.array([p["value"] for p in one.points])
        return binomial(np.round(shares / 100 * asked), asked), shares, np.arange(len(asked))
    known = {point["player"]: point["value"] for point in points}
    place = {name: index for index, name in enumerate(names)}
    return (seen, np.array([known.get(name, 0.0) for name in names]),
            np.array([place[point["player"]] for point in one.points]))


def refusal(one: Series, curve: Curve | None, span: float) -> str:
    """Why no ceiling is told of these points; empty where it is. span: of the chart's axis."""
    if curve is None:
        return f"{len(one.points)} of the {LEAST} points that it needs"
    first, last = curve.drawn(np.log(one.spent[[0, -1]])).T
    low, high = middle(curve.ceilings())
    if middle(last - first)[0] <= 0:
        return "its points do not surely rise"
    if curve.misfit > MOST:
        return f"its points lie farther from any such curve than chance explains, {MOST:.0f} times"
    if curve.bend < BEND:
        return NO_BEND
    if high - low > WIDEST * span:
        return "its interval would be wider than half of the chart"
    return ""


def _told_of(one: Series, curve: Curve) -> Record:
    """What is told of a curve with a ceiling."""
    low, high = middle(curve.ceilings())
    places = np.geomspace(one.spent[0], one.spent[-1] * TIMES, BAND)
    band = np.stack([places + one.start[one.key], *curve.at(np.log(places))], 1).tolist()
    ahead = {"times": TIMES, "value": band[-1][1], "low": band[-1][2], "high": band[-1][3]}
    return {"value": curve.ceiling, "low": low, "high": high, "misfit": curve.misfit,
            "band": band, "ahead": ahead}


def _passing(one: Series, curve: Curve, first: Series, below: Curve) -> Record:
    """When ``curve`` rises above the ceiling of ``below``, in seconds of its own stage."""
    spent, seconds = one.spent, [point.get("seconds") for point in one.points]
    took = [0.0, *(s - one.start["seconds"] for s in seconds if finite(s))]
    if len(took) <= len(spent):
        return {}
    places = np.geomspace(spent[0] / 10, spent[-1], GRID)
    above = curve.drawn(np.log(places)) >= below.ceilings()[:, None]
    likeliest = sigmoid(curve.parameters, np.log(places))[0] >= below.ceiling

    def when(passed: NDArray[np.bool_]) -> float:
        at = places[passed.argmax()] if passed.any() else places[-1]
        return float(np.interp(at, [0.0, *spent], took))

    low, high = middle(np.array([when(passed) for passed in above]))
    return {"passes": {"stage": first.stage, "seconds": when(likeliest), "low": low, "high": high,
                       "share": float(above.any(1).mean())}}


def foreseen(
    evaluation: Record, seen_by: Callable[[set[str]], tuple[Sequence[str], Outcomes]] | None = None,
    draws: int = DRAWS,
) -> tuple[list[Record], list[str]]:
    """Curves fitted to the first half of their points, held against the second half.

    A row for each later point of every series that is long enough (twice LEAST): stage, sims,
    step, spent (the stage's compute until then), value, low, high (predicted), measured,
    measured_low, measured_high, inside (the 95% interval of their difference holds 0: of the band
    and the point's own interval together, see ``_differ``). Behind the rows, in words, the points
    that are left out, since only games of later points tie them to the anchor. Strength is measured
    from the mean of the first half, so that nothing depends on where its zero is. seen_by: from a
    set of players to the likelihood of all games without them; without it the questions are what
    was seen.
    """
    points, found, left = rated(evaluation), list[Record](), list[str]()
    for one in (one for sims in sims_of(points) for one in series_of(points, sims)):
        half = len(one.points) // 2
        if half < LEAST:
            continue
        early, later = one.points[:half], one.points[half:]
        names, seen = seen_by({point["player"] for point in later}) if seen_by else ((), None)
        tied = [p for p in early if seen is None or p["player"] in names]
        if len(tied) < half:
            lost = ", ".join(p["player"] for p in early if p not in tied)
            left.append(f"{STAGES[one.stage].name}, {metric_of(evaluation).mode(one.sims)}: "
                        f"{half - len(tied)} of the {half} earlier points left out, tied to the "
                        f"anchor only by games of later ones ({lost})")
        if len(tied) < LEAST:
            left[-1] += f"; a curve needs {LEAST}, so nothing is predicted"
            continue
        first = one._replace(points=tied)
        curve = _fit(first, points, names, seen, draws)
        shift = 0.0
        if seen is not None:
            shift = float(np.mean([point["value"] for point in first.points])
                          - curve.at(np.log(first.spent))[0].mean())
        for point, spent, value, low, high in zip(
                later, one.spent[half:], *curve.at(np.log(one.spent[half:])), strict=True):
            found.append({
                "stage": one.stage, "sims": one.sims, "step": point["step"], "spent": float(spent),
                "value": value + shift, "low": low + shift, "high": high + shift,
                **{f"measured{end}": point[key] for end, key in
                   (("", "value"), ("_low", "low"), ("_high", "high"))},
                "inside": not _differ((value + shift, low + shift, high + shift),
                                      (point["value"], point["low"], point["high"]))})
    return found, left


def _differ(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Does the 95% interval of the difference of two figures (value, low, high) leave 0 out? Its
    ends are the squares of both halves that face each other, added (Zou & Donner 2008)."""
    (below, _, up), (above, down, _) = sorted((one, other))
    return above - below > np.hypot(up - below, above - down)


# ---------------------------------------------------------------------------- test-time compute


def exchange(
    evaluation: Record, names: Sequence[str], seen: Outcomes, draws: int = DRAWS
) -> Record:
    """What search is worth beside training (Jones 2021): {} without matches of at least three
    numbers of simulations.

    gains: by stage, what its net gains for TIMES the simulations, with low and high, from a
    straight line through evaluation["search"] (stage, sims, player, elo) over log sims. training:
    the same for TIMES the compute of RL's training, through its points of ``sims`` simulations, raw
    ones where no others are rated.
    worth: how many times the simulations of the last RL net are worth TIMES that compute, where
    both gains are surely positive and it is known to a factor of KNOWN.
    """
    rows, points = evaluation.get("search") or [], rated(evaluation)
    place = {name: index for index, name in enumerate(names)}
    known = {row["player"]: row["elo"] for row in [*rows, *points] if finite(row.get("elo"))}
    values = np.array([known.get(name, 0.0) for name in names])

    def gained(players: Sequence[str], amount: Sequence[float]) -> tuple[float, Floats]:
        on = np.array([place[player] for player in players])
        return fit_line(seen, values, on, np.log(amount) / np.log(TIMES), draws=draws)

    gains = dict[str, tuple[float, Floats]]()
    for stage in STAGES:
        mine = [row for row in rows if row["stage"] == stage and row["sims"] > 0]
        if len(mine) >= 3:
            gains[stage] = gained([r["player"] for r in mine], [r["sims"] for r in mine])
    if not gains:
        return {}
    found: Record = {"times": TIMES, "gains": {
        stage: _figure(*gain) for stage, gain in gains.items()}}
    modes = sims_of(points)
    trained = [one for sims in [m for m in modes if m] or modes for one in series_of(points, sims)
               if one.stage == "rl" and len(one.points) >= 3]
    if trained and "rl" in gains:
        one = trained[-1]
        by = gained([point["player"] for point in one.points], one.spent.tolist())
        found["training"] = {"sims": one.sims, **_figure(*by)}
        if found["training"]["low"] > 0 and found["gains"]["rl"]["low"] > 0:
            search = gains["rl"]
            worth = _figure(TIMES ** (by[0] / search[0]), TIMES ** (by[1] / search[1]))
            if worth["high"] <= KNOWN * worth["low"]:
                found["worth"] = worth
    return found


def _figure(value: float, drawn: Floats) -> Record:
    low, high = middle(drawn)
    return {"value": value, "low": low, "high": high}
