"""Elo ratings from match results, by maximum likelihood.

Model (Bradley & Terry 1952): player i scores 1 / (1 + exp(theta_j - theta_i)) against player j;
Elo is theta * 400 / ln 10. A draw counts as half a win for each side.

Prior: every pairing that was played gets one more draw. It keeps a score of 100% finite and
vanishes beside tens of games (it is the 1/2 added to wins and to losses that makes the estimate
of a single log-odds nearly unbiased: Haldane 1956, Anscombe 1956).

Intervals: from the inverse of the likelihood's curvature (observed information). They are
intervals of a difference: to the anchor, or to the mean of the players that are to be compared,
so that an anchor far below, whom all of them always beat, does not widen the comparison. Draws
have less variance than the model assumes, so the intervals are, if anything, too wide.

``informative`` says what to play next; ``standings`` rates all matches of one game below a folder
together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.match import read_match
from selfplay.common.curves import Outcomes
from selfplay.common.errors import UserError
from selfplay.common.stats import Z95
from selfplay.common.words import counted
from selfplay.games.base import Game

SCALE = 400 / np.log(10)  # Elo per unit of log-odds
PRIOR = 1.0  # virtual draws per pairing


class Rating(NamedTuple):
    """Elo above the anchor with its 95% interval (see the module)."""

    elo: float
    low: float
    high: float


#: a, b, wins of a, draws, losses of a
Result = tuple[str, str, float, float, float]


def fit(
    results: Iterable[Result],
    anchor: str,
    prior: float = PRIOR,
    centre: Collection[str] = (),
) -> dict[str, Rating]:
    """Ratings of all players that results connect to ``anchor``, whose rating is 0.

    results: (a, b, wins of a, draws, losses of a); a pairing may come several times, either way
    round. Players with no chain of results to the anchor have no rating and are left out.
    prior: virtual draws per pairing. centre: players whose mean the intervals are measured from,
    in place of the anchor; those without a rating do not count.

    Raises UserError when ``prior`` is 0 and somebody has lost or won everything.
    """
    found = _fitted(results, anchor, prior, centre)
    variance = np.einsum("ij,jk,ik->i", found.from_centre, found.covariance, found.from_centre)
    elo, spread = SCALE * found.theta, Z95 * SCALE * np.sqrt(np.maximum(variance, 0.0))
    return {
        name: Rating(float(elo[i]), float(elo[i] - spread[i]), float(elo[i] + spread[i]))
        for name, i in found.places.items()
    }


def informative(
    results: Iterable[Result], anchor: str, candidates: Iterable[tuple[str, str, float]],
    centre: Collection[str],
) -> list[float]:
    """How much more of each candidate (a, b, games) would tell: by how much the variance of the
    ratings of ``centre``, measured from their mean, would shrink, in Elo squared.

    n games between players of whom one scores p bring n p (1 - p) of information about the
    difference d of their ratings: it takes away C d d'C n p (1 - p) / (1 + n p (1 - p) d'C d) of
    the covariance C (Sherman & Morrison 1950). 0 for players without a rating yet.
    """
    found = _fitted(results, anchor, PRIOR, centre)
    wanted = [found.places[name] for name in centre if name in found.places]
    gains = []
    for a, b, games in candidates:
        if a not in found.places or b not in found.places:
            gains.append(0.0)
            continue
        i, j = found.places[a], found.places[b]
        ahead = found.covariance[i] - found.covariance[j]  # C d
        score = 1 / (1 + np.exp(found.theta[j] - found.theta[i]))
        more = games * score * (1 - score)
        moved = (found.from_centre @ ahead)[wanted]
        gains.append(float(SCALE**2 * more * moved @ moved / (1 + more * (ahead[i] - ahead[j]))))
    return gains


class _Fitted(NamedTuple):
    """places: of each player in the others; theta [n]; covariance [n, n]; from_centre [n, n], what
    turns ratings into those measured from the centre."""

    places: dict[str, int]
    theta: NDArray[np.float64]
    covariance: NDArray[np.float64]
    from_centre: NDArray[np.float64]


def _fitted(
    results: Iterable[Result], anchor: str, prior: float, centre: Collection[str]
) -> _Fitted:
    scores = _scores(results, prior)
    names = _connected(scores, anchor)
    index = {name: i for i, name in enumerate(names)}
    pairs = [(index[a], index[b], won, lost) for (a, b), (won, lost) in scores.items()
             if a in index]
    if not pairs:
        return _Fitted(index, np.zeros(1), np.zeros((1, 1)), np.zeros((1, 1)))
    first, second, won, lost = (np.array(column) for column in zip(*pairs, strict=True))
    theta, covariance = _maximise(first, second, won, lost, len(names))
    from_centre = np.eye(len(names))
    middle = [index[name] for name in centre if name in index]
    if middle:
        from_centre[:, middle] -= 1 / len(middle)
    return _Fitted(index, theta, covariance, from_centre)


def _scores(
    results: Iterable[Result], prior: float
) -> dict[tuple[str, str], tuple[float, float]]:
    """(a, b) with a < b -> (points of a, points of b), the prior's virtual draws included."""
    return {pair: (won + (drawn + prior) / 2, lost + (drawn + prior) / 2)
            for pair, (won, drawn, lost) in _counts(results).items()}


def _counts(results: Iterable[Result]) -> dict[tuple[str, str], NDArray[np.float64]]:
    """(a, b) with a < b -> wins of a, draws, losses of a."""
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for a, b, *counts in results:
        if any(counts) and a != b:
            key, seen = ((a, b), counts) if a < b else ((b, a), counts[::-1])
            found[key] = found.get(key, np.zeros(3)) + seen
    return found


def outcomes(results: Iterable[Result], anchor: str) -> tuple[list[str], Outcomes]:
    """(players that results connect to ``anchor``, without it; the games between all of these as a
    likelihood of their Elo, that of the anchor being 0). The prior is that of ``fit``."""
    counts = _counts(results)
    names = _connected(counts, anchor)
    index = {name: i for i, name in enumerate(names)}
    pairs = [pair for pair in counts if pair[0] in index]
    ahead = np.zeros((len(pairs), len(names)))
    for row, (a, b) in enumerate(pairs):
        ahead[row, index[a]], ahead[row, index[b]] = 1 / SCALE, -1 / SCALE
    change = ahead[:, 1:]  # the first is the anchor
    won, drawn, lost = np.array([counts[pair] for pair in pairs]).reshape(-1, 3).T
    return names[1:], Outcomes(won, drawn, lost, lambda elo: (change @ elo, change), PRIOR)


def _connected(pairs: Iterable[tuple[str, str]], anchor: str) -> list[str]:
    """The anchor and all players that a chain of pairs connects to it; the anchor first."""
    neighbours: dict[str, list[str]] = {anchor: []}
    for a, b in pairs:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    found = {anchor: None}
    queue = [anchor]
    while queue:
        for name in neighbours[queue.pop()]:
            if name not in found:
                found[name] = None
                queue.append(name)
    return list(found)


def _maximise(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    won: NDArray[np.float64],
    lost: NDArray[np.float64],
    players: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Newton's method on the concave log-likelihood; player 0 stays at 0.

    first, second: int [pairs]; won, lost: points of ``first`` and ``second``.
    Returns (theta [players], covariance [players, players] with the anchor's row and column 0).
    """
    theta = np.zeros(players)
    games = won + lost
    value = _likelihood(theta, first, second, won, lost)
    for _ in range(200):
        expected = 1 / (1 + np.exp(theta[second] - theta[first]))
        slope = np.zeros(players)
        np.add.at(slope, first, won - games * expected)
        np.add.at(slope, second, games * expected - won)
        weight = games * expected * (1 - expected)
        curvature = np.zeros((players, players))
        np.add.at(curvature, (first, first), weight)
        np.add.at(curvature, (second, second), weight)
        np.add.at(curvature, (first, second), -weight)
        np.add.at(curvature, (second, first), -weight)
        free = curvature[1:, 1:]
        apart = np.abs(theta[first] - theta[second]).max()  # of a pairing: a ladder may be long
        if apart > 40 or np.linalg.cond(free) > 1e14:
            raise UserError("Elo: somebody won or lost every game; rate with a prior of 1 draw")
        step = np.linalg.solve(free, slope[1:])
        # A full Newton step can overshoot from far away: halve it until it climbs.
        size = 1.0
        while True:
            trial = theta.copy()
            trial[1:] += size * step
            better = _likelihood(trial, first, second, won, lost)
            if better >= value - 1e-12 or size < 1e-6:
                break
            size /= 2
        theta, value = trial, better
        if np.abs(step).max() < 1e-10:
            break
    covariance = np.zeros((players, players))
    covariance[1:, 1:] = np.linalg.inv(free)
    return theta, covariance


def _likelihood(theta: NDArray[np.float64], first: NDArray[np.int64], second: NDArray[np.int64],
                won: NDArray[np.float64], lost: NDArray[np.float64]) -> float:
    """Log-likelihood: sum of won * ln p + lost * ln(1 - p)."""
    ahead = theta[first] - theta[second]
    return float(-(won * np.logaddexp(0, -ahead) + lost * np.logaddexp(0, ahead)).sum())


ANCHOR = "random"


def standings(folder: Path, game: Game, met: tuple[str, str]) -> str:
    """A table of Elo and 95% interval, best first, of all whom results connect to the anchor.

    folder: holds match folders; matches of other games are passed over. met: players who must be
    in the table: where nothing ties them to ANCHOR, the second of them is at 0 in its place.
    """
    results: list[tuple[str, str, float, float, float]] = []
    games: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        try:
            match = read_match(path, game)
        except UserError:
            continue  # another game's match, or a damaged one: not this table's business
        if match is not None and match.games:
            results.append((match.a, match.b, *match.counts))
            for name in (match.a, match.b):
                games[name] = games.get(name, 0) + match.games
    anchor, ratings = ANCHOR, fit(results, ANCHOR)
    if not ratings.keys() >= {*met}:
        anchor, ratings = met[1], fit(results, met[1])
    if len(ratings) < 2:
        return ""
    width = max(map(len, ratings))
    rows = sorted(ratings.items(), key=lambda item: -item[1].elo)
    lines = [f"Elo of all whom the matches in {folder} tie to {anchor} (= 0)"]
    lines += [f"  {name:<{width}}  {r.elo:6.0f}  ({r.low:.0f} to {r.high:.0f})  "
              f"{counted(games[name], 'game')}" for name, r in rows]
    return "\n".join(lines)
