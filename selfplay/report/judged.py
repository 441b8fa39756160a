"""The picture of a judgement: moves that keep the value, by ply, and by simulations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from selfplay.common.stats import wilson
from selfplay.common.words import clip
from selfplay.report.panels import doubling
from selfplay.report.style import GREY, open_frame, png

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#000000")
LONGEST = 120  #: characters of a name


class KeptCurve(NamedTuple):
    """parts: (first ply, last ply, moves that kept the value, moves) of a player's games. who,
    effort: the player without what it spends on a move, and that: simulations, or answers that
    vote."""

    name: str
    parts: Sequence[tuple[int, int, int, int]]
    who: str = ""
    effort: int = 0

    def kept(self) -> tuple[int, int]:
        """(moves that kept the value, moves) at all plies."""
        return sum(part[2] for part in self.parts), sum(part[3] for part in self.parts)


def draw_judged(title: str, curves: Sequence[KeptCurve]) -> bytes:
    """PNG bytes: a curve a player over the plies, bars are 95% intervals (Wilson); the names stand
    below, a line each. Where one of them was judged with several efforts, beside it all plies
    together by the effort: what more computation at test time brings."""
    below = 0.2 * len(curves) + 0.1  # inches
    height = 4.0 + below
    efforts = [found for found in by_effort(curves).values() if len(found) > 1]
    colour = {curve.name: COLOURS[k % len(COLOURS)] for k, curve in enumerate(curves)}

    def paint(figure: Any) -> None:
        def new_axes(left: float, width: float) -> Any:
            axes = figure.add_axes((left, (0.6 + below) / height, width, 2.9 / height))
            open_frame(axes)
            axes.set_ylabel("value-preserving moves (%)")
            return axes

        axes = new_axes(0.07, 0.52 if efforts else 0.9)
        for k, curve in enumerate(curves):
            shift = 0.12 * (k - (len(curves) - 1) / 2)  # so that bars do not hide each other
            _shares(axes, [shift + (low + high) / 2 for low, high, _, _ in curve.parts],
                    [part[2:] for part in curve.parts], colour[curve.name],
                    label=clip(curve.name, LONGEST))
        axes.set_ylim(top=100.5)
        axes.set_xlabel("ply")
        if efforts:
            beside = new_axes(0.67, 0.3)
            for found in efforts:
                _shares(beside, [max(curve.effort, 1) for curve in found],
                        [curve.kept() for curve in found], colour[found[0].name])
            doubling(beside, {max(curve.effort, 1) for found in efforts for curve in found})
            beside.set_xlabel("simulations, or answers that vote, a move")
        figure.text(0.07, 1 - 0.3 / height, title, fontsize=11, fontweight="bold")
        figure.legend(loc="lower left", bbox_to_anchor=(0.06, 0.05 / height), frameon=False,
                      labelcolor=GREY, fontsize=9)

    return png(10.0, height, paint)


def by_effort(curves: Sequence[KeptCurve]) -> dict[str, list[KeptCurve]]:
    """The curves of each player, by what they spend on a move."""
    found: dict[str, list[KeptCurve]] = {}
    for curve in sorted(curves, key=lambda curve: curve.effort):
        found.setdefault(curve.who, []).append(curve)
    return found


def _shares(axes: Any, where: Sequence[float], counts: Sequence[tuple[int, ...]], colour: str,
            label: str = "") -> None:
    """A curve of shares in percent, of (hits, total), with their intervals."""
    rates = [100 * hits / total for hits, total in counts]
    spans = [wilson(hits / total, total) for hits, total in counts]
    around = [[max(r - 100 * low, 0.0) for r, (low, _) in zip(rates, spans, strict=True)],
              [max(100 * high - r, 0.0) for r, (_, high) in zip(rates, spans, strict=True)]]
    axes.errorbar(where, rates, yerr=around, marker="o", markersize=4, linewidth=1.4,
                  elinewidth=0.8, capsize=2, color=colour, label=label or None)
