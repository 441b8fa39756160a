"""A net as a GTP engine: the game, the clocks, and when to pass, to resign and to ponder.

``commands`` has the commands.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfplay.arena.contest.clock import MARGIN, GameClock, to_come
from selfplay.arena.gtp import colour_of
from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.games import make
from selfplay.games.base import Game, GameError
from selfplay.games.go import LARGEST, SMALLEST, Go, usual_points
from selfplay.serve.analysis import Analysis
from selfplay.serve.gtp import dead
from selfplay.serve.gtp.protocol import GtpError
from selfplay.serve.line import Line, stones_of
from selfplay.serve.mind import Mind
from selfplay.serve.thinker import Limits, Report, Thinker

RESIGN = 0.03  #: winrate below which a game is given up, where nobody says
IN_A_ROW = 2  #: own moves for which it has to be below


@dataclass(frozen=True)
class Manner:
    """How an engine plays. resign: the winrate below which it gives a game up, 0 never. ponder:
    think while the other side does. margin: seconds of each move left unused. seconds: for a move
    at most, whatever the clock has."""

    resign: float = RESIGN
    ponder: bool = False
    margin: float = MARGIN
    seconds: float | None = None


class Engine:
    """One game by GTP. Everything may raise GtpError with the words of the answer."""

    def __init__(self, mind: Mind, manner: Manner | None = None, seed: int = 0) -> None:
        self.mind, self.manner, self.seed = mind, manner or Manner(), seed
        self.thinker = Thinker(mind, seed)
        self.clock = GameClock(self.manner.margin)
        self._hopeless = [0, 0]  #: moves in a row of each side with little hope

    @property
    def game(self) -> Game:
        return self.mind.game

    @property
    def line(self) -> Line:
        return self.thinker.line

    @property
    def go(self) -> Go:
        """The game, where it is Go."""
        if not isinstance(self.game, Go):
            raise GtpError(f"only in Go, this is {self.game.name}")
        return self.game

    # ----------------------------------------------------------------------------- words

    def colour(self, word: str) -> int:
        """0 or 1 of b, w, black, white, or what the game calls its sides."""
        names = [side.lower() for side in self.game.sides]
        found = colour_of(word)
        if found is None and word.lower() in names:
            found = names.index(word.lower())
        if found is None:
            raise GtpError("syntax error: invalid color")
        return found

    def action(self, text: str, states: Any = None) -> int:
        """Of a move's text, in the position now where none is given."""
        try:
            return self.game.text_to_action(self.line.states if states is None else states, 0, text)
        except GameError as error:
            raise GtpError(f"syntax error: invalid coordinate: {clip(str(error), 150)}"
                           ) from None

    # ------------------------------------------------------------------------------ game

    def clear(self) -> None:
        self.thinker.clear()
        self.clock.restart()
        self._hopeless = [0, 0]

    def refit(self, size: int, komi: float, suicide: bool) -> None:
        """Play Go of this size, komi and rule on suicide; a new size clears the board.

        Raises UserError or GameError where the net cannot.
        """
        game, wanted = self.go, _go(size, komi, suicide)
        if wanted.name == game.name:
            return
        mind = self.mind.playing(wanted)
        start, moves = self._stones(), [(m.colour, m.action) for m in self.line.moves]
        self.thinker.change(mind)
        self.mind = mind
        self.clear()
        if size == game.size:
            if start[0].any():
                self.thinker.setup(*start)
            for colour, action in moves:
                self.thinker.play(action, colour)

    def sizes(self) -> str:
        """In words, the boards that it plays, with the komi and the rules of now."""
        have = self.go
        found = [f"{size}x{size}" for size in range(SMALLEST, LARGEST + 1)
                 if abs(have.komi) <= size**2
                 and self.mind.plays(_go(size, have.komi, have.suicide))]
        return " to ".join(dict.fromkeys((found[0], found[-1])))

    def _stones(self) -> Any:
        return stones_of(self.game, self.line.start)[0], int(self.line.start.to_play[0])

    def komi(self, komi: float) -> None:
        try:
            self.refit(self.go.size, komi, self.go.suicide)
        except (UserError, GameError) as error:
            raise GtpError(f"unacceptable komi: {error}") from None

    def play(self, colour: int, text: str) -> None:
        try:
            states = self.line.turn(colour)
            self.thinker.play(self.action(text, states), colour)
        except GameError as error:
            raise GtpError(str(error) if self.line.over else "illegal move") from None

    def undo(self, count: int = 1) -> None:
        try:
            self.thinker.undo(count)
        except GameError:
            raise GtpError("cannot undo") from None
        self._hopeless = [0, 0]

    def going(self) -> Any:
        """One row: the position now, with the game going on and one side to move."""
        for colour in (self.line.to_play, 1 - self.line.to_play):
            try:
                return self.line.turn(colour)
            except GameError:
                continue
        raise GtpError("the game is over")

    # ----------------------------------------------------------------------------- moves

    def turn(self, colour: int) -> None:
        """Let ``colour`` be to move."""
        try:
            self.thinker.turn(colour)
        except GameError as error:
            raise GtpError(str(error) if self.line.over else f"it is not the turn of "
                           f"{'bw'[colour]} ({self.game.sides[colour]})") from None

    def genmove(self, colour: int, report: Report | None = None, every: float = 1.0,
                only: Any = None, keep: bool = True, cleanup: bool = False) -> str:
        """A move of ``colour`` as text, made on the board where ``keep``; or resign.

        cleanup: not a pass while there are dead stones of the other side.
        """
        began = time.monotonic()
        self.turn(colour)
        if cleanup and self._to_capture(colour):
            only = self.line.legal()
            only[self.game.pass_action] &= only.sum() == 1
        found = self._think(colour, report, every, only)
        best = found.best
        assert best is not None  # the game goes on
        if keep and not cleanup and self._gives_up(colour, found):
            self.clock.used(colour, time.monotonic() - began)
            return "resign"
        text = best.text
        if keep:
            self.thinker.play(best.action)
            self.clock.used(colour, time.monotonic() - began)
            if self.manner.ponder and not self.line.over:
                self.thinker.start(Limits())
        return text

    def _think(self, colour: int, report: Report | None, every: float, only: Any) -> Analysis:
        limits = Limits(sims=self.mind.sims, seconds=self._seconds(colour))
        try:
            return self.thinker.think(limits, report, every, only, heads=report is not None)
        except ValueError as error:
            raise GtpError(str(error)) from None
        except FloatingPointError as error:
            raise GtpError(f"the net is of no use: {error}") from None

    def _seconds(self, colour: int) -> float | None:
        """For a move."""
        mine = sum(move.colour == colour for move in self.line.moves)
        by_clock = self.clock.seconds(colour, to_come(self.game, mine))
        given = [s for s in (by_clock, self.manner.seconds) if s is not None]
        return min(given) if given else None

    def _gives_up(self, colour: int, found: Analysis) -> bool:
        assert found.best is not None
        low = found.winrate < self.manner.resign and found.best.winrate < self.manner.resign
        self._hopeless[colour] = self._hopeless[colour] + 1 if low else 0
        return self._hopeless[colour] >= IN_A_ROW

    def _to_capture(self, colour: int) -> bool:
        """Whether the other side has dead stones on the board."""
        states = self.line.states
        stones = stones_of(self.go, states)[0]
        theirs = 2 * colour - 1
        return any(stones[chain[0]] == theirs
                   for chain in dead.dead(self.go, states, self.mind.owned(states)))

    # ------------------------------------------------------------------------------- end

    def score(self) -> str:
        """B+3.5, W+1 or 0; dead stones taken off."""
        if isinstance(self.game, Go):
            states = self.going()
            lead = dead.score(self.game, states, self.mind.owned(states))
        elif self.line.over:
            lead = self.line.result
        else:
            raise GtpError("cannot score: the game is not over")
        return f"{'B' if lead > 0 else 'W'}+{abs(lead):g}" if lead else "0"

    def status(self, what: str) -> list[list[str]]:
        """The vertices of each dead or living chain."""
        states = self.going()
        gone = dead.dead(self.go, states, self.mind.owned(states))
        stones = stones_of(self.go, states)[0]
        chains = {"dead": gone, "seki": [],
                  "alive": [c for c in dead.chains(stones, self.go.size) if c not in gone]}
        if what not in chains:
            raise GtpError("syntax error: dead, alive or seki wanted")
        return [[self.line.text(cell) for cell in chain] for chain in chains[what]]

    # -------------------------------------------------------------------------- handicap

    def handicap(self, cells: list[int]) -> None:
        """Black stones on an empty board; white is to move."""
        if self.line.ply or self._stones()[0].any():
            raise GtpError("board not empty")
        stones = np.zeros(self.go.cells, np.int8)
        stones[cells] = 1
        try:
            self.thinker.setup(stones, 1)
        except GameError as error:
            raise GtpError(f"bad vertex list: {error}") from None


def _go(size: int, komi: float, suicide: bool) -> Game:
    return make(f"go{size}x{size}(komi={komi:g}{',suicide=True' * suicide})")


def fixed_handicap(size: int, count: int) -> list[int]:
    """The cells of GTP's fixed handicap; GtpError where the board has no such."""
    points = usual_points(size, count)
    if not points:
        raise GtpError("invalid number of stones")
    return points
