"""``selfplay nets`` and ``selfplay export``: the nets that came along, and nets for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from selfplay.common.errors import UserError


@click.command()
def nets() -> None:
    """The nets that came along: how strong each is, and the command that made it."""
    from selfplay.common.console import say
    from selfplay.serve.listing import nets_text

    say(nets_text())


def _file_option(name: str, words: str) -> Any:
    return click.option(f"--{name}", default=None, metavar="FILE", help=words,
                        type=click.Path(path_type=Path, dir_okay=False))


@click.command()
@click.argument("net", metavar="RUN|CHECKPOINT|NAME")
@_file_option("onnx", "As ONNX, with a card beside it.")
@_file_option("torchscript", "As TorchScript, with a card beside it.")
@_file_option("safetensors", "As nets that come along: weights, and a card as JSON.")
@click.option("--note", default="", help="A line on its strength, for the card.")
@click.option("--symmetries", default=None, type=click.IntRange(1), metavar="N",
              help="With --safetensors: play without search by the mean of so many views of the "
                   "board, turned and mirrored.  [1]")
@click.option("--code", multiple=True, metavar="FILE.py:NAME",
              help="Your own net, where the checkpoint is of one (runs the file).")
def export(net: str, note: str, symmetries: int | None, code: tuple[str, ...],
           **files: Path | None) -> None:
    """A net for other programs, with its card."""
    wanted = {kind: file for kind, file in files.items() if file is not None}
    if not wanted:
        raise UserError(f"name a file: selfplay export {net} --onnx net.onnx (or --torchscript, "
                        "--safetensors)")
    if symmetries is not None and set(wanted) != {"safetensors"}:
        raise UserError("--symmetries: goes with --safetensors; other files hold the net as it is")
    from selfplay.arena.spec import checkpoint_of
    from selfplay.common.console import say
    from selfplay.run.own_nets import use_net
    from selfplay.serve.card import card_of
    from selfplay.serve.export import export as write
    from selfplay.serve.export import must_be_apart

    must_be_apart(wanted)
    list(map(use_net, code))
    checkpoint, _ = checkpoint_of(net, f"net:{net}")
    card = card_of(checkpoint, note, symmetries)
    for kind, file in wanted.items():
        say(f"{file}, {write(checkpoint, card, kind, file)}")
