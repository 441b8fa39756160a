"""``selfplay play``: the web board."""

from __future__ import annotations

import click

from selfplay.cli.options import Whole


@click.command()
@click.option("--game", default=None, metavar="NAME",
              help="What is on the first board [go9x9, or the net's game].")
@click.option("--net", default=None, metavar="NET",
              help="A run, a checkpoint, or a net that came along (see: selfplay nets).")
@click.option("--port", type=Whole(min=1, max=65535), default=None,
              help="Of 127.0.0.1 [the first that is free from 8117 on].")
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
def play(game: str | None, net: str | None, port: int | None, browser: bool) -> None:
    """Play and analyse in the browser: every game, with a net or without. Ctrl-C ends it."""
    import contextlib
    import webbrowser

    from selfplay.common.compiling import announce
    from selfplay.common.console import say

    announce()
    if net is not None:
        from selfplay.serve.mind import mind_of

        game = mind_of(net, game).game.name
    elif game is not None:
        from selfplay.games import make

        game = make(game).name
    say("the board is being set up")
    from selfplay.serve.web import server

    listening = server.listen(port)
    address = f"http://{server.HOST}:{listening.getsockname()[1]}/"
    say(f"{address}  (Ctrl-C ends it)")
    if browser:
        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):
        server.program(game or "go9x9", net, alone=True).run(sockets=[listening])
