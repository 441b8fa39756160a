"""Learning from rows until what is held out shows no more gain.

The learning rate drops when a held-out loss hardly improves any more, or when so little time is
left that it has to; where it stops improving after the last drop the curve is flat, and that is
all that these rows can teach this net. SFT learns so, and the value net.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from selfplay import checkpoint
from selfplay.config import FlatConfig
from selfplay.curve import DROP, LATEST, Curve, replayed
from selfplay.data import Batch, Columns, batch
from selfplay.games.base import Game
from selfplay.models import NetSpec, flops
from selfplay.runs import read_history, read_json, write_history, write_json
from selfplay.threads import ahead
from selfplay.train import Trainer

COMPUTE = ("seconds", "flops", "positions")


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and how it is judged.

    kind: of the checkpoints. metric: the figure of ``look`` that must fall; look: what the net
    that acts makes of the held-out rows. kept: figures that checkpoints tell. about: what else
    they tell. before: compute spent before the first step. salt: tells its batches from others.
    """

    kind: str
    metric: str
    look: Callable[[nn.Module], dict[str, float]]
    kept: tuple[str, ...]
    salt: int
    about: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)


def train_flat(
    game: Game,
    spec: NetSpec,
    trainer: Trainer,
    rows: Columns,
    lesson: Lesson,
    config: FlatConfig,
    folder: Path,
    *,
    seed: int,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Callable[[int, dict[str, Any]], None] = lambda step, row: None,
) -> Path:
    """Train until the held-out curve is flat, ``max_steps``, or ``left()`` seconds are used up,
    but for one look at what is held out at least.

    Every look saves a checkpoint ``ckpt-STEP`` and a row of ``history.jsonl`` (the figures of
    ``lesson.look``, learning_rate, seconds, flops); a later call in the same folder goes on from
    the newest, with a new curve where there are more rows than then. Returns the best checkpoint
    by ``lesson.metric``, which ``best.json`` names as well. Batch k depends on (seed, k) alone,
    so that an interrupted run and an uninterrupted one see the same batches.
    """
    history: list[dict[str, Any]] = []
    start = {key: float(lesson.before.get(key, 0.0)) for key in COMPUTE}
    curve, step, spent, count = Curve(), 0, 0.0, len(rows.value)
    newest = checkpoint.newest(folder)
    if newest is not None:
        trainer.load_state(*checkpoint.load_training(newest))
        step = trainer.steps
        found = read_history(folder / "history.jsonl")
        history = [row for row in found if row["step"] <= step]
        curve = replayed([row for row in history if row.get("rows", count) == count],
                         lesson.metric, config.learning_rate, config.gain, config.patience)
        spent = max(history[-1]["seconds"] - start["seconds"], 0.0) if history else 0.0
        if curve.best_step:  # a kill may have come just before it was noted
            write_json(folder / "best.json", curve.note(config.drops))
    started = time.monotonic()
    batches = ahead(_batches(game, rows, config.batch_size, [seed, lesson.salt], step))
    per_step = 3 * flops(spec) * config.batch_size
    remaining = left()
    time_in_all = spent + remaining
    over = bool(history) and remaining <= 0  # without one look the run could not go on
    while curve.drops <= config.drops and step < config.max_steps and not over:
        if curve.drops < config.drops and remaining < time_in_all * LATEST ** (curve.drops + 1):
            curve.drop()
        trainer.learning_rate = config.learning_rate * DROP**curve.drops
        metrics = trainer.step(next(batches))
        step += 1
        progress(step, metrics)
        remaining = left()
        over = remaining <= 0
        if step % config.evaluate_every and step < config.max_steps and not over:
            continue
        row = {"step": step, "seconds": start["seconds"] + spent + time.monotonic() - started,
               "flops": start["flops"] + step * per_step,
               "positions": start["positions"] + step * config.batch_size,
               "learning_rate": trainer.learning_rate, "rows": count, "train": metrics,
               **lesson.look(trainer.acting())}
        history.append(row)
        write_history(folder / "history.jsonl", history)  # first: a row too many is left out later
        _save(folder, trainer, game, spec, lesson, row)
        for path in checkpoint.listing(folder)[-4:-2]:  # the last two: one may get damaged
            checkpoint.drop_training(path)
        curve.look(step, row[lesson.metric], config.gain, config.patience)
        write_json(folder / "best.json", curve.note(config.drops))
        log(row)
    best = noted_best(folder) or checkpoint.lowest_loss(folder, lesson.metric)
    assert best is not None, "there has been a look"
    return best


def _batches(
    game: Game, rows: Columns, size: int, seeds: list[int], step: int
) -> Iterator[Batch]:
    """Batches from number ``step`` on, without end."""
    symmetries = game.symmetries()
    for k in itertools.count(step):
        rng = np.random.default_rng([*seeds, k])
        yield batch(rows, rng.integers(0, len(rows.value), size), game, symmetries, rng)


def noted_best(folder: Path) -> Path | None:
    """The checkpoint that ``best.json`` names; None where there is no such note."""
    note = folder / "best.json"
    return folder / str(read_json(note)["checkpoint"]) if note.exists() else None


def is_flat(folder: Path) -> bool:
    """Whether learning ended because no more was learnt, not because the time was up."""
    note = folder / "best.json"
    return bool(read_json(note).get("flat")) if note.exists() else False


def _save(
    folder: Path, trainer: Trainer, game: Game, spec: NetSpec, lesson: Lesson, row: dict[str, Any]
) -> None:
    meta = {"game": game.name, "kind": lesson.kind, "step": row["step"],
            "compute": {key: row[key] for key in COMPUTE},
            "metrics": {key: row[key] for key in lesson.kept}, **lesson.about}
    checkpoint.save(folder / f"ckpt-{row['step']:06d}", trainer, spec, meta)
