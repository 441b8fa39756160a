"""The options that several commands share, and what their words mean."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

from selfplay.common.errors import UserError
from selfplay.common.settings import MAX_SEED
from selfplay.learn.config import ALGORITHMS
from selfplay.run.config import RECIPES

NETS = {"net", "policy", "alphago"}  #: players that run on a device


def game_option(required: bool = True) -> Any:
    return click.option("--game", required=required, metavar="NAME",
                        help="go9x9, connect4, openspiel:hex(board_size=5), my.py:Game … "
                             "(see: selfplay games)")


def finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


seed_option = click.option("--seed", type=click.IntRange(0, MAX_SEED), default=None,
                           help="Seed of everything drawn [0].")
device_option = click.option("--device", default=None, metavar="auto|cpu|cuda",
                             help="Where nets run [auto].")
minutes_option = click.option("--minutes", type=click.FloatRange(min=0.05), default=None,
                              callback=finite, help="Time to spend [30].")
set_option = click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                          help="Any setting, such as rl.sims=32 (repeatable).")
run_option = click.option("--run", "folder", type=click.Path(path_type=Path), default=None,
                          help="The run's folder [runs/GAME].")
class _Algorithm(click.Choice):
    """A name, or a dict of settings in a file of the user's."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if ".py:" in value else super().convert(value, param, ctx)


net_option = click.option("--net", default=None, metavar="BxC|FILE.py:NAME",
                          help="Size of the net, or a function of yours that builds one.")
own_nets_option = click.option("--net", "nets", multiple=True, metavar="FILE.py:NAME",
                               help="Your own nets that players may load (runs the file).")
log_option = click.option("--log", multiple=True, metavar="NAME|FILE.py:NAME",
                          help="Loggers beside TensorBoard: wandb, mlflow, trackio, your own.")
algo_option = click.option("--algo", default=None, metavar="NAME",
                           type=_Algorithm(["gumbel", "puct", *ALGORITHMS]),
                           help="gumbel, puct: self-play with search; policy gradient without: "
                                f"{', '.join(ALGORITHMS)} [gumbel].")
recipe_option = click.option(
    "--recipe", default=None, metavar="NAME", type=click.Choice(RECIPES),
    help="alphago: SFT, policy gradient, a value net, search with both and rollouts; alphazero: "
         "self-play with search from SFT; zero: from nothing [alphazero].")
init_option = click.option("--init", default=None, metavar="sft|random|CHECKPOINT",
                           help="What self-play starts from [sft].")


def device_of(name: str) -> str:
    """ "auto" to "cuda" or "cpu"."""
    from selfplay.run.start import device_of as found

    return found(name)


def opening_of(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise UserError(f"--opening {text}: a range such as 2-8 wanted")
    return int(found[1]), int(found[2] or found[1])
