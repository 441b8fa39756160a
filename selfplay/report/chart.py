"""The chart of a run: strength against training compute, SFT and RL, raw and with search.

Called by report.py with an evaluation (whose keys it names); verdict.py does the judging.
matplotlib is imported where something is drawn, so that importing this file costs nothing. No
pyplot, hence no global state and no display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from selfplay.report.axis import Axis, Record, divider, finite, shorten, x_axis
from selfplay.report.panels import (
    PANEL_HEIGHT,
    SAMPLES_GAP,
    SAMPLES_HEIGHT,
    draw_panel,
    draw_samples,
    panels_of,
)
from selfplay.report.style import (
    COLOURS,
    DPI,
    FAINT,
    GREY,
    INK,
    LEFT,
    MARKERS,
    RAW_DASHES,
    RIGHT,
    SEARCH_DASHES,
    WIDTH,
    WORDS,
    Level,
    name_levels,
)
from selfplay.report.text import anchor_text, header_lines
from selfplay.report.verdict import (
    NAMES,
    STAGES,
    Ceiling,
    Metric,
    best,
    ceilings,
    first,
    later,
    levels,
    metric_of,
    modes,
    rated,
)

MAIN_HEIGHT, GAP, BOTTOM = 4.3, 0.24, 0.62
LINE = 0.2  # inches a line of the header


def draw(evaluation: Record) -> bytes:
    """PNG bytes (2000 px wide) of the whole figure."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "text.parse_math": False,  # a name with two dollar signs is not a formula
        "axes.edgecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }
    points = rated(evaluation)
    histories = {stage: evaluation.get(f"{stage}_history") or [] for stage in ("sft", "rl")}
    panels, samples = panels_of(histories), evaluation.get("samples") or []
    header = header_lines(evaluation)
    handles = legend_handles(points, metric_of(evaluation))
    top = 0.62 + LINE * (len(header) + legend_shape(handles)[0]) + 0.2
    under = top + MAIN_HEIGHT + len(panels) * (PANEL_HEIGHT + GAP)
    height = under + BOTTOM + bool(samples) * (SAMPLES_GAP + SAMPLES_HEIGHT)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)

        def place(from_top: float, tall: float):
            box = (LEFT, height - from_top - tall, WIDTH - LEFT - RIGHT, tall)
            return figure.add_axes((box[0] / WIDTH, box[1] / height, box[2] / WIDTH, tall / height))

        beside = histories["sft"] + histories["rl"]
        axis = x_axis(points or beside, beside)
        title(figure, evaluation, header, height)
        rows = [place(top, MAIN_HEIGHT)]
        draw_strength(rows[0], points, ceilings(evaluation), evaluation, axis)
        for index, panel in enumerate(panels):
            row = place(top + MAIN_HEIGHT + GAP + index * (PANEL_HEIGHT + GAP), PANEL_HEIGHT)
            draw_panel(row, panel, histories, axis)
            rows.append(row)
        finish_x(rows, axis, points, metric_of(evaluation).improver)
        if samples:
            draw_samples(place(under + SAMPLES_GAP, SAMPLES_HEIGHT), samples)
        series_legend(figure, handles, (height - top + 0.15) / height)
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None})
    return target.getvalue()


# ------------------------------------------------------------------------------------- the x axis


def finish_x(
    rows: Sequence[Any], axis: Axis, points: Sequence[Record], improver: str = ""
) -> None:
    """Scale, limits, grid and the SFT | RL divider of every panel; labels on the lowest.

    improver: what follows SFT there.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    border = divider(points, axis)
    for row in rows:
        if axis.ticks and axis.limits[0] == 0.0:  # zero stands left of the logarithmic part
            first = axis.ticks[1] if len(axis.ticks) > 1 else axis.limits[1]
            row.set_xscale("symlog", linthresh=first, linscale=0.4)
        elif axis.log:
            row.set_xscale("log")
        if axis.ticks is not None:
            row.xaxis.set_major_locator(FixedLocator(axis.ticks))
            row.xaxis.set_minor_locator(NullLocator())
        row.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
        row.set_xlim(*axis.limits)
        row.grid(axis="y", color=FAINT, linewidth=0.6)
        row.set_axisbelow(True)
        row.spines[["top", "right"]].set_visible(False)
        row.tick_params(labelbottom=row is rows[-1])
        if border is not None:
            row.axvline(border, color=FAINT, linewidth=1.4, zorder=0)
    rows[-1].set_xlabel(axis.label, color=INK)
    if border is not None:
        top = rows[0].get_xaxis_transform()
        for text, shift, side in (("SFT ", -3, "right"), (f" {improver}", 3, "left")):
            rows[0].annotate(
                text, (border, 1.0), xycoords=top, xytext=(shift, 3), textcoords="offset points",
                ha=side, va="bottom", fontsize=8.5, color=GREY, annotation_clip=False,
            )  # fmt: skip


# --------------------------------------------------------------------------------------- drawing


def title(figure: Any, evaluation: Record, header: list[tuple[str, bool]], height: float) -> None:
    """Title and the lines under it, at the left edge of the figure."""
    what = metric_of(evaluation).title
    words = f"{what} against training compute: {shorten(evaluation.get('game', ''), 40)}"
    figure.text(0.16 / WIDTH, 1 - 0.34 / height, words, fontsize=14.5, weight="bold", color=INK)
    for index, (line, verdict) in enumerate(header):
        y = 1 - (0.60 + LINE * index) / height
        figure.text(0.16 / WIDTH, y, line, fontsize=9, color=INK if verdict else GREY)


def line_style(stage: str, sims: int, searched: Sequence[int]) -> Record:
    """Colour and marker shape tell the stage; dashes and filling tell raw from search."""
    colour = COLOURS[stage]
    dashes = SEARCH_DASHES[list(searched).index(sims) % 3] if sims else RAW_DASHES
    return {
        "color": colour,
        "linestyle": dashes,
        "linewidth": 2.0,
        "marker": MARKERS[stage],
        "markersize": 5.5,
        "markerfacecolor": colour if sims else "white",
        "markeredgecolor": colour,
        "markeredgewidth": 1.4,
    }


def draw_strength(
    axes: Any, points: Sequence[Record], tops: Sequence[Ceiling], evaluation: Record, axis: Axis
) -> None:
    """The main panel: curves with bands, dotted baselines, SFT's ceilings."""
    measure = metric_of(evaluation)
    known = [b for b in levels(evaluation) if finite(b["value"])]
    low, high = y_limits([*points, *({"value": b["value"]} for b in known)], measure)
    axes.set_ylim(low, high)
    names = [draw_baseline(axes, baseline) for baseline in known]
    if measure.zero and not any(b["player"] == evaluation.get("anchor") for b in known):
        anchor = {"player": evaluation.get("anchor", "random"), "value": 0.0}
        names.append(draw_baseline(axes, anchor))
    searched = [sims for sims in modes(points) if sims]
    for sims in modes(points):
        draw_mode(axes, [p for p in points if p.get("sims", 0) == sims], axis,
                  {stage: line_style(stage, sims, searched) for stage in STAGES}, (low, high),
                  divider(points, axis) is not None)
    names += [draw_ceiling(axes, ceiling, axis, measure, NAMES[first(evaluation)])
              for ceiling in tops]
    after = {later(evaluation, sims) for sims in modes(points)} | {"rl", "value"}
    for stage in (s for s in STAGES if s in after and s != first(evaluation)):
        highest = [best(evaluation, stage, sims) for sims in modes(points)]
        names += [draw_best(axes, point, axis, stage, f"{NAMES[stage]}'s best", measure)
                  for point in highest if point]
    name_levels(axes, names, MAIN_HEIGHT, measure.form)
    anchored = anchor_text(evaluation)
    axes.set_ylabel(f"{measure.name} ({anchored or measure.sign})", color=INK)
    if not points:
        axes.text(0.5, 0.5, "no checkpoint has been rated", transform=axes.transAxes,
                  ha="center", color=GREY)  # fmt: skip


def draw_mode(
    axes: Any, points: Sequence[Record], axis: Axis, styles: dict[str, Record],
    cut: tuple[float, float], joined: bool,
) -> None:
    """The curves of one mode, a colour a stage; joined: RL starts from SFT's net."""
    curves = {stage: draw_series(axes, [p for p in points if p["stage"] == stage], axis, style, cut)
              for stage, style in styles.items()}
    for learner in ("base", "sft"):
        if joined and curves[learner] and len(curves["rl"]) > 1:
            xs, ys = zip(curves[learner][-1], curves["rl"][0], strict=True)
            axes.plot(xs, ys, **{**styles["rl"], "marker": None})


def y_limits(records: Sequence[Record], measure: Metric) -> tuple[float, float]:
    """Room for every value, up to a point for every interval, and for an anchor's zero."""
    values = [record["value"] for record in records] + [0.0] * measure.zero or [0.0]
    span = max(max(values) - min(values), measure.least)
    ends = [r[end] for r in records for end in ("low", "high") if finite(r.get(end))]
    # an interval of a player that lost every game may reach very far: it is cut at half the span
    near = [end for end in ends if min(values) - span / 2 <= end <= max(values) + span / 2]
    low, high = min(values + near), max(values + near)
    return low - 0.04 * span, max(high, low + span) + 0.06 * span


def draw_series(
    axes: Any, series: Sequence[Record], axis: Axis, style: Record, cut: tuple[float, float]
) -> list[tuple[float, float]]:
    """One curve and its 95% band; bars instead of the band where there is but one point.

    `cut` is where an interval without an end ends. Returns the curve's (x, y).
    """
    series = sorted((p for p in series if finite(p.get(axis.key))), key=lambda p: p[axis.key])
    if not series:
        return []
    xs = [point[axis.key] / axis.unit for point in series]
    ys = [point["value"] for point in series]
    low = [p["low"] if finite(p.get("low")) else cut[0] for p in series]
    high = [p["high"] if finite(p.get("high")) else cut[1] for p in series]
    if len(series) == 1:
        axes.vlines(xs, low, high, color=style["color"], linewidth=1.4)
        axes.plot(xs * 2, [low[0], high[0]], "_", color=style["color"], markersize=8)
    else:
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(xs, ys, **style, zorder=3, clip_on=False)
    return list(zip(xs, ys, strict=True))


def draw_baseline(axes: Any, baseline: Record) -> Level:
    """A dotted line across; the expert's is heavier."""
    expert = bool(baseline.get("expert"))
    colour = INK if expert else GREY
    axes.axhline(baseline["value"], color=colour, linestyle=":", linewidth=1.9 if expert else 1.2,
                 zorder=1)  # fmt: skip
    # "--mode gtp" is what every GTP engine is started with: it tells nothing here
    name = shorten(baseline["player"], 60).replace(" --mode gtp", "")
    name += " (expert)" * (expert and "elo" in baseline)  # a teacher of texts is called one
    return Level(baseline["value"], name, colour, "normal")


def draw_ceiling(axes: Any, ceiling: Ceiling, axis: Axis, measure: Metric, who: str) -> Level:
    """A thin line at SFT's best, from where its curve goes flat to the right edge."""
    name = f"{who} ceiling" if ceiling.flat else f"{who}'s best"
    start = {**ceiling.start, "value": ceiling.best["value"]}
    return draw_best(axes, start, axis, "sft", name, measure)


def draw_best(
    axes: Any, point: Record, axis: Axis, stage: str, name: str, measure: Metric
) -> Level:
    """A thin line from a point to the right edge."""
    left = point[axis.key] / axis.unit if finite(point.get(axis.key)) else 0.0
    axes.plot([left, axis.limits[1]], [point["value"]] * 2, color=COLOURS[stage], linewidth=0.9,
              zorder=2)  # fmt: skip
    mode = measure.mode_short(point.get("sims", 0))
    return Level(point["value"], f"{name}, {mode}", WORDS[stage], "bold")


def legend_handles(points: Sequence[Record], measure: Metric) -> list[Any]:
    """Which line is which."""
    from matplotlib.lines import Line2D

    searched = [sims for sims in modes(points) if sims]
    present = sorted(
        {(p["stage"], p.get("sims", 0)) for p in points}, key=lambda k: (STAGES.index(k[0]), k[1])
    )
    return [
        Line2D([], [], **line_style(stage, sims, searched),
               label=f"{NAMES[stage]}, {measure.mode(sims)}")
        for stage, sims in present
    ]


def legend_shape(handles: Sequence[Any]) -> tuple[int, int]:
    """(rows, columns): as many columns as the longest name lets into the figure."""
    longest = max([len(handle.get_label()) for handle in handles], default=1)
    columns = max(1, min(len(handles), int(WIDTH / (0.55 + 0.075 * longest))))
    return -(-len(handles) // columns), columns


def series_legend(figure: Any, handles: Sequence[Any], y: float) -> None:
    """The rows over the plot."""
    if handles:
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.1 / WIDTH, y),
                      frameon=False, ncol=legend_shape(handles)[1], handlelength=3.2,
                      columnspacing=1.6, fontsize=9.2)  # fmt: skip
