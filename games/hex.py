"""Hex up to 11x11: batch kernels over a byte a cell.

Cell ``k = row * N + col``; a cell touches those beside it in its row and column and two of the
diagonal ones, (row + 1, col - 1) and (row - 1, col + 1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .base import GameError, Symmetries
from .recorded import RecordedGame

SIZES = range(2, 12)
FIRST_EDGE, SECOND_EDGE = 1, 2


class HexStates(NamedTuple):
    """stones: int8 [B, N * N], 1 of player 0, -1 of player 1; edges: uint8 [B, N * N], which of
    its own two edges a stone is joined to (FIRST_EDGE | SECOND_EDGE); to_play: int8 [B]; ply:
    int32 [B]; done: bool [B]; value: int8 [B] for player 0, 0 while not done; last: int16 [B],
    the action made last, -1 before the first."""

    stones: NDArray[np.int8]
    edges: NDArray[np.uint8]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]
    done: NDArray[np.bool_]
    value: NDArray[np.int8]
    last: NDArray[np.int16]


@njit(cache=True, nogil=True)
def _beside(cell, direction, size):
    """The cell next to ``cell`` in one of six directions, -1 beyond the board."""
    row, col = cell // size, cell % size
    if direction == 0:
        col += 1
    elif direction == 1:
        col -= 1
    elif direction == 2:
        row += 1
    elif direction == 3:
        row -= 1
    elif direction == 4:
        row, col = row + 1, col - 1
    else:
        row, col = row - 1, col + 1
    return row * size + col if 0 <= row < size and 0 <= col < size else -1


@njit(cache=True, nogil=True)
def _own_edges(cell, colour, size):
    """The edges of ``colour`` that a cell lies on: rows of player 0, columns of player 1."""
    along = cell // size if colour == 1 else cell % size
    return (FIRST_EDGE if along == 0 else 0) | (SECOND_EDGE if along == size - 1 else 0)


@njit(cache=True, nogil=True)
def _join(stones, edges, cell, colour, size, stack):
    """Put a stone on ``cell`` and tell its chain which edges it is joined to. True: both."""
    stones[cell] = colour
    found = _own_edges(cell, colour, size)
    for direction in range(6):
        near = _beside(cell, direction, size)
        if near >= 0 and stones[near] == colour:
            found |= edges[near]
    edges[cell] = found
    depth = 1
    stack[0] = cell
    while depth > 0:  # only stones that did not know it yet
        depth -= 1
        here = stack[depth]
        for direction in range(6):
            near = _beside(here, direction, size)
            if near >= 0 and stones[near] == colour and edges[near] != found:
                edges[near] = found
                stack[depth] = near
                depth += 1
    return found == FIRST_EDGE | SECOND_EDGE


@njit(cache=True, nogil=True)
def _replay(stones, edges, to_play, ply, done, value, last, actions, size):
    stack = np.empty(size * size + 1, np.int16)
    for b in range(actions.shape[0]):
        for t in range(actions.shape[1]):
            cell = actions[b, t]
            if cell < 0 or done[b]:
                continue
            if cell == size * size:  # the second player takes the first stone, mirrored
                first = last[b]
                stones[b, first], edges[b, first] = 0, 0
                cell = first % size * size + first // size
            colour = 1 - 2 * to_play[b]
            ply[b] += 1
            last[b] = actions[b, t]
            if _join(stones[b], edges[b], cell, colour, size, stack):
                done[b], value[b] = True, colour
            else:
                to_play[b] = 1 - to_play[b]


@njit(cache=True, nogil=True)
def _winning(stones, edges, player, size, out):
    """out[b, cell]: a stone of ``player[b]`` there would join both its edges."""
    for b in range(stones.shape[0]):
        colour = 1 - 2 * player[b]
        for cell in range(size * size):
            out[b, cell] = False
            if stones[b, cell] != 0:
                continue
            found = _own_edges(cell, colour, size)
            for direction in range(6):
                near = _beside(cell, direction, size)
                if near >= 0 and stones[b, near] == colour:
                    found |= edges[b, near]
            out[b, cell] = found == FIRST_EDGE | SECOND_EDGE


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
def _reaches(board, size, stack):
    """Whether player 0's stones on a full board join the first row to the last; clears them."""
    depth = 0
    for col in range(size):
        if board[col] == 1:
            board[col] = 0
            stack[depth] = col
            depth += 1
    while depth > 0:
        depth -= 1
        here = stack[depth]
        if here >= size * (size - 1):
            return True
        for direction in range(6):
            near = _beside(here, direction, size)
            if near >= 0 and board[near] == 1:
                board[near] = 0
                stack[depth] = near
                depth += 1
    return False


@njit(cache=True, nogil=True)
def _rollout(stones, to_play, done, value, rng, size, out):
    """Fill the board at random: exactly one side is then joined, the one that was first."""
    cells = size * size
    board, empty = np.empty(cells, np.int8), np.empty(cells, np.int16)
    stack = np.empty(cells, np.int16)
    for b in range(stones.shape[0]):
        out[b] = value[b]
        if done[b]:
            continue
        left = 0
        for cell in range(cells):
            board[cell] = stones[b, cell]
            if board[cell] == 0:
                empty[left] = cell
                left += 1
        colour = 1 - 2 * to_play[b]
        while left > 0:
            at = _draw(rng, b, left)
            board[empty[at]] = colour
            left -= 1
            empty[at] = empty[left]
            colour = -colour
        out[b] = 1 if _reaches(board, size, stack) else -1


class Hex(RecordedGame):
    """Hex; a move is the cell ``row * N + col``, as text "a1" (bottom left) to "k11".

    Player 0 joins the first row to the last, player 1 the first column to the last. With ``swap``
    the second player may answer the first stone with "swap": the stone becomes its own, mirrored
    at the long diagonal, and player 0 is to move. There are no draws.
    Planes: own stones, the opponent's, all ones where the first column and the last are to be
    joined.
    """

    sides = ("first", "second")
    board_style = "hex"
    quick_wins = True

    def __init__(self, board_size: int = 11, swap: bool = False) -> None:
        if board_size not in SIZES:
            raise GameError(f"hex(board_size={board_size}): {SIZES[0]} to {SIZES[-1]} wanted")
        self.size, self.swap = board_size, swap
        self.name = f"hex{board_size}x{board_size}" + "(swap=True)" * swap
        self.rules = (f"Hex {board_size}x{board_size}: first joins the rows, second the columns"
                      + ", swap after the first stone" * swap)
        self.board_shape = (board_size, board_size)
        self.num_actions = self.cells + swap
        self.max_moves = self.cells + swap

    @property
    def _by_cell(self) -> bool:
        return True

    def new(self, batch: int) -> HexStates:
        return HexStates(
            stones=np.zeros((batch, self.cells), np.int8),
            edges=np.zeros((batch, self.cells), np.uint8),
            to_play=np.zeros(batch, np.int8),
            ply=np.zeros(batch, np.int32),
            done=np.zeros(batch, np.bool_),
            value=np.zeros(batch, np.int8),
            last=np.full(batch, -1, np.int16),
        )

    def replay(self, states: HexStates, actions: NDArray[np.int64]) -> None:
        _replay(*states, np.ascontiguousarray(actions, np.int64), self.size)

    def legal(self, states: HexStates) -> NDArray[np.bool_]:
        out = np.zeros((len(states.ply), self.num_actions), np.bool_)
        out[:, : self.cells] = (states.stones == 0) & ~states.done[:, None]
        if self.swap:
            out[:, self.cells] = (states.ply == 1) & ~states.done
        return out

    def _joining(self, states: HexStates, player: NDArray[np.int8]) -> NDArray[np.bool_]:
        """bool [B, A]: the empty cells where a stone of ``player`` int8 [B] would win."""
        out = np.zeros((len(states.ply), self.num_actions), np.bool_)
        _winning(states.stones, states.edges, player, self.size, out)
        return out

    def wins(self, states: HexStates, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return self._joining(states, states.to_play) & legal

    def blunders(self, states: HexStates, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Moves that leave a cell where the opponent wins, which a stone elsewhere does not
        change; but a swap takes the opponent's only stone."""
        theirs = self._joining(states, 1 - states.to_play)
        left = theirs.sum(1)[:, None] - theirs
        lost = (left > 0) & legal & ~self.wins(states, legal)
        lost[:, self.cells :] = False
        return lost

    def observe(self, states: HexStates) -> NDArray[np.uint8]:
        own = (1 - 2 * states.to_play)[:, None]
        out = np.empty((len(states.ply), 3, self.cells), np.uint8)
        out[:, 0], out[:, 1] = states.stones == own, states.stones == -own
        out[:, 2] = states.to_play[:, None]
        return out.reshape(-1, *self.obs_shape)

    def rollout(self, states: HexStates, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        out = np.empty(len(states.ply), np.float32)
        _rollout(states.stones, states.to_play, states.done, states.value, rng, self.size, out)
        return out

    def opening_moves(self, states: HexStates) -> NDArray[np.bool_]:
        moves = self.legal(states)
        moves[:, self.cells :] = False
        return moves

    def symmetries(self) -> Symmetries:
        """The half turn; a swap stays a swap."""
        cells = np.stack([np.arange(self.cells), np.arange(self.cells)[::-1]])
        stay = np.full((2, int(self.swap)), self.cells)
        return Symmetries(cells, np.concatenate([cells, stay], axis=1))

    def action_to_text(self, states: HexStates, row: int, action: int) -> str:
        return "swap" if action == self.cells else super().action_to_text(states, row, action)
