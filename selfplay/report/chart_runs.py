"""The chart of several runs: Elo against what their training took, a colour a run.

The parts are those of ``chart``; the ratings come from ``compare_runs``.
"""

from __future__ import annotations

import io
from itertools import cycle
from typing import Any

from selfplay.report.axis import Record, shorten, x_axis
from selfplay.report.chart import MAIN_HEIGHT, draw_baseline, draw_series, finish_x, y_limits
from selfplay.report.style import (
    DPI,
    GREY,
    INK,
    LEFT,
    MARKERS,
    RAW_DASHES,
    RIGHT,
    WIDTH,
    Level,
    name_levels,
)
from selfplay.report.verdict import ELO, NAMES, STAGES, levels, rated

#: Apart for every kind of colour blindness (Okabe and Ito 2008), darkened where they are text.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")
TOP, BOTTOM = 0.95, 0.62  # inches


def draw_runs(result: Record, over: str = "flops") -> bytes:
    """PNG bytes of one panel: raw policies dashed and hollow, search solid and filled.

    over: "flops" or "seconds" of training, cumulative.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = TOP + MAIN_HEIGHT + BOTTOM
    curves = [{**run, "points": rated(run)} for run in result["runs"]]
    points = [p for run in curves for p in run["points"]]
    with matplotlib.rc_context({"font.size": 9.5, "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, (WIDTH - LEFT - RIGHT) / WIDTH,
                                MAIN_HEIGHT / height))
        axis = x_axis([{over: p.get(over), "stage": p["stage"]} for p in points])
        known = [b for b in levels(result) if b["value"] is not None]
        cut = y_limits([*points, *({"value": b["value"]} for b in known)], ELO)
        axes.set_ylim(*cut)
        names = [draw_baseline(axes, baseline) for baseline in known]
        for run, colour in zip(curves, cycle(COLOURS), strict=False):
            names += _draw_run(axes, run, axis, colour, cut)
        name_levels(axes, names, MAIN_HEIGHT)
        axes.set_ylabel(f"Elo ({result['anchor']} = 0)", color=INK)
        finish_x([axes], axis, [])
        _title(figure, result, height)
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None})
    return target.getvalue()


def _draw_run(
    axes: Any, run: Record, axis: Any, colour: str, cut: tuple[float, float]
) -> list[Level]:
    """A run's curves, a piece each stage; the names of its last points."""
    levels = []
    for sims in sorted({p.get("sims", 0) for p in run["points"]}):
        ends: list[tuple[float, float]] = []
        for stage in STAGES:
            series = [p for p in run["points"]
                      if p["stage"] == stage and p.get("sims", 0) == sims]
            style = {"color": colour, "linestyle": "-" if sims else RAW_DASHES, "linewidth": 1.8,
                     "marker": MARKERS[stage], "markersize": 5,
                     "markerfacecolor": colour if sims else "white"}
            drawn = draw_series(axes, series, axis, style, cut)
            if drawn and ends:
                axes.plot(*zip(ends[-1], drawn[0], strict=True), **{**style, "marker": None})
            if drawn:
                ends, last = drawn, stage
        if ends:
            mode = f"{sims} sims" if sims else "raw"
            levels.append(Level(ends[-1][1], f"{run['label']}: {NAMES[last]}, {mode}", colour,
                                "bold"))
    return levels


def _title(figure: Any, result: Record, height: float) -> None:
    words = f"Strength against training: {shorten(result['game'], 40)}"
    figure.text(0.16 / WIDTH, 1 - 0.34 / height, words, fontsize=14.5, weight="bold", color=INK)
    marks = "circles SFT, squares RL, diamonds value net and rollouts; filled with search"
    games = sum(match["games"] for match in result["matches"])
    figure.text(0.16 / WIDTH, 1 - 0.60 / height,
                f"Elo with 95% intervals; {games:,} games between the runs; {marks}", fontsize=9,
                color=GREY)
