"""Learning from rows until what is held out shows no more gain.

The learning rate drops when a held-out loss hardly improves any more, or when so little time is
left that it has to; where it stops improving after the last drop the curve is flat, and that is
all that these rows can teach this net. SFT learns so, and the value net.

When a held-out curve is flat, and when the learning rate drops before that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from selfplay.common.files import read_history, write_history, write_json
from selfplay.common.threads import ahead
from selfplay.learn import checkpoint
from selfplay.learn.config import PlateauConfig
from selfplay.models import NetSpec

COMPUTE = ("seconds", "flops", "positions")


class Trainer(Protocol):
    """What is in training."""

    learning_rate: float

    @property
    def steps(self) -> int: ...

    def step(self, rows: Any) -> dict[str, float]: ...

    def inference_net(self) -> nn.Module: ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and how it is judged.

    spec: of the net. rows: how many there are to learn from. batches: those of the steps from the
    given one on, without end. step_flops: of one step. kind: of the checkpoints. metric: the figure
    of ``look`` that must fall; look: what the net that acts makes of the held-out rows. kept:
    figures that checkpoints tell. about: what else they tell. before: compute spent before the
    first step.
    """

    spec: NetSpec
    rows: int
    batches: Callable[[int], Iterator[Any]]
    step_flops: float
    kind: str
    metric: str
    look: Callable[[nn.Module], dict[str, float]]
    kept: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)


def train_to_plateau(
    trainer: Trainer,
    lesson: Lesson,
    config: PlateauConfig,
    folder: Path,
    *,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Callable[[int, dict[str, Any]], None] = lambda step, row: None,
) -> Path:
    """Train until the held-out curve is flat, ``max_steps``, or ``left()`` seconds are used up,
    but for one look at what is held out at least.

    Every look saves a checkpoint ``ckpt-STEP`` and a row of ``history.jsonl`` (the figures of
    ``lesson.look``, learning_rate, seconds, flops); a later call in the same folder goes on from
    the newest, with a new curve where there are more rows than then. Returns the best checkpoint
    by ``lesson.metric``, which ``best.json`` names as well.
    """
    history: list[dict[str, Any]] = []
    start = {key: float(lesson.before.get(key, 0.0)) for key in COMPUTE}
    curve, step, spent, count = HeldOutCurve(), 0, 0.0, lesson.rows
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
    batches = ahead(lesson.batches(step))
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
               "flops": start["flops"] + step * lesson.step_flops,
               "positions": start["positions"] + step * config.batch_size,
               "learning_rate": trainer.learning_rate, "rows": count, "train": metrics,
               **lesson.look(trainer.inference_net())}
        history.append(row)
        write_history(folder / "history.jsonl", history)  # first: a row too many is left out later
        _save(folder, trainer, lesson, row)
        for path in checkpoint.listing(folder)[-4:-2]:  # the last two: one may get damaged
            checkpoint.drop_training(path)
        curve.look(step, row[lesson.metric], config.gain, config.patience)
        write_json(folder / "best.json", curve.note(config.drops))
        log(row)
    best = checkpoint.best(folder, lesson.metric)
    assert best is not None, "there has been a look"
    return best


def _save(folder: Path, trainer: Trainer, lesson: Lesson, row: dict[str, Any]) -> None:
    meta = {"kind": lesson.kind, "step": row["step"],
            "compute": {key: row[key] for key in COMPUTE},
            "metrics": {key: row[key] for key in lesson.kept}, **lesson.about}
    checkpoint.save(folder / f"ckpt-{row['step']:06d}", trainer, lesson.spec, meta)


DROP = 0.3  #: factor of one rate drop
LATEST = 0.4  #: the k-th drop comes when this share, to the k-th power, of the time is left


@dataclass
class HeldOutCurve:
    """The held-out curve and the learning-rate drops that it has caused."""

    best: float = math.inf
    best_step: int = 0
    mark: float = math.inf  #: the loss that the next looks are measured by
    waiting: int = 0
    drops: int = 0

    def look(self, step: int, loss: float, gain: float, patience: int) -> None:
        """Take in a look at what is held out; drop the rate after ``patience`` looks that lowered
        the loss by less than the share ``gain``."""
        if loss < self.best:
            self.best, self.best_step = loss, step
        if loss < self.mark * (1 - gain):
            self.mark, self.waiting = loss, 0
            return
        self.waiting += 1
        if self.waiting >= patience:
            self.drop()

    def drop(self) -> None:
        self.mark, self.waiting, self.drops = self.best, 0, self.drops + 1

    def note(self, drops: int) -> dict[str, Any]:
        """best.json: the checkpoint of the lowest loss, and whether the curve is flat, having gone
        through ``drops`` drops and found no more."""
        return {"checkpoint": f"ckpt-{self.best_step:06d}", "flat": self.drops > drops}


def replayed(
    history: Iterable[Mapping[str, Any]], metric: str, rate: float, gain: float, patience: int
) -> HeldOutCurve:
    """The curve after the looks in ``history``, whose rows have step, learning_rate and ``metric``;
    rate: the learning rate before any drop."""
    curve = HeldOutCurve()
    for row in history:
        drops = round(math.log(row["learning_rate"] / rate, DROP))
        if drops != curve.drops:  # the time had asked for it, or the settings have changed
            curve.drop()
            curve.drops = drops
        curve.look(row["step"], row[metric], gain, patience)
    return curve
