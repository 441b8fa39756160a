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

__all__ = ["ILLEGAL", "KEEPS_VALUE", "LOSES_VALUE", "PERFECT", "SOLVERS", "Connect4Solver",
           "Exhaustive", "Solver", "solver"]


class Solver(Protocol):
    """One thread uses it at a time; what it says does not depend on what was asked before."""

    def grades(self, states: Any) -> NDArray[np.int8]:
        """int8 [B, A]: PERFECT, KEEPS_VALUE, LOSES_VALUE or ILLEGAL for every move of positions
        that are not over."""


SOLVERS: dict[str, Callable[[Game], Solver]] = {
    "connect4": lambda _: Connect4Solver(),
    "tictactoe": Exhaustive,
}


def solver(game: Game) -> Solver:
    """A solver of ``game``. Raises GameError where there is none."""
    if game.name not in SOLVERS:
        raise GameError(f"{game.name}: no exact solver; there are some for {', '.join(SOLVERS)}")
    return SOLVERS[game.name](game)
