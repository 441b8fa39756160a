"""``selfplay analyse``: game records reviewed, or queries answered."""

from __future__ import annotations

from pathlib import Path

import click

from selfplay.cli.gtp import code_option, net_option
from selfplay.cli.options import Whole, device_of, device_option
from selfplay.common.errors import UserError


@click.command()
@click.argument("paths", nargs=-1, metavar="[GAME.sgf|FOLDER]...",
                type=click.Path(path_type=Path))
@net_option
@click.option("--game", default=None, metavar="NAME",
              help="What it must play [the net's own game].")
@click.option("--visits", type=Whole(min=1), default=None,
              help="Of each position, where --net has no @N and a query none of its own [200].")
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="The reviewed SGF, or a folder for several [GAME-reviewed.sgf].")
@click.option("--html", is_flag=True, help="A page beside each SGF: curve, mistakes, agreement.")
@click.option("--json", "as_json", is_flag=True,
              help="Answer queries of KataGo's analysis protocol, a line each, from stdin.")
@click.option("--winrates", default="black", show_default=True,
              type=click.Choice(["black", "white", "sidetomove"], case_sensitive=False),
              help="Whose winrates --json tells.")
@code_option
@device_option
def analyse(paths: tuple[Path, ...], net: str, game: str | None, visits: int | None,
            out: Path | None, html: bool, as_json: bool, winrates: str, code: tuple[str, ...],
            device: str | None) -> None:
    """Review games: SGF with winrates, best moves and variations, and a page; or --json.

    Games that cannot be reviewed are named, and the exit code is then not 0.
    """
    if as_json and (paths or out or html):
        raise UserError("--json reads queries from stdin: no file, --out or --html beside it")
    if not as_json and not paths:
        raise UserError("name a game (GAME.sgf) or a folder of them; or --json for queries")
    from selfplay.run.own_nets import use_net

    list(map(use_net, code))
    where = device_of(device or "auto")
    if as_json:
        return _answer_queries(net, game, where, visits, winrates.upper())
    from selfplay.common.compiling import announce
    from selfplay.common.console import say
    from selfplay.serve.mind import mind_of
    from selfplay.serve.review import review_files

    announce()
    mind = mind_of(net, game, where, visits)
    size = mind.game.board_shape[0] if game else 0
    for line in review_files(mind, paths, out, html, size):
        say(line)


def _answer_queries(net: str, game: str | None, device: str, visits: int | None, view: str) -> None:
    import sys

    from selfplay.serve.gtp.protocol import own_stdout
    from selfplay.serve.lines import LineReader

    with own_stdout() as stdout:
        from selfplay.serve.mind import mind_of
        from selfplay.serve.queries import Server, answer_queries

        def write(text: str) -> None:
            stdout.write(text.encode() + b"\n")
            stdout.flush()

        mind = mind_of(net, game, device, visits)
        answer_queries(Server(mind, mind.sims + 1, view), LineReader(sys.stdin.buffer).take, write)
