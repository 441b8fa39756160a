"""Handicap in self-play: Black's stones first, and a komi that makes up for them.

What stones are worth depends on the board and on who plays, so the net that plays is asked, as
KataGo's self-play does (Wu 2019, arXiv:1902.10565, and its docs on handicap games): the komi at
which it gives both sides the same chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import Game, side


def give_handicap(
    game: Game, states: Any, stones: NDArray[np.int64], evaluate: Callable[..., Any],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Put so many ``stones`` int64 [B] on fresh boards, and as much fair komi as they are worth
    beside what is there: a komi that has been varied stays as far from the fair one as it was from
    the game's own. Returns the moves int64 [B, T], -1 pads."""
    off = states.komi - game.new(1).komi
    moves = game.handicap(states, stones, rng)
    set_fair_komi(game, states, evaluate)
    most = most_komi(game)
    states.komi[:] = np.clip(states.komi + off, -most, most)
    return moves


def most_komi(game: Game) -> int:
    """Half points: the most that the rules allow and the planes can spell."""
    return min(2 * game.cells, 2 ** (game.komi_planes - 1) - 1)


def set_fair_komi(game: Game, states: Any, evaluate: Callable[..., Any]) -> None:
    """Set each game's komi to the highest at which Black is not behind, by halving the range.

    evaluate: (states, legal) -> (logits, value float32 [B] for the side to move).
    """
    most, legal = most_komi(game), game.legal(states)
    low = np.full(len(states.ply), -most)
    high = np.full(len(states.ply), most)
    while (low < high).any():
        states.komi[:] = middle = (low + high + 1) // 2
        holds = evaluate(states, legal)[1] * side(states) >= 0
        low, high = np.where(holds, middle, low), np.where(holds, high, middle - 1)
    states.komi[:] = low
