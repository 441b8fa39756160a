"""A board with what a net or a search thinks of it, as SVG for pages and as pixels.

``board_view`` reads a position, ``shapes`` lays it out, ``svg`` and ``pixels`` draw it. Nothing
here depends on what shows it: a notebook, TensorBoard and a page on the web take the same picture.
It brings its own background, so that it can be read on light and dark pages alike.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.games.base import Game, take

CELL = 40  #: units of a cell's side
MARGIN = 28  #: around the board, with the coordinates
LETTER = 0.61  #: width of a letter over its size
FOOT = 26  #: below it, for the words
LEAST = 0.005  #: a smaller share of the policy is not drawn
LISTED = 5  #: moves named beside a board that is drawn as text

WOOD, FELT, LINE, INK = "#e3b565", "#eef1f4", "#5b4a2b", "#20242b"
BLACK, WHITE, X, O = "#16181c", "#fbfbf8", "#c8452f", "#2463b4"  # noqa: E741
SHADE, MARK = "#1f7a4d", "#e02f7b"


class BoardView(NamedTuple):
    """A position to be drawn.

    style: "go" (stones on crossings), "cells", "columns" (a move is a column, stones fall) or
    "text". stones: int8 [H, W], 1 of player 0, -1 of player 1, row 0 at the bottom. policy:
    float [A] or None; visits: int [A] or None. last: the action made last, or -1. texts: of the
    actions. words: below the board. drawing: as ``Game.render`` gives it.
    """

    style: str
    stones: NDArray[np.int8]
    policy: NDArray[np.float32] | None
    visits: NDArray[np.int64] | None
    last: int
    texts: Sequence[str]
    words: str
    drawing: str


class Shape(NamedTuple):
    """kind: rect (x, y, width, height), line (x1, y1, x2, y2), circle (x, y, radius) or text
    (x, y, size); y grows downward."""

    kind: str
    at: tuple[float, ...]
    fill: str
    edge: str = "none"
    opacity: float = 1.0
    text: str = ""
    anchor: str = "middle"


class Drawing(NamedTuple):
    width: float
    height: float
    shapes: list[Shape]
    title: str


def board_view(game: Game, states: Any, row: int = 0, policy: ArrayLike | None = None,
               visits: ArrayLike | None = None, value: float | None = None, last: int = -1
               ) -> BoardView:
    """What there is to draw of one row of ``states``.

    policy: float [A], shares of the moves; visits: int [A], of a search; value: in [-1, 1] for the
    side to move. last: the action made last, where the states do not tell.
    Raises ValueError for a policy or visits of another number of actions.
    """
    one = take(states, [row])
    for name, given in (("policy", policy), ("visits", visits)):
        if given is not None and np.shape(given) != (game.num_actions,):
            raise ValueError(f"{name} of shape {np.shape(given)}; ({game.num_actions},) wanted")
    done, result = (field[0] for field in game.result(one))
    if done:
        words = "a draw" if result == 0 else f"{game.sides[0 if result > 0 else 1]} has won"
    else:
        words = f"{game.sides[one.to_play[0]]} to move"
        if value is not None:
            words += f", value {value:+.2f}"
    stones = np.zeros(game.board_shape, np.int8)
    if game.board_style != "text":
        own, other = game.observe(one)[0, :2].astype(np.int8)
        stones = (own - other) * (1 if one.to_play[0] == 0 else -1)
    made = game.last_move(one)[0] if last < 0 else last
    return BoardView(game.board_style, stones,
                     None if policy is None else np.asarray(policy, np.float32),
                     None if visits is None else np.asarray(visits, np.int64), int(made),
                     [game.action_to_text(one, 0, a) for a in _named(game, one, policy)],
                     f"move {int(one.ply[0])}, {words}", game.render(one, 0))


def _named(game: Game, one: Any, policy: ArrayLike | None) -> list[int]:
    """The actions whose texts a drawing as text shows, the most probable first; of a board that
    is drawn, the pass alone."""
    if game.board_style != "text":
        return []
    shares = np.where(game.legal(one)[0], 0.0 if policy is None else np.asarray(policy), -1.0)
    return [int(a) for a in np.argsort(-shares, kind="stable")[:LISTED] if shares[a] >= LEAST]


def shapes(seen: BoardView) -> Drawing:
    """The layout of a view."""
    return _of_text(seen) if seen.style == "text" else _of_board(seen)


def _of_board(seen: BoardView) -> Drawing:
    height, width = seen.stones.shape
    wide, tall = width * CELL + 2 * MARGIN, height * CELL + 2 * MARGIN + FOOT
    go = seen.style == "go"
    cells = _cells_of(seen)
    words = seen.words + _of_pass(seen, len(cells))
    letter = min(14.0, max(10.0, (wide - MARGIN) / len(words) / LETTER))
    wide = max(wide, int(len(words) * letter * LETTER) + MARGIN)
    found = [Shape("rect", (0, 0, wide, tall), WOOD if go else FELT)]
    x = [MARGIN + CELL * (column + 0.5) for column in range(width)]
    y = [MARGIN + CELL * (height - row - 0.5) for row in range(height)]
    found += _grid(x, y) if go else _squares(x, y)
    names = "ABCDEFGHJKLMNOPQRSTUVWXYZ" if go else string.ascii_lowercase
    if seen.style == "columns":
        names = ""
    for column, place in enumerate(x):
        label = names[column] if column < len(names) else str(column + 1)
        found.append(Shape("text", (place, y[0] + CELL * 0.5 + 17, 13), INK, text=label))
    if seen.style != "columns":
        found += [Shape("text", (MARGIN / 2, place + 5, 13), INK, text=str(row + 1))
                  for row, place in enumerate(y)]
    colours = (BLACK, WHITE) if go else (X, O)
    for row, column in np.argwhere(seen.stones):
        mine = seen.stones[row, column] > 0
        found.append(Shape("circle", (x[column], y[row], CELL * 0.45), colours[not mine], INK))
    found += _last(seen, x, y)
    for action, (row, column) in cells.items():
        found += _share_circle(seen, action, x[column], y[row])
    found.append(Shape("text", (MARGIN / 2, tall - 9, letter), INK, text=words, anchor="start"))
    return Drawing(wide, tall, found, words)


def _grid(x: list[float], y: list[float]) -> list[Shape]:
    lines = [Shape("line", (place, y[0], place, y[-1]), "none", LINE) for place in x]
    lines += [Shape("line", (x[0], place, x[-1], place), "none", LINE) for place in y]
    size = len(x)
    if size == len(y) and size >= 7:
        edge = 2 if size < 13 else 3
        spots = {edge, size - 1 - edge} | ({size // 2} if size % 2 else set())
        lines += [Shape("circle", (x[c], y[r], 3), LINE) for c in spots for r in spots
                  if size > 9 or (c == size // 2) == (r == size // 2)]
    return lines


def _squares(x: list[float], y: list[float]) -> list[Shape]:
    half = CELL / 2
    return [Shape("rect", (c - half + 1, r - half + 1, CELL - 2, CELL - 2), "#ffffff", "#c3cad3")
            for r in y for c in x]


def _cells_of(seen: BoardView) -> dict[int, tuple[int, int]]:
    """Action -> the cell where it is drawn; where stones fall, the lowest empty one."""
    height, width = seen.stones.shape
    if seen.style != "columns":
        return {k: divmod(k, width) for k in range(height * width)}
    free = (seen.stones == 0).sum(0)
    return {c: (height - int(free[c]), c) for c in range(width) if free[c]}


def _share_circle(seen: BoardView, action: int, x: float, y: float) -> list[Shape]:
    """A circle as large and dark as the move's share, with its percent."""
    if seen.policy is None or not seen.policy[action] >= LEAST:
        return []
    share = float(seen.policy[action])
    radius = CELL * (0.2 + 0.24 * min(share, 1.0) ** 0.5)
    text = f"{share:.0%}" if share >= 0.01 else "<1"
    light = share > 0.25
    return [Shape("circle", (x, y, radius), SHADE, opacity=0.25 + 0.7 * min(share, 1.0) ** 0.5),
            Shape("text", (x, y + 4, 11), "#ffffff" if light else INK, text=text)]


def _last(seen: BoardView, x: list[float], y: list[float]) -> list[Shape]:
    if seen.last < 0:
        return []
    height, width = seen.stones.shape
    if seen.style == "columns":
        free = int((seen.stones[:, seen.last] == 0).sum())
        place = (height - free - 1, seen.last)
    elif seen.last < height * width:
        place = divmod(seen.last, width)
    else:
        return []
    return [Shape("circle", (x[place[1]], y[place[0]], CELL * 0.16), "none", MARK)]


def _of_pass(seen: BoardView, cells: int) -> str:
    """What there is to say of a pass, which has no cell."""
    if seen.style == "columns":
        return ""
    words = ", after a pass" if seen.last >= cells else ""
    if seen.policy is not None and len(seen.policy) > cells and seen.policy[cells] >= LEAST:
        words += f", pass {seen.policy[cells]:.0%}"
    return words


def _of_text(seen: BoardView) -> Drawing:
    """The board as the game renders it, and the likeliest moves below it as bars."""
    lines, step = seen.drawing.splitlines() or [""], 18
    wide = max([320, *(int(len(line) * 8.6) + 2 * MARGIN for line in lines)])
    tall = (len(lines) + len(seen.texts)) * step + 2 * MARGIN + FOOT
    found = [Shape("rect", (0, 0, wide, tall), FELT)]
    found += [Shape("text", (MARGIN, MARGIN + step * n, 14), INK, text=line, anchor="start")
              for n, line in enumerate(lines)]
    if seen.policy is not None:
        shares = np.sort(seen.policy)[::-1]
        for n, (text, share) in enumerate(zip(seen.texts, shares, strict=False), len(lines)):
            top = MARGIN + step * n
            found += [Shape("rect", (MARGIN, top - 8, 120 * float(share), 12), SHADE),
                      Shape("text", (MARGIN + 130, top + 3, 13), INK, anchor="start",
                            text=f"{text}  {share:.0%}")]
    found.append(Shape("text", (MARGIN / 2, tall - 9, 14), INK, text=seen.words, anchor="start"))
    return Drawing(wide, tall, found, seen.words)


def svg(drawing: Drawing) -> str:
    """The drawing as an SVG element of its own, with a title for those who cannot see it."""
    body = "".join(_element(shape) for shape in drawing.shapes)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width:g} '
            f'{drawing.height:g}" width="{drawing.width:g}" height="{drawing.height:g}" '
            f'role="img" font-family="ui-monospace, Menlo, Consolas, monospace">'
            f"<title>{escape(drawing.title)}</title>{body}</svg>")


def _element(shape: Shape) -> str:
    at = [f"{number:.4g}" for number in shape.at]
    paint = f'fill="{shape.fill}" stroke="{shape.edge}"'
    if shape.opacity < 1:
        paint += f' opacity="{shape.opacity:.2f}"'
    if shape.kind == "rect":
        return f'<rect x="{at[0]}" y="{at[1]}" width="{at[2]}" height="{at[3]}" rx="2" {paint}/>'
    if shape.kind == "line":
        return f'<line x1="{at[0]}" y1="{at[1]}" x2="{at[2]}" y2="{at[3]}" {paint}/>'
    if shape.kind == "circle":
        wide = ' stroke-width="3"' if shape.fill == "none" else ""
        return f'<circle cx="{at[0]}" cy="{at[1]}" r="{at[2]}" {paint}{wide}/>'
    return (f'<text x="{at[0]}" y="{at[1]}" font-size="{at[2]}" text-anchor="{shape.anchor}" '
            f'xml:space="preserve" {paint}>{escape(shape.text)}</text>')


def pixels(drawing: Drawing, dpi: int = 100) -> NDArray[np.uint8]:
    """The drawing as uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, Rectangle

    figure = Figure(figsize=(drawing.width / 100, drawing.height / 100), dpi=dpi)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.axis("off")
    for order, shape in enumerate(drawing.shapes):
        at: Any = shape.at
        paint: dict[str, Any] = {
            "facecolor": shape.fill, "edgecolor": shape.edge, "alpha": shape.opacity,
            "zorder": order, "linewidth": 2 if shape.fill == "none" else 0.7}
        if shape.kind == "rect":
            axes.add_patch(Rectangle(at[:2], at[2], at[3], **paint))
        elif shape.kind == "circle":
            axes.add_patch(Circle(at[:2], at[2], **paint))
        elif shape.kind == "line":
            axes.plot(at[::2], at[1::2], color=shape.edge, linewidth=0.7, zorder=order)
        else:
            axes.text(at[0], at[1], shape.text, fontsize=at[2] * 0.72, color=shape.fill,
                      ha={"middle": "center", "start": "left"}[shape.anchor], zorder=order,
                      family="monospace", parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def score_bar(score: float, low: float, high: float, words: str) -> str:
    """HTML: a score from 0 to 1 on a line with its interval, and ``words`` below."""
    head = f"{score:.1%}, 95% interval {low:.1%} to {high:.1%}" if score == score else "no game"
    marks = [Shape("rect", (0, 0, 420, 46), FELT),
             Shape("line", (10, 23, 410, 23), "none", "#9aa3ad"),
             Shape("line", (210, 11, 210, 35), "none", "#9aa3ad")]
    if score == score:
        marks += [Shape("rect", (10 + 400 * low, 17, 400 * (high - low), 12), SHADE, opacity=0.35),
                  Shape("circle", (10 + 400 * score, 23, 7), SHADE, "#ffffff")]
    return (f"<div>{svg(Drawing(420, 46, marks, head))}<p><b>{escape(head)}</b></p>"
            f"<pre>{escape(words)}</pre></div>")
