"""The small panels under a chart (what learning looked like, accuracy against samples), and the
picture of over-optimisation: proxy and gold reward against the divergence.

A panel is drawn where a history has one of its columns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from selfplay.report.axis import Axis, Record, finite
from selfplay.report.style import (
    GREY,
    INK,
    RAW_DASHES,
    STAGES,
    Level,
    name_levels,
    open_frame,
    png,
)

PANEL_HEIGHT = 0.95  # inches
ZERO = 1e-7
DOTS = (0, (1, 1.2))  #: of the best by reward
SAMPLES_HEIGHT, SAMPLES_GAP = 2.6, 0.78


class Column(NamedTuple):
    """A column of a stage's history as a curve."""

    stage: str
    key: str
    name: str
    factor: float = 1.0
    dashes: Any = "-"


class Panel(NamedTuple):
    label: str
    columns: tuple[Column, ...]
    form: str = ".3g"  #: of the last values, in the margin


IMITATION = Panel("held-out\ntop-1 (%)", (
    Column("sft", "top1", "SFT", 100.0), Column("rl", "expert_top1", "RL", 100.0)), ".1f")
LOSSES = Panel("RL losses", (
    Column("rl", "policy_loss", "policy loss"),
    Column("rl", "value_loss", "value loss", 1.0, RAW_DASHES)))
#: Of policy gradients, whose loss tells nothing.
GRADIENT = (
    Panel("score vs\npool (%)", (Column("rl", "score", "past selves", 100.0),), ".1f"),
    Panel("entropy\n(nats)", (Column("rl", "entropy", "entropy"),)),
    Panel("KL (nats)", (
        Column("rl", "ref_kl", "from the first"),
        Column("rl", "sample_kl", "in an update", 1.0, RAW_DASHES))),
    Panel("clipped (%)", (Column("rl", "clip_fraction", "clip fraction", 100.0),)),
)
#: Of texts.
HELD_OUT = Panel("held-out loss\n(nats a token)", (Column("sft", "policy_loss", "SFT"),), ".3g")
TEXTS = (
    Panel("tokens an\nanswer", (Column("rl", "length", "mean length"),), ".1f"),
    Panel("went back,\nright (%)", (Column("rl", "aha", "of answers", 100.0),), ".1f"),
    Panel("no signal\n(% groups)", (Column("rl", "no_signal", "of groups", 100.0),), ".1f"),
)


def panels_of(histories: dict[str, list[Record]]) -> list[Panel]:
    """The panels that have something to show, from above."""
    gradient = any("clip_fraction" in row for row in histories["rl"])
    texts = any("length" in row for row in histories["rl"])
    wanted = [IMITATION]
    if not any("top1" in row for row in histories["sft"]):
        wanted += [HELD_OUT]
    wanted += [*GRADIENT] if gradient else [LOSSES]
    wanted += [*TEXTS] if texts else []
    found = [panel._replace(columns=tuple(
        column for column in panel.columns if more_than_zeros(column, histories)))
        for panel in wanted]
    return [panel for panel in found if panel.columns]


def more_than_zeros(column: Column, histories: dict[str, list[Record]]) -> bool:
    """Is there more than zeros? With one update a batch nothing is clipped, nor far away."""
    values = [row[column.key] for row in histories[column.stage] if finite(row.get(column.key))]
    return any(abs(value) > ZERO for value in values)


def draw_panel(
    axes: Any, panel: Panel, histories: dict[str, list[Record]], axis: Axis, first: str = "sft"
) -> None:
    """All curves of a panel over the shared x axis, RL's named in the margin. first: the stage that
    the history of "sft" is of."""
    levels = [draw_curve(axes, histories[c.stage], axis, c, panel.form, first)
              for c in panel.columns]
    axes.margins(y=0.15)
    name_levels(axes, [level for level in levels if level], PANEL_HEIGHT, panel.form)
    axes.set_ylabel(panel.label, fontsize=8.5, color=INK)


def draw_curve(
    axes: Any, history: Sequence[Record], axis: Axis, column: Column, form: str, first: str = "sft"
) -> Level | None:
    """One column of a history against the shared x axis. Returns its last value for the margin,
    None if there is none.

    SFT ends in the middle of the axis, hence is named there and not in the margin.
    """
    rows = [row for row in history if finite(row.get(column.key)) and finite(row.get(axis.key))]
    rows = sorted(rows, key=lambda row: row[axis.key])
    if not rows:
        return None
    xs, ys = [r[axis.key] / axis.unit for r in rows], [r[column.key] * column.factor for r in rows]
    stage = STAGES[first if column.stage == "sft" else column.stage]
    alone = {"marker": stage.marker} if len(rows) == 1 else {}
    axes.plot(xs, ys, color=stage.colour, linewidth=1.6, linestyle=column.dashes, **alone)
    if column.stage == "sft":
        above = ys[-1] <= (min(ys) + max(ys)) / 2  # where there is room
        axes.annotate(f"{ys[-1]:{form}}  {stage.name}", (xs[-1], ys[-1]),
                      xytext=(-3, 6 if above else -6), va="bottom" if above else "top", ha="right",
                      textcoords="offset points", fontsize=8.6, color=stage.word,
                      weight="bold", annotation_clip=False)  # fmt: skip
        return None
    return Level(ys[-1], column.name, stage.word, "bold")


def draw_samples(axes: Any, rows: Sequence[Record], of: str = "") -> None:
    """Test-time compute: accuracy against the number of answers drawn, by majority (solid, with
    its 95% band), where one right answer is enough (pass@k, dashed), and by the best of k that a
    reward model picks (dotted, with its band) where one has judged.

    rows: stage, k, majority, low, high, pass and maybe best, best_low, best_high, all in percent
    but k. of: the task, where it is
    another than the chart's.
    """
    levels = []
    for name, stage in STAGES.items():
        mine = sorted((row for row in rows if row["stage"] == name), key=lambda row: row["k"])
        if not mine:
            continue
        colour = stage.colour
        for key, dashes, what, fill, low, high in (
                ("majority", "-", "majority of k", colour, "low", "high"),
                ("pass", RAW_DASHES, "pass@k", "white", "", ""),
                ("best", DOTS, "best of k by reward", colour, "best_low", "best_high")):
            those = [row for row in mine if key in row]
            ks, ys = [row["k"] for row in those], [row[key] for row in those]
            if not those:
                continue
            if low:
                axes.fill_between(ks, [row[low] for row in those], [row[high] for row in those],
                                  color=colour, alpha=0.2, linewidth=0)
            axes.plot(ks, ys, color=colour, linestyle=dashes, marker=stage.marker, markersize=4.5,
                      markerfacecolor=fill, linewidth=1.8)
            levels.append(Level(ys[-1], f"{stage.name}, {what}", stage.word, "bold"))
    finish_search(axes, {row["k"] for row in rows},
                  "Answers drawn to a question" + (f" of {of}" if of else ""), "accuracy (%)")
    name_levels(axes, levels, SAMPLES_HEIGHT, ".1f")


def draw_budgets(axes: Any, rows: Sequence[Record]) -> None:
    """Test-time compute: accuracy of the best answer against the tokens of its thought, where it
    is cut off there (solid, with its 95% band) and where it is made to go on until there (dashed).

    rows: stage, mode, budget, accuracy, low, high, all in percent but budget.
    """
    levels = []
    for name, stage in STAGES.items():
        for mode, dashes, fill in (("cut", "-", stage.colour), ("forced", RAW_DASHES, "white")):
            mine = sorted((row for row in rows if (row["stage"], row["mode"]) == (name, mode)),
                          key=lambda row: row["budget"])
            if not mine:
                continue
            budgets, ys = [row["budget"] for row in mine], [row["accuracy"] for row in mine]
            if mode == "cut":
                axes.fill_between(budgets, [r["low"] for r in mine], [r["high"] for r in mine],
                                  color=stage.colour, alpha=0.2, linewidth=0)
            axes.plot(budgets, ys, color=stage.colour, linestyle=dashes, marker=stage.marker,
                      markersize=4.5, markerfacecolor=fill, linewidth=1.8)
            levels.append(Level(ys[-1], f"{stage.name}, {mode}", stage.word, "bold"))
    finish_search(axes, {row["budget"] for row in rows},
                  "Tokens of thought: cut off there, or forced to go on until there",
                  "accuracy (%)")
    name_levels(axes, levels, SAMPLES_HEIGHT, ".1f")


def doubling(axes: Any, amounts: Collection[int]) -> None:
    """An axis of amounts over their logarithm, each with its number."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(amounts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def finish_search(axes: Any, amounts: Collection[int], what: str, strength: str) -> None:
    """Axes of a panel over test-time compute."""
    doubling(axes, amounts)
    axes.margins(y=0.08)
    axes.set_ylabel(strength, color=INK)
    axes.set_xlabel(f"{what}: test-time compute (log scale)", color=INK)
    open_frame(axes)


def draw_search(axes: Any, rows: Sequence[Record]) -> None:
    """Test-time compute: Elo against simulations with its 95% band, a curve a stage; a raw policy
    is a dashed line across.

    rows: stage, sims (0: raw), elo, low, high.
    """
    searched, levels = {row["sims"] for row in rows if row["sims"] > 0}, list[Level]()
    for name, stage in STAGES.items():
        mine = [row for row in rows if row["stage"] == name]
        levels += draw_spent(axes, mine, stage.name, stage.colour, stage.word, "sims")
    finish_search(axes, searched, "Simulations a move", "Elo")
    name_levels(axes, levels, SAMPLES_HEIGHT)


def draw_runs_spent(axes: Any, runs: Sequence[tuple[str, Record, str]]) -> None:
    """The same of several runs' last points. runs: (name, run of a comparison, colour) of each."""
    levels, amounts = list[Level](), set[int]()
    for label, run, colour in runs:
        what = "votes" if run["spends"] == "answers" else "sims"
        levels += draw_spent(axes, run["search"], label, colour, colour, what)
        amounts |= {row["sims"] for row in run["search"] if row["sims"]}
    finish_search(axes, amounts, "Simulations, or answers that vote, a move", "Elo")
    name_levels(axes, levels, SAMPLES_HEIGHT)


def draw_spent(
    axes: Any, rows: Sequence[Record], name: str, colour: str, word: str, what: str
) -> list[Level]:
    """A curve with its band over what is spent on a move, called ``what``, and a line across for
    what plays without. Returns their names in the margin."""
    mine = sorted((row for row in rows if row["sims"]), key=lambda row: row["sims"])
    spent, levels = [row["sims"] for row in mine], list[Level]()
    if mine:
        stage = STAGES[mine[0]["stage"]]
        axes.fill_between(spent, [r["low"] for r in mine], [r["high"] for r in mine],
                          color=colour, alpha=0.2, linewidth=0)
        axes.plot(spent, [r["elo"] for r in mine], color=colour, marker=stage.marker,
                  markersize=4.5, linewidth=1.8)
        levels.append(Level(mine[-1]["elo"], f"{name}, {spent[-1]} {what}", word, "bold"))
    for row in rows:
        if not row["sims"]:
            axes.axhline(row["elo"], color=colour, linestyle=RAW_DASHES, linewidth=1)
            levels.append(Level(row["elo"], f"{name}, raw", word, "normal"))
    return levels


CLIMBS = ((STAGES["rl"].colour, "o"), (STAGES["sft"].colour, "s"), ("#2e7d5b", "^"))


def draw_overoptimisation(
    climbs: dict[str, Sequence[Record]], title: str, *, budget: float = 0.0,
    best_of: Sequence[Record] = (),
) -> bytes:
    """PNG bytes: gold and proxy reward against the root of the divergence (nats a completion).

    climbs: rows of ``history.jsonl`` by what the curve is called, three at most; budget: nats at
    which a line stands (0: none); best_of: rows of ``evaluate.best_of_n``. Bars are 95% intervals
    over prompts.
    """
    curves = [(rows, label, *marks)
              for (label, rows), marks in zip(climbs.items(), CLIMBS, strict=False)]
    curves += [(best_of, "best of n samples", GREY, "d")] * bool(best_of)

    def paint(figure: Any) -> None:
        figure.set_layout_engine("constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        figure.suptitle(title, x=0.02, ha="left", weight="bold", color=INK)
        for axes, part, name in ((above, "gold", "true (gold)"), (below, "proxy", "proxy")):
            for rows, label, colour, marker in curves:
                draw_climb(axes, rows, part, label, colour, marker)
            if budget > 0:
                axes.axvline(budget**0.5, color=GREY, linestyle=(0, (4, 2)), linewidth=1)
            axes.set_ylabel(f"{name} reward")
            open_frame(axes)
        above.legend(frameon=False, fontsize=8.5)
        below.set_xlabel("root of the KL divergence from the reference (nats a completion)")

    return png(8, 6.4, paint, dpi=150)


#: What a row of a climb has.
CLIMBED = ("kl_root", "gold", "gold_low", "gold_high", "proxy", "proxy_low", "proxy_high")


def draw_climb(
    axes: Any, rows: Sequence[Record], part: str, label: str, colour: str, marker: str
) -> None:
    """One climb; its label tells the best gold reward."""
    best = max(row["gold"] for row in rows)
    ys = [row[part] for row in rows]
    reach = [[y - row[f"{part}_low"] for y, row in zip(ys, rows, strict=True)],
             [row[f"{part}_high"] - y for y, row in zip(ys, rows, strict=True)]]
    axes.errorbar([row["kl_root"] for row in rows], ys, reach, marker=marker, markersize=3,
                  linewidth=1.4, color=colour, elinewidth=0.7,
                  label=f"{label}: best {best:.3f}, last {rows[-1]['gold']:.3f}")
