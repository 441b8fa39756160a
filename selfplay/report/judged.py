"""The picture of a judgement: moves that keep the value, by ply, and by simulations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from selfplay.common.errors import clip
from selfplay.common.stats import wilson
from selfplay.report.style import GREY, open_frame, png

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#000000")
LONGEST = 120  #: characters of a name


class KeptCurve(NamedTuple):
    """parts: (first ply, last ply, moves that kept the value, moves) of a player's games."""

    name: str
    parts: Sequence[tuple[int, int, int, int]]


def draw_judged(title: str, curves: Sequence[KeptCurve]) -> bytes:
    """PNG bytes: a curve a player over the plies, bars are 95% intervals (Wilson); the names stand
    below, a line each."""
    below = 0.2 * len(curves) + 0.1  # inches
    height = 4.0 + below

    def paint(figure: Any) -> None:
        axes = figure.add_axes((0.07, (0.6 + below) / height, 0.9, 2.9 / height))
        open_frame(axes)
        for k, curve in enumerate(curves):
            where = [(low + high) / 2 for low, high, _, _ in curve.parts]
            rates = [100 * hits / count for *_, hits, count in curve.parts]
            spans = [wilson(hits / count, count) for *_, hits, count in curve.parts]
            around = [[max(r - 100 * low, 0.0) for r, (low, _) in zip(rates, spans, strict=True)],
                      [max(100 * high - r, 0.0) for r, (_, high) in zip(rates, spans, strict=True)]]
            shift = 0.12 * (k - (len(curves) - 1) / 2)  # so that bars do not hide each other
            axes.errorbar([x + shift for x in where], rates, yerr=around, marker="o",
                          markersize=4, linewidth=1.4, elinewidth=0.8, capsize=2,
                          color=COLOURS[k % len(COLOURS)], label=clip(curve.name, LONGEST))
        axes.set_ylim(top=100.5)
        axes.set_xlabel("ply")
        axes.set_ylabel("value-preserving moves (%)")
        figure.text(0.07, 1 - 0.3 / height, title, fontsize=11, fontweight="bold")
        figure.legend(loc="lower left", bbox_to_anchor=(0.06, 0.05 / height), frameon=False,
                      labelcolor=GREY, fontsize=9)

    return png(10.0, height, paint)
