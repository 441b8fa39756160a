"""How often a ceiling that is told holds the true one, by simulation: runs of texts and of boards
whose accuracy or Elo follows a known curve, with answers and games that come as chance has it.

    python scripts/ceiling_sim.py                    (60 runs of each case; an hour of a core)
    python scripts/ceiling_sim.py --runs 20 --only bend
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np

from selfplay.arena.elo import Result, fit, outcomes
from selfplay.common.curves import Outcomes, sigmoid
from selfplay.common.stats import wilson
from selfplay.report.ceilings import TIMES, ceilings

ASKED = 300  #: questions a point
DRAWN = 0.1  #: of a board's games between equals
TEACHER = 700.0  #: Elo of the player that all nets meet


class Case(NamedTuple):
    """A curve, and the points on it."""

    about: str
    ceiling: float  #: percent, or Elo
    middle: float  #: compute at which half of the way is gone; the first point has 1
    slope: float
    points: int
    last: float  #: compute of the last point
    scatter: float = 0.0  #: by which points lie about the curve
    floor: float = 5.0
    games: int = 0  #: of a pairing; 0: a run of texts


CASES = {
    "plain": Case("7 points", 70, 12, 1, 7, 300),
    "many": Case("12 points", 70, 12, 1, 12, 300),
    "scatter": Case("7 points that scatter by 3%", 70, 12, 1, 7, 300, 3),
    "few": Case("5 points", 70, 12, 1, 5, 300),
    "fewscatter": Case("5 points that scatter by 3%", 70, 12, 1, 5, 300, 3),
    "bend": Case("8 points, the bend has just begun", 80, 60, 0.7, 8, 100),
    "board": Case("board, 12 points, 160 games a pairing", 1400, 12, 1, 12, 300, 0, 200, 160),
    "boardfew": Case("board, 12 points, 40 games a pairing", 1400, 12, 1, 12, 300, 0, 200, 40),
    "boardscatter": Case("board, 12 that scatter by 30 Elo, 160 games", 1400, 12, 1, 12, 300, 30,
                         200, 160),
}


class Count(NamedTuple):
    """Of a case's runs: those in which a ceiling was told, those of these whose interval held the
    true one, those in which the prediction for TIMES the compute held, those told too low."""

    told: int
    held: int
    ahead: int
    low: int


def truth(case: Case, compute: Any) -> Any:
    parameters = np.array([case.floor, case.ceiling, np.log(case.middle), np.log(case.slope)])
    return sigmoid(parameters, np.log(np.atleast_1d(compute)))[0]


def drawn_run(case: Case, seed: int) -> dict[str, Any]:
    """An evaluation of texts, as ``selfplay llm`` keeps them."""
    rng = np.random.default_rng(seed)
    compute = np.geomspace(1, case.last, case.points)
    true = truth(case, compute) + rng.normal(0, case.scatter, case.points)
    right = rng.binomial(ASKED, np.clip(true / 100, 0, 1))
    points = []
    for step, (spent, share) in enumerate(zip(compute, right / ASKED, strict=True)):
        low, high = wilson(share, ASKED)
        points.append({"player": f"sft/{step}", "stage": "sft", "sims": 0, "step": step,
                       "flops": spent, "seconds": spent, "questions": ASKED, "look": True,
                       "accuracy": 100 * share, "low": 100 * low, "high": 100 * high})
    return {"game": "sums", "measure": "accuracy", "points": points}


def drawn_board(case: Case, seed: int) -> tuple[dict[str, Any], list[str], Outcomes, float]:
    """(an evaluation of a board's run; its players and their games; by how much the nets' mean is
    rated above the true one, which intervals leave out). Each net meets the one before and
    TEACHER, who meets ``random``, as does the first net."""
    rng = np.random.default_rng(seed)
    compute = np.geomspace(1, case.last, case.points)
    true = truth(case, compute) + rng.normal(0, case.scatter, case.points)
    nets = [f"net:rl/{step}" for step in range(case.points)]
    elo = {"random": 0.0, "teacher": TEACHER, **dict(zip(nets, true.tolist(), strict=True))}
    pairs = [("teacher", "random"), (nets[0], "random"), *((net, "teacher") for net in nets),
             *zip(nets[1:], nets, strict=False)]
    results: list[Result] = []
    for a, b in pairs:
        score = 1 / (1 + 10 ** ((elo[b] - elo[a]) / 400))
        even = 4 * DRAWN * score * (1 - score)  # drawn: less between unequal players
        results.append((a, b, *rng.multinomial(
            case.games, [score - even / 2, even, 1 - score - even / 2]).tolist()))
    ratings = fit(results, "random", centre=nets)
    points = [{"player": net, "stage": "rl", "sims": 0, "step": step, "flops": spent,
               "seconds": spent, "games": case.games, **ratings[net]._asdict()}
              for step, (net, spent) in enumerate(zip(nets, compute.tolist(), strict=True))]
    shift = float(np.mean([ratings[net].elo for net in nets]) - true.mean())
    return {"game": "board", "anchor": "random", "points": points}, *outcomes(
        results, "random"), shift


def count(case: Case, runs: int, draws: int) -> Count:
    told = held = ahead = below = 0
    later = float(truth(case, TIMES * case.last)[0])
    for seed in range(runs):
        if case.games:
            evaluation, names, seen, shift = drawn_board(case, seed)
            (found,) = ceilings(evaluation, names, seen, draws)
        else:
            (found,), shift = ceilings(drawn_run(case, seed), draws=draws), 0.0
        if found["refused"]:
            continue
        told += 1
        held += found["low"] <= case.ceiling + shift <= found["high"]
        below += found["high"] < case.ceiling + shift
        ahead += found["ahead"]["low"] <= later + shift <= found["ahead"]["high"]
    return Count(told, held, ahead, below)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="of each case [60]")
    parser.add_argument("--draws", type=int, default=100, help="of the bootstrap [100]")
    parser.add_argument("--only", default=",".join(CASES), help="cases, by comma")
    options = parser.parse_args()
    unknown = [name for name in options.only.split(",") if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    print(f"{options.runs} runs a case; of texts {ASKED} questions a point; 95% intervals")
    print(f"{'case':<44}{'refused':>8}{'told':>6}{'holds it':>10}{'too low':>9}"
          f"{f'holds {TIMES}x':>11}")
    for name in options.only.split(","):
        case = CASES[name]
        found = count(case, options.runs, options.draws)
        print(f"{case.about:<44}{options.runs - found.told:>8}{found.told:>6}{found.held:>10}"
              f"{found.low:>9}{found.ahead:>11}", flush=True)


if __name__ == "__main__":
    main()
