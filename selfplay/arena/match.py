"""Matches: two players, many games, a score with its interval; every game kept.

A match folder holds ``match.json`` (what was asked for), ``games.jsonl`` (one record a line, added
as games finish) and, for Go, ``games.sgf``. The same call on the same folder continues where
the last one stopped.
"""

from __future__ import annotations

import math
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from selfplay.arena.contest.book import digest
from selfplay.arena.contest.clock import UNLIMITED, Control
from selfplay.arena.contest.sprt import Trial
from selfplay.arena.play import Away, Seats, as_spec, played_by, seated
from selfplay.arena.players import Player
from selfplay.arena.records import GameRecord, append_records, read_records, read_settings, resume
from selfplay.arena.sgf import to_sgf, write_collection
from selfplay.common.errors import UserError
from selfplay.common.files import in_use, make_folder
from selfplay.common.stats import wilson
from selfplay.common.words import counted
from selfplay.games.base import Game
from selfplay.report.board import score_bar


class Tally(NamedTuple):
    """Wins, draws, losses of player A."""

    wins: int = 0
    draws: int = 0
    losses: int = 0

    @property
    def games(self) -> int:
        return sum(self)

    @property
    def score(self) -> float:
        """Points per game, a draw being half a point; nan without games."""
        return (self.wins + self.draws / 2) / self.games if self.games else float("nan")

    def __str__(self) -> str:
        return f"+{self.wins} ={self.draws} -{self.losses}"


@dataclass(frozen=True)
class MatchResult:
    """What a match came to, seen from player A.

    ``score`` is in points a game (a draw is half a point), ``low`` and ``high`` its 95% interval.

    >>> import selfplay as sp
    >>> result = sp.match("tictactoe", "random", "random", games=4)
    >>> result.games, result.wins + result.draws + result.losses
    (4, 4)
    """

    game: str
    rules: str
    a: str
    b: str
    as_first: Tally  #: games in which A was player 0
    as_second: Tally
    ends: dict[str, int]  #: how the games ended, the most frequent first
    mean_length: float  #: moves a game, the opening included
    distinct: int  #: different games (sequences of moves) among them
    seconds: float  #: wall time of the call; 0 for a match read from disk
    sides: tuple[str, str] = Game.sides  #: what players 0 and 1 are called

    @property
    def total(self) -> Tally:
        return Tally(*(x + y for x, y in zip(self.as_first, self.as_second, strict=True)))

    @property
    def games(self) -> int:
        return self.total.games

    @property
    def wins(self) -> int:
        return self.total.wins

    @property
    def draws(self) -> int:
        return self.total.draws

    @property
    def losses(self) -> int:
        return self.total.losses

    @property
    def score(self) -> float:
        return self.total.score

    @property
    def counts(self) -> tuple[float, float, float]:
        """(wins, draws, losses) scaled down to the number of distinct games, for ratings."""
        share = self.distinct / self.games if self.games else 0.0
        return self.wins * share, self.draws * share, self.losses * share

    @property
    def low(self) -> float:
        """Lower end of the score's 95% interval (see ``wilson``).

        A repeated game adds no information: the interval is that of ``distinct`` games.
        """
        return wilson(self.score, self.distinct)[0]

    @property
    def high(self) -> float:
        return wilson(self.score, self.distinct)[1]

    def _repr_html_(self) -> str:
        """In a notebook: the score with its interval as a bar, and the words."""
        return score_bar(self.score, self.low, self.high, self.summary())

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The result in a few lines, the rules among them."""
        if not self.games:
            return f"{self.a} against {self.b}: no game finished\nrules: {self.rules}"
        names = self.sides
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.items())
        return "\n".join([
            f"{self.a} against {self.b}: {self.score:.1%} of {counted(self.games, 'game')} "
            f"(95% interval {self.low:.1%} to {self.high:.1%}), {self.total}",
            f"as {names[0]} {self.as_first}, as {names[1]} {self.as_second}; "
            f"{counted(self.distinct, 'distinct game')}, {self.mean_length:.1f} moves on average",
            f"ended by: {ends}",
            f"rules: {self.game}, {self.rules}",
        ])


def play_match(
    game: Game,
    a: str | Player,
    b: str | Player,
    *,
    games: int,
    seed: int = 0,
    opening: tuple[int, int] = (2, 6),
    slots: int = 64,
    folder: Path | None = None,
    home: Path | None = None,
    device: str = "cpu",
    nets: dict[Path, Any] | None = None,
    book: Sequence[tuple[int, ...]] = (),
    control: Control = UNLIMITED,
    trial: Trial | None = None,
    away: Away | None = None,
    stop: Callable[[], bool] = lambda: False,
    drop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
    under_way: Callable[[float], None] = lambda part: None,
    ended: Callable[[GameRecord], None] = lambda record: None,
) -> MatchResult:
    """Play ``games`` games between ``a`` and ``b``: specs, or players with ``slots`` slots.

    Games 2j and 2j + 1 share opening j (``opening``: fewest and most random plies) with colours
    swapped; ``a`` is player 0 in the first of them. folder: where the games go, or None.
    book: openings in place of random ones. control: the time that each side has for a game. trial:
    a sequential test that ends the match as soon as it is decided; it gets every game, and only
    those that it has looked at are in the result.
    home: a folder left out of the nets' names in there, so that it can be moved with its matches.
    nets: see ``parse_player``. away: plays the games in place of this process, where both players
    are given as specs and none is human.
    stop: once True no game is begun. drop: once True games in flight are dropped.
    progress: called with the number of games finished; ended: with each game that ends. under_way:
    called after each round of moves with what those in flight, that are played here, come to, in
    whole games as long as those before them.

    Raises UserError for players that cannot be made or fail (what has finished is on disk by
    then) and for a folder that holds a different match or that another process plays into.
    """
    def decided() -> bool:
        return trial is not None and bool(trial.decision)

    began = time.monotonic()
    slots = min(slots, games)
    if not isinstance(a, str) or not isinstance(b, str) or "human" in (a.strip(), b.strip()):
        away = None
    setup: dict[str, Any] = {"device": device, "nets": nets, "slots": slots, "away": away}
    first = seated(a, game, seed=seed, **setup)
    with closing(first):
        second = seated(b, game, seed=seed + 1, **setup)
        with closing(second):
            specs = as_spec(a, first), as_spec(b, second)
            if home is not None:
                first.name, second.name = (without_home(p.name, home) for p in (first, second))
            play = played_by(game, first, second, away, Seats(
                specs, (first.name, second.name), (seed, seed + 1)))
            settings = match_settings(game, first.name, second.name, seed, opening, book, control)
            with _kept(folder, game, settings, games) as records:
                if trial is not None:
                    trial.add(_first_games(games, records))
                progress(len(_first_games(games, records)))

                lengths = sum(len(record.actions) - record.opening for record in records)

                def moved(flying: int, plies: int) -> None:
                    length = lengths / len(records) if records else game.max_moves / 2
                    under_way(min(plies / max(length, 1), 0.95 * flying))

                for record in play(
                    games=games, seed=seed, opening=opening, slots=slots,
                    skip={record.index for record in records}, book=book, control=control,
                    stop=lambda: decided() or stop(), drop=lambda: decided() or drop(),
                    most=trial.in_flight if trial is not None else lambda: math.inf,
                    moved=moved,
                ):
                    records.append(record)
                    lengths += len(record.actions) - record.opening
                    if folder is not None:
                        append_records(folder / "games.jsonl", [record])
                    if trial is not None:
                        trial.add([record])
                    ended(record)
                    progress(len(_first_games(games, records)))
    counted = _first_games(trial.games if trial and trial.decision else games, records)
    return tally(game, first.name, second.name, counted, time.monotonic() - began)


def match_settings(
    game: Game, a: str, b: str, seed: int, opening: tuple[int, int],
    book: Sequence[tuple[int, ...]], control: Control,
) -> dict[str, Any]:
    """What match.json says of a match between ``a`` and ``b``, as the players are called."""
    return {"game": game.name, "a": a, "b": b, "seed": seed, "opening": list(opening),
            "book": digest(book) if book else None,
            "clock": None if control == UNLIMITED else asdict(control)}


@contextmanager
def _kept(
    folder: Path | None, game: Game, settings: dict[str, Any], games: int
) -> Iterator[list[GameRecord]]:
    """The records in ``folder``, which is locked so that games can be added."""
    if folder is None:
        yield []
        return
    make_folder(folder)
    with in_use(folder, "--out"):
        records = resume(folder / "match.json", settings, folder / "games.jsonl")
        try:
            yield records
        finally:  # an engine that has died included
            if records and game.has_sgf:
                write_collection(folder / "games.sgf",
                                 (to_sgf(game, record) for record in _first_games(games, records)))


def _first_games(games: int, records: Iterable[GameRecord]) -> list[GameRecord]:
    """Those of games 0 to ``games`` - 1, in their order."""
    return sorted((r for r in records if r.index < games), key=lambda r: r.index)


def safe_name(text: str) -> str:
    """``text`` in the characters that a folder's name may have anywhere."""
    return re.sub(r"[^A-Za-z0-9.@]+", "-", text).strip("-")


def shortened(name: str, key: str) -> str:
    """The beginning of a name, and a checksum of ``key`` that makes it unique."""
    return f"{name[:100]}-{zlib.crc32(key.encode()) & 0xFFFF:04x}"


def without_home(name: str, home: Path) -> str:
    """A player's name as seen from the folder ``home`` that its nets lie in."""
    return re.sub(rf"^(net|alphago|llm):{re.escape(str(home))}/", r"\1:", name)


def read_match(folder: Path, game: Game) -> MatchResult | None:
    """A match on disk as it stands, or None where the folder holds none.

    Raises UserError naming a damaged file, or a match of another game.
    """
    if not (folder / "match.json").exists():
        return None
    stored = read_settings(folder / "match.json")
    if stored.get("game") != game.name:
        raise UserError(f"{folder}: a match of {stored.get('game')}, not of {game.name}")
    records = read_records(folder / "games.jsonl")
    return tally(game, str(stored.get("a")), str(stored.get("b")), records, 0.0)


def tally(
    game: Game, a: str, b: str, records: Iterable[GameRecord], seconds: float
) -> MatchResult:
    """Count a match; A is player 0 in the games with even numbers."""
    records = list(records)
    sides: list[list[int]] = [[0, 0, 0], [0, 0, 0]]
    for record in records:
        side = record.index % 2
        points = record.value if side == 0 else -record.value
        sides[side][0 if points > 0 else 1 if points == 0 else 2] += 1
    ends = Counter(record.end for record in records)
    return MatchResult(
        game=game.name,
        rules=game.rules,
        a=a,
        b=b,
        as_first=Tally(*sides[0]),
        as_second=Tally(*sides[1]),
        ends=dict(ends.most_common()),
        mean_length=sum(len(r.actions) for r in records) / max(len(records), 1),
        distinct=len({record.actions for record in records}),
        seconds=seconds,
        sides=game.sides,
    )
