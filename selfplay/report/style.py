"""What charts share: the stages with their colours and marks, a canvas, and text that is not cut.

matplotlib is imported where something is drawn, so that importing this file costs nothing. No
pyplot, hence no global state and no display.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from selfplay.report.axis import shorten


class Stage(NamedTuple):
    """A stage of training: its name, its colour as a line and as text, its mark."""

    name: str
    colour: str
    word: str
    marker: str


# Blue and orange keep apart for every kind of colour blindness, and dark against light in grey;
# what is text is darker.
BLUE = "#174a8b"
#: The stages of all recipes, in the order of training.
STAGES = {
    "base": Stage("Base", BLUE, BLUE, "o"),
    "sft": Stage("SFT", BLUE, BLUE, "o"),
    "rl": Stage("RL", "#e58606", "#a85a00", "s"),
    "own": Stage("Own answers", "#5d9bd0", "#2b6596", "o"),
    "rl2": Stage("Second RL", "#8c3b1f", "#8c3b1f", "^"),
    "dpo": Stage("DPO", "#8c3b1f", "#8c3b1f", "^"),
    "free": Stage("RL, no budget", "#8a8a8a", "#5a5a5a", "v"),
    "rlhf": Stage("RLHF", "#8c3b1f", "#8c3b1f", "^"),
    "student": Stage("Student", "#2f7d4f", "#1f5f39", "D"),
    "value": Stage("AlphaGo", "#2f7d4f", "#1f5f39", "D"),
}
GREY, INK, FAINT = "#6b6b6b", "#1a1a1a", "#d9d9d9"
RAW_DASHES, SEARCH_DASHES = (0, (4, 2)), ["-", "-.", (0, (1, 1))]

WIDTH, DPI = 10.0, 200  # inches; shown at 1000 px it has two pixels per pixel
LEFT, RIGHT = 0.75, 2.6  # inches of margin: y labels (more if they need it), names of the levels
EDGE = 0.05  # inches that stay free at every edge
RC: Any = {
    "font.family": "DejaVu Sans", "font.size": 9.5,
    "text.parse_math": False,  # a name with two dollar signs is not a formula
    "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK,
}  # fmt: skip


def png(width: float, height: float, paint: Callable[[Any], None], dpi: int = DPI) -> bytes:
    """PNG bytes of a figure of so many inches, which ``paint`` fills."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
        FigureCanvasAgg(figure)
        paint(figure)
        figure.savefig(target, format="png", dpi=dpi, metadata={"Software": None})
    return target.getvalue()


def open_frame(axes: Any) -> None:
    """Faint lines across, no frame at the top and on the right."""
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_fitting(label: Any, text: str, head: str = "", most: int = 200) -> None:
    """``head`` and as much of ``text`` as fits between the label and the figure's right edge."""
    end = label.figure.bbox.x1 - EDGE * label.figure.dpi
    for width in range(max(min(most, len(text)), 6), 5, -1):
        whole = len(text) <= width and text.isprintable()
        label.set_text(head + (text if whole else shorten(text, width)))
        if label.get_window_extent().x1 <= end:
            return


def widen_left(figure: Any) -> None:
    """Move the left edge of all panels to the right until no label is cut there."""
    renderer, dots = figure.canvas.get_renderer(), figure.bbox.width
    cut = EDGE * figure.dpi - min(axes.get_tightbbox(renderer).x0 for axes in figure.axes)
    for axes in figure.axes if cut > 0 else ():
        box = axes.get_position()
        axes.set_position((box.x0 + cut / dots, box.y0, box.width - cut / dots, box.height))


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
    heights = spaced([level.value for level in ordered], gap, low, high)
    place = axes.get_yaxis_transform()
    for level, height in zip(ordered, heights, strict=True):
        axes.plot([1.0, 1.022, 1.032], [level.value, height, height], transform=place,
                  color=level.colour, linewidth=0.7, clip_on=False)  # fmt: skip
        label = axes.text(1.038, height, "", transform=place, va="center", fontsize=8.6,
                          color=level.colour, weight=level.weight)  # fmt: skip
        write_fitting(label, level.text, f"{level.value:{form}}  ", 60)


def spaced(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
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
