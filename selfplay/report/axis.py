"""Training compute: its units, and how it is laid on the x axis of the chart.

Pure functions over the records of an evaluation (report.py lists their keys).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

Record = dict[str, Any]

LOG_BELOW = 0.1  # of a linear axis: a stage half of which lies left of that is not readable


class Axis(NamedTuple):
    """What the x axis shows: records' `key` / `unit`, under `label`, from 0 or logarithmic."""

    key: str
    unit: float
    label: str
    limits: tuple[float, float]
    log: bool
    ticks: list[float] | None  # None: matplotlib's own (linear)


def finite(value: Any) -> TypeGuard[float]:
    """True for a number that is neither missing nor infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def quantity(value: float, names: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit (size, name), listed smallest first, that is not above the value."""
    fitting = [unit for unit in names if value >= unit[0]]
    return fitting[-1] if fitting else names[0]


FLOPS = [
    (10.0**power, f"{prefix}FLOP")
    for power, prefix in zip(range(0, 24, 3), ["", "k", "M", "G", "T", "P", "E", "Z"], strict=True)
]
TIMES = [(1.0, "s"), (60.0, "min"), (3600.0, "h")]


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
    choices = [("flops", FLOPS), ("seconds", TIMES), ("step", [(1.0, "steps")])]
    for key, names in choices:  # noqa: B007
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
    what = {"flops": "compute", "seconds": "time", "step": "length"}[key]
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
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 3.2 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low * 0.8 <= tick <= high]


def divider(points: Sequence[Record], axis: Axis) -> float | None:
    """Where RL takes over from SFT on the axis; None where the two did not follow each other."""
    placed = [point for point in points if finite(point.get(axis.key))]
    sft = [point[axis.key] for point in placed if point["stage"] in ("sft", "base")]
    rl = [point[axis.key] for point in placed if point["stage"] == "rl"]
    if sft and rl and 0 < max(sft) <= min(rl):
        return max(sft) / axis.unit
    return None


def shorten(text: str, width: int) -> str:
    """One printable line of at most `width` characters, an ellipsis in its middle if cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(line) <= width:
        return line
    head = (width - 1) * 2 // 3
    return f"{line[:head]}…{line[len(line) - (width - 1 - head) :]}"
