"""Whole runs, as the command line makes them, for a notebook."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from selfplay.api.boards import load
from selfplay.api.training import words_of
from selfplay.common.errors import UserError
from selfplay.common.files import read_json
from selfplay.common.history import read_history
from selfplay.games.own import is_own
from selfplay.run.config import RunConfig
from selfplay.run.folder import stored_config
from selfplay.run.own_nets import use_net
from selfplay.run.pipeline import train as run_stages
from selfplay.run.start import device_of, open_or_start

STAGES = ("sft", "rl", "value")


class Run:
    """A run on disk. In a notebook it shows its chart.

    folder: of the run. config: its settings. Raises UserError where no run is.

    >>> import selfplay as sp
    >>> sp.Run("no/such/folder")
    Traceback (most recent call last):
        ...
    selfplay.common.errors.UserError: no/such/folder: no run there
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        config = stored_config(self.folder)
        if config is None:
            raise UserError(f"{folder}: no run there")
        self.config: RunConfig = config

    def history(self, stage: str = "rl") -> list[dict[str, Any]]:
        """The rows that ``stage`` (sft, rl, value) has written so far."""
        if stage not in STAGES:
            raise UserError(f"stage {stage!r}: one of {', '.join(STAGES)} wanted")
        return read_history(self.folder / stage / "history.jsonl")

    @property
    def summary(self) -> dict[str, Any]:
        """What the chart shows, as numbers; empty before the first chart."""
        path = self.folder / "summary.json"
        return read_json(path, dict) if path.exists() else {}

    def net(self, device: str = "cpu") -> nn.Module:
        """The newest net (see ``sp.load``); one of your own is built by the file that the run
        was started with."""
        if is_own(self.config.net):
            use_net(self.config.net)
        return load(self.folder, device=device)

    def __repr__(self) -> str:
        rows = {stage: len(self.history(stage)) for stage in STAGES}
        done = ", ".join(f"{stage} {count} rows" for stage, count in rows.items() if count)
        return f"Run({str(self.folder)!r}): {self.config.game}, {done or 'nothing learnt yet'}"

    def _repr_png_(self) -> bytes | None:
        path = self.folder / "chart.png"
        return path.read_bytes() if path.exists() else None

    def _repr_html_(self) -> str:
        picture, words = self._repr_png_(), escape(repr(self))
        if picture is None:
            return f"<p>{words}; no chart yet</p>"
        data = base64.b64encode(picture).decode()
        return (f'<p>{words}</p><img alt="the chart of the run" style="max-width:100%" '
                f'src="data:image/png;base64,{data}">')


def train(
    game: str | None = None, minutes: float | None = None, *, run: Path | str | None = None,
    recipe: str | None = None, algo: str | None = None, init: str | None = None,
    net: str | None = None, device: str | None = None, seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """The whole job, as ``selfplay train``: expert games, SFT, self-play RL, matches, the chart.

    The same call continues a run. game: as on the command line. minutes: to spend in all [30].
    run: its folder [runs/GAME]. recipe: alphago, alphazero or zero. algo: gumbel, puct, or a
    policy gradient. init: sft, random or a checkpoint. net: its size, or path.py:build. settings:
    any other, by the keys of ``--set``: ``{"rl.sims": 32}``. None leaves the default.

    Returns the ``Run``. Raises UserError, before anything is made, for what does not fit.

    >>> import selfplay as sp
    >>> run = sp.train("tictactoe", minutes=0.1, recipe="zero", net="1x8",      # doctest: +SKIP
    ...                settings={"rl.games": 8, "rl.positions": 64, "eval.games": 4})
    >>> run.history("rl")[-1]["iteration"]                                      # doctest: +SKIP
    12
    """
    words = [word for key, value in (settings or {}).items()
             for word in words_of(*_stage_and(key, value))]
    opened = open_or_start(
        None if run is None else Path(run), game, words, algo, recipe, minutes=minutes, init=init,
        net=net, device=device, seed=seed)
    run_stages(opened, device_of(opened.config.device))
    return Run(opened.folder)


def _stage_and(key: str, value: Any) -> tuple[str, dict[str, Any]]:
    stage, dot, name = key.rpartition(".")
    if not dot:
        raise UserError(f"settings: {key!r} is no key of --set, such as rl.sims")
    return stage, {name: value}
