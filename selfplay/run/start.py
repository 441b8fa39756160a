"""Open a run from what the user asked for: a new one from the game's preset, or the one on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.settings import replace_key, set_key
from selfplay.common.words import command, counted
from selfplay.games import identity, located, make
from selfplay.run.config import override, preset, with_algorithm, with_init, with_recipe
from selfplay.run.folder import Run, open_run, stored_config


def device_of(name: str, where: str = "--device") -> str:
    """Turn "auto" into "cuda" or "cpu". Raises UserError, which says ``where`` it was asked for,
    for another one and where CUDA is not there."""
    import torch

    cuda = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", name)
    if name not in ("auto", "cpu") and cuda is None:
        raise UserError(f"{where} {name}: auto, cpu or cuda wanted")
    if cuda and not torch.cuda.is_available():
        raise UserError(f"{where} cuda: no CUDA device is visible to torch; take cpu")
    if cuda and int(cuda[1] or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"{where} {name}: there are {counted(count, 'GPU')}, from cuda:0 on")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def open_or_start(
    folder: Path | None = None, game: str | None = None, assignments: Iterable[str] = (),
    algo: str | None = None, recipe: str | None = None, **top: Any,
) -> Run:
    """The run that the options describe: a new one, or the one on disk with the changes it allows.

    top: fields of RunConfig; None or () leaves a field as it is. Raises UserError; NetError for a
    net that the one to start from does not grow to.
    """
    assignments = list(assignments)
    if folder is None:
        if game is None:
            raise UserError("give --game NAME for a new run, or --run FOLDER for one on disk")
        folder = Path("runs") / re.sub(r"[^A-Za-z0-9]+", "-", identity(game)).strip("-")
    config = stored_config(folder)
    if config is None:
        if game is None:
            new = command("selfplay", "train", "--game", "NAME", "--run", folder)
            raise UserError(f"{folder}: no run there; start one with {new}")
        config = preset(make(game).name)
    elif game is not None and make(game).name != identity(config.game):
        raise UserError(f"{folder}: is a run of {config.game}, not {game}; give another --run")
    if game is not None and located(game) != game:  # a game's file may have moved
        config = replace_key(config, "game", located(game))
    if recipe is not None:
        config = with_recipe(config, recipe)
    for key, value in top.items():
        if value not in (None, ()):
            config = with_init(config, value) if key == "init" else set_key(config, key, value)
    if algo is not None:
        config = with_algorithm(config, algo)
    config = override(config, assignments)
    device_of(config.device)
    named = top.get("net") or any(re.match(r"\s*net\s*=", words) for words in assignments)
    return open_run(folder, config, grow=bool(named))
