"""What charts share: colours and marks of the stages, sizes, and names in the right margin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from selfplay.report.axis import shorten

# Blue and orange keep apart for every kind of colour blindness, and dark against light in grey.
COLOURS = {"base": "#174a8b", "sft": "#174a8b", "rl": "#e58606", "own": "#5d9bd0",
           "rl2": "#8c3b1f", "free": "#8a8a8a", "rlhf": "#8c3b1f", "student": "#2f7d4f",
           "value": "#2f7d4f"}
WORDS = {**COLOURS, "rl": "#a85a00", "own": "#2b6596", "free": "#5a5a5a", "student": "#1f5f39",
         "value": "#1f5f39"}  # darker where it is text
MARKERS = {"base": "o", "sft": "o", "rl": "s", "own": "o", "rl2": "^", "free": "v", "rlhf": "^",
           "student": "D", "value": "D"}
GREY, INK, FAINT = "#6b6b6b", "#1a1a1a", "#d9d9d9"
RAW_DASHES, SEARCH_DASHES = (0, (4, 2)), ["-", "-.", (0, (1, 1))]

WIDTH, DPI = 10.0, 200  # inches; shown at 1000 px it has two pixels per pixel
LEFT, RIGHT = 0.75, 2.6  # inches of margin: y labels, names of the levels


class Level(NamedTuple):
    """A horizontal line with its name in the right margin."""

    value: float
    text: str
    colour: str
    weight: str  # "normal" | "bold"


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
