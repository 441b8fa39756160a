"""The picture of over-optimisation: proxy and gold reward against the divergence.

matplotlib is imported where something is drawn; no pyplot, hence no global state and no display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from selfplay.palette import COLOURS, FAINT, GREY, INK

Row = dict[str, Any]

CURVES = (COLOURS["rl"], COLOURS["sft"], "#2e7d5b")


def draw(
    climbs: dict[str, Sequence[Row]], title: str, *, budget: float = 0.0,
    best_of: Sequence[Row] = (),
) -> bytes:
    """PNG bytes: gold and proxy reward against the root of the divergence (nats a completion).

    climbs: rows of ``history.jsonl`` by what the curve is called, three at most; budget: nats at
    which a line stands (0: none); best_of: rows of ``optimism.best_of_n``. Bars are 95% intervals
    over prompts.
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
        for axes, part in ((above, "gold"), (below, "proxy")):
            for (label, rows), colour, marker in zip(climbs.items(), CURVES, "os^", strict=False):
                _curve(axes, rows, part, colour, label, marker)
            if best_of:
                _curve(axes, best_of, part, GREY, "best of n samples", "d")
            if budget > 0:
                axes.axvline(budget**0.5, color=GREY, linestyle=(0, (4, 2)), linewidth=1)
            axes.set_ylabel(f"{'true (gold)' if part == 'gold' else 'proxy'} reward")
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        above.legend(frameon=False, fontsize=8.5)
        below.set_xlabel("root of the KL divergence from the reference (nats a completion)")
        target = io.BytesIO()
        figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def _curve(axes: Any, rows: Sequence[Row], name: str, colour: str, label: str, marker: str) -> None:
    """One climb; its label tells the best gold reward."""
    best = max(row["gold"] for row in rows)
    label = f"{label}: best {best:.3f}, last {rows[-1]['gold']:.3f}"
    x = [row["kl_root"] for row in rows]
    axes.plot(x, [row[name] for row in rows], marker=marker, markersize=3, linewidth=1.4,
              color=colour, label=label)
    axes.errorbar(x, [row[name] for row in rows],
                  [[row[name] - row[f"{name}_low"] for row in rows],
                   [row[f"{name}_high"] - row[name] for row in rows]],
                  fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.5)

