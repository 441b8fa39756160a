"""The command line. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfplay.cli.analyse import analyse
from selfplay.cli.gtp import gtp
from selfplay.cli.judge import judge
from selfplay.cli.llm import llm as texts
from selfplay.cli.match import match
from selfplay.cli.nets import export, nets
from selfplay.cli.options import (
    NETS,
    Commands,
    Number,
    Whole,
    actors_option,
    algo_option,
    away_of,
    counts_of,
    device_of,
    device_option,
    farm_of,
    game_option,
    init_option,
    log_option,
    minutes_option,
    net_option,
    opening_of,
    own_nets_option,
    ray_option,
    recipe_option,
    run_option,
    seed_option,
    set_option,
)
from selfplay.cli.play import play
from selfplay.common.errors import UserError
from selfplay.common.words import counted
from selfplay.learn.config import ALGORITHMS

if TYPE_CHECKING:
    from selfplay.cluster.farm import Farm
    from selfplay.run.folder import Run


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(package_name="selfplay-lab", prog_name="selfplay")
def cli() -> None:
    """The AlphaGo recipe: expert games, supervised learning, self-play RL, and the chart.

    \b
    selfplay train --game go9x9           the whole job; the same command continues it
    selfplay match net:runs/go9x9@64 mcts:1000 --game go9x9
    selfplay play                         a board in the browser
    selfplay games                        what can be played
    selfplay llm train --task chain_sum   the same for language models

    Players, wherever one is asked for: random, mcts:1000 (1000x8), net:PATH, net:PATH@64,
    policy:PATH, alphago:RUN@64, llm:RUN, "gtp:gnugo --mode gtp --level 10", openspiel-mcts:1000,
    human, path.py:NAME.
    """


for command in (texts, gtp, analyse, nets, export, judge, match, play):
    cli.add_command(command)


@cli.command()
@game_option(required=False)
@recipe_option
@minutes_option
@run_option
@init_option
@algo_option
@net_option
@log_option
@device_option
@seed_option
@ray_option
@actors_option
@set_option
def train(ray: str | None, actors: int | None, **options: Any) -> None:
    """Expert games, SFT, self-play RL, matches, the chart: the whole job, resumable."""
    from selfplay.run.pipeline import train as run_all

    run = _open(**options)
    _banner(run, run.config.minutes)
    with farm_of(ray, actors, run.config.ray) as farm:
        run_all(run, device_of(run.config.device), elsewhere=_elsewhere(farm))


@cli.command()
@game_option(required=False)
@click.option("--games", "files", multiple=True, metavar="FILE|FOLDER",
              help="Expert games: .sgf, .sgf.gz, .zip, .jsonl.gz or a folder (repeatable).")
@minutes_option
@run_option
@net_option
@log_option
@device_option
@seed_option
@set_option
@click.option("--again", is_flag=True, help="Go on even if RL has begun from this SFT: RL then "
              "begins again, and what it has made is kept in earlier/.")
def sft(files: tuple[str, ...], again: bool, **options: Any) -> None:
    """Learn an expert's moves until the held-out curve is flat."""
    if files:
        options["expert.games"] = files
    _stage("expert", "sft", again=again, **options)


@cli.command()
@game_option(required=False)
@minutes_option
@run_option
@init_option
@algo_option
@net_option
@log_option
@device_option
@seed_option
@ray_option
@actors_option
@set_option
def rl(**options: Any) -> None:
    """Improve a net by self-play with search, or its raw policy by policy gradient."""
    _stage("rl", **options)


@cli.command()
@minutes_option
@run_option
@device_option
@ray_option
@actors_option
@set_option
def value(**options: Any) -> None:
    """AlphaGo's value net, from games of the policy that rl --algo has made."""
    _stage("value", recipe="alphago", **options)


@cli.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN...",
                type=click.Path(path_type=Path))
@game_option(required=False)
@click.option("--minutes", type=Number(min=0), default=None,
              help="Time for matches that the chart still lacks; 0 draws what is on disk [0; with "
              "a language model's run 3].")
@click.option("--search", default=None, metavar="N,N,...",
              help="Compare numbers of simulations, such as 1,4,16,64,256,1024, of the last nets; "
              "with --minutes [beside a language model 1,4,16,64].")
@click.option("--mask", is_flag=True, help="Language models choose among legal moves only.")
@click.option("--labels", default=None, metavar="A,B,…", help="Names of several runs.")
@click.option("--time", "by_time", is_flag=True,
              help="Several runs over training time, not compute.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/compared"),
              show_default=True, help="Folder for the matches and the chart of several runs, not a "
              "picture's name.")
@device_option
@ray_option
@actors_option
@set_option
def compare(folders: tuple[Path, ...], game: str | None, minutes: float | None, search: str | None,
            mask: bool, labels: str | None, by_time: bool, out: Path, device: str | None,
            ray: str | None, actors: int | None, assignments: tuple[str, ...]) -> None:
    """Redraw the chart of a run from what is on disk; or rate several runs together, of nets and
    of language models."""
    from selfplay.llm.stage_config import game_learnt
    from selfplay.run.pipeline import redraw
    from selfplay.run.pipeline import train as run_stages

    if out.suffix.lower() in (".png", ".jpg", ".jpeg", ".svg", ".pdf"):
        raise UserError(f"--out {out}: a folder wanted, such as {out.with_suffix('')}; the chart "
                        "is drawn in there")
    real = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder in folders if real.count(folder.resolve()) > 1]:
        raise UserError(f"compare: {' and '.join(twice)} are one run; name it once")
    amounts = counts_of("--search", search) if search is not None else ()
    if search is not None and len(amounts) < 3:
        raise UserError(f"--search {search}: three different numbers or more tell what search "
                        "brings, such as 1,4,16,64")
    written = [folder for folder in folders if game_learnt(folder)]
    minutes = (3.0 if written else 0.0) if minutes is None else minutes
    if amounts and not written and (len(folders) > 1 or not minutes):
        wanted = "of one run; name one, and" if len(folders) > 1 else "and takes time;"
        raise UserError(f"--search {search}: it plays matches {wanted} give it --minutes")
    if mask and not written:
        raise UserError("--mask: for a language model's run, and none is named")
    known = {folder: _open(folder=folder, device=device, assignments=assignments)
             for folder in folders if folder not in written}
    texts = None
    if written:
        from selfplay.llm.play.compared import texts_beside

        first = next(iter(known.values()), None)
        own, texts = texts_beside(written, first, assignments, mask, amounts)
        known |= own
    runs = [known[folder] for folder in folders]
    if game is not None and runs[0].game.name != game:
        raise UserError(f"{runs[0].folder}: a run of {runs[0].game.name}, not of {game}")
    run, where = runs[0], device_of(runs[0].config.device)
    with farm_of(ray, actors, run.config.ray) as farm:
        away = _elsewhere(farm)
        if len(runs) > 1 or texts:
            from selfplay.run.compare_runs import compare_runs

            compare_runs(runs, labels.split(",") if labels else [], minutes, out, where,
                         "seconds" if by_time else "flops", away.matches(*runs) if away else None,
                         texts)
        elif minutes > 0:
            run_stages(run, where, only=("eval",), minutes=minutes, search=amounts, elsewhere=away)
        else:
            redraw(run, where)


@cli.command()
@game_option()
@click.option("--player", required=True, help="The teacher: any player, for example "
              "\"gtp:gnugo --mode gtp --level 10\".")
@click.option("--games", "count", type=Whole(min=1), default=1000, show_default=True,
              help="Games to make.")
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="FILE.sgf.gz (Go) or FILE.jsonl.gz (any game).")
@click.option("--opening", default=None, metavar="LOW-HIGH",
              help="Random plies before the teacher takes over [2-8].")
@click.option("--slots", type=Whole(min=1), default=None,
              help="Games at once [2 with an outside engine, else 64].")
@own_nets_option
@device_option
@seed_option
@ray_option
@actors_option
def expert(game: str, player: str, count: int, out: Path, opening: str | None, slots: int | None,
           nets: tuple[str, ...], device: str | None, seed: int | None, ray: str | None,
           actors: int | None) -> None:
    """Make expert games: a player against itself from varied openings; can be continued."""
    from selfplay.arena.expert import generate
    from selfplay.common.console import Bar, say

    _use(nets)
    made = _make(game)
    plies = opening_of(opening, made) if opening else (2, 8)
    slots = slots or (2 if player.startswith("gtp:") else 64)
    where = device_of(device or "auto") if player.split(":")[0] in NETS else "cpu"
    live = player.split(":")[0] != "human"
    with away_of(ray, actors, game, nets) as away, Bar(
            f"expert games of {player}", count, "games", live=live, late=True) as bar:
        written = generate(made, player, count, out, seed=seed or 0, opening=plies,
                           slots=slots, device=where, away=away, progress=bar.at)
    before = " (all made before; for more give another name)" * written.before
    say(f"{out}: {counted(written.games, 'game')}, {made.rules}{before}")
    if written.duplicates or written.unfinished:
        say(f"left out: {written.duplicates} repeated, {written.unfinished} without a natural end")


@cli.command()
@click.option("--check", "spec", default=None, metavar="FILE.py:NAME",
              help="Play a game of your own and say what is wrong with it.")
def games(spec: str | None) -> None:
    """List what can be played: native games, OpenSpiel's and your own; --check looks for faults."""
    from selfplay.common.console import say
    from selfplay.games import describe

    if spec is None:
        return say(describe())
    from selfplay.games.check import check, sample

    made = _make(spec)
    found = check(made)
    for finding in found:
        say(f"{'fault' if finding.fault else 'note'}: {finding.check}: {finding.words}")
    if any(finding.fault for finding in found):
        sys.exit(1)
    say(f"{made.name}: no fault found. A random game, to see whether the right side wins:\n\n"
        f"{sample(made)}")


@cli.command()
@click.option("--game", default="go9x9", show_default=True, metavar="NAME",
              help="Whose kernels are measured.")
@click.option("--json", "as_json", is_flag=True, help="One row a line as JSON, no table.")
@click.option("--pairs", type=Whole(min=1), default=5, show_default=True,
              help="Pairs of runs (ours, reference) behind each ratio.")
@click.option("--net", default=None, metavar="BxC", help="Net of the self-play rows.")
@device_option
def bench(game: str, as_json: bool, pairs: int, net: str | None, device: str | None) -> None:
    """Measure speed, as ratios to references measured in the same run."""
    import json

    from selfplay.bench import run_bench, table
    from selfplay.common.console import say

    def tell(row: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(row))
        else:
            say(f"  {row['name']}: {row['ratio']:.2f} x {row['reference']}")

    rows = run_bench(_make(game), net=net, pairs=pairs, device=device_of(device or "auto"),
                     each=tell)
    if not as_json:
        click.echo(table(rows))


def _use(nets: tuple[str, ...]) -> None:
    """Make the user's own nets known, so that players can load them."""
    if nets:
        from selfplay.run.own_nets import use_net

        list(map(use_net, nets))


def _make(name: str) -> Any:
    """Make the game; from here on compilation is announced."""
    from selfplay.common.compiling import announce
    from selfplay.games import make

    announce()
    return make(name)


def _open(**options: Any) -> Run:
    """``open_or_start``; from here on compilation is announced."""
    from selfplay.common.compiling import announce
    from selfplay.run.start import open_or_start

    announce()
    return open_or_start(**options)


def _elsewhere(farm: Farm | None) -> Any:
    """What plays a run's games, if not this process."""
    if farm is None:
        return None
    from selfplay.cluster.stages import OnFarm

    return OnFarm(farm)


def _stage(
    *names: str, again: bool = False, ray: str | None = None, actors: int | None = None,
    **options: Any,
) -> None:
    """Run the named stages of a run for ``minutes``, together."""
    from selfplay.run.pipeline import say_what_next
    from selfplay.run.pipeline import train as run_stages

    minutes = options.pop("minutes")
    run = _open(**options)
    minutes = minutes or run.config.minutes
    _banner(run, minutes)
    with farm_of(ray, actors, run.config.ray) as farm:
        run_stages(run, device_of(run.config.device), only=names, minutes=minutes, again=again,
                   elsewhere=_elsewhere(farm))
    if "rl" in names:
        say_what_next(run)


def _banner(run: Run, minutes: float) -> None:
    from selfplay.common.console import say

    config = run.config
    how = f"recipe {config.recipe}"
    if config.rl.algorithm in ALGORITHMS:
        by = f"policy gradient by {config.rl.algorithm}"
        how = f"{how}, {by}" if config.recipe == "alphago" else by
    say(f"{run.game.name}: {run.game.rules}")
    say(f"run {run.folder}, net {config.net}, seed {config.seed}, {counted(minutes, 'minute')}, "
        f"{how}, from {config.init}")


def main() -> None:
    """The entry point: every mistake of the user ends in one line and a non-zero exit code."""
    from selfplay.common import interrupt

    interrupt.leave_on_signals()
    from selfplay.cli.mistakes import run_command

    sys.exit(run_command(cli))
