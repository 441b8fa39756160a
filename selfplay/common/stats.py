"""Intervals of rates; points that are evenly spaced."""

from __future__ import annotations

from math import sqrt
from typing import TypeVar

Z95 = 1.959964
One = TypeVar("One")


def wilson(score: float, games: int) -> tuple[float, float]:
    """95% score interval of a rate (Wilson 1927, JASA 22:209), draws counted as half a win.

    A draw has less variance than the binomial assumes, so with draws the interval is, if
    anything, too wide. (0, 1) without games.
    """
    if not games:
        return 0.0, 1.0
    z2 = Z95**2 / games
    centre = (score + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * sqrt(score * (1 - score) / games + z2 / (4 * games))
    return max(0.0, centre - half), min(1.0, centre + half)


def spread_out(found: list[One], count: int, log: bool) -> list[One]:
    """At most ``count`` of them, evenly spaced by (log) index and always with the last."""
    if len(found) <= count:
        return found
    n = len(found)
    steps = [k / (count - 1) for k in range(count)] if count > 1 else [1.0]
    at = {round(n**s) - 1 if log else round((n - 1) * s) for s in steps}
    return [found[i] for i in sorted(at)]
