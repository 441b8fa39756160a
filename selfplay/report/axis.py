"""The chart's two axes: training compute along x, strength along y, which is Elo or accuracy.

Pure functions over the records of an evaluation (``page`` lists their keys).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

Record = dict[str, Any]

LOG_BELOW = 0.1  # of a linear axis: a stage half of which lies left of that is not readable


def finite(value: Any) -> TypeGuard[float]:
    """True for a number that is neither missing nor infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


# --------------------------------------------------------------------------------- y: strength


@dataclass(frozen=True)
class Metric:
    """A unit of strength. Records have it under ``key``, with its 95% interval low and high, and
    under ``counted`` the number of games or questions it rests on."""

    key: str
    name: str
    counted: str
    total: Callable[[Record], int]  #: games or questions that a whole evaluation rests on
    title: str  #: of the chart, before "against training compute"
    form: str  #: format of a number
    sign: str  #: right behind a number
    unit: str  #: behind a number and its interval
    least: float  #: what an axis spans at least
    level: float  #: a wider interval of a difference says nothing about who is level
    anchored: str  #: the name of the zero that the axis always shows; empty: there is none
    nothing: float  #: where all points are there, nothing has been learnt that could be compared
    raw: str  #: what the mode 0 is called, at length and in short
    raw_short: str
    more: str  #: the same of a mode that spends {} simulations or samples
    more_short: str
    more_key: str
    improver: str  #: what follows SFT on the axis
    about: str  #: what an evaluation's "rules" are
    expert: str  #: how a sentence names the expert
    expert_mark: str  #: behind its name in the margin
    explained: str  #: what the numbers mean and what they do not

    def mode(self, sims: int) -> str:
        return self.more.format(sims) if sims else self.raw

    def mode_short(self, sims: int) -> str:
        return self.more_short.format(sims) if sims else self.raw_short

    def mode_key(self, sims: int) -> str:
        return f"{self.more_key}@{sims}" if sims else "raw"


ELO = Metric(
    key="elo", name="Elo", counted="games", title="Strength", form=".0f", sign="", unit=" Elo",
    total=lambda found: sum(match.get("games", 0) for match in found.get("matches", [])),
    least=100.0, level=150.0, anchored="{} = 0", nothing=-math.inf, raw="raw policy",
    raw_short="raw", more="{} simulations", more_short="{} sims", more_key="search",
    improver="self-play RL", about="Rules", expert="The expert {}", expert_mark=" (expert)",
    explained="Elo is anchored at {} = 0; low and high bound the 95% interval of the difference to "
    "the mean of this run's nets, which says how they compare; how far all of them are above the "
    "anchor is known as well as the anchor's own interval says. Compute and time are cumulative "
    "training cost, SFT included where RL continued from it. A stage's best is the point of the "
    "highest lower end, hence a little flattered by luck; the direct match is the one with most "
    "games, whoever won it. Its games count in the Elo as well, so the two looks are not "
    "independent.")
#: In percent; ``sims`` is the number of answers whose majority counts, 0 a single one.
ACCURACY = Metric(
    key="accuracy", name="accuracy", counted="questions", title="Accuracy", form=".1f", sign="%",
    unit="", total=lambda found: max(
        [point.get("questions") or 0 for point in found.get("points", [])], default=0),
    least=20.0, level=8.0, anchored="", nothing=0.0, raw="one answer", raw_short="one answer",
    more="majority of {} answers", more_short="majority of {}", more_key="majority",
    improver="RL", about="Task", expert="{}", expert_mark="",
    explained="Accuracy is the share of held-out questions answered rightly, one answer drawn at "
    "the run's temperature unless the mode says otherwise; low and high bound its 95% interval "
    "over questions (Wilson). The questions are the same for all stages, so that their differences "
    "are known better than the intervals say. Compute is an estimate: 2 operations a parameter and "
    "token read, 6 a token learnt; compute and time cumulate over the stages. A stage's best is "
    "the point of the highest lower end, hence a little flattered by luck.")


def metric_of(evaluation: Record) -> Metric:
    """The metric that an evaluation names, Elo where it names none."""
    return {metric.key: metric for metric in (ELO, ACCURACY)}[evaluation.get("measure", "elo")]


def y_limits(records: Sequence[Record], metric: Metric) -> tuple[float, float]:
    """Room for every value, up to a point for every interval, and for an anchor's zero."""
    values = [record["value"] for record in records] + [0.0] * bool(metric.anchored) or [0.0]
    span = max(max(values) - min(values), metric.least)
    ends = [r[end] for r in records for end in ("low", "high") if finite(r.get(end))]
    # an interval of a player that lost every game may reach very far: it is cut at half the span
    near = [end for end in ends if min(values) - span / 2 <= end <= max(values) + span / 2]
    low, high = min(values + near), max(values + near)
    return low - 0.04 * span, max(high, low + span) + 0.06 * span


# ---------------------------------------------------------------------------------- x: compute

FLOPS = [
    (10.0**power, f"{prefix}FLOP")
    for power, prefix in zip(range(0, 24, 3), ["", "k", "M", "G", "T", "P", "E", "Z"], strict=True)
]
TIMES = [(1.0, "s"), (60.0, "min"), (3600.0, "h")]


class Axis(NamedTuple):
    """What the x axis shows: records' `key` / `unit`, under `label`, from 0 or logarithmic."""

    key: str
    unit: float
    label: str
    limits: tuple[float, float]
    log: bool
    ticks: list[float] | None  # None: matplotlib's own (linear)


def quantity(value: float, names: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit (size, name), listed smallest first, that is not above the value."""
    return ([names[0]] + [unit for unit in names if value >= unit[0]])[-1]


def amount_text(value: Any, names: Sequence[tuple[float, str]]) -> str:
    """`1.25 PFLOP` or `12 min`: three significant digits in the unit that fits."""
    if not finite(value):
        return "-"
    size, name = quantity(value, names)
    return f"{value / size:.3g} {name}"


def x_axis(records: Sequence[Record], beside: Sequence[Record] = ()) -> Axis:
    """Cumulative training compute: FLOPs, or seconds or steps where those are all there is.

    Logarithmic where the middle checkpoint of a stage would fall into the left tenth of a linear
    axis: a short SFT would else be one smear at the left edge. Linear otherwise, because equal
    distances then are equal compute. `beside`: records that only stretch the axis to the right.
    """
    choices = [("flops", FLOPS, "compute"), ("seconds", TIMES, "time"),
               ("step", [(1.0, "steps")], "length")]
    for key, names, what in choices:  # noqa: B007
        values = [float(record[key]) for record in records if finite(record.get(key))]
        if values and max(values) > 0:
            break
    top = max([*values, *(r[key] for r in beside if finite(r.get(key))), 0.0]) or 1.0
    unit, name = quantity(top, names)
    log = reads_best_in_log(records, key, top)
    low = min([value for value in values if value > 0] or [top])
    zero = any(value <= 0 for value in values)
    if log:
        limits = (0.0 if zero else low / unit / 1.25, top / unit * 1.12)
        ticks = ([0.0] if zero else []) + log_ticks(low / unit, limits[1])
    else:
        limits, ticks = (0.0, top / unit * 1.04), None
    label = f"Cumulative training {what} ({name}{', log scale' if log else ''})"
    return Axis(key, unit, label, limits, log, ticks)


def reads_best_in_log(records: Sequence[Record], key: str, top: float) -> bool:
    """True where half of a stage's records lie in the left tenth of a linear axis."""
    for stage in {record.get("stage") for record in records}:
        xs = {r[key] for r in records if r.get("stage") == stage and finite(r.get(key))}
        ordered = sorted(xs)
        if len(ordered) > 1 and ordered[len(ordered) // 2] < LOG_BELOW * top:
            return True
    return False


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high]; with 2 and 5 where the axis spans few decades."""
    steps = (1, 2, 5) if math.log10(high / low) < 3.2 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low * 0.8 <= tick <= high]


def divider(points: Sequence[Record], axis: Axis) -> float | None:
    """Where RL takes over from SFT on the axis; None where the two did not follow each other."""
    placed = [point for point in points if finite(point.get(axis.key))]
    sft = [point[axis.key] for point in placed if point["stage"] in ("sft", "base")]
    rl = [point[axis.key] for point in placed if point["stage"] == "rl"]
    return max(sft) / axis.unit if sft and rl and 0 < max(sft) <= min(rl) else None


def shorten(text: str, width: int) -> str:
    """One printable line of at most `width` characters, an ellipsis in its middle if cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(line) <= width:
        return line
    head = (width - 1) * 2 // 3
    return f"{line[:head]}…{line[len(line) - (width - 1 - head) :]}"
