"""Exact judges: what every move of a position is worth under perfect play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..base import Game, GameError
from .connect4 import Connect4Solver
from .exhaustive import Exhaustive
from .grades import ILLEGAL, KEEPS_VALUE, LOSES_VALUE, PERFECT
from .othello import OthelloSolver

__all__ = ["ILLEGAL", "KEEPS_VALUE", "LOSES_VALUE", "PERFECT", "SOLVERS", "Connect4Solver",
           "Exhaustive", "OthelloSolver", "Solver", "must_be_solvable", "plies", "solver"]


class Solver(Protocol):
    """One thread uses it at a time; what it says does not depend on what was asked before."""

    def grades(self, states: Any) -> NDArray[np.int8]:
        """int8 [B, A]: PERFECT, KEEPS_VALUE, LOSES_VALUE or ILLEGAL for every move of positions
        that are not over."""

    def values(self, states: Any) -> NDArray[np.int8]:
        """int8 [B]: 1 where the side to move wins, 0 a draw, -1 a loss, of such positions."""

    def solvable(self, states: Any) -> NDArray[np.bool_]:
        """bool [B]: not those from which the end is too far."""


SOLVERS: dict[str, Callable[[Game], Solver]] = {
    "connect4": lambda _: Connect4Solver(),
    "tictactoe": Exhaustive,
    "othello6x6": OthelloSolver,
    "othello8x8": OthelloSolver,
}

#: moves after which positions are drawn, where a solver knows the end of a game alone
LATE = {"othello6x6": (18, 30), "othello8x8": (48, 58)}


def plies(game: Game) -> tuple[int, int]:
    """After how many random moves positions of ``game`` are worth solving: low, high."""
    longest = game.max_moves
    return LATE.get(game.name, (min(12, longest // 4), min(34, longest * 4 // 5)))


def must_be_solvable(game: Game) -> None:
    """Raises GameError where there is no solver of ``game``."""
    if game.name not in SOLVERS:
        raise GameError(f"{game.name}: no exact solver; there are some for {', '.join(SOLVERS)}")


def solver(game: Game) -> Solver:
    """A solver of ``game``. Raises GameError where there is none."""
    must_be_solvable(game)
    return SOLVERS[game.name](game)
