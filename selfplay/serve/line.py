"""One game in play: the positions so far, moves, taking back, setting up.

Every position is one row of the game's states, reached by legal moves alone, so that a net and a
search see nothing that they would not see in self-play.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.games.base import Game, GameError, take

MOST_TRIES = 20_000  #: positions looked at to find how a set-up position can come about


@dataclass(frozen=True)
class Made:
    """A move of a line. colour: 0 or 1. states: one row, the position after it."""

    colour: int
    action: int
    states: Any


class Line:
    """A game in play.

    >>> import selfplay as sp
    >>> line = Line(sp.make("tictactoe"))
    >>> line.play(4)
    True
    >>> line.to_play, line.text(0), [move.action for move in line.moves]
    (1, 'a1', [4])
    >>> line.undo()
    >>> line.ply
    0
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.start: Any = game.new(1)  #: one row, where the moves begin
        self.moves: list[Made] = []
        self._turned: Any = None  # the position now where a turn has been skipped since

    @property
    def states(self) -> Any:
        """One row, the position now. Not to be changed."""
        return self.at(self.ply) if self._turned is None else self._turned

    @property
    def ply(self) -> int:
        """Moves made since the start."""
        return len(self.moves)

    @property
    def to_play(self) -> int:
        """The side to move, 0 or 1; at the end of a game means nothing."""
        return int(self.states.to_play[0])

    @property
    def over(self) -> bool:
        return bool(self.game.result(self.states)[0][0])

    @property
    def result(self) -> float:
        """For player 0: 1, 0 or -1; 0 while the game goes on."""
        return float(self.game.result(self.states)[1][0])

    @property
    def last(self) -> int:
        """The action made last, or -1."""
        return self.moves[-1].action if self.moves else -1

    def legal(self) -> NDArray[np.bool_]:
        """bool [A], of the side to move."""
        return self.game.legal(self.states)[0]

    def text(self, action: int) -> str:
        return self.game.action_to_text(self.states, 0, action)

    def at(self, ply: int) -> Any:
        """One row, the position after ``ply`` moves."""
        return self.moves[ply - 1].states if ply else self.start

    def play(self, action: int, colour: int | None = None) -> bool:
        """Make a move; True where it follows on ``states``, False where the other side's turn had
        to be skipped first (see ``turn``). GameError for an illegal one: nothing has changed."""
        before = self.states if colour is None else self.turn(colour)
        if not 0 <= action < self.game.num_actions or not self.game.legal(before)[0, action]:
            over = self.game.result(before)[0][0]
            raise GameError("the game is over" if over else "illegal move")
        after = take(before, [0])
        self.game.step(after, np.array([action], np.int64))
        follows = before is self.states
        self.moves.append(Made(int(before.to_play[0]), action, after))
        self._turned = None
        return follows

    def turn(self, colour: int) -> Any:
        """One row: the position now with ``colour`` (0 or 1) to move and the game going on.

        In a game with passes, passes at the end of the line are left out, or one is put in, where
        the rules allow it. Raises GameError where there is no such position.
        """
        game, passes = self.game, self.game.pass_action
        if self._fits(self.states, colour):
            return self.states
        for ply in range(self.ply, -1, -1):
            if self._fits(self.at(ply), colour):
                return self.at(ply)
            if not ply or passes < 0 or self.moves[ply - 1].action != passes:
                break
            if game.legal(self.at(ply - 1))[0].sum() == 1:  # Othello's: there was no other move
                break
        states = take(self.states, [0])
        if passes >= 0 and game.legal(states)[0, passes]:
            game.step(states, np.array([passes], np.int64))
            if self._fits(states, colour):
                return states
        why = "the game is over" if self.over else f"it is not {game.sides[colour]}'s turn"
        raise GameError(why)

    def _fits(self, states: Any, colour: int) -> bool:
        return states.to_play[0] == colour and not self.game.result(states)[0][0]

    def skip(self, colour: int) -> None:
        """Let ``colour`` be to move now (see ``turn``), until the next move or ``undo``."""
        self._turned = self.turn(colour)

    def undo(self, count: int = 1) -> None:
        """Take moves back. Raises GameError where there are fewer."""
        if not 0 <= count <= self.ply:
            raise GameError("no move to take back")
        if count > 0:
            del self.moves[-count:]
        self._turned = None

    def clear(self) -> None:
        self.begin(())

    def begin(self, actions: Sequence[int]) -> None:
        """Let the line start where ``actions`` lead from the first position: handicap, openings.

        GameError where one is illegal; nothing is changed then."""
        line = Line(self.game)
        for action in actions:
            line.play(action)
        self.start, self.moves, self._turned = line.states, [], None

    def setup(self, stones: ArrayLike, to_play: int) -> None:
        """Start from a position that was put on the board.

        stones: int [H, W] or [H*W], 1 of player 0, -1 of player 1, 0 empty. Raises GameError for a
        game without stones and for a position that no moves lead to.
        """
        self.begin(moves_to(self.game, np.asarray(stones).reshape(-1), to_play))


def stones_of(game: Game, states: Any) -> NDArray[np.int8]:
    """int8 [B, H*W], 1 of player 0, -1 of player 1; GameError for a game without stones."""
    if game.board_style == "text":
        raise GameError(f"{game.name}: its positions cannot be set up")
    own, other = (game.observe(states)[:, k].astype(np.int8) for k in (0, 1))
    signs = (1 - 2 * states.to_play)[:, None, None]
    return ((own - other) * signs).reshape(len(own), -1)


def moves_to(game: Game, stones: NDArray[Any], to_play: int) -> list[int]:
    """Moves from the first position to one with these stones int [H*W] and this side to move.

    Raises GameError where there are none, or none are found.
    """
    if stones.shape != (game.cells,) or not np.isin(stones, (-1, 0, 1)).all():
        raise GameError(f"{game.name}: 1, 0 or -1 wanted for each of {game.cells} cells")
    stones_of(game, game.new(1))
    found = (_with_passes if game.pass_action >= 0 else _searched)(game, stones, to_play)
    states = game.new(1)
    for action in found:
        if not game.legal(states)[0, action]:
            raise GameError("no moves lead to this position")
        game.step(states, np.array([action], np.int64))
    if game.result(states)[0][0] or (stones_of(game, states)[0] != stones).any():
        raise GameError("no moves lead to this position")
    return found


def _with_passes(game: Game, stones: NDArray[Any], to_play: int) -> list[int]:
    """Both sides in turn. The side with fewer stones passes first, so that no two passes meet and
    the last move is a stone where there is one."""
    mine, theirs = (np.flatnonzero(stones == sign).tolist() for sign in (1, -1))
    turns = 2 * max(len(mine) - to_play, len(theirs), 0) + to_play
    counts = (turns + 1) // 2, turns // 2
    spare = counts[0] - len(mine), counts[1] - len(theirs)
    made = []
    for turn in range(turns):
        side, number = turn % 2, turn // 2 - spare[turn % 2]
        made.append((mine, theirs)[side][number] if number >= 0 else game.pass_action)
    return made


def _searched(game: Game, stones: NDArray[Any], to_play: int) -> list[int]:
    """Depth first, along positions whose stones are all among those wanted."""
    wanted, tries = (stones == 1, stones == -1), 0
    stack: list[tuple[Any, list[int]]] = [(game.new(1), [])]
    seen: set[bytes] = set()
    while stack:
        states, made = stack.pop()
        there = stones_of(game, states)[0]
        if (there == stones).all() and states.to_play[0] == to_play:
            return made
        place = there.tobytes() + bytes([int(states.to_play[0])])
        if place in seen or game.result(states)[0][0]:
            continue
        seen.add(place)
        for action in np.flatnonzero(game.legal(states)[0]).tolist():
            tries += 1
            if tries > MOST_TRIES:
                break
            after = take(states, [0])
            game.step(after, np.array([action], np.int64))
            then = stones_of(game, after)[0]
            if not ((then == 1) & ~wanted[0]).any() and not ((then == -1) & ~wanted[1]).any():
                stack.append((after, [*made, action]))
    raise GameError("no moves lead to this position")
