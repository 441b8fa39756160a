"""The Game protocol: every game is a set of functions over batches of states.

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

from typing import Any, NamedTuple, Protocol, TypeVar

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


class Game(Protocol):
    """A two-player, zero-sum, sequential, deterministic game of perfect information."""

    name: str  #: canonical spec; ``make(name)`` gives the same game back
    rules: str  #: one line, printed with every result
    num_actions: int
    board_shape: tuple[int, int]  #: (H, W)
    obs_shape: tuple[int, int, int]  #: (C, H, W)
    obs_binary: bool  #: every entry of an observation is 0 or 1
    max_moves: int  #: a game is over after this many moves at the latest
    pass_action: int  #: index of the pass, or -1
    has_ownership: bool  #: ``ownership`` and ``score`` mean something (Go)

    def new(self, batch: int) -> Any:
        """``batch`` fresh initial states."""

    def step(self, states: Any, actions: NDArray[np.int64]) -> None:
        """Play ``actions`` int64 [B] in place. -1 leaves a row as it is, as does a finished game.

        Actions must be legal; this is not checked (``legal`` is the check).
        """

    def replay(self, states: Any, actions: NDArray[np.int64]) -> None:
        """``step`` for every column of ``actions`` int64 [B, T], in one call; -1 pads."""

    def branch(
        self, roots: Any, rows: NDArray[np.int64], moves: NDArray[np.int64], out: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Play ``moves`` from ``roots`` [``rows``] and write the resulting states to ``out``: all
        that a search needs to know of its leaves, in one call.

        rows: int64 [n]; moves: int64 [n, T], -1 pads at the end; out: n states, overwritten: first
        the m that are not over, then the others. Returns (place int64 [n], the row of ``out``
        where each is; legal bool [m, A]). Every other function accepts the states in ``out``, but
        their bytes may differ from those that ``step`` makes. ``base.branch`` works for any game.
        """

    def legal(self, states: Any) -> NDArray[np.bool_]:
        """bool [B, A]; all False once a game is over, at least one True before."""

    def observe(self, states: Any) -> NDArray[Any]:
        """[B, C, H, W] from the view of the side to move; uint8 if ``obs_binary``, else float32."""

    def result(self, states: Any) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(done bool [B], value float32 [B] in [-1, 1] for player 0; 0 while not done)."""

    def ownership(self, states: Any) -> NDArray[np.int8]:
        """int8 [B, H*W], as the board lies: +1 a point of player 0, -1 of player 1, 0 of nobody.

        Raises GameError where ``has_ownership`` is False.
        """

    def score(self, states: Any) -> NDArray[np.float32]:
        """float32 [B]: player 0's lead in points, komi included, as the board lies now.

        Raises GameError where ``has_ownership`` is False.
        """

    def keys(self, states: Any) -> NDArray[np.uint64]:
        """uint64 [B], a hash: equal for equal positions with equal pasts, almost surely different
        otherwise. ``base.keys`` works for any game."""

    def rollout(self, states: Any, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Play each row out with uniformly random sensible moves; ``states`` is left alone.

        rng: uint64 [B], one generator state a row, advanced in place, so that a row's playout
        depends on nothing but its own state. Returns float32 [B], the result for player 0.
        """

    def opening_moves(self, states: Any) -> NDArray[np.bool_]:
        """bool [B, A]: the legal moves that random openings are drawn from; no pass among them."""

    def symmetries(self) -> Symmetries: ...

    def action_to_text(self, states: Any, row: int, action: int) -> str: ...

    def text_to_action(self, states: Any, row: int, text: str) -> int:
        """Raises GameError for text that is not a move of this game; legality is not checked."""

    def render(self, states: Any, row: int) -> str:
        """The board as text, for a terminal and for test failures."""


def take(states: States, rows: Any) -> States:
    """A copy of some rows (any numpy index that keeps the first axis)."""
    return type(states)(*(np.ascontiguousarray(field[rows]) for field in states))


def put(states: States, rows: Any, source: States) -> None:
    """Overwrite ``rows`` of ``states`` with ``source``."""
    for field, values in zip(states, source, strict=True):
        field[rows] = values


def side(states: Any) -> NDArray[np.float32]:
    """float32 [B]: +1 where player 0 is to move, -1 where player 1 is."""
    return (1 - 2 * states.to_play).astype(np.float32)


def keys(game: Game, states: Any) -> NDArray[np.uint64]:
    """``Game.keys`` for any game: a multilinear hash of the observations' words."""
    planes = np.ascontiguousarray(game.observe(states)).reshape(len(states.ply), -1)
    planes = planes.view(np.uint8)
    words = np.zeros((len(planes), planes.shape[1] // 8 + 2), np.uint64)
    words.view(np.uint8)[:, : planes.shape[1]] = planes
    words[:, -1] = states.ply
    factors = np.random.default_rng(0).integers(2**64, size=words.shape[1], dtype=np.uint64)
    return (words * (factors | np.uint64(1))).sum(1, dtype=np.uint64)


def branch(
    game: Game, roots: Any, rows: NDArray[np.int64], moves: NDArray[np.int64], out: Any
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """``Game.branch`` for any game, by ``replay``, ``result`` and ``legal``."""
    count = len(rows)
    for leaf, root in zip(out, roots, strict=True):
        np.take(root, rows, axis=0, out=leaf, mode="clip")  # "raise" would buffer
    if moves.shape[1]:
        game.replay(out, moves)
    done = game.result(out)[0]
    place, live = np.arange(count), count - int(done.sum())
    if live < count:  # swap, as copying all would cost as much as a simulation
        holes = np.flatnonzero(done[:live])
        movers = np.flatnonzero(~done[live:]) + live
        over = take(out, holes)
        put(out, holes, take(out, movers))
        put(out, movers, over)
        place[holes], place[movers] = movers, holes
    return place, game.legal(type(out)(*(field[:live] for field in out)))
