"""Moves judged by an exact solver: how many keep the position's value, how many are perfect.

Elo tells how good players are beside each other; this tells how far they are from perfect play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.contest.book import read_lines
from selfplay.arena.players import Player
from selfplay.common.errors import UserError
from selfplay.common.limits import MAX_SEED
from selfplay.common.stats import wilson
from selfplay.games.base import Game, take
from selfplay.games.openings import deal
from selfplay.games.solve import ILLEGAL, KEEPS_VALUE, PERFECT, solver

AT_ONCE = 256  #: positions that a player is asked about at once
PART = 16  #: positions that a thread solves before it takes the next
TRIES = 50  #: drawn positions for each one wanted, before it is said that there are no more


class Positions(NamedTuple):
    """n positions, none of them over, and the grades of their moves.

    states: as the game has them; ply: int64 [n], moves made so far; grades: int8 [n, A], see
    ``games.solve.Solver``.
    """

    states: Any
    ply: NDArray[np.int64]
    grades: NDArray[np.int8]


class Share(NamedTuple):
    """How many of ``total`` moves did; rate and its 95% interval (Wilson)."""

    hits: int
    total: int

    @property
    def rate(self) -> float:
        return self.hits / self.total if self.total else float("nan")

    def __str__(self) -> str:
        low, high = wilson(self.rate, self.total) if self.total else (0.0, 1.0)
        return f"{100 * self.rate:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


class Judgement(NamedTuple):
    """What a player did with n positions.

    action: int64 [n]; kept: bool [n], the move wins where a win is to be had, draws where a draw
    is; perfect: bool [n], it also wins soonest or loses latest; wins: bool [n], positions with a
    move that ends the game in a win; took: bool [n], it was such a move.
    """

    player: str
    action: NDArray[np.int64]
    kept: NDArray[np.bool_]
    perfect: NDArray[np.bool_]
    wins: NDArray[np.bool_]
    took: NDArray[np.bool_]

    def share(self, hits: NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> Share:
        chosen = hits if among is None else hits[among]
        return Share(int(chosen.sum()), len(chosen))


def drawn_positions(
    game: Game, count: int, plies: tuple[int, int], seed: int, threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Positions:
    """``count`` different positions after random plies, low to high, solved. At least half of them
    have no win in one move, where the game has such: after random play most others have one.

    Raises UserError where the game has not so many.
    """
    known: set[int] = set()
    quiet: list[tuple[int, ...]] = []
    loud: list[tuple[int, ...]] = []
    for number in range(TRIES * count):
        actions = deal(game, seed, number, plies, False).actions
        if len(actions) < plies[0]:  # the game would have ended
            continue
        states = game.new(1)
        game.replay(states, np.array([actions], np.int64).reshape(1, -1))
        key = int(game.keys(states)[0])
        if key not in known:
            known.add(key)
            (loud if game.wins(states, game.legal(states)).any() else quiet).append(actions)
        if len(quiet) >= (count + 1) // 2 and len(quiet) + len(loud) >= count:
            break
    games = sorted((quiet + loud[: max(count // 2, count - len(quiet))])[:count], key=len)
    if len(games) < count:
        raise UserError(f"{game.name}: found only {len(games)} different positions after "
                        f"{plies[0]} to {plies[1]} random moves; ask for fewer (--count) or other "
                        "plies (--plies)")
    return solved(game, games, threads, progress)


def read_positions(game: Game, path: Path) -> list[tuple[int, ...]]:
    """The moves to the positions of a file: a line is those to one (see ``contest.book``).

    Raises UserError naming a line that is no game, or whose game is over.
    """
    games = read_lines(game, path, "position")
    if not games:
        raise UserError(f"{path}: no position in it; a line is the moves of one, as 4453")
    return games


def solved(
    game: Game, games: Sequence[tuple[int, ...]], threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Positions:
    """The positions after ``games``' moves, and the grades of the moves that may follow."""
    table = np.full((len(games), max(map(len, games), default=0)), -1, np.int64)
    for row, actions in enumerate(games):
        table[row, : len(actions)] = actions
    states = game.new(len(games))
    game.replay(states, table)
    solvers = [solver(game) for _ in range(threads)]
    parts = [np.arange(k, min(k + PART, len(games))) for k in range(0, len(games), PART)]
    grades = np.empty((len(games), game.num_actions), np.int8)

    def solve(number: int) -> None:
        for part in parts[number::threads]:
            grades[part] = solvers[number].grades(take(states, part))
            if progress is not None:
                progress(len(part))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(solve, range(threads)))
    return Positions(states, np.array([len(actions) for actions in games]), grades)


def judge(game: Game, player: Player, positions: Positions, seed: int = 0) -> Judgement:
    """What ``player`` does in every position; it may be asked about AT_ONCE at once (slots)."""
    count = len(positions.ply)
    action = np.empty(count, np.int64)
    for start in range(0, count, AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, count))
        slots = rows - start
        player.start(slots, np.array([(seed + row) & MAX_SEED for row in rows.tolist()]))
        action[rows] = player.act(take(positions.states, rows), slots)
    said = np.maximum(action, 0)  # words that are no move count as an illegal one
    made = np.where(action < 0, ILLEGAL, positions.grades[np.arange(count), said])
    ends = game.wins(positions.states, game.legal(positions.states))
    return Judgement(player.name, action, made >= KEEPS_VALUE, made == PERFECT,
                     np.asarray(ends.any(axis=1)), ends[np.arange(count), said] & (action >= 0))


def by_ply(positions: Positions, bins: int = 6) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """(first ply, last ply, bool [n] which positions) of at most ``bins`` even parts."""
    low, high = int(positions.ply.min()), int(positions.ply.max())
    width = -(-(high - low + 1) // bins)
    found = []
    for first in range(low, high + 1, width):
        among = (positions.ply >= first) & (positions.ply < first + width)
        if among.any():
            found.append((first, min(first + width - 1, high), among))
    return found
