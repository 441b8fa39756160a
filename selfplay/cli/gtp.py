"""``selfplay gtp``."""

from __future__ import annotations

import click

from selfplay.cli.options import Number, Whole, device_of, device_option, seed_option

net_option = click.option(
    "--net", default="go9x9", show_default=True, metavar="NAME|PATH[@N]",
    help="A net that came along, a run, a checkpoint; @64 simulations a move, @0 the raw policy; "
         "mcts:1000, no net; or llm:RUN, a language model, among legal moves.")
code_option = click.option("--code", multiple=True, metavar="FILE.py:NAME",
                           help="Your own net, where the checkpoint is of one (runs the file).")


@click.command()
@net_option
@click.option("--game", default=None, metavar="NAME",
              help="What it must play [the net's own game].")
@click.option("--visits", type=Whole(min=0), default=None,
              help="Simulations a move where --net has no @N [200].")
@click.option("--seconds", type=Number(min=0), default=None, help="For a move, at most.")
@click.option("--ponder", is_flag=True, help="Think while the opponent does.")
@click.option("--resign", type=Number(min=0, max=1), default=0.03, show_default=True,
              help="Give up where the chance to win stays below this; 0 never.")
@click.option("--time-margin", "margin", type=Number(min=0), default=0.3, show_default=True,
              help="Seconds of each move that are left unused.")
@code_option
@device_option
@seed_option
def gtp(net: str, game: str | None, visits: int | None, seconds: float | None, ponder: bool,
        resign: float, margin: float, code: tuple[str, ...], device: str | None,
        seed: int | None) -> None:
    """A net as a GTP engine, for Sabaki, KaTrain, GoGui, Lizzie, q5Go and programs."""
    import sys

    from selfplay.serve.gtp.protocol import own_stdout

    with own_stdout() as stdout:  # before anything can print
        from selfplay.common.compiling import announce, import_torch

        announce()  # on stderr
        if not code and not net.strip().startswith("llm:"):
            import_torch()
        from selfplay.run.own_nets import use_net
        from selfplay.serve.gtp.commands import run
        from selfplay.serve.gtp.engine import Engine, Manner
        from selfplay.serve.mind import mind_of

        list(map(use_net, code))
        mind = mind_of(net, game, device_of(device or "auto"), visits)
        engine = Engine(mind, Manner(resign, ponder, margin, seconds), seed or 0)
        run(engine, sys.stdin.buffer, stdout)
