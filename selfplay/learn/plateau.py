"""Learning from rows until what is held out shows no more gain.

The learning rate drops when a held-out loss hardly improves any more, or when so little time is
left that it has to; where it stops improving after the last drop the curve is flat, and that is
all that these rows can teach this net. SFT of boards and of texts learns so, the value net, and
the reward model, whose rate does not drop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from selfplay.learn.plateau_config import PlateauConfig

DROP = 0.3  #: factor of one rate drop
FIRST = (25, 50, 100)  #: steps of further looks where a lesson is learnt fast at first. They
#: do not count for ``patience``.
LATEST = 0.4  #: the k-th drop comes when this share, to the k-th power, of the time is left


class Learning(Protocol):
    """What is in training."""

    learning_rate: float

    @property
    def steps(self) -> int: ...

    def step(self, batch: Any) -> dict[str, float]: ...


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and how it is judged.

    batches: those of the steps from the given one on, without end. look: figures of what is held
    out, as the net is now; metric: the one that must fall. rows: how many there are to learn from;
    a run that goes on with another number begins a new curve, and ``look_at`` another net, an
    earlier curve's best, which the new one must beat. size: of a batch, in ``unit``;
    flops: of one unit; before: compute ("flops", ``unit``) spent before the first step. steep: it
    is learnt fast at first, so that a curve needs looks at the steps ``FIRST`` too.
    """

    batches: Callable[[int], Generator[Any, None, None]]
    look: Callable[[], dict[str, Any]]
    metric: str
    rows: int = 0
    size: Callable[[Any], int] = len
    unit: str = "positions"
    flops: float = 0.0
    before: Mapping[str, float] = field(default_factory=dict)
    look_at: Callable[[Any], dict[str, Any]] | None = None
    steep: bool = False


def until_flat(
    trainer: Learning,
    lesson: Lesson,
    config: PlateauConfig,
    history: Sequence[Mapping[str, Any]] = (),
    *,
    left: Callable[[], float] = lambda: 1.0,
    progress: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
) -> Iterator[dict[str, Any]]:
    """Train until the held-out curve is flat, ``max_steps``, or nothing is left of the time, but
    for one look at what is held out at least; yields a row a look.

    trainer: goes on from where it is, ``history`` being the rows so far. left: share of the time
    that is left, from 1 to 0. A row has step, ``lesson.unit``, flops where
    they are known, learning_rate, rows, train
    (figures of the last step) and the figures of ``lesson.look``; ``noted`` says which was best.
    """
    curve = curve_of(history, lesson, config)
    last = history[-1] if history else lesson.before
    seen, spent = int(last.get(lesson.unit, 0)), last.get("flops", 0.0)
    remaining = left()
    over = bool(history) and remaining <= 0  # without one look a run could not go on
    with closing(lesson.batches(trainer.steps)) as batches:
        while curve.drops <= config.drops and trainer.steps < config.max_steps and not over:
            if curve.drops < config.drops and 0 < remaining < LATEST ** (curve.drops + 1):
                curve.drop()
            trainer.learning_rate = config.learning_rate * DROP**curve.drops
            batch = next(batches)
            figures = trainer.step(batch)
            step, size = trainer.steps, lesson.size(batch)
            seen, spent = seen + size, spent + lesson.flops * size
            progress(step, figures)
            remaining = left()
            over = remaining <= 0
            due = step % config.evaluate_every == 0 or (lesson.steep and step in FIRST)
            if not due and step < config.max_steps and not over:
                continue
            row = {"step": step, lesson.unit: seen, "learning_rate": trainer.learning_rate,
                   "rows": lesson.rows, "train": figures, **lesson.look()}
            if lesson.flops:
                row["flops"] = spent
            curve.look(step, row[lesson.metric], config)
            yield row


def noted(
    history: Sequence[Mapping[str, Any]], lesson: Lesson, config: PlateauConfig,
    loss_now: Callable[[int], float] = lambda step: math.inf,
) -> dict[str, Any]:
    """best.json: the checkpoint of the lowest loss, and whether the curve is flat, having gone
    through ``config.drops`` drops and found no more. Empty before the first look.

    loss_now: that of an earlier curve's best, by its step, on what is held out now.
    """
    curve = curve_of(history, lesson, config)
    if not curve.best_step:
        return {}
    losses = {step: loss_now(step) for step in _earlier_bests(history, lesson)}
    best = min({**losses, curve.best_step: curve.best}.items(), key=lambda found: found[1])[0]
    return {"checkpoint": f"ckpt-{best:06d}", "flat": curve.drops > config.drops}


def _earlier_bests(history: Sequence[Mapping[str, Any]], lesson: Lesson) -> list[int]:
    """The step of the lowest loss of each curve before this one."""
    curves: dict[int, Mapping[str, Any]] = {}
    for row in history:
        rows = row.get("rows", lesson.rows)
        if rows != lesson.rows and row[lesson.metric] < curves.get(rows, {}).get(
                lesson.metric, math.inf):
            curves[rows] = row
    return [row["step"] for row in curves.values()]


@dataclass
class HeldOutCurve:
    """The held-out curve and the learning-rate drops that it has caused."""

    best: float = math.inf
    best_step: int = 0
    mark: float = math.inf  #: the loss that the next looks are measured by
    waiting: int = 0
    drops: int = 0

    def look(self, step: int, loss: float, config: PlateauConfig) -> None:
        """Take in a look at what is held out; drop the rate after ``patience`` looks that lowered
        the loss by less than the share ``gain``."""
        if loss < self.best:
            self.best, self.best_step = loss, step
        if loss < self.mark * (1 - config.gain):
            self.mark, self.waiting = loss, 0
            return
        self.waiting += step not in FIRST or step % config.evaluate_every == 0
        if self.waiting >= config.patience:
            self.drop()

    def drop(self) -> None:
        self.mark, self.waiting, self.drops = self.best, 0, self.drops + 1


def curve_of(
    history: Sequence[Mapping[str, Any]], lesson: Lesson, config: PlateauConfig
) -> HeldOutCurve:
    """After the looks in ``history`` at as many rows as ``lesson`` has."""
    rows = [row for row in history if row.get("rows", lesson.rows) == lesson.rows]
    return replayed(rows, lesson.metric, config)


def replayed(
    history: Iterable[Mapping[str, Any]], metric: str, config: PlateauConfig
) -> HeldOutCurve:
    """The curve after the looks in ``history``, whose rows have step, ``metric`` and, where it may
    drop, learning_rate."""
    curve, rate = HeldOutCurve(), config.learning_rate
    for row in history:
        drops = round(math.log(row.get("learning_rate", rate) / rate, DROP))
        if drops != curve.drops:  # the time had asked for it, or the settings have changed
            curve.drop()
            curve.drops = drops
        curve.look(row["step"], row[metric], config)
    return curve
