"""The base of every game, with all that can be derived. What is not said here is said in ``rules``:
axes, signs, states, and what each function takes and returns.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rules import GameError, Rules, Symmetries, derived, put, side, take

__all__ = ["BoardStates", "Game", "GameError", "Symmetries", "board_symmetries", "put", "side",
           "take"]


class BoardStates(NamedTuple):
    """What a game that brings no states of its own has.

    board: int8 [B, H*W], 0 empty, 1 a stone of player 0, -1 of player 1; to_play: int8 [B];
    ply: int32 [B]."""

    board: NDArray[np.int8]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]


class Game(Rules):
    """A game: its ``Rules``, its text and its pictures.

    A game writes ``board_shape``, ``result`` and what else is its own. The defaults are those of
    a game of stones that are put on empty cells and stay (tic-tac-toe, gomoku). With other moves,
    write ``move`` and ``legal``; with other states, ``new``, ``observe`` and ``render`` as well.
    All defaults are plain numpy; any function may be replaced by a faster one.

    >>> class TwoInARow(Game):
    ...     "Two in a row on a line of four cells wins."
    ...     board_shape = (1, 4)
    ...     def result(self, states):
    ...         pairs = states.board[:, 1:] + states.board[:, :-1]
    ...         value = (pairs == 2).any(1) * 1.0 - (pairs == -2).any(1)
    ...         return (value != 0) | (states.board != 0).all(1), value.astype(np.float32)
    >>> game = TwoInARow()
    >>> states = game.new(1)
    >>> game.replay(states, np.array([[0, 3, 1]]))
    >>> game.result(states)
    (array([ True]), array([1.], dtype=float32))
    """

    #: one line, printed with every result
    rules: str = derived(lambda self: (type(self).__doc__ or "no rules").strip().splitlines()[0])
    #: what one net can play, in words: games of one kin share nets that see the komi
    kin: str = derived(lambda self: self.name)
    has_sgf: bool = False  #: its games are read and written as SGF too (Go)
    sides: tuple[str, str] = ("first", "second")  #: what players 0 and 1 are called
    #: how it is drawn: text, as ``render`` has it, or, with own and opposing stones in planes 0 and
    #: 1, cells, go (crossings), hex (rows shifted by half a cell), columns (where stones fall)
    board_style: str = derived(lambda self: "cells" if self._by_cell else "text")

    def __repr__(self) -> str:
        return f"<{self.name}: {self.rules}>"

    @property
    def _by_cell(self) -> bool:
        """Whether a move is a cell, or the pass."""
        return self.num_actions == self.cells + (self.pass_action >= 0)

    def new(self, batch: int) -> Any:
        return BoardStates(np.zeros((batch, self.cells), np.int8), np.zeros(batch, np.int8),
                           np.zeros(batch, np.int32))

    def boards(self, sizes: Sequence[int]) -> list[Game]:
        if sizes:
            raise GameError(f"{self.name}: a net plays this board alone")
        return [self]

    def move(self, states: Any, actions: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Make legal moves int64 [n] in n games that are not over; change ``states`` in place.

        Leave ``ply`` alone, and ``to_play`` too: the other side is to move next, but where the
        returned bool [n] is True the same side moves again. None: nowhere.
        """
        states.board[np.arange(len(actions)), actions] = 1 - 2 * states.to_play
        return None

    def step(self, states: Any, actions: NDArray[np.int64]) -> None:
        actions = np.asarray(actions, np.int64)
        rows = np.flatnonzero((actions >= 0) & ~self.result(states)[0])
        if not len(rows):
            return
        moved = take(states, rows)
        again = self.move(moved, actions[rows])
        moved.ply[:] += 1
        stays = self.result(moved)[0] if again is None else self.result(moved)[0] | again
        moved.to_play[~stays] ^= 1
        put(states, rows, moved)

    def branch(
        self, roots: Any, rows: NDArray[np.int64], moves: NDArray[np.int64], out: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return branch(self, roots, rows, moves, out)

    def legal(self, states: Any) -> NDArray[np.bool_]:
        live = ~self.result(states)[0][:, None]
        empty = (states.board == 0) & live
        return empty if self.pass_action < 0 else np.hstack([empty, live])

    def wins(self, states: Any, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return wins(self, states, legal)

    def blunders(self, states: Any, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return blunders(self, states, legal)

    def observe(self, states: Any) -> NDArray[Any]:
        own = states.board * (1 - 2 * states.to_play[:, None])
        planes = np.stack([own == 1, own == -1, np.ones_like(own)], axis=1).astype(np.uint8)
        return planes.reshape(-1, *self.obs_shape)

    def keys(self, states: Any) -> NDArray[np.uint64]:
        """uint64 [B]: equal for equal positions with equal pasts, else different but by accident.

        The default hashes observations.
        """
        return keys(self, states)

    def rollout(self, states: Any, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Play each row out with uniformly random sensible moves; ``states`` is left alone.

        rng: uint64 [B], one generator state a row, advanced in place, so that a row's playout
        depends on nothing but its own state. Returns float32 [B], the result for player 0.
        """
        states = take(states, np.arange(len(states.ply)))
        for _ in range(self.max_moves):
            legal = self.legal(states)
            live = np.flatnonzero(legal.any(1))
            if not len(live):
                break
            count = legal[live].cumsum(1)
            drawn = _draw_below(rng, live, count[:, -1])
            actions = np.full(len(legal), -1)
            actions[live] = (count > drawn[:, None]).argmax(1)
            self.step(states, actions)
        return self.result(states)[1]

    def action_to_text(self, states: Any, row: int, action: int) -> str:
        """Cells as a1 (cell 0) to h8, a pass as pass, other moves by their number."""
        if action == self.pass_action:
            return "pass"
        if not self._by_cell or self.board_shape[1] > 26:
            return str(action)
        row, column = divmod(int(action), self.board_shape[1])
        return f"{string.ascii_lowercase[column]}{row + 1}"

    def text_to_action(self, states: Any, row: int, text: str) -> int:
        """Raises GameError for text that is no move of this game (legality is not checked)."""
        texts = [self.action_to_text(states, row, a) for a in range(self.num_actions)]
        wanted = text.strip().lower()
        for action, move in enumerate(texts):
            if move.lower() == wanted:
                return action
        raise GameError(f"{self.name}: {text!r} is no move; moves are {texts[0]} to {texts[-1]}")

    def last_move(self, states: Any) -> NDArray[np.int64]:
        """int64 [B]: the action made last, where the states remember it, else -1."""
        return np.full(len(states.ply), -1)

    def render(self, states: Any, row: int) -> str:
        """The board as text, for a terminal and for test failures.

        The default draws planes 0 and 1: X is player 0, O player 1, the first row at the bottom.
        """
        own, other = self.observe(take(states, [row]))[0, :2]
        first, second = (own, other) if states.to_play[row] == 0 else (other, own)
        height, width = self.board_shape
        wide = len(str(height))
        lines = [f"{r + 1:{wide}} " + " ".join("X" if first[r, c] else "O" if second[r, c] else "."
                                              for c in range(width)) for r in range(height)]
        names = " ".join(string.ascii_lowercase[c % 26] for c in range(width))
        return "\n".join([*reversed(lines), f"{'':{wide}} {names}"])


def keys(game: Game, states: Any) -> NDArray[np.uint64]:
    """``Game.keys`` for any game: a multilinear hash of the observations' words."""
    planes = np.ascontiguousarray(game.observe(states)).reshape(len(states.ply), -1)
    planes = planes.view(np.uint8)
    words = np.zeros((len(planes), planes.shape[1] // 8 + 2), np.uint64)
    words.view(np.uint8)[:, : planes.shape[1]] = planes
    words[:, -1] = states.ply
    factors = np.random.default_rng(0).integers(2**64, size=words.shape[1], dtype=np.uint64)
    return (words * (factors | np.uint64(1))).sum(1, dtype=np.uint64)


def board_symmetries(shape: tuple[int, int], more: int = 0) -> Symmetries:
    """Those of a board whose moves are its cells, and ``more`` moves after them that stay (a
    pass): 8 of a square board, 4 of another."""
    grid = np.arange(shape[0] * shape[1]).reshape(shape)
    if shape[0] == shape[1]:
        turned = [np.rot90(g, k) for g in (grid, grid.T) for k in range(4)]
    else:
        turned = [grid, grid[:, ::-1], grid[::-1], grid[::-1, ::-1]]
    cells = np.stack([g.ravel() for g in turned])
    stay = np.tile(np.arange(grid.size, grid.size + more), (len(cells), 1))
    return Symmetries(cells, np.concatenate([cells, stay], axis=1))


def tried(
    game: Game, states: Any, legal: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Any, NDArray[np.float32]]:
    """Every move tried: (rows, moves, the states after them, the value of each to who moved, 0
    where the game goes on)."""
    rows, moves = np.nonzero(legal)
    after = take(states, rows)
    game.step(after, moves)
    return rows, moves, after, game.result(after)[1] * side(states)[rows]


def wins(game: Game, states: Any, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``Game.wins`` for any game."""
    found = np.zeros(legal.shape, np.bool_)
    rows, moves, _, value = tried(game, states, legal)
    found[rows, moves] = value >= 1
    return found


def blunders(game: Game, states: Any, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``Game.blunders`` for any game."""
    found = np.zeros(legal.shape, np.bool_)
    rows, moves, after, value = tried(game, states, legal)
    lost = value <= -1
    theirs = np.flatnonzero(~game.result(after)[0] & (after.to_play != states.to_play[rows]))
    answers = take(after, theirs)
    lost[theirs] = game.wins(answers, game.legal(answers)).any(1)
    found[rows, moves] = lost
    return found


def _draw_below(
    rng: NDArray[np.uint64], rows: NDArray[np.int64], below: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A number from 0 to ``below`` - 1 from each row's splitmix64 stream (Steele, Lea, Flood
    2014)."""
    rng[rows] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[rows]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(32)
    return ((z * below.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


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
