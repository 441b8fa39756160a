"""Go boards for tests: drawn, played, random, and a slow reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from selfplay.games.go import Go, go

FIVE, NINE = Go(5), Go(9)


def small(size: int, suicide: bool = False) -> Go:
    """Go on a board that the constructor refuses to the public."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(go, "SMALLEST", 2)
        return Go(size, komi=0, suicide=suicide)


def moves(game: Go, text: str) -> list[int]:
    return [game.text_to_action(None, 0, word) for word in text.split()]


def played(game: Go, text: str) -> Any:
    """One game after the moves in ``text``."""
    states = game.new(1)
    game.replay(states, np.array([moves(game, text)]))
    return states


def drawn(game: Go, board: str, white: bool = False) -> Any:
    """One game whose board is ``board`` (top row first; X black, O white).

    The colours take turns, the one with fewer stones passes at first. Every chain of the board
    must have a liberty: then nothing is captured on the way.
    """
    rows = [line.split() for line in board.split("\n") if line.split()][::-1]
    black, white_stones = (
        [r * game.size + k for r, row in enumerate(rows) for k, x in enumerate(row) if x == colour]
        for colour in "XO"
    )
    turns = max(len(black) - white, len(white_stones))
    sequence = np.full(2 * turns + white, game.pass_action)
    sequence[0::2][turns + white - len(black) :] = black
    sequence[1::2][turns - len(white_stones) :] = white_stones
    states = game.new(1)
    game.replay(states, sequence[None])
    lines = game.render(states, 0).replace("(", " ").replace(")", " ").splitlines()
    assert [line.split()[1:-1] for line in lines[1 : game.size + 1]] == rows[::-1]
    assert not states.done[0] and states.to_play[0] == white
    return states


def can(game: Go, states: Any, text: str) -> bool:
    return bool(game.legal(states)[0, moves(game, text)[0]])


def go_on(game: Go, states: Any, text: str) -> None:
    """Play moves and insist that each is legal."""
    for word in text.split():
        assert can(game, states, word), f"{word}\n{game.render(states, 0)}"
        game.step(states, np.array(moves(game, word)))


@cache
def beside(size: int, cell: int) -> list[int]:
    row, col = divmod(cell, size)
    spots = ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1))
    return [r * size + c for r, c in spots if 0 <= min(r, c) <= max(r, c) < size]


class Reference:
    """Go on a tuple of cells (0 empty, 1 black, 2 white), every earlier board remembered.

    It shares nothing with the kernels.
    """

    def __init__(self, size: int, suicide: bool) -> None:
        self.size, self.suicide = size, suicide
        self.board: tuple[int, ...] = (0,) * size**2
        self.previous, self.history = self.board, {self.board}
        self.mover = 1

    def around(self, cell: int) -> list[int]:
        return beside(self.size, cell)

    def group(self, board: Any, cell: int) -> tuple[set[int], set[int]]:
        """The connected cells of one content, and the cells next to them."""
        inside, edge, todo = {cell}, set(), [cell]
        while todo:
            for n in self.around(todo.pop()):
                if board[n] != board[cell]:
                    edge.add(n)
                elif n not in inside:
                    inside.add(n)
                    todo.append(n)
        return inside, edge

    def liberties(self, board: Any, cell: int) -> int:
        return sum(board[n] == 0 for n in self.group(board, cell)[1])

    def after(self, cell: int) -> tuple[int, ...] | None:
        """The board after a stone, superko apart; None for a forbidden suicide."""
        board = list(self.board)
        board[cell] = self.mover
        for n in self.around(cell):
            if board[n] == 3 - self.mover and not self.liberties(board, n):
                for dead in self.group(board, n)[0]:
                    board[dead] = 0
        if not self.liberties(board, cell):
            if not self.suicide:
                return None
            for dead in self.group(board, cell)[0]:
                board[dead] = 0
        return tuple(board)

    def verdicts(self) -> tuple[list[int], list[int]]:
        """Cells where a stone is legal; cells that superko alone forbids."""
        legal, repeats = [], []
        for cell in (k for k, content in enumerate(self.board) if content == 0):
            board = self.after(cell)
            if board is not None:
                (repeats if board in self.history else legal).append(cell)
        return legal, repeats

    def ko(self) -> list[int]:
        """The cell where a stone would undo the move just made."""
        empty = [k for k, content in enumerate(self.board) if content == 0]
        changed = self.previous != self.board
        return [k for k in empty if changed and self.after(k) == self.previous]

    def play(self, action: int) -> None:
        self.previous = self.board
        if action < self.size**2:
            board = self.after(action)
            assert board is not None
            self.board = board
            self.history.add(board)
        self.mover = 3 - self.mover

    def owners(self) -> list[int]:
        out = []
        for cell, content in enumerate(self.board):
            touched = {content} if content else {
                self.board[n] for n in self.group(self.board, cell)[1]
            }
            out.append({(1,): 1, (2,): -1}.get(tuple(touched), 0))
        return out


def random_games(game: Go, batch: int, plies: int, seed: int) -> tuple[Any, np.ndarray]:
    """States after ``plies`` random moves (fewer where a game ended), and the moves, -1 after."""
    rng, states, record = np.random.default_rng(seed), game.new(batch), []
    for _ in range(plies):
        legal = game.legal(states)
        picks = np.argmax(legal * rng.random(legal.shape), axis=1)
        record.append(np.where(legal.any(axis=1), picks, -1))
        game.step(states, record[-1])
    return states, np.stack(record, axis=1)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
