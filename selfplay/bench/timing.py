"""Two sides timed in turn: what every row of the benchmark is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

SECONDS = 2.0  #: of work behind one side of one pair

Rate = Callable[[], float]  #: does some work, returns units per second


def row(
    name: str, unit: str, ours: Rate, reference: str, theirs: Rate, pairs: int,
    per: Callable[[float], float] = lambda rate: rate,
) -> dict[str, Any]:
    """Run the pairs: name, unit, value, reference, reference_value, ratio, spread.

    ratio: the median of the pairs' ratios, how many times better ours is; spread: the lowest and
    the highest. ``per`` turns a rate into the unit shown.
    """
    ours(), theirs()  # compile and warm up
    taken = [(ours(), theirs()) for _ in range(pairs)]
    ratios = [a / b for a, b in taken]
    return {"name": name, "unit": unit, "value": per(median(a for a, _ in taken)),
            "reference": reference, "reference_value": per(median(b for _, b in taken)),
            "ratio": median(ratios), "spread": [min(ratios), max(ratios)]}


def repeat(work: Callable[[], int], share: float = 1.0) -> float:
    """Units per second of ``work``, which returns how many units it did, over SECONDS * share."""
    start, units = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < SECONDS * share:
        units += work()
    return units / (now - start)
