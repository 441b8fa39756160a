"""``selfplay judge``: moves beside perfect play."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfplay.cli.options import (
    NETS,
    NewFile,
    Whole,
    counts_of,
    device_of,
    device_option,
    game_option,
    opening_of,
    own_nets_option,
    players_game,
)
from selfplay.common.limits import MAX_SEED

if TYPE_CHECKING:
    from selfplay.arena.judge import Judgement, Positions
    from selfplay.games.base import Game

COUNT = 1000
SIMS = "0,16,64"
SAMPLES = "1"


@click.command()
@click.argument("who", nargs=-1, required=True, metavar="RUN|PLAYER...")
@game_option(required=False, more=" [what a run or a player's net has learnt].")
@click.option("--count", type=Whole(min=1, max=100_000), default=None,
              help="Positions to judge by [1000].")
@click.option("--plies", default=None, metavar="LOW-HIGH",
              help="Random moves that lead to them [12-34; of smaller games fewer, of Othello the "
                   "last moves].")
@click.option("--positions", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Judge by these instead: a line is the moves of one, as 4453.")
@click.option("--sims", default=SIMS, show_default=True, metavar="N,N,…",
              help="Simulations of a run's nets; 0 is the raw policy.")
@click.option("--samples", default=SAMPLES, show_default=True, metavar="N,N,…",
              help="Answers of a language model's run that vote on a move; 1 is its likeliest.")
@click.option("--out", type=NewFile(), default=None, metavar="FILE.png",
              help="Where the picture goes [judge.png in the run].")
@click.option("--seed", type=Whole(0, MAX_SEED), default=0, show_default=True,
              help="Of the positions drawn.")
@own_nets_option
@device_option
def judge(who: tuple[str, ...], game: str | None, count: int | None, plies: str | None,
          positions: Path | None, sims: str, samples: str, out: Path | None, seed: int,
          nets: tuple[str, ...], device: str | None) -> None:
    """How many moves keep the position's value, by an exact solver: of a run's nets, raw and with
    search, or of any players."""
    from selfplay.arena.judge import AT_ONCE, read_positions
    from selfplay.arena.judge import judge as judge_one
    from selfplay.arena.players import parse_player
    from selfplay.common.compiling import announce
    from selfplay.common.console import Bar, say
    from selfplay.common.errors import UserError
    from selfplay.games import make
    from selfplay.games.solve import must_be_solvable
    from selfplay.run.own_nets import use_net

    if positions and (count or plies):
        raise UserError("--positions: the file says which; leave out --count and --plies")
    list(map(use_net, nets))
    announce()
    names, found, folder = _asked_players(who, game, sims, samples)
    made = make(found)
    must_be_solvable(made)
    low_high = _plies_of(made, plies)
    games = read_positions(made, positions) if positions else []  # mistakes in there come first
    where = device_of(device or "auto") if any(n.split(":")[0] in NETS for n in names) else "cpu"
    with ExitStack() as players:
        seated = [players.enter_context(closing(parse_player(
            name, made, seed=seed, device=where, slots=AT_ONCE))) for name in names]
        known = _solved_positions(made, games, count or COUNT, low_high, seed)
        say(f"{made.name}: {len(known.ply):,} positions after {known.ply.min()} to "
            f"{known.ply.max()} moves, judged by an exact solver; 95% intervals")
        results = []
        for name, player in zip(names, seated, strict=True):
            with Bar(name, 1, "") as bar:
                results.append(judge_one(made, player, known, seed))
                bar.at(1)
            say(_kept_and_missed(results[-1]))
    say(_table("value-preserving", results, [result.kept for result in results], known))
    say(_table("perfect", results, [result.perfect for result in results], known))
    picture = out or (folder / "judge.png" if folder else None)
    if picture is not None:
        _write_picture(made.name, results, known, picture)
        say(f"picture: {picture}")


def _plies_of(game: Game, text: str | None) -> tuple[int, int]:
    from selfplay.games.solve import plies as worth_solving

    return opening_of(text, game, "--plies") if text else worth_solving(game)


def _solved_positions(
    game: Game, games: list[tuple[int, ...]], count: int, plies: tuple[int, int], seed: int
) -> Positions:
    """The positions after ``games``, or else drawn ones, with a bar."""
    import torch

    from selfplay.arena.judge import drawn_positions, solved
    from selfplay.common.console import Bar

    count, threads, done = len(games) or count, torch.get_num_threads(), [0]
    with Bar("solving", count, "positions") as bar:

        def more(number: int) -> None:
            done[0] += number
            bar.at(done[0])

        return (solved(game, games, threads, more) if games else
                drawn_positions(game, count, plies, seed, threads, more))


def _asked_players(
    who: tuple[str, ...], game: str | None, sims: str, samples: str,
) -> tuple[list[str], str, Path | None]:
    """(players' names, the game, the first run's folder) of runs and players."""
    from selfplay.arena.spec import budget
    from selfplay.common.errors import UserError
    from selfplay.learn import packaged

    counts = [word.strip() for word in sims.split(",")]
    for word in counts:
        if word != "0" and budget(word) is None:
            raise UserError(f"--sims {sims}: numbers of simulations wanted, as {SIMS}")
    votes = counts_of("--samples", samples)
    names: list[str] = []
    first = None
    for word in who:
        folder = Path(word)
        known = _run_of(folder)
        if known is None:
            if word == "human":
                raise UserError("human: a program is judged, with a position at a time out of many "
                                "games; play against one with selfplay match")
            if ":" not in word and word != "random":
                there = "holds no run" if folder.is_dir() else "no run there"
                net = f"net:{word}" if packaged.find(word) else "net:connect4"
                raise UserError(f"{word}: {there}, and it names no player; give a run such as "
                                f"runs/connect4, or a player such as {net} or mcts:100")
            names.append(word)
            continue
        played, nets, text = known
        if game is not None and game != played:
            raise UserError(f"{folder}: a run of {played}, not of {game}")
        game, first = played, first or folder
        if not nets:
            raise UserError(f"{folder}: no net there yet; go on with selfplay "
                            f"{'llm ' * text}train --run {folder}")
        kind, efforts = ("llm", [f"@{n}" * (n > 1) for n in votes]) if text else (
            "net", [f"@{n}" * (n != "0") for n in counts])
        names += [f"{kind}:{net}{effort}" for effort in efforts for net in nets]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{twice[0]} is there twice: name it once")
    return names, players_game(names, game), first


def _run_of(folder: Path) -> tuple[str, list[Path], bool] | None:
    """(the game, the checkpoints of SFT and RL, whether they are language models) of a run; None
    where there is none."""
    from selfplay.learn import checkpoint
    from selfplay.llm.stage_config import game_learnt
    from selfplay.run.folder import stored_config

    text = game_learnt(folder)
    config = stored_config(folder) if folder.is_dir() and not text else None
    if config is None and not text:
        return None
    nets = [net for stage in ("sft", "rl")
            if (net := checkpoint.chosen(folder / stage)) is not None]
    return text if config is None else config.game, nets, bool(text)


def _kept_and_missed(result: Judgement) -> str:
    won = result.share(result.took, result.wins)
    return (f"  keeps the value {result.share(result.kept)}, perfect "
            f"{result.share(result.perfect)}, missed {won.total - won.hits} of {won.total} "
            "wins in one move")


def _table(title: str, results: list[Judgement], hits: list[Any], known: Positions) -> str:
    """Moves in percent that are ``hits`` (bool [n] of each result), a column for each stretch of
    plies."""
    from selfplay.arena.judge import by_ply

    parts = by_ply(known)
    head = [f"{low}-{high}" if low < high else f"{low}" for low, high, _ in parts]
    width = max(len(result.player) for result in results)
    lines = [f"{title} moves (%) by ply:",
             " " * width + "".join(f"{word:>8}" for word in ["all", *head])]
    for result, those in zip(results, hits, strict=True):
        shares = [result.share(those), *(result.share(those, among) for *_, among in parts)]
        lines.append(f"{result.player:<{width}}"
                     + "".join(f"{100 * share.rate:>8.1f}" for share in shares))
    return "\n".join(lines)


def _write_picture(game: str, results: list[Judgement], known: Positions, path: Path) -> None:
    from selfplay.arena.judge import by_ply
    from selfplay.arena.spec import effort_of
    from selfplay.common.files import write_atomic
    from selfplay.report.judged import KeptCurve, draw_judged

    def curve(result: Any) -> KeptCurve:
        shares = [(low, high, result.share(result.kept, among))
                  for low, high, among in by_ply(known)]
        who, effort = effort_of(result.player)
        return KeptCurve(result.player, [(low, high, share.hits, share.total)
                                         for low, high, share in shares], who, effort)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, draw_judged(f"{game}: moves beside perfect play, 95% intervals",
                                   [curve(result) for result in results]))
