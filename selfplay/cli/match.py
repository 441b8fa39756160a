"""``selfplay match``: two players until it is decided, or many of them as a tournament."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from selfplay.cli.options import (
    NETS,
    NewFile,
    Number,
    Whole,
    actors_option,
    away_of,
    device_of,
    device_option,
    game_option,
    opening_of,
    own_nets_option,
    players_game,
    ray_option,
    seed_option,
)

if TYPE_CHECKING:
    from selfplay.arena.contest.sprt import Trial
    from selfplay.arena.match import MatchResult

NAME_MAX = 255  #: characters that a file system takes as one name
GAMES, MOST_GAMES = 100, 100_000  #: where nobody says how many: of a match, of one with --sprt


class _Contest(NamedTuple):
    """What is played: a game, who, and how."""

    game: Any
    players: tuple[str, ...]
    games: int
    folder: Path
    how: dict[str, Any]  #: further words of ``play_match`` and ``play_tournament``
    human: bool


@click.command()
@click.argument("players", nargs=-1, metavar="PLAYER PLAYER [PLAYER...]")
@game_option(required=False, more=" [what a player's net has learnt].")
@click.option("--games", "count", type=Whole(min=1), default=None,
              help="Games to play, of many players each pairing's [100; with a human one more; "
                   "with --sprt 100,000 at most].")
@click.option("--sprt", default=None, metavar="ELO0,ELO1",
              help="End as soon as it is decided whether the first player is ELO0 or ELO1 above "
                   "the other: a sequential test by pairs of games. 0,20,trinomial: by games; "
                   "0,20,normalized: by normalized Elo.")
@click.option("--alpha", type=Number(min=0.0001, max=0.5), default=None,
              help="Rate of wrong ends of --sprt at ELO0 [0.05].")
@click.option("--beta", type=Number(min=0.0001, max=0.5), default=None,
              help="Rate of wrong ends of --sprt at ELO1 [0.05].")
@click.option("--gauntlet", is_flag=True,
              help="Of many players the first against each of the others, not all against all.")
@click.option("--clock", default=None, metavar="5m+3s",
              help="Time of each side for a game: 5m (5 is five seconds), 5m+3s (3 s more a move), "
                   "5m+30s/10, 5m+3x30s. One game is played at a time; who oversteps loses.")
@click.option("--opening", default=None, metavar="LOW-HIGH",
              help="Random plies before the players take over (2-6, or 0 for none), or at most "
                   "HIGH of a --book's; each opening is played twice [2-6, of small games fewer].")
@click.option("--book", default=None, metavar="FILE", type=click.Path(path_type=Path),
              help="Openings: a line of moves each, .pgn, or .sgf for Go.")
@click.option("--pgn", default=None, metavar="FILE", type=NewFile(),
              help="Write the games as PGN too, with the game's own notation.")
@click.option("--slots", type=Whole(min=1), default=None,
              help="Games at once [64; 4 with an outside engine; 1 with a human or a clock].")
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="Folder for the games; an interrupted match there is continued "
                   "[runs/matches/…].")
@own_nets_option
@device_option
@seed_option
@ray_option
@actors_option
def match(players: tuple[str, ...], sprt: str | None, alpha: float | None, beta: float | None,
          gauntlet: bool, pgn: Path | None, ray: str | None, actors: int | None, **options: Any
          ) -> None:
    """Play a match: colours alternate, openings vary, a 95% interval comes with the score. With
    more than two players a tournament, with standings."""
    from selfplay.arena.contest.sprt import Trial, parse_sprt
    from selfplay.common.errors import UserError

    if len(players) < 2:
        raise click.UsageError("players: at least 2 values wanted", click.get_current_context())
    if gauntlet and len(players) == 2:
        raise UserError("--gauntlet: of three players or more, and these are two; leave it out")
    rates = {name: rate for name, rate in (("alpha", alpha), ("beta", beta)) if rate is not None}
    if rates and sprt is None:
        raise UserError(f"--{min(rates)}: of a sequential test; give --sprt ELO0,ELO1 as well")
    trial = Trial(parse_sprt(sprt, **rates)) if sprt is not None else None
    if trial and len(players) > 2:
        raise UserError(f"--sprt: compares two players, not {len(players)}; leave it out for a "
                        "tournament")
    options["game"] = players_game(players, options["game"])
    contest = _contest(players, trial is not None, **options)
    if len(players) > 2 and contest.human:
        raise UserError(f"human: plays one other player, not {len(players) - 1}; name two players")
    with away_of(ray, actors, options["game"], options["nets"]) as away:
        contest.how["away"] = away
        results = _tournament(contest, gauntlet) if len(players) > 2 else [_match(contest, trial)]
    if pgn is not None:
        _write_pgn(contest, results, pgn)


def _contest(players: tuple[str, ...], tested: bool, *, game: str, count: int | None,
             clock: str | None, opening: str | None, book: Path | None, slots: int | None,
             out: Path | None, nets: tuple[str, ...], device: str | None, seed: int | None
             ) -> _Contest:
    from selfplay.arena.contest.book import read_book
    from selfplay.arena.contest.clock import UNLIMITED, of_text
    from selfplay.arena.match import safe_name, shortened
    from selfplay.arena.spec import full_name
    from selfplay.common.compiling import announce
    from selfplay.common.errors import UserError
    from selfplay.games import make
    from selfplay.run.config import preset
    from selfplay.run.own_nets import use_net

    list(map(use_net, nets))
    control = of_text(clock) if clock else UNLIMITED
    names = tuple(full_name(player.strip()) for player in players)
    announce()
    made = make(game)
    config = preset(made.name).eval
    low_high = config.opening
    if opening and opening != "{}-{}".format(*low_high):  # the default goes with tiny games too
        low_high = opening_of(opening, None if book else made)
    words = "-".join([game, *names, str(seed or 0)])
    place = safe_name(words)
    folder = out or Path("runs/matches" if len(names) == 2 else "runs/tournaments",
                         place if len(place) <= NAME_MAX else shortened(place, words))
    kinds = {name.split(":")[0] for name in names}
    human = "human" in kinds
    if control != UNLIMITED and slots not in (None, 1):
        raise UserError(f"--slots {slots}: with --clock one game is played at a time")
    if slots is None:
        slots = 1 if human or control != UNLIMITED else (
            config.engine_slots if "gtp" in kinds else config.slots)
    lines = read_book(book, made, low_high[1] if opening else made.max_moves) if book else []
    how = {"seed": seed or 0, "opening": low_high, "slots": slots, "book": lines,
           "control": control, "device": device_of(device or "auto") if kinds & NETS else "cpu"}
    games = count or (1 if human else MOST_GAMES if tested else GAMES)
    return _Contest(made, names, games, folder, how, human)


def _match(contest: _Contest, trial: Trial | None) -> MatchResult:
    from selfplay.arena.elo import standings
    from selfplay.arena.human import final_words
    from selfplay.arena.match import play_match, read_match
    from selfplay.common.console import Bar, say

    game, players, count, folder, how, human = contest
    counts, most = list[int](), [0.0]
    if human and (before := read_match(folder, game)):
        count += before.games  # another game, with the next opening and the other colour

    def show(done: float) -> None:
        most[0] = max(most[0], done)  # what counts whole games alone goes not back
        bar.at(most[0], str(trial or ""))

    def progress(done: int) -> None:
        counts.append(done)
        if trial is not None:
            bar.part = trial.share
        show(done)

    def under_way(part: float) -> None:
        if not human:
            show(counts[-1] + part)

    def ended(record: Any) -> None:
        if human:
            say(final_words(game, record, "human"))

    try:
        with Bar(f"{players[0]} - {players[1]}", count, "games", live=not human, late=True,
                 limit=trial is not None and count == MOST_GAMES) as bar:
            result = play_match(game, *players, games=count, folder=folder, trial=trial,
                                progress=progress, under_way=under_way, ended=ended, **how)
    except KeyboardInterrupt:
        if not human:
            raise
        click.echo("stopped; the game under way is not kept, those that have ended are", err=True)
        raise click.exceptions.Exit(130) from None
    say(result.summary())
    if trial is not None:
        say(trial.summary())
    table = standings(folder.parent, game, (result.a, result.b))
    if table:
        say(table)
    say(f"games: {folder}" + " (all played before)" * (len(counts) == 1))
    return result


def _tournament(contest: _Contest, gauntlet: bool) -> list[MatchResult]:
    from selfplay.arena.contest.tournament import pairings, play_tournament, table
    from selfplay.common.console import Bar, say

    game, players, count, folder, how, _ = contest
    wanted = len(pairings(players, gauntlet)) * count

    def told(results: list[MatchResult]) -> None:
        played = [result for result in results if result.games]
        bar.at(sum(result.games for result in played), below=table(played) if bar.redraws else "")

    with Bar("gauntlet" if gauntlet else "round robin", wanted, "games", late=True) as bar:
        results = play_tournament(game, players, games=count, gauntlet=gauntlet, folder=folder,
                                  told=told, **how)
    say(f"{table(results)}\nElo beside the mean of all; points of each against each\n"
        f"rules: {game.name}, {game.rules}\ngames: {folder}")
    return results


def _write_pgn(contest: _Contest, results: Iterable[MatchResult], path: Path) -> None:
    from selfplay.arena.contest.pgn import to_pgn
    from selfplay.arena.contest.tournament import match_name
    from selfplay.arena.records import read_records
    from selfplay.arena.sgf import write_collection
    from selfplay.common.console import say

    two = len(contest.players) == 2
    records = [record for result in results for record in sorted(
        read_records((contest.folder if two else contest.folder / match_name(result.a, result.b))
                     / "games.jsonl"), key=lambda record: record.index)[: result.games]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_collection(path, (to_pgn(contest.game, record) for record in records))
    say(f"PGN: {path}, {len(records)} games")
