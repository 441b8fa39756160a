"""Handicap in self-play: Black's stones first, and a komi that makes up for them.

What stones are worth depends on the board and on who plays, so the net that plays is asked, as
KataGo's self-play does (Wu 2019, arXiv:1902.10565): the komi at which both sides have the same
chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Game, side


def begin(
    game: Game, states: Any, stones: NDArray[np.int64], komi: NDArray[np.int16],
    evaluate: Callable[..., Any], rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Put so many ``stones`` int64 [B], at least 1, on fresh boards, and give them the komi that is
    fair. ``komi``, half points that were drawn without handicap, stays as far from the fair one as
    it was from the game's own. Returns the moves int64 [B, T], -1 pads."""
    off = komi - states.komi
    moves = put_stones(game, states, stones, rng)
    set_fair_komi(game, states, evaluate)
    most = most_komi(game)
    states.komi[:] = np.clip(states.komi + off, -most, most)
    return moves


def put_stones(
    game: Game, states: Any, stones: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """On the usual points in half of the games, where there are such for so many, and in the others
    anywhere off the first line. White passes between Black's stones, and then is to move."""
    order = rng.random((len(stones), game.num_actions)) * game.opening_moves(states)
    for row in np.flatnonzero(rng.random(len(stones)) < 0.5):
        order[row, usual_points(game.board_shape[0], int(stones[row]))] += 1
    number = np.arange(stones.max(initial=1))
    moves = np.full((len(stones), 2 * len(number) - 1), -1)
    moves[:, ::2] = np.where(number < stones[:, None],
                             np.argsort(-order, axis=1)[:, : len(number)], -1)
    moves[:, 1::2] = np.where(number[1:] < stones[:, None], game.pass_action, -1)
    game.replay(states, moves)
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


def usual_points(size: int, count: int) -> list[int]:
    """The cells of so many handicap stones, as GTP 2 has them (section 4.1.1); none where it has
    none."""
    most = 0 if size < 7 else 4 if size % 2 == 0 or size == 7 else 9
    if not 2 <= count <= most:
        return []
    low = 2 if size < 13 else 3
    middle, high = size // 2, size - 1 - low
    corners = [(low, low), (high, high), (high, low), (low, high)]
    sides = [(middle, low), (middle, high), (low, middle), (high, middle)]
    points = corners[: min(count, 4)] + (sides[: (count - 4) // 2 * 2] if count > 5 else [])
    if count > 4 and count % 2:
        points.append((middle, middle))
    return [row * size + column for row, column in points]
