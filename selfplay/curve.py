"""When a held-out curve is flat, and when the learning rate drops before that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DROP = 0.3  #: factor of one rate drop
LATEST = 0.4  #: the k-th drop comes when this share, to the k-th power, of the time is left


@dataclass
class Curve:
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
) -> Curve:
    """The curve after the looks in ``history``, whose rows have step, learning_rate and ``metric``;
    rate: the learning rate before any drop."""
    curve = Curve()
    for row in history:
        drops = round(math.log(row["learning_rate"] / rate, DROP))
        if drops != curve.drops:  # the time had asked for it, or the settings have changed
            curve.drop()
            curve.drops = drops
        curve.look(row["step"], row[metric], gain, patience)
    return curve
