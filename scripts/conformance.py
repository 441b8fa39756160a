"""Native games beside OpenSpiel's: random games, in which every legal move, every turn, the end and
the result must be the same.

    python scripts/conformance.py --games 10000        (some minutes)
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from selfplay.common.console import Bar, say
from selfplay.games import make

#: ours and OpenSpiel's, whose actions have the same numbers
PAIRS = [
    ("tictactoe", "tic_tac_toe"),
    ("connect4", "connect_four"),
    ("othello8x8", "othello"),
    ("hex5x5", "hex(board_size=5)"),
    ("hex4x4(swap=True)", "hex(board_size=4,swap=True)"),
    ("hex11x11", "hex(board_size=11)"),
    ("gomoku9x9", "gomoku(size=9)"),
    ("dotsandboxes(rows=2,columns=3)", "dots_and_boxes(num_rows=2,num_cols=3)"),
    ("dotsandboxes", "dots_and_boxes(num_rows=4,num_cols=4)"),
]
AT_ONCE = 200  #: games side by side


def differences(ours: str, theirs: str, games: int, seed: int = 0) -> tuple[int, int]:
    """(plies compared, those that differ) in so many random games, all side by side."""
    import pyspiel

    game = make(ours)
    spiel = [pyspiel.load_game(theirs).new_initial_state() for _ in range(games)]
    states, live = game.new(games), np.arange(games)
    rng, plies, wrong = np.random.default_rng(seed), 0, 0
    while len(live):
        legal = game.legal(states)
        actions = np.full(games, -1)
        for row in live:
            same = (spiel[row].current_player() == states.to_play[row]
                    and spiel[row].legal_actions() == np.flatnonzero(legal[row]).tolist())
            plies, wrong = plies + 1, wrong + (not same)
            choice = spiel[row].legal_actions()
            actions[row] = choice[rng.integers(len(choice))]
            spiel[row].apply_action(int(actions[row]))
        game.step(states, actions)
        over, value = game.result(states)
        for row in live:
            ended = spiel[row].is_terminal()
            won = np.sign(spiel[row].returns()[0]) if ended else 0
            wrong += ended != over[row] or won != value[row]
        live = live[[not spiel[row].is_terminal() for row in live]]
    return plies, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--games", type=int, default=10_000, help="of each kind")
    options: Any = parser.parse_args()
    weights = [make(ours).max_moves for ours, _ in PAIRS]  # of a game in the work, about
    with Bar("games", options.games * sum(weights), "plies") as bar:
        for number, (ours, theirs) in enumerate(PAIRS):
            found, done = np.zeros(2, np.int64), options.games * sum(weights[:number])
            for first in range(0, options.games, AT_ONCE):
                count = min(AT_ONCE, options.games - first)
                found += differences(ours, theirs, count, seed=first)
                bar.at(done + (first + count) * weights[number], ours)
            say(f"{ours:32} {options.games:,} games, {found[0]:,} plies: {found[1]} differ from "
                "OpenSpiel")


if __name__ == "__main__":
    main()
