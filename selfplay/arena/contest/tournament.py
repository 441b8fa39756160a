"""Tournaments: many players, each against every other or one against all, rated as they go on.

A tournament's folder holds a match folder for each pairing, so that what has been played is kept
and the same call goes on, with more players or games too. It is played in rounds: every pairing has
about as many games as any other at all times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from selfplay.arena.contest.clock import UNLIMITED, Control
from selfplay.arena.elo import Rating, fit
from selfplay.arena.match import (
    MatchResult,
    match_settings,
    play_match,
    safe_name,
    shortened,
    tally,
)
from selfplay.arena.play import Away, seated
from selfplay.arena.records import GameRecord, resume
from selfplay.common.errors import UserError
from selfplay.common.files import in_use, make_folder
from selfplay.games.base import Game


class Standing(NamedTuple):
    """A player's place. points: of all its games; rating: above the mean of all players, None
    while no games tie it to the others."""

    name: str
    points: float
    games: int
    rating: Rating | None


def pairings(players: Sequence[str], gauntlet: bool = False) -> list[tuple[str, str]]:
    """Each against every other, or with ``gauntlet`` the first against each of the others."""
    return [(a, b) for a, b in combinations(players, 2) if not gauntlet or a == players[0]]


def play_tournament(
    game: Game, players: Sequence[str], *, games: int, gauntlet: bool = False, seed: int = 0,
    opening: tuple[int, int] = (2, 6), slots: int = 64, folder: Path,
    book: Sequence[tuple[int, ...]] = (), control: Control = UNLIMITED, device: str = "cpu",
    away: Away | None = None,
    told: Callable[[list[MatchResult]], None] = lambda results: None,
) -> list[MatchResult]:
    """Play ``games`` games of every pairing of ``players`` (specs) into ``folder``. All pairings
    play the same openings. told: called with the results so far whenever a game has ended.
    away: see ``play_match``.

    Raises UserError for players that are named twice and as ``play_match`` does.
    """
    twice = {name for name in players if players.count(name) > 1}
    if twice:
        raise UserError(f"{min(twice)} is there twice: a player's games with itself rate nobody")
    names = {}
    for spec in players:  # rather a mistake found now than after the games of others
        with closing(seated(spec, game, seed=seed, device=device, slots=1, away=away)) as player:
            names[spec] = player.name
    make_folder(folder)
    with in_use(folder, "--out"):
        wanted = {pair: folder / match_name(*pair) for pair in pairings(players, gauntlet)}
        records = {}
        for (a, b), place in wanted.items():
            make_folder(place)
            settings = match_settings(game, names[a], names[b], seed, opening, book, control)
            played = resume(place / "match.json", settings, place / "games.jsonl")
            records[a, b] = [record for record in played if record.index < games]
        found = {pair: tally(game, *pair, played, 0.0) for pair, played in records.items()}

        def ended(pair: tuple[str, str], record: GameRecord) -> None:
            records[pair].append(record)
            found[pair] = tally(game, *pair, records[pair], 0.0)
            told(list(found.values()))

        told(list(found.values()))
        step = max(slots + slots % 2, 2)  # games fill the slots, and are pairs
        for upto in [*range(step, games, step), games]:
            for pair, place in wanted.items():
                if len(records[pair]) < upto:
                    play_match(game, *pair, games=upto, seed=seed, opening=opening, slots=slots,
                               folder=place, device=device, book=book, control=control, away=away,
                               ended=partial(ended, pair))
    return list(found.values())


def match_name(a: str, b: str) -> str:
    """The folder of a pairing in its tournament's."""
    return shortened(f"{safe_name(a)}--{safe_name(b)}", f"{a}|{b}")


def standings(results: Sequence[MatchResult]) -> list[Standing]:
    """The players of some matches, the best first: by Elo, then by their share of the points."""
    names = list(dict.fromkeys(name for r in results for name in (r.a, r.b)))
    points, games = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for r in results:
        points[r.a] += r.wins + r.draws / 2
        points[r.b] += r.losses + r.draws / 2
        for name in (r.a, r.b):
            games[name] += r.games
    tied = fit([(r.a, r.b, *r.counts) for r in results], names[0], centre=names) if names else {}
    mean = sum(rating.elo for rating in tied.values()) / max(len(tied), 1)
    rated = {name: Rating(*(value - mean for value in rating)) for name, rating in tied.items()}
    found = [Standing(name, points[name], games[name], rated.get(name) if games[name] else None)
             for name in names]
    return sorted(found, key=lambda s: (
        -s.rating.elo if s.rating else math.inf, -s.points / max(s.games, 1)))


def table(results: Sequence[MatchResult]) -> str:
    """Standings with Elo and its 95% interval, and the points of each against each."""
    from selfplay.report.page import aligned

    found = standings(results)
    cross = {(r.a, r.b): f"{r.wins + r.draws / 2:g}/{r.games}" for r in results if r.games}
    cross |= {(r.b, r.a): f"{r.losses + r.draws / 2:g}/{r.games}" for r in results if r.games}
    rows = [["", "player", "Elo", "95% interval", "points", "games",
             *(f"{place}" for place in range(1, len(found) + 1))]]
    for place, one in enumerate(found, 1):
        elo = interval = "-"
        if one.rating:
            elo = f"{one.rating.elo:.0f}"
            interval = f"{one.rating.low:.0f} to {one.rating.high:.0f}"
        rows.append([f"{place}", one.name, elo, interval, f"{one.points:g}", f"{one.games}",
                     *("" if one is other else cross.get((one.name, other.name), "-")
                       for other in found)])
    return aligned(rows, {0, 2, 3, 4, 5, *range(6, 6 + len(found))})
