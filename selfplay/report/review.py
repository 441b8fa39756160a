"""The page of a reviewed game: winrates, agreement, the biggest mistakes with boards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from selfplay.common.files import write_atomic
from selfplay.report.page import template

WIDTH, HEIGHT, EDGE = 960.0, 240.0, 46.0


class WinrateCurve(NamedTuple):
    """winrates: the first player's in every position, from 0 to 1. marked: positions to mark."""

    winrates: Sequence[float]
    marked: Sequence[int]


class Mistake(NamedTuple):
    """title, words, and an SVG of the board before the move."""

    title: str
    words: str
    board: str


class Page(NamedTuple):
    """table: rows of player, moves, agreement, winrate and points lost a move."""

    title: str
    about: Sequence[str]
    curve: WinrateCurve
    table: Sequence[tuple[str, int, str, str, str]]
    mistakes: Sequence[Mistake]


def write_page(path: Path, page: Page) -> None:
    """Write the page, which needs no other file. Raises UserError where it cannot be written."""
    text = template("review.html.j2").render(page=page, curve=curve_svg(page.curve))
    write_atomic(path, text.encode())


def curve_svg(curve: WinrateCurve) -> str:
    """The curve as an SVG element: 100% on top, a line at 50%, dots on what is marked."""
    count = max(len(curve.winrates) - 1, 1)
    x = [EDGE + (WIDTH - 2 * EDGE) * k / count for k in range(len(curve.winrates))]
    y = [EDGE / 2 + (HEIGHT - 1.5 * EDGE) * (1 - rate) for rate in curve.winrates]
    low, high = EDGE / 2 + HEIGHT - 1.5 * EDGE, EDGE / 2
    middle = (low + high) / 2
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    area = f"{x[0]:.1f},{low:.1f} {line} {x[-1]:.1f},{low:.1f}"
    step = max(1, round(count / 12 / 5) * 5 or 1)
    ticks = "".join(f'<text x="{x[k]:.1f}" y="{HEIGHT - 6:.1f}" text-anchor="middle">{k}</text>'
                    for k in range(0, len(x), step))
    dots = "".join(f'<circle class="dot" cx="{x[k]:.1f}" cy="{y[k]:.1f}" r="5"/>'
                   for k in curve.marked if k < len(x))
    names = "".join(f'<text x="{EDGE - 6}" y="{place + 4:.1f}" text-anchor="end">{text}</text>'
                    for place, text in ((high, "100%"), (middle, "50%"), (low, "0%")))
    return (f'<svg class="curve" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img">'
            f"<title>Black's winrate, move by move</title>"
            f'<polygon class="area" points="{area}"/><line class="half" x1="{EDGE}" '
            f'x2="{WIDTH - EDGE}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
            f'<polyline class="rate" points="{line}"/>{dots}{ticks}{names}</svg>')
