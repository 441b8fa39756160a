"""The picture of over-optimisation: proxy and gold reward against the divergence.

matplotlib is imported where something is drawn; no pyplot, hence no global state and no display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from selfplay.chart import COLOURS, FAINT, GREY, INK

Row = dict[str, Any]

PROXY, GOLD, BUDGETED = COLOURS["rl"], COLOURS["sft"], "#2e7d5b"


def draw(free: Sequence[Row], title: str, *, budgeted: Sequence[Row] = (), budget: float = 0.0,
         best_of: Sequence[Row] = ()) -> bytes:
    """PNG bytes: gold and proxy reward against the root of the divergence (nats a completion).

    free, budgeted: rows of ``history.jsonl`` of a run, and of the one that is held to ``budget``
    nats; best_of: rows of ``optimism.best_of_n``. Bands and bars are 95% intervals over prompts.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9.5, "text.parse_math": False,
                                "axes.edgecolor": GREY}):
        figure = Figure(figsize=(8, 6.4), dpi=150, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True)
        figure.suptitle(title, x=0.02, ha="left", weight="bold", color=INK)
        for axes, name, colour in ((above, "gold", GOLD), (below, "proxy", PROXY)):
            _curve(axes, free, name, colour, "PPO and kin, this run", "o")
            if budgeted:
                _curve(axes, budgeted, name, BUDGETED, f"held to {budget:g} nats", "s")
            if best_of:
                _curve(axes, best_of, name, GREY, "best of n samples", "^")
            if budget > 0:
                axes.axvline(budget**0.5, color=GREY, linestyle=(0, (4, 2)), linewidth=1)
            axes.set_ylabel(f"{'true (gold)' if name == 'gold' else 'proxy'} reward")
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        _mark_best(above, free)
        above.legend(frameon=False, fontsize=8.5)
        below.set_xlabel("root of the KL divergence from the reference (nats a completion)")
        target = io.BytesIO()
        figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def _curve(axes: Any, rows: Sequence[Row], name: str, colour: str, label: str, marker: str) -> None:
    x = [row["kl_root"] for row in rows]
    axes.plot(x, [row[name] for row in rows], marker=marker, markersize=3, linewidth=1.4,
              color=colour, label=label)
    axes.errorbar(x, [row[name] for row in rows],
                  [[row[name] - row[f"{name}_low"] for row in rows],
                   [row[f"{name}_high"] - row[name] for row in rows]],
                  fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.5)


def _mark_best(axes: Any, rows: Sequence[Row]) -> None:
    best = max(rows, key=lambda row: row["gold"])
    axes.annotate(f"best: {best['gold']:.3f}", (best["kl_root"], best["gold"]), xytext=(0, 9),
                  textcoords="offset points", ha="center", fontsize=8.5, color=INK)
