"""Our search with random playouts beside OpenSpiel's C++ MCTSBot: speed, and a match at equal time.

    .venv/bin/python scripts/bench_mcts.py --games 200 --seconds 0.05

On one core. First simulations a second from the empty board; then one game at a time from random
openings of 2 to 8 plies, each played twice with colours swapped. A few games come before those that
count, after which the numbers of simulations are set anew: what one costs changes as the board
fills. All times are processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from selfplay.arena.play import play_games
from selfplay.arena.players import parse_player
from selfplay.bench.arguments import duration, positive
from selfplay.common.errors import UserError
from selfplay.common.stats import wilson
from selfplay.games import make
from selfplay.games.base import Game, GameError

SIMS, SECONDS, PAIRS = 1000, 1.0, 5
PILOT, PILOT_SEED = 6, 1 << 20  #: games that set the numbers of simulations; no part of the score


class Timed:
    """A player, and the time it has taken over its moves."""

    def __init__(self, game: Game, spec: str) -> None:
        self._player = parse_player(spec, game)
        self.name, self.seconds, self.moves = spec, 0.0, 0
        self.start, self.moved, self.close, self.timed = (
            self._player.start, self._player.moved, self._player.close, self._player.timed)

    def act(self, states: Any, slots: Any) -> Any:
        start = time.process_time()
        actions = self._player.act(states, slots)
        self.seconds += time.process_time() - start
        self.moves += len(slots)
        return actions


def mover(game: Game, spec: str, games: int) -> Callable[[], int]:
    """One move from the first position in ``games`` games; returns the simulations done."""
    player, slots = parse_player(spec, game, slots=games), np.arange(games)
    player.start(slots, slots)
    states = game.new(games)

    def move() -> int:
        player.act(states, slots)
        return games * SIMS

    return move


def rate(work: Callable[[], int]) -> float:
    """Units a second over about SECONDS."""
    start, units = time.process_time(), 0
    while (now := time.process_time()) - start < SECONDS:
        units += work()
    return units / (now - start)


def speeds(game: Game, leaves: int) -> tuple[float, float]:
    """(ours, theirs) in simulations a second in a lone game; prints these and more."""
    sides = {
        f"mcts:{SIMS}x{leaves}, one game": mover(game, f"mcts:{SIMS}x{leaves}", 1),
        f"mcts:{SIMS}, 64 games at once": mover(game, f"mcts:{SIMS}", 64),
        f"openspiel-mcts:{SIMS}, one game": mover(game, f"openspiel-mcts:{SIMS}", 1),
    }
    for work in sides.values():
        work()  # compile and warm up
    taken = [[rate(work) for work in sides.values()] for _ in range(PAIRS)]
    for place, name in enumerate(sides):
        ratios = [row[place] / row[-1] for row in taken]
        print(f"{name:<30}{median(row[place] for row in taken):>10,.0f} simulations/s  "
              f"{median(ratios):5.2f} x ({min(ratios):.2f}-{max(ratios):.2f})")
    return median(row[0] for row in taken), median(row[2] for row in taken)


def pilot(game: Game, specs: list[str], counts: list[int], seconds: float) -> list[int]:
    """Simulations that take ``seconds`` a move, from a few games with ``counts``."""
    players = [Timed(game, spec.format(count)) for spec, count in zip(specs, counts, strict=True)]
    for _ in play_games(game, players[0], players[1], games=PILOT, seed=PILOT_SEED, opening=(2, 8),
                        slots=1):
        pass
    return [max(1, round(count * seconds * player.moves / player.seconds))
            for count, player in zip(counts, players, strict=True)]


def match(game: Game, first: Timed, second: Timed, games: int, seed: int) -> None:
    """Play and print the score of ``first``."""
    points, done = 0.0, 0
    for record in play_games(game, first, second, games=games, seed=seed, opening=(2, 8), slots=1):
        sign = 1 if record.players[0] == first.name else -1
        points += (1 + sign * record.value) / 2
        done += 1
        if done % 20 == 0:
            print(f"  {done} games, {points:g} points", flush=True)
    low, high = wilson(points / done, done)
    for player in (first, second):
        print(f"{player.name}: {1000 * player.seconds / player.moves:.1f} ms a move over "
              f"{player.moves} moves")
    print(f"{first.name} against {second.name}, {game.name}: {points:g} of {done}, "
          f"{points / done:.1%}, 95% interval {low:.1%} to {high:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="go9x9")
    parser.add_argument("--games", type=positive, default=200)
    parser.add_argument("--seconds", type=duration, default=0.05, help="a move, of both sides")
    parser.add_argument("--leaves", type=positive, default=8, help="of our tree under way at once")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    game = make(options.game)
    ours, theirs = speeds(game, options.leaves)
    counts = [max(1, round(speed * options.seconds)) for speed in (ours, theirs)]
    specs = [f"mcts:{{}}x{options.leaves}", "openspiel-mcts:{}"]
    counts = pilot(game, specs, counts, options.seconds)
    players = [Timed(game, spec.format(count)) for spec, count in zip(specs, counts, strict=True)]
    match(game, players[0], players[1], options.games, options.seed)


if __name__ == "__main__":
    try:
        main()
    except (UserError, GameError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
