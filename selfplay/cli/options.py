"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfplay.cli.mistakes import several
from selfplay.common.errors import UserError
from selfplay.common.limits import MAX_SEED
from selfplay.common.words import clip, one_of
from selfplay.learn.config import ALGORITHMS
from selfplay.run.config import RECIPES

if TYPE_CHECKING:
    from selfplay.arena.play import Away
    from selfplay.cluster.farm import Farm
    from selfplay.games.base import Game
    from selfplay.run.config import RayConfig

NETS = {"net", "policy", "alphago", "llm"}  #: players that run on a device


def game_option(required: bool = True, more: str = "") -> Any:
    return click.option("--game", required=required, metavar="NAME",
                        help="go9x9, connect4, openspiel:hex(board_size=5), my.py:Game … "
                             f"(see: selfplay games){more}")


def players_game(players: Iterable[str], game: str | None) -> str:
    """``game``, or else the one that the players' nets have learnt. Raises UserError where they
    have learnt none, or several."""
    from selfplay.arena.spec import game_of

    if game:
        return game
    learnt = {found: player.strip() for player in players if (found := game_of(player))}
    if not learnt:
        raise UserError("--game NAME: which game do these players play?")
    if len(learnt) > 1:
        told = ", ".join(f"{clip(player, 80)} plays {name}" for name, player in learnt.items())
        raise UserError(f"{told}: different games; name players of one, or --game NAME that they "
                        "all play")
    return next(iter(learnt))


class Whole(click.IntRange):
    """A whole number; the error names the option, what was typed and what is wanted."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            raise _mistaken(param, ctx, value,
                            f"a whole number, {_limits_of(self)}, wanted") from None


class Number(click.FloatRange):
    """A finite number, with errors as for ``Whole``."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        wanted = f"a number, {_limits_of(self)}, wanted"
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter:
            raise _mistaken(param, ctx, value, wanted) from None
        if not math.isfinite(number):
            raise _mistaken(param, ctx, value, f"{number} is not a finite number; {wanted}")
        return number


class NewFile(click.Path):
    """A file to write at the end; whether it can be there is seen at the start."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        try:
            folders = (above for above in path.absolute().parents if above.exists())
            folder = next(folders, path)  # nothing is above /
            if path.is_dir():
                what = "a folder; a file's name wanted"
            elif not folder.is_dir():
                what = f"{clip(str(folder), 80)} is no folder"
            elif not os.access(folder, os.W_OK):
                what = f"nothing can be written in {clip(str(folder), 80)}"
            else:
                return path
        except (OSError, ValueError) as error:  # too long, or with a byte of 0 in it
            what = str(getattr(error, "strerror", None) or error)
        raise _mistaken(param, ctx, value, what)


class OneOf(click.Choice[str]):
    """One of several names; the error suggests the nearest."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value in self.choices:
            return str(value)
        raise _mistaken(param, ctx, value, one_of(self.choices, value))


def _limits_of(kind: Any) -> str:
    return f"{kind.min} or more" if kind.max is None else f"from {kind.min} to {kind.max}"


def _mistaken(param: Any, ctx: Any, value: Any, what: str) -> click.UsageError:
    return click.UsageError(f"{param.opts[0]} {clip(str(value), 80)}: {what}", ctx)


class Commands(click.Group):
    """A group whose help shows each command's summary uncut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(1000))
                                for name in self.list_commands(ctx)])


seed_option = click.option("--seed", type=Whole(0, MAX_SEED), default=None,
                           help="Seed of everything drawn [0].")
device_option = click.option("--device", default=None, metavar="auto|cpu|cuda",
                             help="Where nets run [auto].")
minutes_option = click.option("--minutes", type=Number(min=0.05), default=None,
                              help="For train in all, over every start of the run; for a stage "
                              "alone, for this start [30].")
set_option = click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                          help="Any setting, such as rl.sims=32 (repeatable).")
run_option = click.option("--run", "folder", type=click.Path(path_type=Path), default=None,
                          help="The run's folder [runs/GAME].")


class _Algorithm(OneOf):
    """A name, or a dict of settings in one of the user's files."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if ".py:" in value else super().convert(value, param, ctx)


net_option = click.option("--net", default=None, metavar="BxC|FILE.py:NAME",
                          help="Size of the net, or a function of yours that builds one. A net to "
                               "start from (--init) grows to it.")
own_nets_option = click.option("--net", "nets", multiple=True, metavar="FILE.py:NAME",
                               help="Your own nets that players may load (runs the file).")
log_option = click.option("--log", multiple=True, metavar="NAME|FILE.py:NAME",
                          help="Loggers beside TensorBoard: wandb, mlflow, trackio, your own.")
algo_option = click.option("--algo", default=None, metavar="NAME",
                           type=_Algorithm(["gumbel", "puct", *ALGORITHMS]),
                           help="gumbel, puct: self-play with search; policy gradient without: "
                                f"{', '.join(ALGORITHMS)} [gumbel].")
recipe_option = click.option(
    "--recipe", default=None, metavar="NAME", type=OneOf(RECIPES),
    help="alphago: SFT, policy gradient, a value net, search with both and rollouts; alphazero: "
         "self-play with search from SFT; zero: from nothing [alphazero].")
init_option = click.option("--init", default=None, metavar="sft|random|CHECKPOINT",
                           help="What self-play starts from [sft].")


ray_option = click.option("--ray", default=None, metavar="auto|HOST:PORT|local",
                          help="Play on the machines of a Ray cluster: the one that this machine "
                               "is of, the one there, or a new one here alone.")
actors_option = click.option("--actors", type=Whole(min=1), default=None,
                             help="Actors on Ray, at most [as many as there is room for].")


@contextmanager
def farm_of(
    ray: str | None, actors: int | None, config: RayConfig | None = None
) -> Iterator[Farm | None]:
    """The cluster that ``--ray`` names, or None. Raises UserError where it cannot be had."""
    if ray is None:
        if actors is not None:
            raise UserError("--actors: of a cluster; give --ray as well")
        yield None
        return
    if several():
        raise UserError("--ray: one process asks a cluster for games; leave out torchrun, or --ray")
    from selfplay.cluster.farm import Farm
    from selfplay.run.config import RayConfig

    farm = Farm(ray, config or RayConfig(), actors)
    try:
        yield farm
    finally:
        farm.close()


@contextmanager
def away_of(
    ray: str | None, actors: int | None, game: str, nets: tuple[str, ...]
) -> Iterator[Away | None]:
    """What plays matches of ``game`` on the cluster that ``--ray`` names, or None."""
    from selfplay.games.own import located

    with farm_of(ray, actors) as farm:
        if farm is None:
            yield None
            return
        from selfplay.cluster.matches import SpreadMatches

        yield SpreadMatches(farm, located(game), tuple(map(located, nets)))


def device_of(name: str) -> str:
    """Turn "auto" into "cuda" or "cpu"."""
    from selfplay.run.start import device_of as found

    return found(name)


def opening_of(text: str, game: Game | None = None, option: str = "--opening") -> tuple[int, int]:
    """(fewest, most) plies. Raises UserError, which names ``option``, for anything else, and for so
    many that every ``game`` is over by then."""
    found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if high < low:
        raise UserError(f"{option} {text}: a range such as 2-8 wanted")
    if game is not None and high >= game.max_moves:
        raise UserError(f"{option} {text}: a game of {game.name} has at most {game.max_moves} "
                        f"moves; a range within 0-{game.max_moves - 1} wanted")
    return low, high


def counts_of(option: str, text: str, digits: int = 4) -> tuple[int, ...]:
    """Whole numbers with commas, in order. Raises UserError for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(rf"[1-9][0-9]{{0,{digits - 1}}}", part) for part in parts):
        raise UserError(f"{option} {text}: counts such as 1,2,4,8,16 wanted")
    return tuple(sorted({int(part) for part in parts}))
