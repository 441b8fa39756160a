"""What search and learning ask of a game: functions over batches of states.

Axes, everywhere in this project:

====  =========================================================================
B     games in a batch
A     actions (``num_actions``); a fixed table per game, pass included
C     feature planes of one observation
H, W  rows and columns of the board; cell ``k = row * W + col``
S     symmetries of the board
====  =========================================================================

Signs. Player 0 moves first. ``result`` and ``rollout`` speak for **player 0**:
+1 player 0 has won, -1 player 1 has won, 0 a draw or a game that is not over. Whatever a
net predicts speaks for the **side to move**. ``side(states)`` converts one to the other.

States are a NamedTuple of numpy arrays whose first axis is B ("struct of arrays").
Two fields exist in every game: ``to_play`` int8 [B] (0 or 1; no longer changes once the
game is over) and ``ply`` int32 [B] (moves made, passes included).
Terminal states absorb: ``step`` leaves them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

States = TypeVar("States", bound=tuple[Any, ...])


class GameError(ValueError):
    """A game, a parameter or a move that does not exist; the message is one line for the user."""


class Symmetries(NamedTuple):
    """Index tables of the board's symmetries; row 0 is the identity.

    A transformed observation is ``obs.reshape(C, H*W)[:, cells[s]]`` and the policy that
    belongs to it is ``policy[actions[s]]``.

    cells: int64 [S, H*W]
    actions: int64 [S, A]
    """

    cells: NDArray[np.int64]
    actions: NDArray[np.int64]


def derived(function: Callable[[Any], Any]) -> Any:
    """An attribute worked out when it is first asked for, unless a game sets it itself."""
    return cached_property(function)


class Rules:
    """A two-player, zero-sum, sequential, deterministic game of perfect information.

    A game is made from ``base.Game``, which has defaults.
    """

    board_shape: tuple[int, int]  #: (H, W)
    name: str = derived(lambda self: type(self).__name__)  #: ``make(name)`` gives it back
    num_actions: int = derived(lambda self: self.cells + (self.pass_action >= 0))
    obs_shape: tuple[int, int, int] = derived(lambda self: (3, *self.board_shape))  #: (C, H, W)
    obs_binary: bool = True  #: every entry of an observation is 0 or 1
    #: a game is over after this many moves at the latest
    max_moves: int = derived(lambda self: self.cells)
    pass_action: int = -1  #: index of the pass, or -1
    quick_wins: bool = False  #: ``wins`` is a fast kernel: a search may ask it everywhere
    has_ownership: bool = False  #: ``ownership`` and ``score`` mean something (Go)
    #: the last so many planes spell the komi (Go has them); then states have a column ``komi``,
    #: int16 [B], half points that player 1 receives, which may be set while a game is fresh
    komi_planes: int = 0

    @property
    def cells(self) -> int:
        """H * W"""
        return self.board_shape[0] * self.board_shape[1]

    def new(self, batch: int) -> Any:
        """``batch`` fresh initial states."""
        raise NotImplementedError

    def vary(self, states: Any, config: Any, rng: np.random.Generator, evaluate: Any = None) -> Any:
        """Give undecided games other rules (Go: komi; handicap where a net can ``evaluate``), by
        ``rl``'s config. Returns the moves [B, T] of games begun anew, -1 pads, or None."""

    def boards(self, sizes: Sequence[int]) -> Sequence[Rules]:
        """It on boards of so many rows, its own first; GameError where no net plays them all."""
        raise NotImplementedError

    def passing_late(self, share: float) -> Rules:
        """The game for self-play: nobody passes, while there are other moves, before so many plies
        as this share of the board's cells. Itself where passes are no choice (in Go they are)."""
        return self

    def step(self, states: Any, actions: NDArray[np.int64]) -> None:
        """Play ``actions`` int64 [B] in place. -1 leaves a row as it is, as does a finished game.

        Actions must be legal; this is not checked (``legal`` is the check).
        """
        raise NotImplementedError

    def replay(self, states: Any, actions: NDArray[np.int64]) -> None:
        """``step`` for every column of ``actions`` int64 [B, T], in one call; -1 pads."""
        for column in np.asarray(actions).T:
            self.step(states, column)

    def branch(
        self, roots: Any, rows: NDArray[np.int64], moves: NDArray[np.int64], out: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Play ``moves`` from ``roots`` [``rows``] and write the resulting states to ``out``: all
        that a search needs to know of its leaves, in one call.

        rows: int64 [n]; moves: int64 [n, T], -1 pads at the end; out: n states, overwritten: first
        the m that are not over, then the others. Returns (place int64 [n], where each is; legal
        bool [m, A]). What lies in ``out`` is good for every other function, but its bytes need
        not be those of a copy made by ``step``.
        """
        raise NotImplementedError

    def legal(self, states: Any) -> NDArray[np.bool_]:
        """bool [B, A]; all False once a game is over, at least one True before."""
        raise NotImplementedError

    def wins(self, states: Any, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool [B, A]: the moves that win the game at once, with a value of 1 for who makes them.

        No row is over; legal: ``legal(states)``.
        """
        raise NotImplementedError

    def blunders(self, states: Any, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool [B, A]: the moves that lose at once, or let the opponent win; as ``wins``."""
        raise NotImplementedError

    def observe(self, states: Any) -> NDArray[Any]:
        """[B, C, H, W] from the view of the side to move; uint8 if ``obs_binary``, else float32."""
        raise NotImplementedError

    def result(self, states: Any) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(done bool [B], value float32 [B] in [-1, 1] for player 0; 0 while not done).

        Every game brings its own. It must not change once the game is over: what depends on who
        is to move belongs into a field of the states.
        """
        raise NotImplementedError(f"{type(self).__name__}.result")

    def ownership(self, states: Any) -> NDArray[np.int8]:
        """int8 [B, H*W], as the board lies: +1 a point of player 0, -1 of player 1, 0 of nobody.

        Raises GameError where ``has_ownership`` is False.
        """
        self._has_none("nobody owns points in this game")

    def score(self, states: Any) -> NDArray[np.float32]:
        """float32 [B]: player 0's lead in points, komi included, as the board lies now.

        Raises GameError where ``has_ownership`` is False.
        """
        self._has_none("there is no score in this game, only a result")

    def _has_none(self, why: str) -> NoReturn:
        raise GameError(f"{self.name}: {why}")

    def opening_moves(self, states: Any) -> NDArray[np.bool_]:
        """bool [B, A]: the legal moves that random openings are drawn from; no pass among them."""
        moves = self.legal(states)
        if self.pass_action >= 0:
            moves[:, self.pass_action] = False
        return moves

    def symmetries(self) -> Symmetries:
        """The identity alone; see ``base.board_symmetries``."""
        return Symmetries(np.arange(self.cells)[None], np.arange(self.num_actions)[None])


def take(states: States, rows: Any) -> States:
    """A copy of some rows (any numpy index that keeps the first axis)."""
    if isinstance(rows, slice):  # arrays copy by themselves, slices are views
        return type(states)(*(field[rows].copy() for field in states))
    return type(states)(*(np.ascontiguousarray(field[rows]) for field in states))


def put(states: States, rows: Any, source: States) -> None:
    """Overwrite ``rows`` of ``states`` with ``source``."""
    for field, values in zip(states, source, strict=True):
        field[rows] = values


def side(states: Any) -> NDArray[np.float32]:
    """float32 [B]: +1 where player 0 is to move, -1 where player 1 is."""
    return (1 - 2 * states.to_play).astype(np.float32)
