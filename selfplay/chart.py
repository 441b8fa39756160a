"""The chart of a run: Elo against training compute, SFT and RL, raw and with search.

Called by report.py with an evaluation (whose keys it names); verdict.py does the judging.
matplotlib is imported where something is drawn, so that importing this file costs nothing. No
pyplot, hence no global state and no display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from selfplay.compute import Axis, Record, divider, finite, x_axis
from selfplay.verdict import (
    NAMES,
    STAGES,
    Ceiling,
    best,
    ceilings,
    header_lines,
    mode_text,
    modes,
    rated,
    shorten,
)

# Blue and orange keep apart for every kind of colour blindness, and dark against light in grey.
COLOURS = {"sft": "#174a8b", "rl": "#e58606", "value": "#2f7d4f"}
WORDS = {"sft": "#174a8b", "rl": "#a85a00", "value": "#1f5f39"}  # darker where it is text
MARKERS = {"sft": "o", "rl": "s", "value": "D"}
GREY, INK, FAINT = "#6b6b6b", "#1a1a1a", "#d9d9d9"
RAW_DASHES, SEARCH_DASHES = (0, (4, 2)), ["-", "-.", (0, (1, 1))]

WIDTH, DPI = 10.0, 200  # inches; shown at 1000 px it has two pixels per pixel
LEFT, RIGHT = 0.75, 2.6  # inches of margin: y labels, names of the levels
ELO_HEIGHT, PANEL_HEIGHT, GAP, BOTTOM = 4.3, 0.95, 0.24, 0.62
LINE = 0.2  # inches a line of the header


class Level(NamedTuple):
    """A horizontal line with its name in the right margin."""

    value: float
    text: str
    colour: str
    weight: str  # "normal" | "bold"


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
    panels = [name for name in ("sft", "rl") if histories[name]]
    header = header_lines(evaluation)
    top = 0.62 + LINE * len(header) + 0.4
    height = top + ELO_HEIGHT + len(panels) * (PANEL_HEIGHT + GAP) + BOTTOM
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)

        def place(from_top: float, tall: float):
            box = (LEFT, height - from_top - tall, WIDTH - LEFT - RIGHT, tall)
            return figure.add_axes((box[0] / WIDTH, box[1] / height, box[2] / WIDTH, tall / height))

        beside = histories["sft"] + histories["rl"]
        axis = x_axis(points or beside, beside)
        title(figure, evaluation, header, height)
        elo = place(top, ELO_HEIGHT)
        draw_elo(elo, points, ceilings(evaluation), evaluation, axis)
        rows = [elo]
        for index, name in enumerate(panels):
            row = place(top + ELO_HEIGHT + GAP + index * (PANEL_HEIGHT + GAP), PANEL_HEIGHT)
            PANELS[name](row, histories, axis)
            rows.append(row)
        finish_x(rows, axis, points)
        series_legend(figure, points, (height - top + 0.15) / height)
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None})
    return target.getvalue()


# ------------------------------------------------------------------------------------- the x axis


def finish_x(rows: Sequence[Any], axis: Axis, points: Sequence[Record]) -> None:
    """Scale, limits, grid and the SFT | RL divider of every panel; labels on the lowest."""
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
        for text, shift, side in (("SFT ", -3, "right"), (" self-play RL", 3, "left")):
            rows[0].annotate(
                text, (border, 1.0), xycoords=top, xytext=(shift, 3), textcoords="offset points",
                ha=side, va="bottom", fontsize=8.5, color=GREY, annotation_clip=False,
            )  # fmt: skip


# --------------------------------------------------------------------------------------- drawing


def title(figure: Any, evaluation: Record, header: list[tuple[str, bool]], height: float) -> None:
    """Title and the lines under it, at the left edge of the figure."""
    words = f"Strength against training compute: {shorten(evaluation.get('game', ''), 40)}"
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


def draw_elo(
    axes: Any, points: Sequence[Record], tops: Sequence[Ceiling], evaluation: Record, axis: Axis
) -> None:
    """The main panel: four curves with bands, dotted baselines, SFT's ceilings."""
    rated = [b for b in evaluation.get("baselines", []) if finite(b.get("elo"))]
    low, high = y_limits([*points, *({"elo": b["elo"]} for b in rated)])  # lines without bands
    axes.set_ylim(low, high)
    levels = [draw_baseline(axes, baseline) for baseline in rated]
    if not any(b["player"] == evaluation.get("anchor") for b in rated):
        anchor = {"player": evaluation.get("anchor", "random"), "elo": 0.0}
        levels.append(draw_baseline(axes, anchor))
    searched = [sims for sims in modes(points) if sims]
    for sims in modes(points):
        curves = {}
        for stage in STAGES:
            series = [p for p in points if p["stage"] == stage and p.get("sims", 0) == sims]
            style = line_style(stage, sims, searched)
            curves[stage] = draw_series(axes, series, axis, style, (low, high))
        if divider(points, axis) is not None and curves["sft"] and curves["rl"]:
            xs, ys = zip(curves["sft"][-1], curves["rl"][0], strict=True)
            axes.plot(xs, ys, **{**style, "marker": None})  # RL starts from SFT's net
    levels += [draw_ceiling(axes, ceiling, axis) for ceiling in tops]
    for stage in STAGES[1:]:
        tops_later = [best(evaluation, stage, sims) for sims in modes(points)]
        levels += [draw_best(axes, point, axis, stage, f"{NAMES[stage]}'s best")
                   for point in tops_later if point]
    name_levels(axes, levels, ELO_HEIGHT)
    axes.set_ylabel(f"Elo ({evaluation.get('anchor', 'random')} = 0)", color=INK)
    if not points:
        axes.text(0.5, 0.5, "no checkpoint has been rated", transform=axes.transAxes,
                  ha="center", color=GREY)  # fmt: skip


def y_limits(records: Sequence[Record]) -> tuple[float, float]:
    """Room for every Elo and, up to a point, every interval; zero is always inside."""
    elos = [record["elo"] for record in records] + [0.0]
    span = max(max(elos) - min(elos), 100.0)
    ends = [r[end] for r in records for end in ("low", "high") if finite(r.get(end))]
    # an interval of a player that lost every game may reach very far: it is cut at half the span
    near = [end for end in ends if min(elos) - span / 2 <= end <= max(elos) + span / 2]
    low, high = min(elos + near), max(elos + near)
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
    ys = [point["elo"] for point in series]
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
    axes.axhline(baseline["elo"], color=colour, linestyle=":", linewidth=1.9 if expert else 1.2,
                 zorder=1)  # fmt: skip
    # "--mode gtp" is what every GTP engine is started with: it tells nothing here
    name = shorten(baseline["player"], 60).replace(" --mode gtp", "")
    return Level(baseline["elo"], f"{name} (expert)" if expert else name, colour, "normal")


def draw_ceiling(axes: Any, ceiling: Ceiling, axis: Axis) -> Level:
    """A thin line at SFT's best, from where its curve goes flat to the right edge."""
    name = "SFT ceiling" if ceiling.flat else "SFT's best"
    return draw_best(axes, {**ceiling.start, "elo": ceiling.best["elo"]}, axis, "sft", name)


def draw_best(axes: Any, point: Record, axis: Axis, stage: str, name: str) -> Level:
    """A thin line from a point to the right edge."""
    left = point[axis.key] / axis.unit if finite(point.get(axis.key)) else 0.0
    axes.plot([left, axis.limits[1]], [point["elo"]] * 2, color=COLOURS[stage], linewidth=0.9,
              zorder=2)  # fmt: skip
    mode = f"{point['sims']} sims" if point.get("sims") else "raw"
    return Level(point["elo"], f"{name}, {mode}", WORDS[stage], "bold")


def name_levels(axes: Any, levels: Sequence[Level], tall: float, form: str = ".0f") -> None:
    """Names in the right margin at their heights, moved apart where they would overlap.

    `tall` is the panel's height in inches.
    """
    low, high = axes.get_ylim()
    gap = 0.165 / tall * (high - low)
    ordered = sorted(levels, key=lambda level: level.value)
    heights = spread([level.value for level in ordered], gap, low, high)
    place = axes.get_yaxis_transform()
    for level, height in zip(ordered, heights, strict=True):
        axes.plot([1.0, 1.022, 1.032], [level.value, height, height], transform=place,
                  color=level.colour, linewidth=0.7, clip_on=False)  # fmt: skip
        label = axes.text(1.038, height, "", transform=place, va="center", fontsize=8.6,
                          color=level.colour, weight=level.weight)  # fmt: skip
        for width in range(60, 5, -1):  # as much of the name as the margin holds
            label.set_text(f"{level.value:{form}}  {shorten(level.text, width)}")
            if label.get_window_extent().x1 <= axes.figure.bbox.x1 - 0.05 * DPI:
                break


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions (ascending, as `wanted` must be) at least `gap` apart and within [low, high].

    Neighbours that collide form a block around the mean of what they wanted (the least-squares
    answer, as in isotonic regression). The gap shrinks where they cannot all fit.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    blocks: list[tuple[float, int]] = []  # (sum of wanted lowest positions, members)
    for index, value in enumerate(wanted):
        total, count = value - index * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            total, count = total + blocks[-1][0], count + blocks[-1][1]
            blocks.pop()
        blocks.append((total, count))
    bases = [total / count for total, count in blocks for _ in range(count)]
    room = high - (len(wanted) - 1) * gap
    return [min(max(base, low), room) + index * gap for index, base in enumerate(bases)]


def series_legend(figure: Any, points: Sequence[Record], y: float) -> None:
    """One row over the plot: which line is which."""
    from matplotlib.lines import Line2D

    searched = [sims for sims in modes(points) if sims]
    present = sorted(
        {(p["stage"], p.get("sims", 0)) for p in points}, key=lambda k: (STAGES.index(k[0]), k[1])
    )
    handles = [
        Line2D(
            [], [], **line_style(stage, sims, searched), label=f"{NAMES[stage]}, {mode_text(sims)}"
        )
        for stage, sims in present
    ]
    if handles:
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.1 / WIDTH, y),
                      frameon=False, ncol=min(len(handles), 4), handlelength=3.2,
                      columnspacing=1.6, fontsize=9.2)  # fmt: skip


def draw_accuracy(axes: Any, histories: dict[str, list[Record]], axis: Axis) -> None:
    """Held-out top-1 accuracy on expert moves: where it is flat, SFT has learnt what it will."""
    draw_curve(axes, histories["sft"], axis, "top1", "sft", "SFT", 100.0)
    levels = [draw_curve(axes, histories["rl"], axis, "expert_top1", "rl", "RL", 100.0)]
    axes.margins(y=0.15)
    name_levels(axes, [level for level in levels if level], PANEL_HEIGHT, ".1f")
    axes.set_ylabel("held-out\ntop-1 (%)", fontsize=8.5, color=INK)


def draw_losses(axes: Any, histories: dict[str, list[Record]], axis: Axis) -> None:
    """RL's policy loss (solid) and value loss (dashed), named at their ends."""
    levels = [
        draw_curve(axes, histories["rl"], axis, "policy_loss", "rl", "policy loss"),
        draw_curve(axes, histories["rl"], axis, "value_loss", "rl", "value loss", 1.0, RAW_DASHES),
    ]
    axes.margins(y=0.15)
    name_levels(axes, [level for level in levels if level], PANEL_HEIGHT, ".3g")
    axes.set_ylabel("RL losses", fontsize=8.5, color=INK)


PANELS = {"sft": draw_accuracy, "rl": draw_losses}


def draw_curve(
    axes: Any, history: Sequence[Record], axis: Axis, key: str, stage: str, name: str,
    factor: float = 1.0, dashes: Any = "-",
) -> Level | None:  # fmt: skip
    """One column of a history against the shared x axis. Returns its last value, None if empty.

    SFT ends in the middle of the axis, hence is named there and not in the margin.
    """
    rows = [row for row in history if finite(row.get(key)) and finite(row.get(axis.key))]
    rows = sorted(rows, key=lambda row: row[axis.key])
    if not rows:
        return None
    xs, ys = [r[axis.key] / axis.unit for r in rows], [r[key] * factor for r in rows]
    alone = {"marker": MARKERS[stage]} if len(rows) == 1 else {}
    axes.plot(xs, ys, color=COLOURS[stage], linewidth=1.6, linestyle=dashes, **alone)
    if stage == "sft":
        axes.annotate(f"{ys[-1]:.1f}  {name}", (xs[-1], ys[-1]), xytext=(-3, -6), va="top",
                      ha="right", textcoords="offset points", fontsize=8.6, color=WORDS[stage],
                      weight="bold", annotation_clip=False)  # fmt: skip
    return Level(ys[-1], name, WORDS[stage], "bold")
