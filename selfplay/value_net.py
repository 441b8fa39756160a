"""AlphaGo's value net: what the RL policy's games against itself come to, learnt from one position
of each (``value_games``) and judged by the positions of other games.

A net that has learnt the games by heart shows it in the difference of two errors: mean (v - z)^2
over positions that it has learnt from, and over those held out (Silver et al. 2016 report both).
v and z are in [-1, 1]; a quarter of it is the error of a probability to win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from selfplay import checkpoint
from selfplay.alphago import METRIC
from selfplay.config import ValueConfig
from selfplay.data import Columns, evenly, unpack
from selfplay.errors import UserError
from selfplay.flat import Lesson, noted_best, train_flat
from selfplay.games.base import Game
from selfplay.models import NetSpec, build, seeded
from selfplay.rng import fingerprint
from selfplay.train import TrainConfig, Trainer, evaluate_columns

SALT = 0x5A2


def positions(game: Game, columns: Columns) -> NDArray[np.uint64]:
    """uint64 [n]: equal for equal positions and for those that a symmetry of the board turns into
    each other, else different but by accident."""
    planes = unpack(columns.obs, game.obs_shape).reshape(len(columns.obs), game.obs_shape[0], -1)
    found = [fingerprint((np.ascontiguousarray(planes[:, :, cells]),), SALT)
             for cells in game.symmetries().cells]
    return np.min(found, axis=0)


def split_rows(
    game: Game, columns: Columns, held_out: float, seed: int
) -> tuple[Columns, Columns]:
    """(to learn from, held out), by position: one that is held out is not learnt from in any game.

    Which side a position is on does not depend on what other games there are.
    Raises UserError where either side would be empty.
    """
    key = fingerprint((positions(game, columns),), seed)
    held = (key >> np.uint64(11)).astype(np.float64) * 2.0**-53 < held_out
    if held.all() or not held.any():
        raise UserError(f"value net: {len(held)} positions, {int(held.sum())} of them held out; "
                        "give it more games (value.games) and some to be held out (value.held_out)")
    return Columns(*(c[~held] for c in columns)), Columns(*(c[held] for c in columns))


def train_value(
    game: Game,
    spec: NetSpec,
    policy: Path,
    columns: Columns,
    config: ValueConfig,
    folder: Path,
    *,
    device: str,
    seed: int,
    about: Mapping[str, Any],
    before: Mapping[str, float],
    **hooks: Any,
) -> Path:
    """Learn the results of ``columns``; the best checkpoint by the held-out error.

    policy: the RL policy's checkpoint, from whose net this one starts, unless ``config.init`` is
    random. about: what checkpoints tell beside. before: compute spent so far. See
    ``flat.train_flat`` for the hooks left, log and progress, and for how it goes on.
    Rows of the history have value_mse and value_accuracy of held-out positions, train_mse of as
    many that were learnt from.
    """
    train, held = split_rows(game, columns, config.held_out, seed)
    if config.init == "rl":
        net, meta = checkpoint.load_net(policy, game.name, device)
        spec = checkpoint.spec_of(meta)
    else:
        net = seeded(seed, lambda: build(spec))
    trainer = Trainer(net.train(), TrainConfig(
        batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, warmup=100, policy_weight=0.0, value_weight=1.0,
        ownership_weight=0.0, score_weight=0.0,
    ), device)
    lesson = Lesson(
        kind="value", metric=METRIC, kept=(METRIC, "value_accuracy", "train_mse"), salt=SALT,
        look=_look(game, evenly(train, len(held.value)), held, device), about=about, before=before)
    return train_flat(game, spec, trainer, train, lesson, config, folder, seed=seed, **hooks)


def _look(
    game: Game, learnt: Columns, held: Columns, device: str
) -> Callable[[nn.Module], dict[str, float]]:
    def look(net: nn.Module) -> dict[str, float]:
        seen = evaluate_columns(net, game, held, device)
        return {METRIC: seen[METRIC], "value_accuracy": seen["value_accuracy"],
                "train_mse": evaluate_columns(net, game, learnt, device)[METRIC]}

    return look


def best_value(folder: Path) -> Path | None:
    """The checkpoint of the lowest held-out error; None if there is none yet."""
    return noted_best(folder) or checkpoint.lowest_loss(folder, METRIC)
