"""A game of Go as SGF has it: set-up stones, handicap, moves of either side in any order.

What is for learning is read by ``arena.sgf``, which leaves such games out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.collection import (
    UNREADABLE,
    Properties,
    Skipped,
    read_unpacked,
    trees,
    unreadable,
)
from selfplay.arena.sgf import about, action_of, number_of, text_of
from selfplay.common.errors import UserError

MOST_NODES = 50_000
_COLOURS = {"B": 0, "W": 1}


@dataclass(frozen=True)
class Record:
    """A main line. komi: None where it has none. stones: int8 [N*N], 1 black, -1 white, at the
    start. to_play: who begins, 0 black. moves: (colour, action). result: as it stands there."""

    size: int
    komi: float | None
    stones: NDArray[np.int8]
    to_play: int
    moves: tuple[tuple[int, int], ...]
    names: tuple[str, str]
    result: str
    source: str

    @property
    def handicap(self) -> bool:
        """Whether the board is not empty at the start."""
        return bool(self.stones.any())


def read_sgf(path: Path, skipped: list[Skipped] | None = None) -> list[Record]:
    """The games of an SGF file (.sgf, .sgf.gz); what cannot be played here goes into ``skipped``.

    Raises UserError for a file that cannot be read and where no game is left in it.
    """
    skipped = [] if skipped is None else skipped
    before = len(skipped)
    try:
        data = read_unpacked(path)
    except UNREADABLE as error:
        raise UserError(f"{path}: {unreadable(error)}") from None
    found = []
    for name, nodes in trees(str(path), data, skipped, MOST_NODES):
        try:
            found.append(record_of(name, nodes))
        except ValueError as error:
            skipped.append(Skipped(name, str(error)))
    if not found:
        reasons = [item.reason for item in skipped[before:]]
        del skipped[before:]
        raise UserError(f"{path}: {reasons[0] if reasons else 'no game in it'}")
    return found


def record_of(source: str, nodes: Properties) -> Record:
    """Raises ValueError with the reason for what cannot be played here."""
    root = about(nodes)
    if text_of(root, "GM") not in ("", "1"):
        raise ValueError(f"not Go (GM[{text_of(root, 'GM')}])")
    size = _board_size(text_of(root, "SZ"))
    stones, moves = np.zeros(size * size, np.int8), list[tuple[int, int]]()
    turn: int | None = None
    for node in nodes:
        if moves and {"AB", "AW", "AE"} & node.keys():
            raise ValueError(f"stones are put on the board after move {len(moves)}")
        for name, stone in (("AB", 1), ("AW", -1), ("AE", 0)):
            for cell in _cells(node.get(name, []), size):
                stones[cell] = stone
        if text_of(node, "PL")[:1].upper() in _COLOURS and not moves:
            turn = _COLOURS[text_of(node, "PL")[:1].upper()]
        for name, colour in _COLOURS.items():
            for point in node.get(name, [])[:1]:
                action = action_of(point.strip(), size)
                if action is None:
                    raise ValueError(f"move {len(moves) + 1} is off the board")
                moves.append((colour, action))
    if turn is None:
        turn = moves[0][0] if moves else int(stones.sum() > 0)
    return Record(size, number_of(text_of(root, "KM")), stones, turn, tuple(moves),
                  (text_of(root, "PB"), text_of(root, "PW")), text_of(root, "RE"), source)


def _board_size(stated: str) -> int:
    if not stated:
        return 19
    width, _, height = stated.partition(":")
    if not width.isdecimal() or (height or width) != width or not 2 <= int(width) <= 25:
        raise ValueError(f"board size {stated[:20]}")
    return int(width)


def _cells(points: list[bytes], size: int) -> list[int]:
    """The cells of a list of points and of rectangles such as aa:cc. Raises ValueError."""
    found = []
    for point in points:
        first, _, last = point.strip().partition(b":")
        corners = [action_of(corner, size) for corner in (first, last or first)]
        if any(corner is None or corner == size * size for corner in corners):
            raise ValueError(f"a stone off the board ({point[:10].decode('latin-1')})")
        (top, left), (bottom, right) = (divmod(int(corner or 0), size) for corner in corners)
        found += [row * size + column for row in range(min(top, bottom), max(top, bottom) + 1)
                  for column in range(min(left, right), max(left, right) + 1)]
    return found
