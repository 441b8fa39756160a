"""How a game's board is drawn: where its cells lie, what stands on them, which move goes where.

Native games say it themselves (``Game.board_style``). OpenSpiel's say it as text, which is read by
``LOOKS``, and so does Dots and Boxes (``NATIVE_LOOKS``); a game that is in neither is shown as its
text, with the moves in a list.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from selfplay.games.base import Game, take

MOST_TRIED = 400  #: legal moves that are tried out to see what they change
GO_COLUMNS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"

Place = tuple[float, float]  #: x to the right, y downwards, in cells
Grid = list[tuple[Place, str]]  #: cells with the character on each


class Target(NamedTuple):
    """Where a move is made on the board: the cell that it ends on, and the one that it starts
    from; -1 where there is none."""

    to: int
    start: int = -1


@dataclass(frozen=True)
class Layout:
    """What stays the same for a game. shape: "go" (crossings), "square", "columns" (stones fall),
    "hex", "dots" (lines between dots, at odd x or odd y, and boxes, at both) or "text". places: of
    the cells. labels: (x, y, text) around them."""

    shape: str
    places: tuple[Place, ...] = ()
    labels: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class Look:
    """How a game prints its board. read: text to cells. first, second: the
    characters that are stones of player 0 and 1. blocked: those that are neither nor empty.
    letters: the characters are pieces with names, of one side in capitals: ``first`` is "upper" or
    "lower". fixed: a move puts a stone on a cell, always on the same one. sides: what the players
    are called."""

    shape: str
    read: Callable[[str, str], Grid]
    first: str
    second: str = ""
    blocked: str = ""
    letters: bool = False
    fixed: bool = False
    sides: tuple[str, str] | None = None
    labels: Callable[[int, int], tuple[tuple[float, float, str], ...]] = field(
        default=lambda height, width: ())

    def piece(self, char: str) -> str:
        """A cell as it goes to the page: "", "0", "1", "#", or "0N" for a piece N of player 0."""
        if self.letters:
            if not char.strip("+").isalpha():
                return ""
            return ("0" if char.isupper() == (self.first == "upper") else "1") + char.upper()
        if char in self.first:
            return "0" + (char if char != self.first[0] and char in CROWNED else "")
        if char in self.second:
            return "1" + (char if char != self.second[0] and char in CROWNED else "")
        return "#" if char in self.blocked else ""


CROWNED = "8*"  #: kings at checkers


def _rows(text: str, stones: str) -> Grid:
    """A rectangle of one character a cell, with or without blanks and labels: of neighbouring lines
    of equal width those that hold the most."""
    line_of = re.compile(rf"[a-z^]??\d{{0,2}}?([{re.escape(stones)}.+-]{{3,}})\d{{0,2}}[a-z^]?")
    best: list[str] = []
    run: list[str] = []
    for line in [*text.splitlines(), ""]:
        found = line_of.fullmatch(re.sub(r"[\s\[\]]", "", line))
        if run and (not found or len(found[1]) != len(run[0])):
            best, run = max(best, run, key=lambda lines: sum(map(len, lines))), []
        if found:
            run.append(found[1])
    return [((float(x), float(y)), char) for y, line in enumerate(best)
            for x, char in enumerate(line)]


def _numbered(text: str, stones: str) -> Grid:
    """As ``_rows``, each with a number before it that might be taken for a stone."""
    return _rows("\n".join(line[1:] for line in text.splitlines()), stones)


def _forsyth(text: str, stones: str) -> Grid:
    """Chess's notation: rows by slashes, numbers are empty cells, + is a promoted piece."""
    rows = re.match(r"[\w+~]+(?:/[\w+~]+)+", text)
    grid: Grid = []
    for y, row in enumerate(rows[0].split("/") if rows else []):
        cells: list[str] = []
        for piece in re.findall(r"\d+|\+?[A-Za-z]", row):
            cells += [""] * int(piece) if piece.isdigit() else [piece]
        grid += [((float(x), float(y)), piece) for x, piece in enumerate(cells)]
    return grid


def _hexes(text: str, stones: str) -> Grid:
    """Rows that are shifted by half a cell: what stands in the text stands there on the board."""
    grid: Grid = []
    y = 0
    for line in text.splitlines():
        found = [(m.start() / 2, m[0]) for m in re.finditer(rf"[{re.escape(stones)}.]", line)]
        if found and (len(found) > 1 or not re.search(r"[a-zA-Z]{2}", line)):
            grid += [((x, float(y)), char) for x, char in found]
            y += 1
    left = min((x for (x, _), _ in grid), default=0.0)
    return [((x - left, y), char) for (x, y), char in grid]


def _blocks(text: str, stones: str) -> Grid:
    """Three by three boards of three by three cells."""
    text = "\n".join(line for line in text.splitlines() if line)
    return [((x + x // 3 * 0.25, y + y // 3 * 0.25), char)
            for (x, y), char in _rows(text, stones)]


def _dotted(text: str, stones: str) -> Grid:
    """Dots, lines and boxes as the native game prints them: every second character."""
    lines = text.splitlines()
    width = len(lines[0])
    return [((float(x), float(y)), line.ljust(width)[2 * x]) for y, line in enumerate(lines)
            for x in range(width // 2 + 1)]


def _numbers(height: int, width: int, columns: str = string.ascii_lowercase, up: bool = True,
             ) -> tuple[tuple[float, float, str], ...]:
    rows = [str(height - y if up else y + 1) for y in range(height)]
    return (*((float(x), float(height), columns[x]) for x in range(min(width, len(columns)))),
            *((-1.0, float(y), row) for y, row in enumerate(rows)))


def _down(height: int, width: int) -> tuple[tuple[float, float, str], ...]:
    return _numbers(height, width, up=False)


def _go_labels(height: int, width: int) -> tuple[tuple[float, float, str], ...]:
    return _numbers(height, width, GO_COLUMNS)


_COLOURS = ("black", "white")
_CHESS = Look("square", _forsyth, "lower", letters=True, labels=_numbers, sides=_COLOURS)
#: OpenSpiel's short name -> how its board is read
LOOKS: dict[str, Look] = {
    "amazons": Look("square", _rows, "X", "O", "#"),
    "antichess": _CHESS,
    "breakthrough": Look("square", _rows, "b", "w", labels=_numbers, sides=_COLOURS),
    "checkers": Look("square", _numbered, "o8", "+*", labels=_numbers, sides=_COLOURS),
    "chess": _CHESS,
    "chinese_checkers": Look("hex", _hexes, "1", "2"),
    "clobber": Look("square", _rows, "o", "x", labels=_numbers),
    "connect_four": Look("square", _rows, "x", "o"),
    "crazyhouse": _CHESS,
    "go": Look("go", _rows, "X", "O", fixed=True, labels=_go_labels, sides=_COLOURS),
    "gomoku": Look("go", _rows, "b", "w", fixed=True, sides=_COLOURS),
    "havannah": Look("hex", _hexes, "O", "@", fixed=True),
    "hex": Look("hex", _hexes, "xyzX", "opqO", fixed=True),
    "lines_of_action": Look("square", _rows, "x", "o", labels=_numbers),
    "mnk": Look("square", _rows, "x", "o", fixed=True),
    "othello": Look("square", _rows, "x", "o", labels=_down, sides=_COLOURS),
    "pentago": Look("square", _rows, "O", "@", labels=_down),
    "shogi": Look("square", _forsyth, "upper", letters=True),
    "tic_tac_toe": Look("square", _rows, "x", "o"),
    "ultimate_tic_tac_toe": Look("square", _blocks, "x", "o"),
    "xiangqi": Look("square", lambda text, stones: _rows(text, string.ascii_letters), "upper",
                    letters=True),
    "y": Look("hex", _hexes, "O", "@", fixed=True),
}

#: the same of native games
NATIVE_LOOKS = {"dotsandboxes": Look("dots", _dotted, "X", "O", "-|", fixed=True)}


class GameBoard:
    """The board of one game. Not for what is written on it: see ``pieces`` and ``targets``."""

    def __init__(self, game: Game) -> None:
        self.game = game
        kind = game.name.partition("(")[0]
        self._look = (LOOKS.get(kind.removeprefix("openspiel:")) if kind.startswith("openspiel:")
                      else NATIVE_LOOKS.get(kind))
        self._fixed: dict[int, Target] = {}
        self.layout = self._native() if self._look is None else self._read()
        if self.layout.shape == "dots":  # while no line closes a box, so that all are found
            self.targets(game.new(1))

    @property
    def sides(self) -> tuple[str, str]:
        """What the players are called."""
        return self._look.sides if self._look and self._look.sides else self.game.sides

    def _native(self) -> Layout:
        """Cell k is row k // W, the first row at the bottom."""
        style, (height, width) = self.game.board_style, self.game.board_shape
        if style == "text":
            return Layout("text")
        shift = 0.5 if style == "hex" else 0.0  # of a row, beside the one below
        places = tuple((k % width + shift * (k // width), float(height - 1 - k // width))
                       for k in range(height * width))
        shape = "square" if style == "cells" else style
        columns = {"go": GO_COLUMNS, "columns": "1234567"}.get(shape, string.ascii_lowercase)
        labels = _numbers(height, width, columns if width <= len(columns) else "")
        if shape == "hex":
            labels = tuple((x + shift * (height - 1 - y) if x < 0 else x - shift, y, text)
                           for x, y, text in labels)
        return Layout(shape, places, labels if shape != "columns" else tuple(
            label for label in labels if label[0] >= 0))

    def _read(self) -> Layout:
        grid = self._grid(self.game.new(1))
        if not grid:
            return Layout("text")
        places = tuple(place for place, _ in grid)
        width, height = (1 + int(max(p[axis] for p in places)) for axis in (0, 1))
        assert self._look is not None
        return Layout(self._look.shape, places, self._look.labels(height, width))

    def _grid(self, states: Any) -> Grid:
        look = self._look
        assert look is not None
        return look.read(self.game.render(states, 0), look.first + look.second + look.blocked)

    def pieces(self, states: Any) -> list[str]:
        """What stands on each cell of a position of one row: "", "0" or "1" for a stone of that
        player, "0N" for a piece N, "#" for a blocked cell. Empty where the layout is text."""
        if self.layout.shape == "text":
            return []
        if self._look is not None:
            found = [self._look.piece(char) for _, char in self._grid(states)]
            return found if len(found) == len(self.layout.places) else [""] * len(
                self.layout.places)
        own, other = self.game.observe(take(states, [0]))[0, :2].reshape(2, -1)
        first, second = (own, other) if states.to_play[0] == 0 else (other, own)
        return ["0" if a else "1" if b else "" for a, b in zip(first, second, strict=True)]

    def targets(self, states: Any) -> dict[int, Target]:
        """Of each legal move of a position of one row."""
        legal = np.flatnonzero(self.game.legal(states)[0]).tolist()
        cells = len(self.layout.places)
        if self._look is None and self.layout.shape == "columns":
            return {a: Target(self._falls(states, a)) for a in legal}
        if self._look is None and cells <= self.game.num_actions <= cells + 1:
            return {a: Target(a if a < cells else -1) for a in legal}
        if not cells or len(legal) > MOST_TRIED or self._turns:
            return {a: Target(-1) for a in legal}
        before = self.pieces(states)
        found = {a: self._fixed.get(a) or self._changed(states, before, a) for a in legal}
        if self._look is not None and self._look.fixed:
            self._fixed |= {a: target for a, target in found.items() if target.to >= 0}
        return found

    @property
    def _turns(self) -> bool:
        """Moves turn parts of the board: what changes does not tell where they were made."""
        return self.game.name.startswith("openspiel:pentago")

    def _falls(self, states: Any, column: int) -> int:
        """The lowest empty cell of a column."""
        width = self.game.board_shape[1]
        filled = self.pieces(states)[column::width]
        return filled.index("") * width + column

    def _changed(self, states: Any, before: list[str], action: int) -> Target:
        """Where a move is made, by what it changes: it ends where a piece of the mover has come to
        be (of several, where there was nothing before), and starts where one has gone."""
        after_states = take(states, [0])
        mover = str(int(states.to_play[0]))
        self.game.step(after_states, np.array([action], np.int64))
        after = self.pieces(after_states)
        there = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        came = [k for k in there if after[k][:1] == mover and before[k] == ""] or [
            k for k in there if after[k][:1] == mover] or [k for k in there if after[k] == "#"]
        gone = [k for k in there if before[k][:1] == mover and after[k][:1] != mover]
        if not came:
            return Target(gone[0]) if len(gone) == 1 else Target(-1)
        if len(gone) > 1 and len(came) > 1:  # castling: the king's move tells
            kings = [k for k in came if after[k].endswith("K")]
            return Target(kings[0], next(k for k in gone if before[k].endswith("K"))) if (
                kings) else Target(-1)
        return Target(came[0], gone[0] if gone else -1)
