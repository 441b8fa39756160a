"""Games beside each other, by processor time on one core: random games of the native ones beside
OpenSpiel's C++, and what a game of one's own costs in plain numpy beside the same in Numba.

    python scripts/bench_games.py
    python scripts/bench_games.py openspiel:chess openspiel:shogi    the adapter, at Python's pace
    python scripts/bench_games.py --own
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from selfplay.arena.players import pyspiel_name
from selfplay.games import make
from selfplay.games.base import Game
from selfplay.search.search import Search, SearchConfig

NATIVE = ("tictactoe", "connect4", "othello6x6", "othello8x8", "hex7x7", "hex11x11", "gomoku9x9",
          "gomoku15x15", "dotsandboxes", "go9x9")
EXAMPLE = Path(__file__).parent.parent / "docs/examples/gomoku.py"
BATCH = 256  #: games side by side
SIMS = 64

Work = Callable[[], int]  #: returns how many units it did


def rate(work: Work, seconds: float) -> float:
    """Units per second of processor time, over so many of them."""
    work()  # compiled, and warm
    began, units = time.process_time(), 0
    while (spent := time.process_time() - began) < seconds:
        units += work()
    return units / spent


def rollouts(game: Game) -> Work:
    """Random games from the first position."""
    states, rng = game.new(BATCH), np.arange(1, BATCH + 1, dtype=np.uint64)

    def work() -> int:
        game.rollout(states, rng)
        return BATCH

    return work


def openspiel(name: str) -> Work:
    """The same by OpenSpiel's own C++ loop: one simulation of many random games."""
    import pyspiel

    game = pyspiel.load_game(name)
    root, games = game.new_initial_state(), 200
    bot = pyspiel.MCTSBot(game, pyspiel.RandomRolloutEvaluator(games, 1), 2.0, 1, 100, False, 1,
                          False)

    def work() -> int:
        bot.mcts_search(root)
        return games

    return work


def plies(game: Game) -> Work:
    """Moves of random games with everything that self-play asks of a game at each."""
    rng = np.random.default_rng(0)
    states = game.new(BATCH)

    def work() -> int:
        nonlocal states
        if game.result(states)[0].all():
            states = game.new(BATCH)
        legal = game.legal(states)
        game.observe(states)
        live = legal.any(1)
        game.step(states, np.where(live, (legal * rng.random(legal.shape)).argmax(1), -1))
        return int(live.sum())

    return work


def simulations(game: Game) -> Work:
    """Simulations of a search with a net that costs nothing."""
    def free(states: Any, legal: Any) -> Any:
        return np.zeros(legal.shape, np.float32), np.zeros(len(legal), np.float32)

    search = Search(game, SearchConfig(), 64, SIMS, 0)

    def work() -> int:
        search.run(game.new(64), SIMS, free)
        return 64 * SIMS

    return work


def beside_openspiel(names: Sequence[str], seconds: float, pairs: int) -> None:
    print(f"{'game':14} {'games/s':>12} {'OpenSpiel C++':>14} {'times':>7}  (lowest to highest)")
    for name in names:
        game = make(name)
        spiel = pyspiel_name(game)
        own = [rate(rollouts(game), seconds)]
        if spiel is None:
            print(f"{name:14} {own[0]:12,.0f} {'has it not':>14}", flush=True)
            continue
        others = [rate(openspiel(spiel), seconds)]
        for _ in range(pairs - 1):
            own.append(rate(rollouts(game), seconds))
            others.append(rate(openspiel(spiel), seconds))
        ratios = [a / b for a, b in zip(own, others, strict=True)]
        print(f"{name:14} {median(own):12,.0f} {median(others):14,.0f} {median(ratios):6.1f}x  "
              f"({min(ratios):.1f} to {max(ratios):.1f})", flush=True)


def own_games(seconds: float) -> None:
    games = {"plain numpy": make(f"{EXAMPLE}:Gomoku"), "Numba": make("gomoku9x9")}
    print(f"{'Gomoku 9x9':14}" + "".join(f"{name:>16}" for name in games) + f"{'times':>8}")
    for what, work in (("random games/s", rollouts), ("moves/s", plies),
                       ("simulations/s", simulations)):
        rates = [rate(work(game), seconds) for game in games.values()]
        print(f"{what:14}" + "".join(f"{value:16,.0f}" for value in rates)
              + f"{rates[1] / rates[0]:7.1f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("games", nargs="*", default=NATIVE, help="in place of the native ones")
    parser.add_argument("--own", action="store_true", help="plain numpy beside Numba")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side")
    parser.add_argument("--pairs", type=int, default=3, help="of measurements")
    options: Any = parser.parse_args()
    if options.own:
        own_games(options.seconds)
    else:
        beside_openspiel(options.games, options.seconds, options.pairs)


if __name__ == "__main__":
    main()
