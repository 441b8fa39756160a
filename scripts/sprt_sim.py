"""Error rates of the sequential tests at their bounds, and the games that they need, by simulation;
the games beside those of fastchess and of fishtest's simulator.

    python scripts/sprt_sim.py            (10,000 runs of each kind; some minutes)
    python scripts/sprt_sim.py --runs 500
    python scripts/sprt_sim.py --only normalized,pentanomial
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.contest.sprt import ELO, Sprt
from selfplay.common.stats import wilson

MOST = 1_000_000  #: outcomes of a run
QUICK: dict[str, Any] = {"block": 16, "near": 0.5}  #: how ``simulated`` goes here

#: Matches that fastchess ended with H1, from pairs of no point to two: where, counts, the test
MATCHES = [
    ("Disservin/fastchess 783", (379, 10170, 21828, 10640, 343), Sprt(0, 2)),
    ("brunocodutra/cinder 802", (363, 3205, 5861, 3376, 414), Sprt(0, 3, beta=0.1)),
    ("brunocodutra/cinder 809", (248, 2015, 3946, 2212, 273), Sprt(0, 3, beta=0.1)),
    ("brunocodutra/cinder 805", (188, 1644, 3079, 1847, 206), Sprt(0, 3, beta=0.1)),
    ("brunocodutra/cinder 778", (46, 496, 1073, 640, 79), Sprt(0, 3, beta=0.1)),
]

#: vdbergh/simul, README: shares of pairs at 0 and at 2 Elo (logistic; 56% draws, openings of 90
#: Elo), passes and games in the mean of its 2,818 and 2,771 runs. It makes up for overshoot.
SIMULATOR = [
    (0, (0.032347, 0.246400, 0.442505, 0.246400, 0.032347), 0.052874, 60_006.6),
    (2, (0.031425, 0.242521, 0.442462, 0.250299, 0.033293), 0.950559, 60_848.6),
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


def nearly(test: Sprt, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ratio [...] of outcomes counted in float [..., K], nearly: as if scores were normal with
    the variance that was seen (Van den Bergh, as in ``sprt``). It needs no search for roots."""
    total = counts.sum(-1)
    scores = np.linspace(0, 1, counts.shape[-1])
    mean = counts @ scores / total
    spread = np.sqrt(np.maximum(counts @ scores**2 / total - mean**2, 1e-9))
    if test.model == "logistic":
        ends = [(1 / (1 + 10 ** (-elo / 400)) - mean) / spread for elo in (test.elo0, test.elo1)]
    else:
        games = test.outcomes // 2
        ends = [math.sqrt(games) * elo / ELO - (mean - 0.5) / spread
                for elo in (test.elo0, test.elo1)]
    return total / 2 * (ends[0] ** 2 - ends[1] ** 2)


def simulated(test: Sprt, share: NDArray[np.float64], runs: int, every: int = 1, seed: int = 0,
              block: int = 1, near: float = math.inf) -> Rate:
    """``runs`` tests of outcomes drawn from ``share`` [K], looked at after every ``every``.

    All runs that are open take ``block`` looks at once. The test's own ratio is asked only where
    ``nearly`` says that a bound is less than ``near`` away (inf: at every look).
    """
    rng = np.random.default_rng(seed)
    low, high = test.bounds
    counts = np.zeros((runs, len(share)))
    games = np.zeros(runs, np.int64)
    live, h1 = np.arange(runs), 0
    for done in range(0, MOST // every, block):
        drawn = rng.multinomial(every, share, size=(len(live), block))
        seen = counts[live][:, None] + drawn.cumsum(1)
        llr = nearly(test, seen)
        close = ~((llr > low + near) & (llr < high - near))
        llr[close] = test.llr(seen[close])
        ended = (llr <= low) | (llr >= high)
        over, first = ended.any(1), ended.argmax(1)
        h1 += int((llr[over, first[over]] >= high).sum())
        games[live] = (done + np.where(over, first + 1, block)) * every * (test.outcomes // 2)
        counts[live] = seen[:, -1]
        live = live[~over]
        if not len(live):
            break
    return Rate(h1, runs, games)


def cases(draws: float) -> Iterator[tuple[Sprt, NDArray[np.float64]]]:
    """Tests, and shares of outcomes to be tilted: independent games, so many of them drawn."""
    game = np.array([(1 - draws) / 2, draws, (1 - draws) / 2])
    for model in ("logistic", "normalized"):
        yield Sprt(0, 30, model=model, outcomes=3), game
        yield Sprt(0, 30, model=model, outcomes=5), np.convolve(game, game)


def percent(rate: Rate) -> str:
    """The share of H1 with its 95% interval."""
    share = rate.h1 / rate.runs
    low, high = wilson(share, rate.runs)
    return f"{share:.2%} ({low:.2%} to {high:.2%})"


def at_the_bounds(runs: int, every: int, draws: float, only: list[str]) -> None:
    print(f"{'test':44} {'at':>4} {'H1 accepted':>26} {'games: mean, 95% of runs':>26}")
    for test, share in cases(draws):
        if not all(word in str(test) for word in only):
            continue
        for elo in (test.elo0, test.elo1):
            found = simulated(test, tilted(share, elo, test.model), runs, every, **QUICK)
            print(f"{test!s:44} {elo:4g} {percent(found):>26} {found.games.mean():12,.0f} "
                  f"{np.quantile(found.games, 0.95):13,.0f}", flush=True)


def beside_others(runs: int) -> None:
    print("\nbeside fishtest's simulator, 0 against 2 Elo (logistic, pentanomial), its shares:")
    for elo, given, passed, games in SIMULATOR:
        share = np.array(given) / sum(given)
        found = simulated(Sprt(0, 2), share, runs, every=16, **QUICK)
        print(f"at {elo}: H1 {percent(found)}, {found.games.mean():,.0f} games in the mean; there "
              f"{passed:.2%}, {games:,.0f}", flush=True)
    print("\nbeside matches that fastchess ended with H1 (normalized, pentanomial), their shares:")
    for name, counts, test in MATCHES:
        test, share = test._replace(model="normalized"), np.array(counts) / sum(counts)
        found = simulated(test, share, runs, every=16, **QUICK)
        low, middle, high = np.quantile(found.games, [0.05, 0.5, 0.95])
        print(f"{name}: {test}, LLR {float(test.llr(counts)):.2f} of {test.bounds[1]:.2f} after "
              f"its {2 * sum(counts):,} games; {rating(share, 'normalized'):.2f} Elo measured, "
              f"with which {found.games.mean():,.0f} in the mean, {middle:,.0f} in the middle "
              f"({low:,.0f} to {high:,.0f} in 90% of runs)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="of each kind")
    parser.add_argument("--every", type=int, default=1, help="outcomes between two looks")
    parser.add_argument("--draws", type=float, default=0.3, help="share of games drawn")
    parser.add_argument("--only", default="", help="tests of these words, as normalized,trinomial")
    options: Any = parser.parse_args()
    print(f"{options.runs:,} runs; nominal error rates 5%; {options.draws:.0%} draws")
    at_the_bounds(options.runs, options.every, options.draws, options.only.split(","))
    if not options.only:
        beside_others(options.runs)


if __name__ == "__main__":
    main()
