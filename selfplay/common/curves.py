"""Curves of strength against compute, fitted by maximum likelihood over single outcomes.

What is seen are outcomes (games won, drawn and lost; questions answered rightly or not), each with
log-odds that follow from the values of those who took part. Some of these lie on a curve, the
others are free; both are fitted together, so that no rating stands between an outcome and the
curve. The saturating curve is a sigmoid in the logarithm of compute (Khatri et al. 2025, "The Art
of Scaling Reinforcement Learning Compute for LLMs", equation 1):

    f(C) = floor + (ceiling - floor) / (1 + (C_mid / C)^slope)

Far to the right it is a power law, ceiling - D C^-slope. The other curve is a straight line in the
logarithm of compute (Neumann & Gros 2022 for Elo), which has no ceiling.

Intervals come from a bootstrap over the outcomes. Where the points scatter about the curve by more
than their outcomes do, every draw's distance is stretched by the root of the deviance per degree
of freedom (a quasi-likelihood: McCullagh & Nelder 1989, chapter 9), and by as much again as
Student's t of these degrees is wider than a normal: few points hardly tell that root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.common.stats import Z95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BEND = 5.99  #: 95% of a chi-squared of 2 degrees of freedom: what a sigmoid has beyond a line
#: 97.5% of Student's t of 1, 2, ... degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)
NEAR, FAR = np.log(30.0), np.log(1000.0)  #: how far below and above the points C_mid may lie
STEEP = (np.log(0.25), np.log(6.0))  #: of the logarithm of the slope
ROOM = (3.0, 10.0)  #: how far floor and ceiling may lie beyond the points, in spans of these
DRAWS = 200  #: of a bootstrap
CLOSE = 1e-3  #: of log-likelihood, where a draw need not be nearer its best
EDGES = (2.5, 97.5)  #: of a 95% middle, in percent of the draws


@dataclass(frozen=True)
class Outcomes:
    """What was seen, float [M] each, and how likely it was.

    link: values [N] -> (log-odds of a win [M], their derivatives [M, N]); a draw is half a win and
    half a loss. prior: virtual games in each of the M; of values that bounds keep finite anyway, in
    what is drawn anew alone. virtual: what these score, half a point unless said, [M]. bounds: of a
    value.
    """

    won: Floats
    drawn: Floats
    lost: Floats
    link: Callable[[Floats], tuple[Floats, Floats]]
    prior: float = 0.0
    bounds: tuple[float, float] = (-np.inf, np.inf)
    virtual: Floats | float = 0.5

    def points(self) -> tuple[Floats, Floats]:
        """(points won, points lost) [M], the prior's included where values have no bounds."""
        prior = self.prior if np.isinf(self.bounds).any() else 0.0
        return (self.won + self.drawn / 2 + prior * self.virtual,
                self.lost + self.drawn / 2 + prior * (1 - self.virtual))

    def resampled(self, rng: np.random.Generator) -> Outcomes:
        """As many outcomes, drawn anew from the shares of those that were seen. The prior counts in
        the shares: without it a clean sweep would repeat itself for ever. What is drawn has its
        virtual games scored by these shares: draws would pull it towards a draw a second time."""
        count = np.rint(self.won + self.drawn + self.lost)
        seen = np.stack([self.won + self.prior / 2, self.drawn, self.lost + self.prior / 2], 1)
        shares = seen / np.maximum(seen.sum(1, keepdims=True), 1e-300)
        won, drawn, lost = rng.multinomial(count.astype(int), shares).T.astype(np.float64)
        return replace(self, won=won, drawn=drawn, lost=lost,
                       virtual=shares[:, 0] + shares[:, 1] / 2)


def binomial(right: ArrayLike, asked: ArrayLike) -> Outcomes:
    """Questions answered rightly, of how many (int [N]); a value is the accuracy in percent.

    The prior is a pairing's in ``arena.elo``, half a question right and half a one wrong: it is
    Jeffreys' (Brown, Cai & DasGupta 2001, "Interval Estimation for a Binomial Proportion"), and
    100 of 100 still allow 97.5%.
    """
    hits, total = np.asarray(right, np.float64), np.asarray(asked, np.float64)

    def link(values: Floats) -> tuple[Floats, Floats]:
        p = np.clip(values / 100, 1e-4, 1 - 1e-4)
        return np.log(p / (1 - p)), np.diag(1 / (100 * p * (1 - p)))

    return Outcomes(hits, np.zeros_like(hits), total - hits, link, 1.0, (0.0, 100.0))


#: parameters, log-compute [K] -> (values [K], their derivatives [K, parameters])
Shape = Callable[[Floats, Floats], tuple[Floats, Floats]]


def sigmoid(parameters: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Parameters: floor, ceiling, log C_mid, log slope."""
    floor, ceiling, middle, steep = parameters
    slope = np.exp(steep)
    part = 1 / (1 + np.exp(np.clip(slope * (middle - x), -500, 500)))
    rise = (ceiling - floor) * part * (1 - part) * slope
    return floor + (ceiling - floor) * part, np.stack(
        [1 - part, part, -rise, rise * (x - middle)], 1)


def line(parameters: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Parameters: the value at log-compute 0, the gain for each unit."""
    return parameters[0] + parameters[1] * x, np.stack([np.ones_like(x), x], 1)


def _apart(parameters: Floats, x: Floats) -> tuple[Floats, Floats]:
    return parameters, np.eye(len(x))


class Fitted(NamedTuple):
    """The most likely parameters of a curve, the values [N] of all, and the log-likelihood."""

    parameters: Floats
    values: Floats
    likelihood: float


def climb(
    seen: Outcomes, shape: Shape, on: Ints, x: Floats, start: Floats, values: Floats,
    low: ArrayLike = -np.inf, high: ArrayLike = np.inf, close: float = 1e-7,
) -> Fitted:
    """The most likely curve and free values, from ``start`` and ``values`` [N] on.

    on: int [K], which of the values lie on the curve, at log-compute x [K]. low, high: of the
    curve's parameters. close: a gain of log-likelihood that is none. Fisher's scoring with
    Levenberg's and Marquardt's damping.
    """
    apart = np.ones(len(values), bool)
    apart[on] = False
    free = np.flatnonzero(apart)
    won, lost = seen.points()
    edges = np.full((2, len(start) + len(free)), np.inf) * [[-1.0], [1.0]]
    edges[0, : len(start)], edges[1, : len(start)] = low, high

    def placed(at: Floats) -> tuple[Floats, Floats]:
        """All values, and their derivatives [N, parameters and free values]."""
        whole, change = np.empty(len(values)), np.zeros((len(values), len(at)))
        whole[on], change[on, : len(start)] = shape(at[: len(start)], x)
        whole[free] = at[len(start):]
        change[free, np.arange(len(start), len(at))] = 1.0
        return whole, change

    def look(at: Floats) -> tuple[float, Floats, Floats]:
        whole, change = placed(at)
        odds, by = seen.link(whole)
        expected = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        likelihood = -(won * np.logaddexp(0, -odds) + lost * np.logaddexp(0, odds)).sum()
        turn = by @ change
        weight = (won + lost) * np.maximum(expected * (1 - expected), 1e-12)
        return (float(likelihood), turn.T @ (won - (won + lost) * expected),
                turn.T @ (weight[:, None] * turn))

    at = np.clip(np.concatenate([start, values[free]]), *edges)
    best, slope, information = look(at)
    damping = 1e-3
    for _ in range(200):
        stuck = ((at <= edges[0]) & (slope < 0)) | ((at >= edges[1]) & (slope > 0))
        move = np.flatnonzero(~stuck)
        inner = information[np.ix_(move, move)].copy()
        inner[np.diag_indices(len(move))] *= 1 + damping
        inner[np.diag_indices(len(move))] += 1e-12
        trial = at.copy()
        trial[move] += np.linalg.solve(inner, slope[move])
        trial = np.clip(trial, *edges)
        found = look(trial)
        gain = found[0] - best
        if gain >= 0:
            at, (best, slope, information) = trial, found
            damping = max(damping / 10, 1e-9)
            if gain < close:
                break
        else:
            damping *= 10
            if damping > 1e10:
                break
    return Fitted(at[: len(start)], placed(at)[0], best)


class Curve(NamedTuple):
    """A fitted sigmoid.

    parameters: see ``sigmoid``. draws: float [draws, 4], those of the bootstrap, before they
    are stretched. misfit: deviance per degree of freedom, at least 1. bend: twice the
    log-likelihood beyond a straight line's, divided by misfit. bounds: of a value. stretch: see
    ``stretch_of``.
    """

    parameters: Floats
    draws: Floats
    misfit: float
    bend: float
    bounds: tuple[float, float]
    stretch: float

    @property
    def ceiling(self) -> float:
        return float(self.parameters[1])

    def ceilings(self) -> Floats:
        """Draws of the ceiling [draws]."""
        return self._stretched(self.draws[:, 1], self.ceiling)

    def drawn(self, x: Floats) -> Floats:
        """Draws of the curve at log-compute x [K]: [draws, K]."""
        values = sigmoid(self.parameters, x)[0]
        return self._stretched(np.stack([sigmoid(draw, x)[0] for draw in self.draws]), values)

    def at(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """(values, low, high) [K] at log-compute x [K]: the curve and its 95% band."""
        low, high = np.percentile(self.drawn(x), EDGES, axis=0)
        return sigmoid(self.parameters, x)[0], low, high

    def _stretched(self, drawn: Floats, about: Floats | float) -> Floats:
        """Draws of a figure, farther from ``about`` by the stretch."""
        return np.clip(about + self.stretch * (drawn - about), *self.bounds)


def stretch_of(deviance: float, freedom: int) -> float:
    """How many times farther from the middle draws lie than outcomes alone would have them: the
    root of the deviance per degree of freedom by Student's t, at least 1. Where few points have
    come to lie close by luck the factor is still above 1 (beyond the table: Abramowitz & Stegun
    26.7.5)."""
    few = freedom <= len(STUDENT)
    t = STUDENT[freedom - 1] if few else Z95 + 2.372 / freedom + 2.823 / freedom**2
    return max(1.0, float(np.sqrt(max(deviance, 0.0) / freedom)) * t / Z95)


def middle(drawn: Floats) -> tuple[float, float]:
    """The 95% middle of draws [draws]."""
    low, high = np.percentile(drawn, EDGES)
    return float(low), float(high)


def fit_curve(
    seen: Outcomes, values: Floats, on: Ints, x: Floats, *, centre: Ints | None = None,
    draws: int = DRAWS, seed: int = 0,
) -> Curve:
    """The saturating curve of the values ``on`` [K] at log-compute ``x`` [K], K at least 5.

    values: float [N], to start from. centre: the values whose mean the draws share; what only moves
    all of them together does not widen the band. Two curves of the same outcomes and seed have the
    same draws of outcomes, so that they can be compared draw by draw.
    """
    apart = climb(seen, _apart, on, x, values[on], values)
    start = apart.values[on]
    slope = np.polyfit(x, start, 1)
    straight = climb(seen, line, on, x, slope[::-1], apart.values)
    span = max(float(np.ptp(start)), 1e-6)
    low = np.array([start.min() - ROOM[0] * span, start.min(), x.min() - NEAR, STEEP[0]])
    high = np.array([start.max(), start.max() + ROOM[1] * span, x.max() + FAR, STEEP[1]])
    low[:2], high[:2] = np.clip(low[:2], *seen.bounds), np.clip(high[:2], *seen.bounds)
    best = max((climb(seen, sigmoid, on, x, np.array([start.min(), start.max(), middle, 0.0]),
                      apart.values, low, high)
                for middle in np.quantile(x, (0.15, 0.5, 0.85))), key=lambda one: one.likelihood)
    freedom = max(len(on) - 4, 1)
    deviance = 2 * (apart.likelihood - best.likelihood)
    misfit = max(1.0, deviance / freedom)
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        one = climb(seen.resampled(rng), sigmoid, on, x, best.parameters, best.values, low, high,
                    CLOSE)
        parameters = one.parameters.copy()
        if centre is not None:
            parameters[:2] -= (one.values - best.values)[centre].mean()
        found.append(parameters)
    return Curve(best.parameters, np.array(found), misfit,
                 2 * (best.likelihood - straight.likelihood) / misfit, seen.bounds,
                 stretch_of(deviance, freedom))


def fit_line(
    seen: Outcomes, values: Floats, on: Ints, x: Floats, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, Floats]:
    """(gain, draws of it [draws]): what the values ``on`` gain for each unit of x, on a line."""
    begun = np.polyfit(x, values[on], 1)[::-1]
    best = climb(seen, line, on, x, begun, values)
    apart = climb(seen, _apart, on, x, values[on], values)
    stretch = stretch_of(2 * (apart.likelihood - best.likelihood), max(len(on) - 2, 1))
    rng = np.random.default_rng(seed)
    drawn = np.array([climb(seen.resampled(rng), line, on, x, best.parameters,
                            best.values).parameters[1] for _ in range(draws)])
    return float(best.parameters[1]), best.parameters[1] + stretch * (drawn - best.parameters[1])
