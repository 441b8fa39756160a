"""Many games at once between any two players.

Each game has a slot. In each round every player is asked once, for all slots where it is to move,
so that a net gets its whole batch and outside engines think at the same time. A slot whose game has
ended gets the next game.

Openings. The two games of a pair share an opening with colours swapped, so that the openings favour
neither player. Opening j of seed s is drawn from ``np.random.default_rng([s, j])`` alone; the same
stream then gives the players' seeds. So game i is the same whatever the number of slots, and
after a restart.

Clocks. A move's time is that of ``Player.act``, but for what Numba compiles meanwhile. Where there
are clocks one game is played at a time, so that no other game's moves are on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.contest.clock import LOCAL, UNLIMITED, Control, GameClock
from selfplay.arena.engines import NO_MOVE, TAKE_BACK, FaultError
from selfplay.arena.players import RESIGN, Player, SlotPlayer, missing_engine, parse_player
from selfplay.arena.records import ON_TIME, GameRecord
from selfplay.common import compiling
from selfplay.common.compiling import working_seconds
from selfplay.games import own
from selfplay.games.base import Game, put, take
from selfplay.games.openings import Deal, deal

__all__ = ["Deal", "GameRecord", "deal", "play_games"]


class Seats(NamedTuple):
    """Two players in words, for games that are played elsewhere. The same words and seed twice are
    one player for both sides."""

    specs: tuple[str, str]  #: as ``players.parse_player`` reads them
    names: tuple[str, str]  #: as records shall have them
    seeds: tuple[int, int]


class Away(Protocol):
    """Plays games elsewhere, on other machines."""

    @property
    def places(self) -> int:
        """How many players' like this machine's are at work there at once."""

    def __call__(
        self, game: Game, seats: Seats, *, games: int, slots: int, **how: Any
    ) -> Iterator[GameRecord]:
        """As ``play_games``, which the words are of. Games that have begun when ``stop()`` is True
        are played out; records come several at a time."""


def seated(
    who: str | Player, game: Game, *, away: Away | None, slots: int, **setup: Any
) -> Player:
    """The player ``who``. Where it plays ``away`` it is made all the same, as small as can be, so
    that its words are known to be right; an engine need not be on this machine then."""
    if not isinstance(who, str):
        return who
    if away is not None and missing_engine(who.strip()) is not None:
        absent = SlotPlayer()
        absent.name = who.strip()
        return absent
    return parse_player(who, game, slots=slots if away is None else 1, **setup)


def as_spec(who: str | Player, player: Player) -> str:
    """The words that mean ``player``, which ``who`` has made, in any folder and at any time."""
    return own.located(who.strip()) if isinstance(who, str) and own.is_own(who) else player.name


def played_by(
    game: Game, first: Player, second: Player, away: Away | None, seats: Seats
) -> Callable[..., Iterator[GameRecord]]:
    """``play_games`` between two players, here or ``away``."""
    return partial(play_games, game, first, second) if away is None else partial(away, game, seats)


@dataclass
class _Table:
    """A game in flight."""

    index: int
    deal: Deal
    seats: tuple[Player, Player]  #: who plays side 0, side 1
    actions: list[int]


def play_games(
    game: Game,
    first: Player,
    second: Player,
    *,
    games: int,
    seed: int,
    opening: tuple[int, int],
    slots: int,
    paired: bool = True,
    skip: Collection[int] = (),
    book: Sequence[tuple[int, ...]] = (),
    control: Control = UNLIMITED,
    stop: Callable[[], bool] = lambda: False,
    drop: Callable[[], bool] = lambda: False,
    most: Callable[[], float] = lambda: math.inf,
    moved: Callable[[int, int], None] = lambda games, plies: None,
) -> Iterator[GameRecord]:
    """Play games 0 to ``games`` - 1 (but those in ``skip``), yielding each as it ends.

    paired: ``first`` has side 0 in even games and side 1 in odd ones, and games 2j and 2j + 1
    share opening j. Not paired: ``first`` always has side 0, and game i has opening i. ``first``
    may be ``second``: one player for both sides, told of every start and every move once.
    book: openings to begin with, in place of random ones. control: the time that each side has for
    a game; who oversteps it loses, and ``slots`` is 1.
    stop: asked before each deal; once True no game is begun, but those in flight are played out
    (dropping them would favour short games).
    drop: asked after each round of moves; once True the games in flight are dropped.
    most: asked before each deal; no game is begun while so many are in flight.
    moved: told after each round of moves how many games are in flight, and the moves made in them
    behind their openings.

    An illegal move loses the game at once, and so does a failure (FaultError); the record's ``end``
    says whose it was and why.
    Other errors of the players (UserError) pass through; what was yielded before stands.
    """
    done = set(skip)
    waiting = [index for index in range(games - 1, -1, -1) if index not in done]
    slots = slots if control == UNLIMITED else 1
    hall = _Hall(game, (first, second), max(1, min(slots, len(waiting))), control)
    while True:
        for slot in hall.free():
            if not waiting or stop():
                waiting.clear()
                break
            if hall.busy() >= most():
                break
            index = waiting.pop()
            swap = paired and index % 2 == 1
            dealt = deal(game, seed, index // 2 if paired else index, opening, swap, book)
            seats = (second, first) if swap else (first, second)
            hall.begin(slot, _Table(index, dealt, seats, []))
        if not hall.busy() or drop():
            return
        for player in hall.players:
            yield from hall.round(player)
        moved(hall.busy(), hall.plies())


class _Hall:
    """The slots: a state and perhaps a table each."""

    def __init__(self, game: Game, players: tuple[Player, Player], slots: int,
                 control: Control) -> None:
        if control != UNLIMITED:
            compiling.watch()
        self.game = game
        self.clock = GameClock(LOCAL, control)  # of the only slot
        self.players = players[:1] if players[0] is players[1] else players
        self.states: Any = game.new(slots)
        self.tables: list[_Table | None] = [None] * slots

    def free(self) -> list[int]:
        return [slot for slot, table in enumerate(self.tables) if table is None]

    def busy(self) -> int:
        """How many games are in flight."""
        return sum(table is not None for table in self.tables)

    def plies(self) -> int:
        """Moves made in the games in flight, behind their openings."""
        return sum(len(table.actions) - len(table.deal.actions) for table in self.tables if table)

    def begin(self, slot: int, table: _Table) -> None:
        """Seat the players and play the opening."""
        self.clock.restart()
        self._set_up(slot, table, table.deal.actions)

    def _set_up(self, slot: int, table: _Table, actions: Sequence[int]) -> None:
        self.tables[slot] = table
        slots = np.array([slot])
        put(self.states, slots, self.game.new(1))
        for player in self.players:
            seat = 0 if player is table.seats[0] else 1
            player.start(slots, np.array([table.deal.seeds[seat]]))
        for action in actions:
            self._move(slots, np.array([action]))

    def _take_back(self, slot: int, player: Player) -> None:
        """Go back to where ``player`` was to move last, if it was."""
        table, states, turns = self.tables[slot], self.game.new(1), list[int]()
        assert table is not None
        for action in table.actions:
            turns.append(int(states.to_play[0]))
            self.game.step(states, np.array([action]))
        own = [ply for ply in range(len(table.deal.actions), len(turns))
               if table.seats[turns[ply]] is player]
        kept = table.actions[: own[-1]] if own else list(table.actions)
        self._set_up(slot, replace(table, actions=[]), kept)

    def round(self, player: Player) -> Iterator[GameRecord]:
        """One move in every slot where ``player`` is to move; the games that end by it."""
        slots = np.array([
            slot for slot, table in enumerate(self.tables)
            if table is not None and table.seats[self.states.to_play[slot]] is player
        ], np.int64)
        if not len(slots):
            return
        states = take(self.states, slots)
        reasons: dict[int, str] = {}
        timed = self.clock.control != UNLIMITED
        if timed:
            player.timed(states, slots, self.clock)
        began = working_seconds()
        try:
            actions = player.act(states, slots)
        except FaultError as fault:
            actions, reasons = fault.actions, fault.reasons
        if timed and (late := self._late(player, states, working_seconds() - began)):
            yield late
            return
        for row in np.flatnonzero(actions == TAKE_BACK):
            self._take_back(int(slots[row]), player)
        if (actions == TAKE_BACK).any():
            rows = np.flatnonzero(actions != TAKE_BACK)
            slots, states, actions = slots[rows], take(states, rows), actions[rows]
        legal = self.game.legal(states)
        known = (actions >= 0) & (actions < self.game.num_actions)
        known[list(reasons)] = False
        fine = known & legal[np.arange(len(slots)), np.where(known, actions, 0)]
        self._move(slots[fine], actions[fine])
        for row in np.flatnonzero(~fine):
            why = reasons.get(int(row), "")
            yield self._forfeit(int(slots[row]), player, states, int(row), int(actions[row]), why)
        done, value = self.game.result(take(self.states, slots[fine]))
        for slot, result in zip(slots[fine][done], value[done], strict=True):
            yield self._finish(int(slot), float(result))

    def _late(self, player: Player, states: Any, seconds: float) -> GameRecord | None:
        """The record of the only game, if the move that took so long has overstepped the time."""
        side = int(states.to_play[0])
        most = self.clock.most(side)
        self.clock.used(side, seconds)
        if seconds <= most:
            return None
        why = f"{ON_TIME}{player.name}: {seconds:.2f} s for a move, {most:.2f} s were left"
        return self._record(0, 2.0 * side - 1, None, why)

    def _move(self, slots: NDArray[np.int64], actions: NDArray[np.int64]) -> None:
        everywhere = np.full(len(self.tables), -1, np.int64)
        everywhere[slots] = actions
        self.game.step(self.states, everywhere)
        for slot, action in zip(slots, actions, strict=True):
            table = self.tables[slot]
            assert table is not None
            table.actions.append(int(action))
        for player in self.players:
            player.moved(slots, actions)

    def _finish(self, slot: int, value: float) -> GameRecord:
        table, game = self.tables[slot], self.game
        assert table is not None
        passes = [action == game.pass_action for action in table.actions[-2:]]
        if game.pass_action >= 0 and passes == [True, True]:
            end = "two passes"
        elif game.has_ownership:
            end = "max moves"
        else:
            end = "win" if value else "draw"
        score = None
        if game.has_ownership:
            score = float(game.score(take(self.states, np.array([slot])))[0])
        return self._record(slot, value, score, end)

    def _forfeit(
        self, slot: int, player: Player, states: Any, row: int, action: int, why: str
    ) -> GameRecord:
        """The record of a lost game: ``player`` resigned, moved illegally, or failed (``why``)."""
        loses = -1.0 if states.to_play[row] == 0 else 1.0
        if why:
            return self._record(slot, loses, None, f"failure of {player.name}: {why}")
        if action == RESIGN:
            return self._record(slot, loses, None, "resignation")
        known = 0 <= action < self.game.num_actions
        text = self.game.action_to_text(states, row, action) if known else (
            "no move" if action == NO_MOVE else str(action))
        return self._record(slot, loses, None, f"illegal move by {player.name} ({text})")

    def _record(self, slot: int, value: float, score: float | None, end: str) -> GameRecord:
        table = self.tables[slot]
        assert table is not None
        self.tables[slot] = None
        return GameRecord(
            index=table.index,
            seed=table.deal.seeds[0],
            players=(table.seats[0].name, table.seats[1].name),
            actions=tuple(table.actions),
            opening=len(table.deal.actions),
            value=value,
            score=score,
            end=end,
        )
