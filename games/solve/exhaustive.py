"""Small games solved by playing all of them out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Game, GameError, take
from .grades import ILLEGAL, KEEPS_VALUE, LOSES_VALUE, PERFECT

MOST = 1_000_000  #: positions of a game
UNKNOWN = -128  #: the score of a move that is not legal


class Exhaustive:
    """Every position that can be reached, valued backwards from the ends (Zermelo 1913).

    For games in which ``game.keys`` tells positions apart by all that matters, and whose positions
    differ in the number of moves made. Raises GameError for a game with more than MOST positions.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        levels = [game.new(1)]
        total = 1
        while len(self._open(levels[-1])):
            after = self._children(levels[-1])[2]
            _, first = np.unique(game.keys(after), return_index=True)
            levels.append(take(after, first))
            total += len(first)
            if total > MOST:
                raise GameError(f"{game.name}: more than {MOST:,} positions, too many to play out")
        self.scores: dict[int, int] = {}  #: key of a position -> its score for player 0
        for left, states in enumerate(reversed(levels)):
            self._value(states, left + 1)

    def _open(self, states: Any) -> NDArray[np.int64]:
        return np.flatnonzero(~self.game.result(states)[0])

    def _children(self, states: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], Any]:
        """(row, action, position after it) of every legal move of ``states``."""
        rows, actions = np.nonzero(self.game.legal(states))
        after = take(states, rows)
        self.game.step(after, actions)
        return rows, actions, after

    def _value(self, states: Any, left: int) -> None:
        """The scores of a level, from those of the next; ``left``: 1 for the longest games."""
        over, value = self.game.result(states)
        keys = self.game.keys(states).tolist()
        for row in np.flatnonzero(over):
            self.scores[keys[row]] = int(value[row]) * left
        going = self._open(states)
        if len(going):
            moves = self.moves(take(states, going)).astype(np.int64)
            best = moves.max(1)
            first = 1 - 2 * states.to_play[going].astype(np.int64)
            for row, score in zip(going, best * first, strict=True):
                self.scores[keys[row]] = int(score)

    def moves(self, states: Any) -> NDArray[np.int8]:
        """int8 [B, A]: what each move is worth to the side that makes it, above 0 a win, 0 a draw,
        below 0 a loss, UNKNOWN where it is not legal; a win counts 1 more for every move by which
        it comes sooner than the longest game ends."""
        rows, actions, after = self._children(states)
        out = np.full((len(states.to_play), self.game.num_actions), UNKNOWN, np.int8)
        score = np.array([self.scores[key] for key in self.game.keys(after).tolist()], np.int8)
        score *= (1 - 2 * states.to_play[rows]).astype(np.int8)
        out[rows, actions] = score
        return out

    def values(self, states: Any) -> NDArray[np.int8]:
        """As ``Solver``."""
        return np.sign(self.moves(states).max(1))

    def solvable(self, states: Any) -> NDArray[np.bool_]:
        """As ``Solver``: all of them."""
        return np.ones(len(states.to_play), np.bool_)

    def grades(self, states: Any) -> NDArray[np.int8]:
        """As ``Solver``."""
        worth = self.moves(states).astype(np.int64)
        best = worth.max(1, keepdims=True)
        kept = np.where(np.sign(worth) == np.sign(best), KEEPS_VALUE, LOSES_VALUE)
        out = np.where(worth == UNKNOWN, ILLEGAL, np.where(worth == best, PERFECT, kept))
        return out.astype(np.int8)
