"""The chart: strength against training compute, of one run or of several.

Of one run: SFT and RL, raw and with search, and how they learned. Of several: a colour a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

from selfplay.report.axis import Axis, Metric, Record, divider, finite, shorten, x_axis, y_limits
from selfplay.report.panels import (
    PANEL_HEIGHT,
    SAMPLES_GAP,
    SAMPLES_HEIGHT,
    draw_budgets,
    draw_panel,
    draw_runs_spent,
    draw_samples,
    draw_search,
    panels_of,
)
from selfplay.report.style import (
    FAINT,
    GREY,
    INK,
    LEFT,
    RAW_DASHES,
    RIGHT,
    SEARCH_DASHES,
    STAGES,
    WIDTH,
    Level,
    name_levels,
    open_frame,
    png,
    widen_left,
    write_fitting,
)
from selfplay.report.text import anchor_text, header_lines
from selfplay.report.verdict import IMPROVERS, Verdict, sims_of, verdict_of

MAIN_HEIGHT, GAP, BOTTOM = 4.3, 0.24, 0.62
LINE = 0.2  # inches a line of the header
#: Of runs: apart for every kind of colour blindness (Okabe and Ito 2008), darkened where they are
#: text.
RUNS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")

Draw = Callable[[Any], None]  #: draws into axes
Style = Callable[[str, int], Record]  #: the line of a stage and a number of simulations
Header = Sequence[tuple[str, bool]]  #: lines, and whether each is a verdict


def draw_chart(verdict: Verdict) -> bytes:
    """PNG bytes (2000 px wide) of the whole figure of a run."""
    evaluation, metric, points = verdict.evaluation, verdict.metric, verdict.points
    histories = {stage: evaluation.get(f"{stage}_history") or [] for stage in ("sft", "rl")}
    samples, beside = evaluation.get("samples") or [], histories["sft"] + histories["rl"]
    axis, style = x_axis(points or beside, beside), styles(points)
    fitted = [row for row in evaluation.get("curves") or []
              if not row["refused"] and row["key"] == axis.key]
    search = evaluation.get("search") or []

    def strength(axes: Any) -> None:
        cut, names = draw_levels(axes, verdict, [*points, *fitted])
        draw_curves(axes, points, axis, style, cut)
        names += [draw_ceiling(axes, row, axis, metric) for row in fitted]
        told = {(row["stage"], row["sims"]) for row in fitted}
        for mode in verdict.modes:
            if mode.sft and mode.flat_from:
                sure = mode.flat and (mode.first, mode.sims) not in told
                what = " ceiling" if sure else "'s best"
                names.append(draw_best(axes, {**mode.flat_from, "value": mode.sft["value"]}, axis,
                                       mode.first, f"{STAGES[mode.first].name}{what}", metric))
        names += [draw_best(axes, point, axis, point["stage"],
                            f"{STAGES[point['stage']].name}'s best", metric)
                  for point in verdict.bests]
        name_levels(axes, names, MAIN_HEIGHT, metric.form)
        if not points:
            axes.text(0.5, 0.5, "no checkpoint has been rated", transform=axes.transAxes,
                      ha="center", color=GREY)  # fmt: skip

    shared: list[tuple[float, Draw]] = [(MAIN_HEIGHT, strength)]
    for panel in panels_of(histories):
        shared.append((PANEL_HEIGHT, partial(
            draw_panel, panel=panel, histories=histories, axis=axis, first=verdict.first)))
    below: list[Draw] = [lambda axes: draw_samples(axes, samples)] if samples else []
    budgets, also = evaluation.get("budgets") or [], evaluation.get("also") or []
    below += [lambda axes: draw_budgets(axes, budgets)] if budgets else []
    for task in dict.fromkeys(row["task"] for row in also):
        below.append(partial(draw_samples, rows=[row for row in also if row["task"] == task],
                             of=task))
    below += [lambda axes: draw_search(axes, search)] if search else []
    return compose(verdict, "training compute", header_lines(verdict),
                   legend(points, style, metric), axis, shared, below, divider(points, axis))


def draw_runs(result: Record, over: str = "flops") -> bytes:
    """PNG bytes of the runs of ``result`` in one panel, a colour a run.

    result: an evaluation with "runs", each with label and points, in place of points; those with
    "search" are drawn below over what they spend on a move. "masked": language models are among
    them, and do (not) choose among legal moves only. over: "flops" or "seconds" of training,
    cumulative.
    """
    runs = [(run["label"], verdict_of({**result, "points": run["points"]}), colour)
            for run, colour in zip(result["runs"], cycle(RUNS), strict=False)]
    points = [point for _, run, _ in runs for point in run.points]
    verdict = verdict_of({**result, "points": points})
    axis = x_axis([{over: p.get(over), "stage": p["stage"]} for p in points])

    def strength(axes: Any) -> None:
        cut, names = draw_levels(axes, verdict, points)
        for label, run, colour in runs:
            ends = draw_curves(axes, run.points, axis, styles(points, colour), cut, lone=True)
            names += [Level(y, f"{label}: {STAGES[stage].name}, {verdict.metric.mode_short(sims)}",
                            colour, "bold") for sims, (stage, y) in ends.items()]
        name_levels(axes, names, MAIN_HEIGHT, verdict.metric.form)

    played = verdict.metric.total(result)
    words = [f"{verdict.metric.name} with 95% intervals; {played:,} games between the runs"]
    if "masked" in result:
        words.append("Language models choose among legal moves only (masked)" if result["masked"]
                     else "Language models' moves are not masked: one that is illegal loses")
    spent = [(run["label"], run, colour) for run, (_, _, colour) in zip(
        result["runs"], runs, strict=True) if any(row["sims"] for row in run.get("search", []))]
    return compose(verdict, "training", [(line, False) for line in words],
                   legend(points, styles(points, GREY), verdict.metric), axis,
                   [(MAIN_HEIGHT, strength)],
                   [lambda axes: draw_runs_spent(axes, spent)] if spent else [])


# ------------------------------------------------------------------------------------- the figure


def compose(
    verdict: Verdict, against: str, header: Header, handles: Sequence[Any], axis: Axis,
    shared: Sequence[tuple[float, Draw]], below: Sequence[Draw] = (), border: float | None = None,
) -> bytes:
    """PNG bytes of title, header, legend and panels from above.

    shared: (inches, drawing) of the panels over the shared x axis, at whose ``border`` RL takes
    over from SFT; below: those of their own x axis.
    """
    longest = max([len(handle.get_label()) for handle in handles], default=1)
    columns = max(1, min(len(handles), int(WIDTH / (0.55 + 0.075 * longest))))
    top = 0.62 + LINE * (len(header) - (-len(handles) // columns)) + 0.2
    under = top + sum(tall + GAP for tall, _ in shared) - GAP
    height = under + BOTTOM + len(below) * (SAMPLES_GAP + SAMPLES_HEIGHT)

    def place(figure: Any, from_top: float, tall: float) -> Any:
        return figure.add_axes((LEFT / WIDTH, (height - from_top - tall) / height,
                                (WIDTH - LEFT - RIGHT) / WIDTH, tall / height))

    def paint(figure: Any) -> None:
        game = shorten(verdict.evaluation.get("game", ""), 40)
        write_fitting(figure.text(0.16 / WIDTH, 1 - 0.34 / height, "", fontsize=14.5,
                                  weight="bold", color=INK),
                      f"{verdict.metric.title} against {against}: {game}")
        for index, (line, bold) in enumerate(header):
            write_fitting(figure.text(0.16 / WIDTH, 1 - (0.60 + LINE * index) / height, "",
                                      fontsize=9, color=INK if bold else GREY), line)
        rows, at = [], top
        for tall, fill in shared:
            rows.append(place(figure, at, tall))
            fill(rows[-1])
            at += tall + GAP
        before = next((STAGES[mode.first].name for mode in verdict.modes), "SFT")
        finish_x(rows, axis, border, (before, verdict.metric.improver))
        for number, fill in enumerate(below):
            at = under + SAMPLES_GAP + number * (SAMPLES_GAP + SAMPLES_HEIGHT)
            fill(place(figure, at, SAMPLES_HEIGHT))
        if handles:
            figure.legend(handles=handles, loc="lower left", frameon=False, ncol=columns,
                          bbox_to_anchor=(0.1 / WIDTH, (height - top + 0.15) / height),
                          handlelength=3.2, columnspacing=1.6, fontsize=9.2)  # fmt: skip
        widen_left(figure)

    return png(WIDTH, height, paint)


def finish_x(
    rows: Sequence[Any], axis: Axis, border: float | None, beside: tuple[str, str]
) -> None:
    """Scale, limits, grid and the SFT | RL divider of every panel; labels on the lowest.

    beside: the stages' names before and behind it.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    for row in rows:
        if axis.ticks and axis.limits[0] == 0.0:  # zero stands left of the logarithmic part
            first = axis.ticks[1] if len(axis.ticks) > 1 else axis.limits[1]
            row.set_xscale("symlog", linthresh=first, linscale=0.4)
        elif axis.log:
            row.set_xscale("log")
        if axis.ticks is not None:
            row.xaxis.set_major_locator(FixedLocator(axis.ticks))
            row.xaxis.set_minor_locator(NullLocator())
        row.xaxis.set_major_formatter("{x:,.10g}")
        row.set_xlim(*axis.limits)
        open_frame(row)
        row.tick_params(labelbottom=row is rows[-1])
        if border is not None:
            row.axvline(border, color=FAINT, linewidth=1.4, zorder=0)
    rows[-1].set_xlabel(axis.label, color=INK)
    if border is not None:
        top = rows[0].get_xaxis_transform()
        for text, shift, side in ((f"{beside[0]} ", -3, "right"), (f" {beside[1]}", 3, "left")):
            rows[0].annotate(
                text, (border, 1.0), xycoords=top, xytext=(shift, 3), textcoords="offset points",
                ha=side, va="bottom", fontsize=8.5, color=GREY, annotation_clip=False,
            )  # fmt: skip


# ----------------------------------------------------------------------------------------- curves


def styles(points: Sequence[Record], colour: str = "") -> Style:
    """Colour and mark tell the stage (with ``colour`` the mark alone does); dashes and filling
    tell raw from search."""
    searched = [sims for sims in sims_of(points) if sims]

    def style(stage: str, sims: int) -> Record:
        shade = colour or STAGES[stage].colour
        return {"color": shade, "linewidth": 2.0, "marker": STAGES[stage].marker,
                "linestyle": SEARCH_DASHES[searched.index(sims) % 3] if sims else RAW_DASHES,
                "markersize": 5.5, "markerfacecolor": shade if sims else "white",
                "markeredgecolor": shade, "markeredgewidth": 1.4}

    return style


def legend(points: Sequence[Record], style: Style, metric: Metric) -> list[Any]:
    """Which line is which."""
    from matplotlib.lines import Line2D

    there = {(point["stage"], point.get("sims", 0)) for point in points}
    return [Line2D([], [], **style(stage, sims), label=f"{STAGES[stage].name}, {metric.mode(sims)}")
            for stage in STAGES for sims in sims_of(points) if (stage, sims) in there]


def draw_levels(
    axes: Any, verdict: Verdict, points: Sequence[Record]
) -> tuple[tuple[float, float], list[Level]]:
    """The y axis with its limits, and the dotted lines of baselines and anchor with their names."""
    metric, anchor = verdict.metric, verdict.evaluation.get("anchor", "random")
    known = [baseline for baseline in verdict.baselines if finite(baseline["value"])]
    limits = y_limits([*points, *({"value": b["value"]} for b in known)], metric)
    axes.set_ylim(*limits)
    axes.set_ylabel(f"{metric.name} ({anchor_text(verdict) or metric.sign})", color=INK)
    if metric.anchored and not any(b["player"] == anchor for b in known):
        known.append({"player": anchor, "value": 0.0})
    return limits, [draw_baseline(axes, baseline, metric) for baseline in known]


def draw_baseline(axes: Any, baseline: Record, metric: Metric) -> Level:
    """A dotted line across; the expert's is heavier."""
    expert = bool(baseline.get("expert"))
    colour = INK if expert else GREY
    axes.axhline(baseline["value"], color=colour, linestyle=":", linewidth=1.9 if expert else 1.2,
                 zorder=1)  # fmt: skip
    # "--mode gtp" is what every GTP engine is started with: it tells nothing here
    name = shorten(baseline["player"], 60).replace(" --mode gtp", "")
    return Level(baseline["value"], name + metric.expert_mark * expert, colour, "normal")


def draw_curves(
    axes: Any, points: Sequence[Record], axis: Axis, style: Style, cut: tuple[float, float],
    lone: bool = False,
) -> dict[int, tuple[str, float]]:
    """The curves of a run, one a stage and mode; what is to improve on a stage starts where the
    last before it has ended. lone: also where it has but one point.

    `cut` is where an interval without an end ends. Returns each mode's last stage and its last y.
    """
    ends: dict[int, tuple[str, float]] = {}
    for sims in sims_of(points):
        last: tuple[float, float] | None = None
        for stage in STAGES:
            series = [p for p in points if p["stage"] == stage and p.get("sims", 0) == sims]
            drawn = draw_series(axes, series, axis, style(stage, sims), cut)
            if not drawn:
                continue
            follows = stage in IMPROVERS and (lone or len(drawn) > 1)
            if follows and last is not None and 0 < last[0] <= drawn[0][0]:
                axes.plot(*zip(last, drawn[0], strict=True),
                          **{**style(stage, sims), "marker": None})
            last, ends[sims] = drawn[-1], (stage, drawn[-1][1])
    return ends


def draw_series(
    axes: Any, series: Sequence[Record], axis: Axis, style: Record, cut: tuple[float, float]
) -> list[tuple[float, float]]:
    """One curve and its 95% band; bars instead of the band where there is but one point.

    Returns the curve's (x, y).
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


def draw_ceiling(axes: Any, row: Record, axis: Axis, metric: Metric) -> Level:
    """A fitted curve with its 95% band as far as the axis goes, and its ceiling, dotted."""
    xs, ys, low, high = zip(*row["band"], strict=True)
    places = [x / axis.unit for x in xs]
    stage = STAGES[row["stage"]]
    reach = axes.get_ylim()
    axes.fill_between(places, low, high, facecolor="none", edgecolor=stage.colour, alpha=0.45,
                      hatch="....", linewidth=0)
    axes.plot(places, ys, color=stage.colour, linewidth=0.9)
    axes.plot([places[0], axis.limits[1]], [row["value"]] * 2, color=stage.colour, linestyle=":",
              linewidth=1.8, zorder=2)  # fmt: skip
    axes.set_ylim(*reach)
    name = f"{stage.name} ceiling, {metric.mode_short(row['sims'])}"
    return Level(row["value"], name, stage.word, "bold")


def draw_best(
    axes: Any, point: Record, axis: Axis, stage: str, name: str, metric: Metric
) -> Level:
    """A thin line from a point to the right edge."""
    left = point[axis.key] / axis.unit if finite(point.get(axis.key)) else 0.0
    axes.plot([left, axis.limits[1]], [point["value"]] * 2, color=STAGES[stage].colour,
              linewidth=0.9, zorder=2)  # fmt: skip
    text = f"{name}, {metric.mode_short(point.get('sims', 0))}"
    return Level(point["value"], text, STAGES[stage].word, "bold")
