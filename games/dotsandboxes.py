"""Dots and Boxes up to 5x5 boxes: batch kernels over a 64-bit set of lines a row.

Line ``r * C + c`` lies below box (r, c) (or above the last row), line ``(R + 1) * C +
r * (C + 1) + c`` to its left (or right of the last column): R rows and C columns of boxes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .base import GameError, Symmetries, board_symmetries, take
from .recorded import RecordedGame

LONGEST = 5  #: boxes a side
_ZERO, _ONE = np.uint64(0), np.uint64(1)


class DotsAndBoxesStates(NamedTuple):
    """lines: uint64 [B], the set of those drawn; boxes: uint32 [B, 2], of player 0 and 1, bit
    ``r * C + c``; to_play: int8 [B]; ply: int32 [B]; done: bool [B]; value: int8 [B] for player 0,
    0 while not done; last: int16 [B], the action made last, -1 before the first."""

    lines: NDArray[np.uint64]
    boxes: NDArray[np.uint32]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    value: NDArray[np.int8]
    last: NDArray[np.int16]


@njit(cache=True, nogil=True)
def _closed(lines, line, beside, around):
    """The set of the boxes beside ``line`` that have all four lines."""
    found = 0
    for k in range(2):
        box = beside[line, k]
        if box >= 0 and lines & around[box] == around[box]:
            found |= 1 << box
    return found


@njit(cache=True, nogil=True)
def _ones(bits):
    n = 0
    while bits != 0:
        bits &= bits - 1
        n += 1
    return n


@njit(cache=True, nogil=True)
def _replay(lines, boxes, to_play, ply, done, value, last, actions, beside, around):
    count = len(beside)
    for b in range(actions.shape[0]):
        for t in range(actions.shape[1]):
            line = actions[b, t]
            if line < 0 or done[b]:
                continue
            lines[b] |= _ONE << np.uint64(line)
            ply[b] += 1
            last[b] = line
            closed = _closed(lines[b], line, beside, around)
            boxes[b, to_play[b]] |= closed
            if ply[b] == count:
                done[b] = True
                lead = _ones(np.int64(boxes[b, 0])) - _ones(np.int64(boxes[b, 1]))
                value[b] = 1 if lead > 0 else -1 if lead < 0 else 0
            elif closed == 0:  # who closes a box moves again
                to_play[b] = 1 - to_play[b]


@njit(cache=True, nogil=True)
def _draw(rng, b, n):
    """A number below n from row b's splitmix64 stream (Steele, Lea, Flood 2014)."""
    rng[b] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[b]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(32)
    return np.int64((z * np.uint64(n)) >> np.uint64(32))


@njit(cache=True, nogil=True)
def _rollout(lines, boxes, to_play, done, value, rng, beside, around, out):
    free = np.empty(len(beside), np.int64)
    for b in range(len(lines)):
        out[b] = value[b]
        if done[b]:
            continue
        drawn, left = lines[b], 0
        for line in range(len(beside)):
            if (drawn >> np.uint64(line)) & _ONE == _ZERO:
                free[left] = line
                left += 1
        lead = _ones(np.int64(boxes[b, 0])) - _ones(np.int64(boxes[b, 1]))
        sign = 1 - 2 * to_play[b]
        while left > 0:
            at = _draw(rng, b, left)
            line = free[at]
            left -= 1
            free[at] = free[left]
            drawn |= _ONE << np.uint64(line)
            closed = _closed(drawn, line, beside, around)
            if closed == 0:
                sign = -sign
            else:
                lead += sign * _ones(closed)
        out[b] = 1 if lead > 0 else -1 if lead < 0 else 0


class DotsAndBoxes(RecordedGame):
    """Dots and Boxes; a move draws a line, as text "h 0 1" (row, column of a horizontal line, from
    the bottom left) or "v 1 0". Who closes a box moves again; more boxes win.

    Planes, on a grid of (2R + 1) x (2C + 1) dots, lines and boxes: lines drawn, own boxes, the
    opponent's, ones.
    """

    sides = ("first", "second")

    def __init__(self, rows: int = 4, columns: int = 4) -> None:
        if not (1 <= rows <= LONGEST and 1 <= columns <= LONGEST):
            raise GameError(f"dotsandboxes(rows={rows},columns={columns}): 1 to {LONGEST} boxes a "
                            "side wanted")
        self.rows, self.columns = rows, columns
        options = f"(rows={rows},columns={columns})" if (rows, columns) != (4, 4) else ""
        self.name = f"dotsandboxes{options}"
        self.rules = (f"Dots and Boxes, {rows}x{columns} boxes: who closes one moves again, more "
                      "boxes win")
        self.board_shape = (2 * rows + 1, 2 * columns + 1)
        self.obs_shape = (4, *self.board_shape)
        self._flat = (rows + 1) * columns  # horizontal lines
        self.num_actions = self._flat + rows * (columns + 1)
        self.max_moves = self.num_actions
        self._places = np.array(  # [A] the grid's cell of each line
            [2 * r * self.board_shape[1] + 2 * c + 1 for r in range(rows + 1)
             for c in range(columns)]
            + [(2 * r + 1) * self.board_shape[1] + 2 * c for r in range(rows)
               for c in range(columns + 1)])
        self._box_places = np.array([(2 * r + 1) * self.board_shape[1] + 2 * c + 1
                                     for r in range(rows) for c in range(columns)])
        around = [(r * columns + c, (r + 1) * columns + c, self._flat + r * (columns + 1) + c,
                   self._flat + r * (columns + 1) + c + 1)
                  for r in range(rows) for c in range(columns)]
        self._around = np.array([sum(1 << line for line in box) for box in around], np.uint64)
        self._beside = np.full((self.num_actions, 2), -1, np.int64)
        for box, edges in enumerate(around):
            for line in edges:
                self._beside[line, int(self._beside[line, 0] >= 0)] = box

    def new(self, batch: int) -> DotsAndBoxesStates:
        return DotsAndBoxesStates(
            lines=np.zeros(batch, np.uint64),
            boxes=np.zeros((batch, 2), np.uint32),
            to_play=np.zeros(batch, np.int8),
            ply=np.zeros(batch, np.int32),
            done=np.zeros(batch, np.bool_),
            value=np.zeros(batch, np.int8),
            last=np.full(batch, -1, np.int16),
        )

    def replay(self, states: DotsAndBoxesStates, actions: NDArray[np.int64]) -> None:
        _replay(*states, np.ascontiguousarray(actions, np.int64), self._beside, self._around)

    def legal(self, states: DotsAndBoxesStates) -> NDArray[np.bool_]:
        return _bits(states.lines, self.num_actions) == 0

    def observe(self, states: DotsAndBoxesStates) -> NDArray[np.uint8]:
        count = len(states.ply)
        out = np.zeros((count, 4, self.cells), np.uint8)
        out[:, 0, self._places] = _bits(states.lines, self.num_actions)
        own = states.boxes[np.arange(count), states.to_play]
        other = states.boxes[np.arange(count), 1 - states.to_play]
        for plane, boxes in ((1, own), (2, other)):
            out[:, plane, self._box_places] = _bits(boxes, self.rows * self.columns)
        out[:, 3] = 1
        return out.reshape(-1, *self.obs_shape)

    def rollout(self, states: DotsAndBoxesStates, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        out = np.empty(len(states.ply), np.float32)
        _rollout(*states[:3], states.done, states.value, rng, self._beside, self._around, out)
        return out

    def symmetries(self) -> Symmetries:
        cells = board_symmetries(self.board_shape).cells
        line_at = np.full(self.cells, -1)
        line_at[self._places] = np.arange(self.num_actions)
        return Symmetries(cells, line_at[cells[:, self._places]])

    def action_to_text(self, states: DotsAndBoxesStates, row: int, action: int) -> str:
        kind, line, wide = ("h", action, self.columns)
        if action >= self._flat:
            kind, line, wide = "v", action - self._flat, self.columns + 1
        return f"{kind} {line // wide} {line % wide}"

    def text_to_action(self, states: DotsAndBoxesStates, row: int, text: str) -> int:
        words = re.fullmatch(r"([hv])[ ,]*(\d+)[ ,]+(\d+)", text.strip().lower())
        return super().text_to_action(states, row, " ".join(words.groups()) if words else text)

    def render(self, states: DotsAndBoxesStates, row: int) -> str:
        """Dots, the lines drawn, and who owns a box (X is player 0), row 0 at the bottom."""
        one = take(states, [row])
        grid = np.full(self.cells, " ", "U1").reshape(self.board_shape)
        grid[::2, ::2] = "+"
        flat = grid.ravel()
        drawn = _bits(one.lines, self.num_actions)[0].astype(bool)
        for line in np.flatnonzero(drawn):
            flat[self._places[line]] = "-" if line < self._flat else "|"
        for player, letter in enumerate("XO"):
            owned = _bits(one.boxes[:, player], self.rows * self.columns)[0].astype(bool)
            flat[self._box_places[owned]] = letter
        lines = flat.reshape(self.board_shape)
        return "\n".join("".join(c * (3 if c == "-" else 1) if k % 2 == 0 else
                                 (c * 3 if c == "-" else f" {c} ")
                                 for k, c in enumerate(line)).rstrip() for line in lines[::-1])


def _bits(sets: NDArray[np.uint64] | NDArray[np.uint32], count: int) -> NDArray[np.uint8]:
    """uint8 [B, count] of 0 and 1: the lowest bits of each set."""
    shifts = np.arange(count, dtype=np.uint64)
    return ((sets.astype(np.uint64)[:, None] >> shifts) & _ONE).astype(np.uint8)
