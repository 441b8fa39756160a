"""Error rates of the sequential tests at their bounds, and the games that they need, by simulation;
the games beside what fastchess has published for tests of the same outcomes.

    python scripts/sprt_sim.py            (10,000 runs of each kind; some minutes)
    python scripts/sprt_sim.py --runs 500
    python scripts/sprt_sim.py --every 4 --only normalized,pentanomial
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.contest.sprt import ELO, Sprt

MOST = 1_000_000  #: outcomes of a run

#: (what it was, outcomes counted, normalized bounds, games played until H1 was accepted)
PUBLISHED = [
    ("fastchess, pull request 783", (379, 10170, 21828, 10640, 343), (0.0, 2.0), 86_720),
    ("fastchess, tests: case 2", (127, 4883, 10712, 5150, 104), (-1.75, 0.25), 41_952),
]


class Rate(NamedTuple):
    """What became of the runs: how many accepted H1, and games of each."""

    h1: int
    runs: int
    games: NDArray[np.int64]


def tilted(share: NDArray[np.float64], elo: float, model: str) -> NDArray[np.float64]:
    """The distribution nearest to ``share`` [K] with which A is ``elo`` above B: shares times
    exp(x score), with the x that halving finds."""
    scores = np.linspace(0, 1, len(share))
    low, high = -50.0, 50.0
    for _ in range(200):
        x = (low + high) / 2
        made = share * np.exp(x * scores)
        made /= made.sum()
        low, high = (x, high) if rating(made, model) < elo else (low, x)
    return made


def rating(share: NDArray[np.float64], model: str) -> float:
    """The Elo of a distribution of outcomes [K]."""
    scores = np.linspace(0, 1, len(share))
    mean = float(share @ scores)
    if model == "logistic":
        return -400 * math.log10(1 / min(max(mean, 1e-12), 1 - 1e-12) - 1)
    spread = math.sqrt(float(share @ (scores - mean) ** 2) * (len(share) // 2))
    return (mean - 0.5) / spread * ELO


def simulated(test: Sprt, share: NDArray[np.float64], runs: int, every: int = 1, seed: int = 0
              ) -> Rate:
    """``runs`` tests of outcomes drawn from ``share`` [K], looked at after every ``every``."""
    rng = np.random.default_rng(seed)
    low, high = test.bounds
    counts = np.zeros((runs, len(share)))
    games = np.zeros(runs, np.int64)
    live, h1 = np.arange(runs), 0
    for done in range(every, MOST, every):
        counts[live] += rng.multinomial(every, share, size=len(live))
        llr = test.llr(counts[live])
        games[live] = done * (test.outcomes // 2)
        h1 += int((llr >= high).sum())
        live = live[(llr > low) & (llr < high)]
        if not len(live):
            break
    return Rate(h1, runs, games)


def cases(draws: float) -> Iterator[tuple[Sprt, NDArray[np.float64]]]:
    """Tests, and shares of outcomes to be tilted: independent games, so many of them drawn."""
    game = np.array([(1 - draws) / 2, draws, (1 - draws) / 2])
    for model in ("logistic", "normalized"):
        yield Sprt(0, 30, model=model, outcomes=3), game
        yield Sprt(0, 30, model=model, outcomes=5), np.convolve(game, game)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="of each kind")
    parser.add_argument("--every", type=int, default=1, help="outcomes between two looks")
    parser.add_argument("--draws", type=float, default=0.3, help="share of games drawn")
    parser.add_argument("--only", default="", help="tests of these words, as normalized,trinomial")
    options: Any = parser.parse_args()
    print(f"{options.runs:,} runs; nominal error rates 5%; {options.draws:.0%} draws")
    print(f"{'test':48} {'at':>4} {'H1 accepted':>12} {'games (mean, 95% of runs)':>28}")
    for test, share in cases(options.draws):
        if not all(word in str(test) for word in options.only.split(",")):
            continue
        for elo in (test.elo0, test.elo1):
            found = simulated(test, tilted(share, elo, test.model), options.runs, options.every)
            longest = np.quantile(found.games, 0.95)
            print(f"{test!s:48} {elo:4g} {found.h1 / found.runs:12.2%} "
                  f"{found.games.mean():14,.0f} {longest:13,.0f}", flush=True)
    print("\nbeside published tests, of outcomes as theirs (normalized Elo, pairs):")
    runs = max(options.runs // 20, 20)
    for name, counts, bounds, games in PUBLISHED:
        share = np.array(counts) / sum(counts)
        test = Sprt(*bounds, model="normalized", outcomes=5)
        elo = rating(share, "normalized")
        found = simulated(test, share, runs, every=64)
        low, middle, high = np.quantile(found.games, [0.05, 0.5, 0.95])
        print(f"{name}: bounds {bounds}, {elo:.2f} Elo measured: decided by {games:,} games, LLR "
              f"{float(test.llr(counts)):.2f} here; simulated {found.games.mean():,.0f} in the "
              f"mean, {middle:,.0f} in the middle ({low:,.0f} to {high:,.0f} in 90% of {runs:,})")


if __name__ == "__main__":
    main()
